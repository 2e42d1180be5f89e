//! Trouble with starting: addresses and files that cannot be had.
use super::{Trouble, TroubleKind as Kind};
use std::{fmt, io, net::SocketAddr};

/// What lets a service bind a port below 1024.
pub const PRIVILEGED_PORT: &str = "ports below 1024 are root's: let the service bind them\nas \
     /usr/share/doc/cvdmirror/examples/port-53.conf does";

/// How to find the program that holds a port.
pub fn see_who_holds(address: SocketAddr) -> String {
    format!("see who holds it (as root: ss -lntup 'sport = :{}')", address.port())
}

impl Trouble {
    /// The server cannot start.
    pub fn start(what: &dyn fmt::Display) -> Self {
        Self::new(Kind::Start, what.to_string())
    }

    /// An address cannot be bound; `line` is the setting that has it.
    pub fn unbound(what: &dyn fmt::Display, address: SocketAddr, why: io::ErrorKind, line: &str) -> Self {
        let first = match why {
            io::ErrorKind::PermissionDenied => PRIVILEGED_PORT.to_owned(),
            io::ErrorKind::AddrNotAvailable => "this host has no such address".to_owned(),
            _ => see_who_holds(address),
        };
        Self::start(what).mend(format!("{first},\nor write another port: {line}"))
    }
}
