//! A client's freshclam.conf: what in it keeps freshclam from this mirror, or makes it cost more than it need.
//!
//! Reads the file as ClamAV does (`shared/optparser.c`): an option a line, names by their case, `#` only at the start of
//! a line. It is no whole check of the file: what does not concern a mirror is freshclam's own to say.
use super::{Check, ClientConf, Finding, finding};
use crate::{
    config::Config,
    mirror::{DataDir, Snapshot},
};
use cvdmirror_store::Store;
use reqwest::Url;
use std::net::SocketAddr;

/// The record that freshclam asks for unless it is told otherwise.
const USUAL_RECORD: &str = "current.cvd.clamav.net";
/// Below this a connection over a busy line is given up too early, seconds; freshclam's own default is 10.
const LEAST_CONNECT_S: u64 = 5;
/// Below this a full CVD of 160 MB does not come through 10 Mbit/s, seconds; freshclam's own default is none at all.
const LEAST_RECEIVE_S: u64 = 180;

/// What a client has to know of this mirror.
#[derive(Clone, Debug)]
pub(super) struct Mirror {
    /// Where it is reached, as far as that can be told from here.
    pub(super) url: String,
    /// Ports on which it speaks plain HTTP.
    pub(super) ports: Vec<u16>,
    /// The record that it answers itself.
    pub(super) record: Option<String>,
    /// Newest files that are held without a sign file.
    pub(super) unsigned: Vec<String>,
}

impl Mirror {
    pub(super) fn of(config: &Config) -> Self {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name = if name.trim().is_empty() { "mirror.example.lan" } else { name.trim() };
        let host = config.listen.first().map_or((name.to_owned(), 80), |address| {
            let host = if address.ip().is_unspecified() { name.to_owned() } else { bare(*address) };
            (host, address.port())
        });
        Self {
            url: match host.1 {
                80 => format!("http://{}", host.0),
                port => format!("http://{}:{port}", host.0),
            },
            ports: config.listen.iter().map(SocketAddr::port).collect(),
            record: config.dns.as_ref().map(|(_, zone)| format!("current.cvd.{zone}")),
            unsigned: unsigned(config),
        }
    }
}

fn bare(address: SocketAddr) -> String {
    SocketAddr::new(address.ip(), 0).to_string().trim_end_matches(":0").to_owned()
}

