//! The lines that lead a freshclam to this mirror, by its settings.
use crate::{
    client_lines::{ClientLines, NAMELESS},
    config::Config,
    http::Proxy,
};
use reqwest::Url;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

/// An address outside any site (RFC 5737): the route to it is looked up, nothing is sent.
const OUTSIDE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// How a client learns which version is newest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// By asking this mirror for a header.
    Direct,
    /// By the TXT record that this mirror answers.
    Dns,
    /// Through this mirror as its HTTP proxy, by asking the upstream for a header: that is answered from here too.
    Proxy,
}

/// Why no working lines can be given.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ClientConfigError {
    /// Port 0: the address changes at each start.
    #[error("listen {0} takes another port at every start; give one, or the mirror's address with --url")]
    AnyPort(SocketAddr),
    /// The mirror answers no TXT record.
    #[error(
        "dns_listen and dns_zone are not set, so this mirror answers no TXT record; set both, or use --for direct"
    )]
    NoRecord,
    /// The mirror is no proxy.
    #[error(
        "proxy is not set, so this mirror is no proxy for clients; set proxy = true, or use --for direct"
    )]
    NoProxy,
    /// No URL of a mirror.
    #[error("{0:?} is no address of a mirror; write http://HOST or http://HOST:PORT")]
    Url(String),
}

/// The lines for this mirror; `url` overrides what the settings and this host's name give.
///
/// # Errors
/// See [`ClientConfigError`].
pub(crate) fn lines(
    config: &Config,
    mode: Mode,
    url: Option<&str>,
) -> Result<ClientLines, ClientConfigError> {
    let url = match url {
        Some(text) => given(text)?,
        None => match reached_at(config) {
            Some(address) if address.port() == 0 => return Err(ClientConfigError::AnyPort(address)),
            _ => own_url(config),
        },
    };
    let record = match mode {
        Mode::Direct | Mode::Proxy => None,
        Mode::Dns => Some(own_record(config).ok_or(ClientConfigError::NoRecord)?),
    };
    let behind = match mode {
        Mode::Proxy => {
            let mirror = config.proxy.as_ref().and_then(Proxy::mirror);
            Some(mirror.ok_or(ClientConfigError::NoProxy)?)
        }
        Mode::Direct | Mode::Dns => None,
    };
    Ok(ClientLines { url, record, behind })
}

/// Where clients reach this mirror, as far as the settings and this host show it.
pub(crate) fn own_url(config: &Config) -> String {
    let (host, port) = match reached_at(config) {
        Some(address) if address.ip().is_unspecified() => (own_host(), address.port()),
        Some(address) => (bare(address.ip()), address.port()),
        None => (own_host(), 80),
    };
    if port == 80 { format!("http://{host}") } else { format!("http://{host}:{port}") }
}

/// The address that other hosts can reach, if there is one.
fn reached_at(config: &Config) -> Option<SocketAddr> {
    let outward = config.listen.iter().find(|address| !address.ip().is_loopback());
    outward.or(config.listen.first()).copied()
}

/// The TXT record that this mirror answers.
pub(crate) fn own_record(config: &Config) -> Option<String> {
    config.dns.as_ref().map(|(_, zone)| format!("current.cvd.{zone}"))
}

/// This host's full name, else the address from which it reaches others: not every host resolves a short name.
fn own_host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.contains('.') && !name.starts_with("localhost") {
        return name.to_owned();
    }
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect(OUTSIDE)?;
        socket.local_addr()
    });
    match route {
        Ok(address) if !address.ip().is_loopback() => bare(address.ip()),
        _ if name.is_empty() || name == "localhost" => NAMELESS.to_owned(),
        _ => name.to_owned(),
    }
}

/// An address in a URL's spelling.
fn bare(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Checks a given URL and writes it as freshclam expects it: with a scheme, without a slash at the end.
fn given(text: &str) -> Result<String, ClientConfigError> {
    let url: Option<Url> = text.parse().ok();
    let url = url.filter(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    // Not as it was given: a line break in it would be a line of its own in the file.
    url.map(|url| url.as_str().trim_end_matches('/').to_owned())
        .ok_or_else(|| ClientConfigError::Url(text.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_is_written_as_freshclam_takes_it() {
        for (text, line) in [
            ("http://mirror.lan", "http://mirror.lan"),
            ("http://mirror.lan:8080/", "http://mirror.lan:8080"),
            ("https://mirror.lan/r/pilot/", "https://mirror.lan/r/pilot"),
            ("http://[2001:db8::1]:8080", "http://[2001:db8::1]:8080"),
            ("http://mirror.lan\n", "http://mirror.lan"),
            ("http://mir\nror.lan", "http://mirror.lan"),
        ] {
            assert_eq!(given(text).as_deref(), Ok(line));
        }
        for text in ["mirror.lan:8080", "", "ftp://mirror.lan", "http://", "http://a?b", "http://a#b"] {
            assert_eq!(given(text), Err(ClientConfigError::Url(text.to_owned())));
        }
    }

    #[test]
    fn a_host_has_a_name_or_an_address() {
        let host = own_host();
        assert!(!host.is_empty() && !host.contains(char::is_whitespace), "{host}");
    }
}
