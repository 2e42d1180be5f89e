//! What a proxy for clients would do, for the upstream's hosts alone: they are answered from here.
//!
//! A client that goes through a proxy names the host it wants, in an absolute-form target or in `CONNECT` (RFC 9110,
//! 9.3.6). freshclam up to 1.5 sends `CONNECT host:80` even to http:// mirrors: that tunnel ends here, and what is spoken
//! inside is this server's own HTTP. A tunnel to the port of https can only be passed on unseen. Every other host and port
//! is refused, so that this is never an open proxy.
use http::uri::Authority;
use hyper::Uri;
use reqwest::Url;
use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    net::{TcpStream, lookup_host},
    time::{sleep, timeout},
};

/// How long the far end of a tunnel may take to answer a call.
const REACH: Duration = Duration::from_secs(10);
/// A tunnel through which nothing passed for so long ends; so does one that is older than `LONGEST`.
const IDLE: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(3600);
/// What a tunnel holds each way, bytes.
const HELD_BYTES: usize = 16 * 1024;

/// Which hosts this server stands for.
#[derive(Clone, Default, Debug)]
pub struct Proxy {
    hosts: Vec<Host>,
    /// Whether tunnels to https are passed on.
    tunnel: bool,
    /// Hosts that may have an address of this site.
    listed: Vec<String>,
}

/// A host in a URL's spelling, and its ports.
#[derive(Clone, Debug)]
struct Host {
    name: String,
    http: u16,
    https: u16,
}

/// Where a tunnel leads.
#[derive(Debug)]
pub(super) enum Way {
    /// It ends here.
    Here,
    /// To the upstream.
    Beyond(TcpStream),
}

/// Why a tunnel is refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum NoWay {
    /// Neither a host of the upstream nor a port of one.
    #[error("this proxy stands for the mirror's upstream alone, not for {0}")]
    Foreign(String),
    /// https to the upstream, and tunnels are not passed on.
    #[error(
        "https to {0} is not passed on here; write DatabaseMirror http://{0}, or set proxy_tunnel on the mirror"
    )]
    Https(String),
    /// Every address of the upstream is this host's, its link's or a private network's.
    #[error("{0} has no public address; a host of this site must stand in redirect_hosts")]
    Private(String),
    /// The upstream does not answer.
    #[error("{0} cannot be reached: {1}")]
    Unreached(String, String),
}

impl Proxy {
    /// Stands for the hosts of `upstreams`. `tunnel`: https to them is passed on; to an address of this site only if the
    /// host is `listed`.
    pub fn new<'a>(upstreams: impl IntoIterator<Item = &'a Url>, tunnel: bool, listed: &[String]) -> Self {
        let host = |url: &Url| {
            let (http, https) = match (url.scheme(), url.port()) {
                ("http", Some(port)) => (port, 443),
                ("https", Some(port)) => (80, port),
                _ => (80, 443),
            };
            Some(Host { name: url.host_str()?.to_owned(), http, https })
        };
        Self { hosts: upstreams.into_iter().filter_map(host).collect(), tunnel, listed: listed.to_vec() }
    }

    /// The first host, for a client's `DatabaseMirror`.
    pub fn mirror(&self) -> Option<String> {
        let host = self.hosts.first()?;
        Some(if host.http == 80 { host.name.clone() } else { format!("{}:{}", host.name, host.http) })
    }

    /// Whether an absolute-form target is of a host that is answered from here.
    pub fn stands_for(&self, uri: &Uri) -> bool {
        let Some(authority) = uri.authority() else { return false };
        // One that is no number up to 65535 is not taken for none.
        let port =
            if authority.as_str().ends_with(authority.host()) { Some(80) } else { authority.port_u16() };
        uri.scheme_str() == Some("http") && self.named(authority).any(|host| Some(host.http) == port)
    }

    /// The hosts of that name. A name with a login, a dot at its end or another spelling of an address is another name.
    fn named(&self, authority: &Authority) -> impl Iterator<Item = &Host> {
        let name = authority.host();
        let plain = !authority.as_str().contains('@');
        self.hosts.iter().filter(move |host| plain && host.name.eq_ignore_ascii_case(name))
    }

    /// Whether the tunnel that `CONNECT` asks for ends here.
    pub fn ends_here(&self, asked: &Uri) -> bool {
        let port = asked.port_u16().filter(|_| asked.path_and_query().is_none());
        let mut named = asked.authority().into_iter().flat_map(|authority| self.named(authority));
        named.any(|host| Some(host.http) == port)
    }

    /// Opens the way that `CONNECT` asks for.
    pub(super) async fn open(&self, asked: &Uri) -> Result<Way, NoWay> {
        if self.ends_here(asked) {
            return Ok(Way::Here);
        }
        let foreign = || NoWay::Foreign(asked.to_string());
        let authority = asked.authority().filter(|_| asked.path_and_query().is_none()).ok_or_else(foreign)?;
        let port = authority.port_u16().ok_or_else(foreign)?;
        let host = self.named(authority).find(|host| host.https == port).ok_or_else(foreign)?;
        if !self.tunnel {
            return Err(NoWay::Https(host.name.clone()));
        }
        timeout(REACH, self.reach(host))
            .await
            .unwrap_or_else(|_| Err(NoWay::Unreached(host.name.clone(), "it does not answer".into())))
            .map(Way::Beyond)
    }

    async fn reach(&self, host: &Host) -> Result<TcpStream, NoWay> {
        let unreached = |e: io::Error| NoWay::Unreached(host.name.clone(), crate::units::os(&e));
        let literal = host.name.trim_matches(['[', ']']);
        let found: Vec<SocketAddr> = lookup_host((literal, host.https)).await.map_err(unreached)?.collect();
        // An address that stands in the settings is meant; a name may come to lead anywhere.
        let meant = literal.parse::<IpAddr>().is_ok() || self.listed.contains(&host.name);
        let allowed: Vec<SocketAddr> = found.into_iter().filter(|at| meant || is_public(at.ip())).collect();
        if allowed.is_empty() {
            return Err(NoWay::Private(host.name.clone()));
        }
        TcpStream::connect(&allowed[..]).await.map_err(unreached)
    }
}