/// The newest CVD and CDIFF of each database that has no sign file here; nothing where the store cannot be read.
fn unsigned(config: &Config) -> Vec<String> {
    let dir = DataDir::new(&config.data_dir);
    let Ok(scan) = Store::scan(&dir.store()) else { return Vec::new() };
    let Ok((store, _)) = Store::assemble(&dir.store(), &dir.tmp(), scan.packs) else { return Vec::new() };
    let (snapshot, _) = Snapshot::of(store.view(), |_| None);
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
    let mut check = Check::of("freshclam.conf");
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
fn lint(text: &str, mirror: &Mirror) -> Vec<Finding> {
    let lines = lines(text);
    let mut found = Vec::new();
    let all = |name: &'static str| lines.iter().filter(move |line| line.name == name);
    // Of an option that may stand once, the first counts.
    let one = |name: &'static str| all(name).next();
    for line in lines.iter().filter(|line| line.name.starts_with("Example")) {
        found.push(finding(
            format!("line {}: the line Example still stands there", line.number),
            "freshclam refuses the whole file while it does",
            "#Example",
        ));
    }
    let ours = |line: &&Line<'_>| matches!(leads(line.value), Leads::Elsewhere);
    for line in all("PrivateMirror").chain(all("DatabaseMirror")).filter(ours) {
        found.extend(address(line, mirror));
    }
    let private: Vec<&Line<'_>> = all("PrivateMirror").collect();
    if let Some(line) = private.first() {
        found.push(finding(
            format!("line {}: PrivateMirror {}", line.number, line.value),
            "with it freshclam asks for no CDIFF and no DNS: each version costs the full file",
            format!("DatabaseMirror {}", mended(line.value, mirror)),
        ));
    } else {
        found.extend(order(&all("DatabaseMirror").collect::<Vec<_>>(), mirror));
    }
    // Where nothing leads here, the record is right for what is asked.
    if all("PrivateMirror").chain(all("DatabaseMirror")).any(|line| ours(&line)) {
        found.extend(record(one("DNSDatabaseInfo"), mirror));
    }
    if let Some(line) = one("ScriptedUpdates").filter(|line| is_no(line.value)) {
        found.push(finding(
            format!("line {}: ScriptedUpdates {}", line.number, line.value),
            "without CDIFFs each version costs the full file",
            "ScriptedUpdates yes",
        ));
    }
    if let Some(line) = one("MaxAttempts").filter(|line| number(line).is_some_and(|n| n < 2)) {
        found.push(finding(
            format!("line {}: MaxAttempts {}", line.number, line.value),
            "a full CVD that is older than what is advertised is brought up to date by the second attempt",
            "MaxAttempts 3",
        ));
    }
    if let Some(line) = one("ConnectTimeout").filter(|line| number(line).is_some_and(|s| s < LEAST_CONNECT_S))
    {
        found.push(finding(
            format!("line {}: ConnectTimeout {}", line.number, line.value),
            "a busy line or a mirror that restarts takes longer, and the update fails",
            "ConnectTimeout 10",
        ));
    }
    if let Some(line) =
        one("ReceiveTimeout").filter(|line| number(line).is_some_and(|s| s > 0 && s < LEAST_RECEIVE_S))
    {
        found.push(finding(
            format!("line {}: ReceiveTimeout {}", line.number, line.value),
            "it bounds a whole download, and a full CVD has 160 MB: over a slow line none ever arrives",
            "ReceiveTimeout 0",
        ));
    }
    if let Some(line) = one("FIPSCryptoHashLimits").filter(|line| !is_no(line.value))
        && !mirror.unsigned.is_empty()
    {
        found.push(finding(
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
fn address(line: &Line<'_>, mirror: &Mirror) -> Option<Finding> {
    let Line { number, name, value } = line;
    let fix = format!("{name} {}", mended(value, mirror));
    if !value.contains("://") {
        return Some(finding(
            format!("line {number}: {name} {value} names no scheme"),
            "freshclam takes https:// then, and this mirror speaks plain HTTP: every update fails with an SSL error",
            fix,
        ));
    }
    let url: Url = value.parse().ok()?;
    if url.scheme() == "https" && url.port_or_known_default().is_some_and(|port| mirror.ports.contains(&port))
    {
        return Some(finding(
            format!("line {number}: {name} {value} asks for TLS"),
            "this mirror speaks plain HTTP on that port: every update fails with an SSL error",
            fix,
        ));
    }
    value.ends_with('/').then(|| {
        finding(
            format!("line {number}: {name} {value} ends with a slash"),
            "freshclam asks for //daily.cvd then, which is nobody's name: 404",
            fix,
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
fn order(mirrors: &[&Line<'_>], mirror: &Mirror) -> Option<Finding> {
    let is_official = |line: &&&Line<'_>| matches!(leads(line.value), Leads::Official);
    let official = mirrors.iter().find(is_official);
    let Some(ours) = mirrors.iter().find(|line| !is_official(line)) else {
        return Some(finding(
            "no DatabaseMirror names this mirror",
            "every update comes from the CDN",
            format!("DatabaseMirror {}", mirror.url),
        ));
    };
    let official = official.filter(|official| official.number < ours.number)?;
    Some(finding(
        format!(
            "line {}: DatabaseMirror {} stands before this mirror's (line {})",
            official.number, official.value, ours.number
        ),
        "freshclam asks them in turn, and this one only when the CDN has failed",
        format!("DatabaseMirror {}\nDatabaseMirror {}", mended(ours.value, mirror), official.value),
    ))
}

/// Whether what the DNS advertises is what this mirror holds.
fn record(line: Option<&Line<'_>>, mirror: &Mirror) -> Option<Finding> {
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
    Some(finding(what, why, format!("DNSDatabaseInfo {}", right.unwrap_or("no"))))
}
