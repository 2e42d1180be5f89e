//! How each value reads: the error says what is wrong with it and what to write.
use super::{SourceSpec, ValueError};
use crate::{
    cvd::{Database, TrustKeys},
    source::{budget, downloader::Tool, login::Login},
};
use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// A shorter time is a mistake.
const LEAST: Duration = Duration::from_millis(1);

pub(super) fn path(text: &str) -> Result<PathBuf, ValueError> {
    if text.is_empty() { Err("is empty; write a path".into()) } else { Ok(text.into()) }
}

/// Whether a directory has certificates, as far as its files' names say.
pub(super) fn has_certificates(dir: &Path) -> bool {
    let is_one = |path: &Path| path.extension().is_some_and(|ending| ending == "pem" || ending == "crt");
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.any(|e| e.is_ok_and(|e| is_one(&e.path()))))
}

pub(super) fn source(text: &str) -> Result<(SourceSpec, Option<Login>), ValueError> {
    if let Some(dir) = text.strip_prefix("dir:") {
        return Ok((SourceSpec::Directory(directory(dir)?), None));
    }
    if let Some(tool) = tool(text) {
        return Ok((SourceSpec::Downloader(tool), None));
    }
    let shown = shown("source", text);
    if text.starts_with('/') {
        return Err(ValueError::Scheme(format!("dir:{shown}")));
    }
    if !text.contains("://") {
        // As in http:/host.
        let host = shown.trim_start_matches("https:").trim_start_matches("http:").trim_start_matches('/');
        let write = format!("http://{host} or https://{host}, or dir:PATH");
        return Err(ValueError::Scheme(write));
    }
    let mut url: reqwest::Url = text.parse().map_err(ValueError::Url)?;
    match url.scheme() {
        "http" | "https" if url.has_host() => {
            let login = Login::take(&mut url);
            Ok((SourceSpec::Http(url), login))
        }
        _ => Err("is no source; write http://…, https://… or dir:PATH".into()),
    }
}

/// A downloader that is run.
pub(super) fn tool(text: &str) -> Option<Tool> {
    [Tool::Freshclam, Tool::Cvdupdate].into_iter().find(|tool| tool.to_string() == text)
}

/// The mirror that a client follows; its URL keeps its user and password.
pub(super) fn mirror(text: &str) -> Result<reqwest::Url, ValueError> {
    let why = || ValueError::Rule("is no URL of a mirror; write http://mirror.example.lan:8080");
    let url: reqwest::Url = text.parse().map_err(|_| why())?;
    let proper = matches!(url.scheme(), "http" | "https") && url.has_host();
    if proper { Ok(url) } else { Err(why()) }
}

pub(super) fn switch(text: &str) -> Result<bool, ValueError> {
    text.parse().map_err(|_| "is neither true nor false".into())
}

/// An absolute path may be missing for a while, as a mount point is. A relative one must exist now: it is made absolute here,
/// and a typing error would otherwise never show.
fn directory(text: &str) -> Result<PathBuf, ValueError> {
    let path = path(text)?;
    if path.is_absolute() {
        return Ok(path);
    }
    let full = std::path::absolute(&path).map_err(ValueError::Relative)?;
    match full.is_dir() {
        true => Ok(full),
        false => Err(ValueError::NoDirectory(full)),
    }
}

/// Whether a source is Talos' own, of which Talos' TXT record speaks.
pub(super) fn is_talos(source_text: &str) -> bool {
    matches!(source(source_text), Ok((SourceSpec::Http(url), _)) if url.host_str().is_some_and(budget::is_talos))
}

/// A host in the spelling of a URL.
pub(super) fn host(text: &str) -> Result<String, ValueError> {
    let url = reqwest::Url::parse(&format!("https://{text}/")).ok();
    let host = url.as_ref().and_then(reqwest::Url::host_str).filter(|host| host.eq_ignore_ascii_case(text));
    host.map(str::to_owned).ok_or("is no host; write a name or an IP address, without port or path".into())
}

pub(super) fn socket(text: &str) -> Result<SocketAddr, ValueError> {
    text.parse().map_err(|_| "is no ADDR:PORT; write an IP address and a port, as in 0.0.0.0:8080".into())
}

/// A length in bytes as people write it: `512M`, `2G`, `0`; in powers of 1024.
pub(super) fn size(text: &str) -> Result<u64, ValueError> {
    let shift = |unit| Some([None, Some('K'), Some('M'), Some('G')].iter().position(|u| *u == unit)? * 10);
    let unit = text.chars().last().filter(|last| !last.is_ascii_digit());
    let number = text.trim_end_matches(|last| Some(last) == unit);
    let number = number.parse().ok().filter(|_| number.len() + usize::from(unit.is_some()) == text.len());
    let bytes = number.zip(shift(unit)).and_then(|(n, shift): (u64, _)| n.checked_mul(1 << shift));
    bytes.ok_or(ValueError::Rule("is no size; write 512M, 2G, or 0 for none"))
}

