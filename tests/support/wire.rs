//! Requests as bytes, answers as bytes.
use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How the harness names itself, so that its own requests can be told from a client's.
pub const AGENT: &str = "harness";

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One GET on a connection of its own; `fields` are further lines, each ending in CRLF.
pub fn get(address: SocketAddr, target: &str, fields: &str) -> Reply {
    get_as(address, target, AGENT, fields)
}

/// The same by another name.
pub fn get_as(address: SocketAddr, target: &str, agent: &str, fields: &str) -> Reply {
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: mirror\r\nUser-Agent: {agent}\r\nConnection: close\r\n{fields}\r\n"
    );
    raw(address, request.as_bytes())
}

/// Sends bytes and reads to the connection's end.
pub fn raw(address: SocketAddr, request: &[u8]) -> Reply {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // A server may answer and close before it has read all of a request that is too long.
    let _ = stream.write_all(request);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    reply(&bytes)
}

/// Sends bytes while it reads, to the connection's end, which it asks for by closing its writing half.
pub fn pour(address: SocketAddr, requests: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let mut answers = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = answers.read_to_end(&mut bytes);
        bytes
    });
    stream.write_all(requests).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    reading.join().unwrap()
}

pub fn reply(bytes: &[u8]) -> Reply {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Reply { status, head, body: bytes[end + 4..].to_vec() }
}
