//! What one visit to the page asks: by which name the mirror was reached, and which file is looked for.
use super::FilePart;
use crate::{client_lines::ClientLines, mirror::Snapshot};
use hyper::{header::HeaderValue, http::uri::Authority};
use std::net::IpAddr;

/// Files that a search shows at most.
const FOUND: usize = 20;

/// A request for the page.
pub(in crate::http) struct Visit<'a> {
    /// The name and port by which the visitor reached this server.
    pub(in crate::http) host: Option<&'a HeaderValue>,
    /// What the visitor looks for: a file's name or a part of it.
    pub(in crate::http) search: Option<String>,
}

impl Visit<'_> {
    /// The lines of a client's freshclam.conf: with the name that evidently works, or else `url`.
    pub(super) fn client_lines(&self, url: &str) -> String {
        let host = self.host.and_then(|host| host.to_str().ok()).filter(|host| is_plain(host));
        let url = host.map_or_else(|| url.to_owned(), |host| format!("http://{host}"));
        ClientLines { url, record: None, behind: None }.to_string()
    }

    /// The newest files whose names hold what is looked for, and how many there are.
    pub(super) fn found(&self, snapshot: &Snapshot) -> Option<(Vec<FilePart>, usize)> {
        let text = self.search.as_deref()?;
        let mut names: Vec<_> = snapshot
            .files
            .iter()
            .map(|file| (file.0.to_string(), file))
            .filter(|(name, _)| name.contains(text))
            .collect();
        let total = names.len();
        names.reverse();
        names.truncate(FOUND);
        Some((names.into_iter().map(|(_, file)| FilePart::new(file)).collect(), total))
    }
}

/// Whether it is HOST or HOST:PORT, as freshclam takes it, and leads other machines here. A visitor can send anything.
fn is_plain(host: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let has_port = authority.port_u16().is_some() || authority.host().len() == host.len();
    host.len() <= 255
        && host.bytes().all(plain)
        && has_port
        && !authority.host().is_empty()
        && !is_own(authority.host())
}

/// Whether a machine that follows it comes to itself.
fn is_own(host: &str) -> bool {
    let name = host.trim_matches(['[', ']', '.']).to_ascii_lowercase();
    let address = name.parse::<IpAddr>().map(|address| address.to_canonical());
    name.rsplit('.').next() == Some("localhost")
        || address.is_ok_and(|address| address.is_loopback() || address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_the_name_that_worked_and_nothing_else() {
        let lines = |host: &'static str| {
            let host = HeaderValue::from_static(host);
            Visit { host: Some(&host), search: None }.client_lines("http://own.example")
        };
        for host in ["mirror.example.lan:8080", "192.0.2.1", "[2001:db8::1]:8080"] {
            assert_eq!(lines(host), format!("DatabaseMirror http://{host}\nDNSDatabaseInfo no\n"));
        }
        let hostile =
            ["", "a b", "a/b", "user@host", "<script>", "host:port:1", "host:", "host:65536", ":80"];
        let own =
            ["localhost", "LocalHost.:8080", "a.localhost", "127.0.0.1:8080", "127.1.2.3", "0.0.0.0:80"];
        let own_too = ["[::1]:8080", "[::ffff:127.0.0.1]", "[::]"];
        for host in [&hostile[..], &own, &own_too].concat() {
            assert!(lines(host).starts_with("DatabaseMirror http://own.example\n"), "{host}");
        }
    }
}
