//! A client's freshclam.conf: what in it keeps freshclam from this mirror, or makes it cost more than it need.
//!
//! Reads the file as ClamAV does (`shared/optparser.c`): an option a line, names by their case, `#` only at the start of
//! a line. It is no whole check of the file: what does not concern a mirror is freshclam's own to say.
use super::{Check, ClientConf, finding};
use crate::{
    client_config,
    client_lines::ClientLines,
    config::Config,
    mirror::{DataDir, Snapshot, look::Look},
    trouble::{Trouble, TroubleKind},
};
use reqwest::Url;
use std::net::SocketAddr;

/// The record that freshclam asks for unless it is told otherwise.
const USUAL_RECORD: &str = "current.cvd.clamav.net";
/// Below this a connection over a busy line is given up too early, seconds; freshclam's own default is 10.
const LEAST_CONNECT_S: u64 = 5;
/// Below this a full CVD of 155 MiB does not come through 10 Mbit/s, seconds; freshclam's own default is none at all.
const LEAST_RECEIVE_S: u64 = 180;

/// What a client has to know of this mirror.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    /// Where it is reached, as far as that can be told from here.
    pub(super) url: String,
    /// Ports on which it speaks plain HTTP.
    pub(super) ports: Vec<u16>,
    /// Whether it is a proxy for clients.
    pub(super) is_proxy: bool,
    /// The record that it answers itself.
    pub(super) record: Option<String>,
    /// Newest files that are held without a sign file.
    pub(super) unsigned: Vec<String>,
}

impl Mirror {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            url: client_config::own_url(config),
            ports: config.listen.iter().map(SocketAddr::port).collect(),
            is_proxy: config.proxy.is_some(),
            record: client_config::own_record(config),
            unsigned: unsigned(config),
        }
    }
}

/// The newest CVD and CDIFF of each database that has no sign file here; nothing where the store cannot be read.
fn unsigned(config: &Config) -> Vec<String> {
    let Ok(look) = Look::at(&DataDir::new(&config.data_dir), None) else { return Vec::new() };
    let (snapshot, _) = Snapshot::new(look.view, |_| false, |_| None);
    let newest = snapshot.databases.iter().flat_map(|(database, published)| {
        let cvd = crate::cvd::FileName::new(database, published.cvd, crate::cvd::FileKind::Cvd);
        let cdiff = crate::cvd::FileName::new(database, published.version, crate::cvd::FileKind::Cdiff);
        [cvd, cdiff]
    });
    let lacks = |name: &crate::cvd::FileName| {
        snapshot.files.contains_key(name)
            && name.sign().is_some_and(|sign| !snapshot.files.contains_key(&sign))
    };
    newest.filter(lacks).map(|name| name.to_string()).collect()
}

/// Looks at a file.
pub(super) fn check(conf: ClientConf<'_>, mirror: &Mirror) -> Check {
    let mut check = Check::new("freshclam.conf", TroubleKind::ClientConf);
    check.findings = lint(conf.text, mirror);
    if check.findings.is_empty() {
        check.say(format!("{} leads to this mirror", conf.path));
    }
    check
}

/// An option that is set.
struct Line<'a> {
    number: usize,
    name: &'a str,
    value: &'a str,
}

fn lines(text: &str) -> Vec<Line<'_>> {
    let mut lines = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once([' ', '\t']).unwrap_or((line, ""));
        lines.push(Line { number, name, value: value.trim().trim_matches('"') });
    }
    lines
}

/// Where a mirror's line leads.
enum Leads {
    /// To the CDN.
    Official,
    /// Elsewhere, by what is written or by the scheme that freshclam takes for granted.
    Elsewhere,
}

fn leads(value: &str) -> Leads {
    let host = value.rsplit("://").next().unwrap_or(value).split(['/', ':']).next().unwrap_or_default();
    if host == "clamav.net" || host.ends_with(".clamav.net") { Leads::Official } else { Leads::Elsewhere }
}

