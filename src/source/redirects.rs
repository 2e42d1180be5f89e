//! Where a source may send us: a redirect chooses what this machine asks of whom, so it is held to what the site knows.
use reqwest::{Url, header::HeaderValue, redirect};

/// A redirect that is not followed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RedirectFault {
    /// One more than are followed.
    #[error("too many redirects")]
    TooMany,
    /// No file needs that, and every URL that is followed can be shown.
    #[error("the redirect's URL holds a user or a password, which is not followed")]
    Login,
    /// Neither http nor https.
    #[error("redirects to {0}:, which is not followed")]
    Scheme(String),
    /// From https to http.
    #[error("redirects from https to http, which is not followed")]
    Downgrade,
    /// Neither the source's own host and port, nor a host that the site lists.
    #[error("redirects to {0}, which is not followed: it is not the source, and not in redirect_hosts")]
    Host(String),
}

impl RedirectFault {
    /// Whether a `Location` leads to another scheme than http and https.
    pub(super) fn by_scheme(from: &Url, location: Option<&HeaderValue>) -> Option<Self> {
        let to = from.join(location?.to_str().ok()?).ok()?;
        (!matches!(to.scheme(), "http" | "https")).then(|| Self::Scheme(to.scheme().to_owned()))
    }
}

/// Whom a source may redirect to.
#[derive(Clone, Debug)]
pub(super) struct Allowed {
    pub(super) source: Url,
    /// As they stand in a URL.
    pub(super) hosts: Vec<String>,
    pub(super) most: usize,
}

impl Allowed {
    pub(super) fn policy(self) -> redirect::Policy {
        redirect::Policy::custom(move |attempt| match self.check(attempt.previous(), attempt.url()) {
            Ok(()) => attempt.follow(),
            Err(fault) => attempt.error(fault),
        })
    }

    /// Addresses of this host, its link and its private networks need no rule of their own: none is reached but by
    /// being the source, or listed.
    fn check(&self, previous: &[Url], to: &Url) -> Result<(), RedirectFault> {
        let was_https = previous.iter().any(|url| url.scheme() == "https");
        match to.scheme() {
            _ if previous.len() > self.most => Err(RedirectFault::TooMany),
            "http" if was_https => Err(RedirectFault::Downgrade),
            "http" | "https" if !to.username().is_empty() || to.password().is_some() => {
                Err(RedirectFault::Login)
            }
            "http" | "https" if self.is_source(to) || self.lists(to) => Ok(()),
            "http" | "https" => Err(RedirectFault::Host(authority(to))),
            scheme => Err(RedirectFault::Scheme(scheme.to_owned())),
        }
    }

    /// Another port of the source's host is another service, but for https in place of http.
    fn is_source(&self, to: &Url) -> bool {
        let upgraded = to.scheme() == "https" && to.port().is_none() && self.source.port().is_none();
        to.host() == self.source.host()
            && (to.port_or_known_default() == self.source.port_or_known_default() || upgraded)
    }

    fn lists(&self, to: &Url) -> bool {
        to.host_str().is_some_and(|host| self.hosts.iter().any(|listed| listed == host))
    }
}

fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(source: &str, to: &str) -> Result<(), RedirectFault> {
        let source: Url = source.parse().unwrap();
        let hosts = vec!["cdn.example.org".into(), "10.0.0.9".into(), "[fd00::9]".into()];
        let allowed = Allowed { source: source.clone(), hosts, most: 3 };
        allowed.check(&[source], &to.parse().unwrap())
    }

    #[test]
    fn the_source_and_listed_hosts_are_followed() {
        for (source, to) in [
            ("http://mirror.example/x", "http://mirror.example/y"),
            ("http://mirror.example/", "https://mirror.example/"),
            ("http://127.0.0.1:81/", "http://127.0.0.1:81/y"),
            ("https://mirror.example/", "https://CDN.example.org:8443/y"),
            ("https://mirror.example/", "https://10.0.0.9/y"),
            ("https://mirror.example/", "https://[fd00:0::9]/y"),
        ] {
            assert_eq!(check(source, to), Ok(()), "{source} -> {to}");
        }
    }

    #[test]
    fn no_other_place_is() {
        for (to, host) in [
            ("https://evil.example/", "evil.example"),
            ("https://mirror.example:8443/", "mirror.example:8443"),
            ("https://mirror.example.evil.example/", "mirror.example.evil.example"),
            ("https://x.cdn.example.org/", "x.cdn.example.org"),
            ("https://127.0.0.1/", "127.0.0.1"),
            ("https://2130706433/", "127.0.0.1"),
            ("https://0x7f.1/", "127.0.0.1"),
            ("https://localhost/", "localhost"),
            ("https://[::1]/", "[::1]"),
            ("https://[::ffff:127.0.0.1]/", "[::ffff:7f00:1]"),
            ("https://169.254.169.254/latest/meta-data/", "169.254.169.254"),
            ("https://[fe80::1]/", "[fe80::1]"),
            ("https://10.0.0.8/", "10.0.0.8"),
            ("https://192.168.1.1/", "192.168.1.1"),
        ] {
            assert_eq!(check("https://mirror.example/", to), Err(RedirectFault::Host(host.into())), "{to}");
        }
        for (to, fault) in [
            ("http://mirror.example/", RedirectFault::Downgrade),
            ("http://cdn.example.org/", RedirectFault::Downgrade),
            ("file:///etc/passwd", RedirectFault::Scheme("file".into())),
            ("ftp://mirror.example/", RedirectFault::Scheme("ftp".into())),
            ("https://ada@mirror.example/", RedirectFault::Login),
            ("https://:secret@mirror.example/", RedirectFault::Login),
        ] {
            assert_eq!(check("https://mirror.example/", to), Err(fault), "{to}");
        }
        // A port of the source's host that the source does not serve.
        assert_eq!(
            check("http://127.0.0.1:81/", "http://127.0.0.1:22/"),
            Err(RedirectFault::Host("127.0.0.1:22".into()))
        );
    }

    #[test]
    fn an_upgrade_on_the_way_is_not_taken_back() {
        let source: Url = "http://mirror.example/".parse().unwrap();
        let allowed = Allowed { source: source.clone(), hosts: Vec::new(), most: 3 };
        let upgraded: Url = "https://mirror.example/".parse().unwrap();
        assert_eq!(
            allowed.check(&[source.clone(), upgraded.clone()], &source),
            Err(RedirectFault::Downgrade)
        );
        let thrice = vec![source.clone(); 4];
        assert_eq!(allowed.check(&thrice, &upgraded), Err(RedirectFault::TooMany));
        assert_eq!(allowed.check(&thrice[1..], &upgraded), Ok(()));
    }
}