pub(super) fn count(text: &str, most: u32) -> Result<u32, ValueError> {
    text.parse().ok().filter(|n| *n <= most).ok_or(ValueError::Count { most })
}

/// How many CVDs are kept, of one database or of each that has no number of its own.
pub(super) fn keep_cvds(text: &str) -> Result<(Option<Database>, u32), ValueError> {
    let why = || ValueError::Rule("is no count from 1 to 1000; write 2, or main:1 for one database");
    let (database, number) = match text.split_once(':') {
        Some((database, number)) => (Some(database.parse().map_err(|_| why())?), number),
        None => (None, text),
    };
    count(number, 1000).ok().filter(|n| *n >= 1).map(|n| (database, n)).ok_or_else(why)
}

/// How old the newest build of a database may be; off: as old as it likes.
pub(super) fn max_build_age(text: &str) -> Result<(Database, Option<Duration>), ValueError> {
    let why = || ValueError::Rule("is no NAME:TIME; write daily:3d, or daily:off");
    let (database, age) = text.split_once(':').ok_or_else(why)?;
    let age = if age == "off" { None } else { Some(duration(age, super::YEAR).map_err(|_| why())?) };
    Ok((database.parse().map_err(|_| why())?, age))
}

pub(super) fn nameserver(text: &str) -> Result<SocketAddr, ValueError> {
    let port = 53;
    text.parse()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, port)))
        .ok()
        .filter(|address| address.port() != 0)
        .ok_or("is no IP address, alone or with a port from 1 on".into())
}

pub(super) fn zone(text: &str) -> Result<String, ValueError> {
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

/// A time as people write it: `15m`, `90s`, `1h 30m`, `500ms`, `14d`; never zero, and at most `most`.
pub(super) fn duration(text: &str, most: Duration) -> Result<Duration, ValueError> {
    let why = || ValueError::Rule("is no length of time; write 15m, 90s or 12h");
    let span: jiff::Span = text.parse().map_err(|_| why())?;
    let days_are_24_hours = jiff::SpanRelativeTo::days_are_24_hours();
    let duration = span.to_duration(days_are_24_hours).map_err(|_| why())?;
    let duration = Duration::try_from(duration).map_err(|_| why())?;
    match (LEAST..=most).contains(&duration) {
        true => Ok(duration),
        false if duration.is_zero() => Err(why()),
        false => Err(ValueError::Time { most_h: most.as_secs() / 3600 }),
    }
}

pub(super) fn remember_clients(text: &str) -> Result<Option<Duration>, ValueError> {
    const LONGEST: Duration = Duration::from_secs(90 * 86_400);
    if text == "off" {
        return Ok(None);
    }
    let time = duration(text, LONGEST).map(Some);
    time.map_err(|_| "is neither off nor a length of time up to 90d; write 14d".into())
}

pub(super) fn trust_keys(file: &str) -> Result<TrustKeys, ValueError> {
    let text = std::fs::read_to_string(file).map_err(ValueError::Unreadable)?;
    toml::from_str(&text).map_err(|e| ValueError::Keys(Box::new(e)))
}

/// A value without the user and password that a source's URL may hold, however badly it is written.
pub(super) fn shown(key: &str, value: &str) -> String {
    let Some(at) =
        value.rfind('@').filter(|_| matches!(key, "source" | "from") && !value.starts_with("dir:"))
    else {
        return value.to_owned();
    };
    let (before, after) = value.split_at(at);
    // Before the first colon: the scheme, or else the user.
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
    fn sizes_read_as_people_write_them() {
        for (text, bytes) in [("0", 0), ("7", 7), ("64K", 65_536), ("512M", 512 << 20), ("2G", 2 << 30)] {
            assert_eq!(size(text).unwrap(), bytes);
        }
        for wrong in ["", "M", "-1", "1.5G", "1MM", "1T", "512 M", "99999999999G"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lengths_of_time_read_as_people_write_them() {
        let seconds = |text| duration(text, Duration::from_secs(30 * 86_400)).map(|time| time.as_secs());
        for (text, expected) in
            [("15m", 900), ("90s", 90), ("1h 30m", 5400), ("12h", 43_200), ("14d", 1_209_600)]
        {
            assert_eq!(seconds(text).unwrap(), expected);
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
