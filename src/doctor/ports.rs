//! The addresses: each can be bound, or is held by the server of this very data directory.
use super::Check;
use crate::{config::Config, mirror::DataDir, port_holder, service::PRIVILEGED_PORT};
use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
};

pub(super) fn check(config: &Config, dir: &DataDir) -> Check {
    let mut check = Check::of("ports");
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
            let holder = port_holder::of(address);
            if holder.as_ref().is_some_and(|holder| dir.holder().is_some_and(|pid| pid == holder.pid)) {
                return check.say(format!("{key} {address} is held by the running server"));
            }
            let fix = match &holder {
                Some(holder) => format!("stop {holder}, or write another port: {}", line(next_port(address))),
                None => format!(
                    "see who holds it (as root: ss -lntup 'sport = :{}'), or write another port: {}",
                    address.port(),
                    line(next_port(address))
                ),
            };
            let holder = holder.map_or("a process of another user".into(), |holder| holder.to_string());
            check.find(format!("{key} {address} is taken by {holder}"), why, fix);
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