/// Every rule, in the order in which the file is best mended.
fn lint(text: &str, mirror: &Mirror) -> Vec<Trouble> {
    let lines = lines(text);
    let mut found = Vec::new();
    let all = |name: &'static str| lines.iter().filter(move |line| line.name == name);
    // Of an option that may stand once, the first counts.
    let one = |name: &'static str| all(name).next();
    for line in lines.iter().filter(|line| line.name.starts_with("Example")) {
        found.push(finding(
            TroubleKind::ClientConf,
            format!("line {}: `Example` is still in the file", line.number),
            "freshclam refuses the whole file while it does",
            "#Example",
        ));
    }
    let ours = |line: &&Line<'_>| matches!(leads(line.value), Leads::Elsewhere);
    for line in all("PrivateMirror").chain(all("DatabaseMirror")).filter(ours) {
        found.extend(address(line, mirror));
    }
    let port = one("HTTPProxyPort").and_then(|line| line.value.parse().ok());
    let behind = mirror.is_proxy
        && one("HTTPProxyServer").is_some()
        && port.is_some_and(|port| mirror.ports.contains(&port));
    let private: Vec<&Line<'_>> = all("PrivateMirror").collect();
    if let Some(line) = private.first() {
        found.push(finding(
            TroubleKind::ClientConf,
            format!("line {}: PrivateMirror {}", line.number, line.value),
            "with it freshclam asks for no CDIFF and no DNS: each version costs the full file",
            format!("DatabaseMirror {}", mended(line.value, mirror)),
        ));
    } else if behind {
        found.extend(all("DatabaseMirror").filter_map(unproxied));
    } else {
        found.extend(order(&all("DatabaseMirror").collect::<Vec<_>>(), mirror));
    }
    // Where nothing leads here, the record is right for what is asked.
    if behind || all("PrivateMirror").chain(all("DatabaseMirror")).any(|line| ours(&line)) {
        found.extend(record(one("DNSDatabaseInfo"), mirror));
    }
    if let Some(line) = one("ScriptedUpdates").filter(|line| is_no(line.value)) {
        found.push(finding(
            TroubleKind::ClientConf,
            format!("line {}: ScriptedUpdates {}", line.number, line.value),
            "without CDIFFs each version costs the full file",
            "ScriptedUpdates yes",
        ));
    }
    if let Some(line) = one("MaxAttempts").filter(|line| number(line).is_some_and(|n| n < 2)) {
        found.push(finding(
            TroubleKind::ClientConf,
            format!("line {}: MaxAttempts {}", line.number, line.value),
            "a full CVD that is older than what is advertised is brought up to date by the second attempt",
            "MaxAttempts 3",
        ));
    }
    if let Some(line) = one("ConnectTimeout").filter(|line| number(line).is_some_and(|s| s < LEAST_CONNECT_S))
    {
        found.push(finding(
            TroubleKind::ClientConf,
            format!("line {}: ConnectTimeout {}", line.number, line.value),
            "a busy line or a mirror that restarts takes longer, and the update fails",
            "ConnectTimeout 10",
        ));
    }
    if let Some(line) =
        one("ReceiveTimeout").filter(|line| number(line).is_some_and(|s| s > 0 && s < LEAST_RECEIVE_S))
    {
        found.push(finding(
            TroubleKind::ClientConf,
            format!("line {}: ReceiveTimeout {}", line.number, line.value),
            "it bounds a whole download, and a full CVD has 155 MiB: over a slow line none ever arrives",
            "ReceiveTimeout 0",
        ));
    }
    if let Some(line) = one("FIPSCryptoHashLimits").filter(|line| !is_no(line.value))
        && !mirror.unsigned.is_empty()
    {
        found.push(finding(
            TroubleKind::ClientConf,
            format!("line {}: FIPSCryptoHashLimits {}", line.number, line.value),
            format!(
                "such a client takes signed files alone, and no sign file is held of {}",
                mirror.unsigned.join(", ")
            ),
            "FIPSCryptoHashLimits no, or a source with sign files (cvdupdate from 1.2 on fetches them)",
        ));
    }
    found
}

fn is_no(value: &str) -> bool {
    ["no", "false", "0"].iter().any(|no| value.eq_ignore_ascii_case(no))
}

fn number(line: &Line<'_>) -> Option<u64> {
    line.value.parse().ok()
}