/// Whether an address is of the Internet, as far as no table of routes need be asked.
fn is_public(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let [a, b, ..] = ip.octets();
            let shared = a == 100 && (64..128).contains(&b);
            !(ip.is_loopback() || ip.is_private() || ip.is_link_local() || shared) && a != 0 && a < 224
        }
        // 2000::/3 is all that is given out (RFC 4291, 2.4); 2002::/16 and 2001::/32 carry an IPv4 address inside.
        IpAddr::V6(ip) => {
            let [a, b, ..] = ip.segments();
            a & 0xe000 == 0x2000 && a != 0x2002 && (a, b) != (0x2001, 0)
        }
    }
}

/// Passes on what comes, both ways, until one end has closed and the other is served, or nothing passes any more.
pub(super) async fn relay(client: impl AsyncRead + AsyncWrite, upstream: TcpStream) {
    let (client, upstream) = (split(client), split(upstream));
    let passed = AtomicU64::new(0);
    let both =
        async { tokio::join!(pass(client.0, upstream.1, &passed), pass(upstream.0, client.1, &passed)) };
    let idle = async {
        loop {
            let before = passed.load(Relaxed);
            sleep(IDLE).await;
            if passed.load(Relaxed) == before {
                break;
            }
        }
    };
    tokio::select! {
        _ = timeout(LONGEST, both) => {}
        () = idle => {}
    }
}

/// One way of a tunnel; whichever end fails, the other is told.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, passed: &AtomicU64) {
    let mut held = vec![0; HELD_BYTES];
    while let Ok(got @ 1..) = from.read(&mut held).await {
        let Some(bytes) = held.get(..got) else { break };
        if to.write_all(bytes).await.is_err() {
            break;
        }
        passed.fetch_add(got as u64, Relaxed);
    }
    // That it is closed already is no error.
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn proxy(tunnel: bool) -> Proxy {
        let upstreams = ["https://database.clamav.net", "http://mirror.lan:8080/x", "https://localhost:8443"];
        let upstreams = upstreams.map(|url| url.parse::<Url>().unwrap());
        Proxy::new(&upstreams, tunnel, &[])
    }

    #[tokio::test]
    async fn a_tunnel_leads_here_for_the_upstreams_hosts_alone() {
        for here in ["database.clamav.net:80", "DataBase.ClamAV.net:80", "mirror.lan:8080", "localhost:80"] {
            let way = proxy(false).open(&here.parse().unwrap()).await;
            assert!(matches!(way, Ok(Way::Here)), "{here}: {way:?}");
        }
        for foreign in [
            "example.org:80",
            "database.clamav.net:22",
            "database.clamav.net:8080",
            "database.clamav.net.:80",
            "x.database.clamav.net:80",
            "database.clamav.net.evil.example:80",
            "database.clamav.net:80@evil.example:80",
            "ada@database.clamav.net:80",
            "database.clamav.net",
            "mirror.lan:80",
            "127.0.0.1:80",
            "2130706433:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "http://database.clamav.net:80/",
            "/daily.cvd",
        ] {
            let Ok(asked) = foreign.parse::<Uri>() else { continue };
            let way = proxy(true).open(&asked).await;
            assert!(matches!(way, Err(NoWay::Foreign(_))), "{foreign}: {way:?}");
        }
        let way = proxy(false).open(&"database.clamav.net:443".parse().unwrap()).await.unwrap_err();
        assert_eq!(way, NoWay::Https("database.clamav.net".into()));
        // A name that leads to this host.
        let way = proxy(true).open(&"localhost:8443".parse().unwrap()).await.unwrap_err();
        assert_eq!(way, NoWay::Private("localhost".into()));
    }

    #[test]
    fn an_absolute_target_is_of_the_upstreams_http() {
        let stands_for = |uri: &str| proxy(true).stands_for(&uri.parse().unwrap());
        for uri in [
            "http://database.clamav.net/daily.cvd",
            "http://database.clamav.net:80/",
            "http://mirror.lan:8080",
        ] {
            assert!(stands_for(uri), "{uri}");
        }
        for uri in [
            "https://database.clamav.net/daily.cvd",
            "http://database.clamav.net:443/",
            "http://database.clamav.net:99999/",
            "http://ada@database.clamav.net/",
            "http://evil.example/daily.cvd",
            "http://[::1]/",
            "/daily.cvd",
        ] {
            assert!(!stands_for(uri), "{uri}");
        }
    }

    #[test]
    fn no_address_of_a_site_is_public() {
        for ip in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
            "2001::1",
        ] {
            assert!(!is_public(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["104.16.218.84", "2606:4700::6810:db54", "::ffff:104.16.218.84"] {
            assert!(is_public(ip.parse().unwrap()), "{ip}");
        }
    }
}
