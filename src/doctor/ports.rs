//! The addresses: each can be bound, or a server of this very data directory runs.
use super::Check;
use crate::{
    config::Config,
    mirror::DataDir,
    trouble::{PRIVILEGED_PORT, TroubleKind, see_who_holds},
};
use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

pub(super) fn check(config: &Config, dir: &DataDir) -> Check {
    let mut check = Check::new("ports", TroubleKind::Address);
    for address in &config.listen {
        one(&mut check, "listen", *address, dir, TcpListener::bind(address).map(drop));
    }
    if let Some((address, _)) = &config.dns {
        let bound = UdpSocket::bind(address).and_then(|_udp| TcpListener::bind(address)).map(drop);
        one(&mut check, "dns_listen", *address, dir, bound);
    }
    check
}

fn one(check: &mut Check, key: &str, address: SocketAddr, dir: &DataDir, bound: io::Result<()>) {
    let Err(e) = bound else { return check.say(format!("{key} {address} is free")) };
    let line = |address: SocketAddr| match key {
        "listen" => format!("listen = [\"{address}\"]"),
        _ => format!("dns_listen = \"{address}\""),
    };
    let why = "serve does not start while one of its addresses cannot be bound";
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            // With its own settings, which may be others; but what keeps it from starting is of no account then.
            if let Some(pid) = dir.holder() {
                return check.say(format!("{key} {address} is held by the running server (process {pid})"));
            }
            let fix =
                format!("{},\nor write another port: {}", see_who_holds(address), line(next_port(address)));
            check.find(format!("{key} {address} is taken by another program"), why, fix);
        }
        io::ErrorKind::PermissionDenied => check.find(
            format!("{key} {address}: this user may not bind it"),
            why,
            format!(
                "{PRIVILEGED_PORT}, or write {}",
                line(SocketAddr::new(address.ip(), if address.port() == 53 { 5353 } else { 8080 }))
            ),
        ),
        io::ErrorKind::AddrNotAvailable => {
            let any = if address.is_ipv4() { "0.0.0.0" } else { "[::]" };
            let fix = format!("{any}:{}", address.port()).parse().map_or_else(|_| String::new(), line);
            check.find(format!("{key} {address}: this host has no such address"), why, fix);
        }
        _ => check.find(format!("{key} {address}: {e}"), why, line(next_port(address))),
    }
}

fn next_port(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(8081))
}