/// Whether freshclam gets to this mirror by what is written.
fn address(line: &Line<'_>, mirror: &Mirror) -> Option<Trouble> {
    let Line { number, name, value } = line;
    let fix = format!("{name} {}", mended(value, mirror));
    if !value.contains("://") {
        return Some(finding(
            TroubleKind::ClientConf,
            format!("line {number}: {name} {value} names no scheme"),
            "freshclam takes https:// then, and this mirror speaks plain HTTP: every update fails with an SSL error",
            fix,
        ));
    }
    let url: Url = value.parse().ok()?;
    if url.scheme() == "https" && url.port_or_known_default().is_some_and(|port| mirror.ports.contains(&port))
    {
        return Some(finding(
            TroubleKind::ClientConf,
            format!("line {number}: {name} {value} asks for TLS"),
            "this mirror speaks plain HTTP on that port: every update fails with an SSL error",
            fix,
        ));
    }
    value.ends_with('/').then(|| {
        finding(
            TroubleKind::ClientConf,
            format!("line {number}: {name} {value} ends with a slash"),
            "freshclam asks for //daily.cvd then, which is nobody's name: 404",
            fix,
        )
    })
}

/// Whether a proxy cannot answer what is asked through it.
fn unproxied(line: &Line<'_>) -> Option<Trouble> {
    let host = line.value.strip_prefix("https://").unwrap_or(line.value);
    (!line.value.starts_with("http://")).then(|| {
        finding(
            TroubleKind::ClientConf,
            format!("line {}: {} {} asks for TLS", line.number, line.name, line.value),
            "this mirror is the client's proxy, and can answer nothing inside TLS: it refuses that, or passes it on",
            format!("{} http://{host}", line.name),
        )
    })
}

/// The value as it should be written.
fn mended(value: &str, mirror: &Mirror) -> String {
    let rest = value.trim_end_matches('/');
    let (scheme, rest) = rest.split_once("://").unwrap_or(("http", rest));
    let port = rest.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let ours = |port| mirror.ports.contains(&port);
    match (scheme, port, mirror.ports.first()) {
        ("https", Some(port), _) if ours(port) => format!("http://{rest}"),
        ("https", None, _) if ours(443) => format!("http://{rest}:443"),
        // Without a scheme and a port, only ours can be meant.
        ("http", None, Some(port)) if !value.contains("://") && *port != 80 && !rest.contains('/') => {
            format!("http://{rest}:{port}")
        }
        _ => format!("{scheme}://{rest}"),
    }
}

/// Whether this mirror is asked, and before the CDN.
fn order(mirrors: &[&Line<'_>], mirror: &Mirror) -> Option<Trouble> {
    if mirrors.is_empty() {
        let lines = ClientLines { url: mirror.url.clone(), record: mirror.record.clone(), behind: None };
        return Some(finding(
            TroubleKind::ClientConf,
            "no line names a mirror",
            "freshclam refuses to start: No DatabaseMirror or PrivateMirror servers set",
            lines.to_string().trim_end(),
        ));
    }
    let is_official = |line: &&&Line<'_>| matches!(leads(line.value), Leads::Official);
    let official = mirrors.iter().find(is_official);
    let Some(ours) = mirrors.iter().find(|line| !is_official(line)) else {
        return Some(finding(
            TroubleKind::ClientConf,
            "no DatabaseMirror names this mirror",
            "every update comes from the CDN",
            format!("DatabaseMirror {}", mirror.url),
        ));
    };
    let official = official.filter(|official| official.number < ours.number)?;
    Some(finding(
        TroubleKind::ClientConf,
        format!(
            "line {}: DatabaseMirror {} stands before this mirror's (line {})",
            official.number, official.value, ours.number
        ),
        "freshclam asks them in turn, and this one only when the CDN has failed",
        format!("DatabaseMirror {}\nDatabaseMirror {}", mended(ours.value, mirror), official.value),
    ))
}

/// Whether what the DNS advertises is what this mirror holds.
fn record(line: Option<&Line<'_>>, mirror: &Mirror) -> Option<Trouble> {
    let asked = line.map_or(USUAL_RECORD, |line| line.value);
    let right = mirror.record.as_deref();
    if asked == "no" || right == Some(asked) {
        return None;
    }
    let what = match line {
        Some(line) => format!("line {}: DNSDatabaseInfo {asked}", line.number),
        None => format!("DNSDatabaseInfo is not set, which means {asked}"),
    };
    let why = match right {
        Some(_) => {
            "this mirror answers another record: what that one says runs ahead of what can be had here"
        }
        None => {
            "this mirror answers no record (dns_listen): what that one says runs ahead of what can be had here"
        }
    };
    Some(finding(TroubleKind::ClientConf, what, why, format!("DNSDatabaseInfo {}", right.unwrap_or("no"))))
}
