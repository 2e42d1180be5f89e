//! Who holds a port: what /proc tells, which for another user's process is nothing.
use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Processes looked at, at most.
const MAX_PROCESSES: usize = 100_000;

/// A process that listens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Holder {
    /// Its id.
    pub pid: u32,
    /// Its name.
    pub name: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {})", self.name, self.pid)
    }
}

/// The process that holds an address, over TCP or UDP.
pub fn of(address: SocketAddr) -> Option<Holder> {
    let inode = ["tcp", "tcp6", "udp", "udp6"].iter().find_map(|table| {
        let text = std::fs::read_to_string(format!("/proc/self/net/{table}")).ok()?;
        // Connections of TCP have a state other than LISTEN; UDP has none.
        text.lines().skip(1).find_map(|line| inode(line, address, table.starts_with("tcp")))
    })?;
    let socket = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.take(MAX_PROCESSES).flatten();
    processes.into_iter().find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        let mut files = std::fs::read_dir(process.path().join("fd")).ok()?.flatten();
        files
            .find(|file| std::fs::read_link(file.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()))?;
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(Holder { pid, name: name.trim().to_owned() })
    })
}

/// The inode of a line of /proc/net/tcp and its like (proc_net_tcp(5)) if it stands in the way of `wanted`.
fn inode(line: &str, wanted: SocketAddr, listens: bool) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (local, state) = (*fields.get(1)?, *fields.get(3)?);
    if listens && state != LISTEN {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        _ => {
            let mut bytes = [0; 16];
            for at in 0..4 {
                bytes[at * 4..at * 4 + 4].copy_from_slice(&word(at)?);
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
    };
    let in_the_way = ip == wanted.ip() || ip.is_unspecified() || wanted.ip().is_unspecified();
    (port == wanted.port() && in_the_way).then(|| fields.get(9)?.parse().ok())?
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_line_of_proc_is_read_by_address_and_state() {
        let line =
            "   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 4711 1 0 100";
        let held = |wanted: &str| inode(line, wanted.parse().unwrap(), true);
        assert_eq!(held("127.0.0.1:8080"), Some(4711));
        assert_eq!(held("0.0.0.0:8080"), Some(4711));
        assert_eq!(held("127.0.0.1:8081"), None);
        assert_eq!(held("127.0.0.2:8080"), None);
        let connected = line.replace(" 0A ", " 01 ");
        assert_eq!(inode(&connected, "127.0.0.1:8080".parse().unwrap(), true), None);
        assert_eq!(inode("", "127.0.0.1:8080".parse().unwrap(), true), None);
    }

    #[test]
    fn a_listener_of_ones_own_is_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(of(listener.local_addr().unwrap()).unwrap().pid, std::process::id());
    }
}
