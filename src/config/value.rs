//! How each value reads: the error says what is wrong with it and what to write.
use super::SourceSpec;
use crate::{
    cvd::{Database, TrustKeys},
    source::login::Login,
};
use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

/// The shortest time that is anything but a mistake.
const LEAST: Duration = Duration::from_millis(1);

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("is empty; write a path".into()) } else { Ok(text.into()) }
}

pub(super) fn source(text: &str) -> Result<(SourceSpec, Option<Login>), String> {
    if let Some(dir) = text.strip_prefix("dir:") {
        return Ok((SourceSpec::Directory(path(dir)?), None));
    }
    let shown = shown("source", text);
    if text.starts_with('/') {
        return Err(format!("has no scheme; write dir:{shown}"));
    }
    if !text.contains("://") {
        return Err(format!(
            "has no scheme; write http://{shown} or https://{shown}, or dir:PATH for a directory"
        ));
    }
    let mut url: reqwest::Url =
        text.parse().map_err(|e| format!("is no URL ({e}); write http://… or dir:PATH"))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => {
            let login = Login::take(&mut url);
            Ok((SourceSpec::Http(url), login))
        }
        _ => Err("is neither http://… nor https://… nor dir:PATH".into()),
    }
}

pub(super) fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is no ADDR:PORT; write an IP address and a port, as in 0.0.0.0:8080".into())
}

pub(super) fn count(text: &str, most: u32) -> Result<u32, String> {
    text.parse().ok().filter(|n| *n <= most).ok_or_else(|| format!("is no count from 0 to {most}"))
}

/// How many CVDs are kept, of one database or of each that has no number of its own.
pub(super) fn keep_cvds(text: &str) -> Result<(Option<Database>, u32), String> {
    let why = || "is no count from 1 to 1000; write 2, or main:1 for one database".to_owned();
    let (database, number) = match text.split_once(':') {
        Some((database, number)) => (Some(database.parse().map_err(|_| why())?), number),
        None => (None, text),
    };
    count(number, 1000).ok().filter(|n| *n >= 1).map(|n| (database, n)).ok_or_else(why)
}

pub(super) fn nameserver(text: &str) -> Result<SocketAddr, String> {
    let port = 53;
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)))
        .ok()
        .filter(|address| address.port() != 0)
        .ok_or_else(|| "is no IP address, alone or with a port from 1 on".into())
}

pub(super) fn zone(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('.');
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if text.len() <= 200 && text.split('.').all(label) {
        Ok(text.to_ascii_lowercase())
    } else {
        Err("is no domain name".into())
    }
}

/// A time as people write it: `15m`, `90s`, `1h 30m`, `500ms`, `14d`; never zero, and no longer than anybody can mean.
pub(super) fn duration(text: &str, most: Duration) -> Result<Duration, String> {
    let why = || "is no length of time; write 15m, 90s or 12h".to_owned();
    let span: jiff::Span = text.parse().map_err(|_| why())?;
    let days_are_24_hours = jiff::SpanRelativeTo::days_are_24_hours();
    let duration = span.to_duration(days_are_24_hours).map_err(|_| why())?;
    let duration = Duration::try_from(duration).map_err(|_| why())?;
    match (LEAST..=most).contains(&duration) {
        true => Ok(duration),
        false if duration.is_zero() => Err(why()),
        false => Err(format!("is not from 1 ms to {} h", most.as_secs() / 3600)),
    }
}

/// How long an installation is remembered: not for longer than anybody needs to know it.
pub(super) fn remember_clients(text: &str) -> Result<Option<Duration>, String> {
    const LONGEST: Duration = Duration::from_secs(90 * 86_400);
    if text == "off" {
        return Ok(None);
    }
    let time = duration(text, LONGEST).map(Some);
    time.map_err(|_| "is neither off nor a length of time up to 90d; write 14d".into())
}

pub(super) fn trust_keys(file: &str) -> Result<TrustKeys, String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot be read: {e}"))?;
    toml::from_str(&text).map_err(|e| format!("holds no keys: {e}"))
}

/// A value without the user and password that a source's URL may hold, however badly it is written.
pub(super) fn shown(key: &str, value: &str) -> String {
    let Some(at) = value.rfind('@').filter(|_| key == "source" && !value.starts_with("dir:")) else {
        return value.to_owned();
    };
    let (before, after) = value.split_at(at);
    // Before the first colon stands the scheme, or else the user.
    let (scheme, rest) = before.split_at(before.find(':').map_or(0, |colon| colon + 1));
    let is_scheme = rest.starts_with(['/', '\\']) || scheme.to_ascii_lowercase().starts_with("http");
    let (scheme, rest) = if is_scheme { (scheme, rest) } else { ("", before) };
    let slashes = rest.len() - rest.trim_start_matches(['/', '\\']).len();
    format!("{scheme}{}***{after}", &rest[..slashes])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_source_is_shown_without_its_login() {
        for (value, left) in [
            ("http://u:p@h/x", "http://***@h/x"),
            ("http:u:p@h", "http:***@h"),
            ("//u:p@h", "//***@h"),
            ("u:p@h", "***@h"),
            ("http@x:y", "***@x:y"),
            ("http://@", "http://***@"),
            ("http://h/x", "http://h/x"),
            ("dir:/srv/u:p@h", "dir:/srv/u:p@h"),
        ] {
            assert_eq!(shown("source", value), left);
        }
        assert_eq!(shown("data_dir", "/srv/u:p@h"), "/srv/u:p@h");
    }

    #[test]
    fn lengths_of_time_read_as_people_write_them() {
        let seconds = |text| duration(text, Duration::from_secs(30 * 86_400)).map(|time| time.as_secs());
        for (text, expected) in
            [("15m", 900), ("90s", 90), ("1h 30m", 5400), ("12h", 43_200), ("14d", 1_209_600)]
        {
            assert_eq!(seconds(text), Ok(expected));
        }
        for wrong in ["", "0s", "-1m", "1mo", "1y", "12", "soon"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn no_password_is_shown(
            before in prop::sample::select(vec!["http://", "https:", "//", "", "ftp:/", "http:\\\\", "é:"]),
            user in "[a-z]{1,4}",
            after in "[ -~é]{0,9}",
        ) {
            let value = format!("{before}{user}:S3CRET@{after}");
            prop_assert!(!shown("source", &value).contains("S3CRET"));
        }
    }
}
