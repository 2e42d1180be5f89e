//! The source, its TXT record, and the clock by which both are judged.
use super::Check;
use crate::{
    clock::{self, ago, epoch_s},
    config::{Config, SourceSpec},
    cvd::{Database, Header},
    mirror::status::Status,
    service::PRODUCT,
    source::{
        FetchError, FetchLimits, Intake, Silent,
        budget::{Book, Ledger},
        by_other_scheme,
        directory::DirectorySource,
        http::HttpSource,
        txt::{Said, TxtResolver},
    },
};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Older than this a record is not believed, by freshclam as little as here.
const TXT_MAX_AGE_S: u64 = 12 * 3600;
/// A record this far ahead of the file is not the CDN's usual delay.
const MAX_AHEAD: u32 = 30;
const NOTHING_NEWER: &str = "nothing newer can be had; what is held stays served, and turns stale";
const CVDUPDATE: &str = "source = \"dir:/var/lib/cvdupdate\", a directory that cvdupdate fills";

type Headers = BTreeMap<Database, Header>;

/// Looks at the source, the TXT record and the clock, in this order.
pub(super) async fn check(config: &Config, running: Option<&Status>) -> (Check, Check, Check) {
    let (mut source, mut txt, mut time) = (Check::of("source"), Check::of("TXT record"), Check::of("clock"));
    // Where headers are staged; it goes with the value.
    let staging = match tempfile::tempdir() {
        Ok(dir) => dir,
        Err(e) => {
            let what = format!("{}: {e}", std::env::temp_dir().display());
            source.find(what, "the source is not looked at", "TMPDIR=DIR of a directory that is writable");
            return (source, txt, time);
        }
    };
    let limits = FetchLimits { stall: config.stall_timeout, ..FetchLimits::default() };
    let intake = Intake { dir: staging.path().into(), limits, progress: Arc::new(Silent) };
    let mut off = None;
    let headers = match &config.source {
        SourceSpec::Directory(path) => {
            let held = DirectorySource::new(path.clone(), intake);
            directory(&mut source, config, path, &held).await
        }
        SourceSpec::Http(url) => {
            let book = running.and_then(|status| status.ledger.clone()).unwrap_or_default();
            let headers = match upstream(url.clone(), config, intake, book) {
                Ok(upstream) => {
                    let headers = probe(&mut source, config, &upstream).await;
                    off = upstream.off_by_s().map(|off| (off, "the source's"));
                    headers
                }
                Err(why) => {
                    source.find(why, NOTHING_NEWER, "apt install ca-certificates");
                    Headers::new()
                }
            };
            off = off.or(record(&mut txt, config, &headers).await.map(|off| (off, "the TXT record's time")));
            headers
        }
    };
    let newest_s = headers.values().map(|header| header.stime_s).max();
    let built = newest_s.and_then(|at_s| clock::off_by(epoch_s(), at_s)).filter(|off| *off < 0);
    match off.or(built.map(|off| (off, "the newest CVD's build time"))) {
        Some((off, whose)) => time.find(
            clock::words(off, whose),
            "the age of records and the validity of certificates are judged by it",
            clock::SET_IT,
        ),
        None if headers.is_empty() => time.say("nothing to compare it with"),
        None => time.say("agrees with the source"),
    }
    (source, txt, time)
}

fn upstream(url: reqwest::Url, config: &Config, intake: Intake, book: Book) -> Result<HttpSource, String> {
    let ledger = Ledger::new(book, |_| {});
    HttpSource::new(url, config.source_login.clone(), None, intake, ledger, &format!("{PRODUCT} (doctor)"))
}

/// Asks for each header; what would be the same for every database is asked once.
async fn probe(check: &mut Check, config: &Config, upstream: &HttpSource) -> Headers {
    let mut headers = Headers::new();
    for database in &config.databases {
        match upstream.probe(database).await {
            Ok(header) => {
                check.say(format!("{database} is at version {}", header.version));
                headers.insert(database.clone(), header);
            }
            Err(e) => {
                let (why, fix) = remedy(&e, database);
                check.find(plainly(&e), why, fix);
                if !matches!(e, FetchError::Absent { .. } | FetchError::NotACvd { .. }) {
                    break;
                }
            }
        }
    }
    headers
}

/// What is wrong, without the advice that goes with it elsewhere.
fn plainly(e: &FetchError) -> String {
    match e {
        FetchError::Unreachable { url, why } => format!("{url}: {why}"),
        FetchError::WrongScheme { url, why } => {
            format!("{url}: what answers there speaks no {} ({why})", url.scheme())
        }
        FetchError::Denied { url } => format!("{url}: the source refuses this client (403)"),
        FetchError::Io { path, source } => format!("{}: {source}", path.display()),
        e => e.to_string(),
    }
}

/// Why an answer matters, and the line to write.
fn remedy(e: &FetchError, database: &Database) -> (&'static str, String) {
    match e {
        FetchError::WrongScheme { url, .. } => {
            (NOTHING_NEWER, format!("source = \"{}\"", by_other_scheme(url)))
        }
        FetchError::Absent { .. } => (
            "this database is configured and cannot be had",
            format!("a source that has {database}.cvd, or database = [...] without {database}"),
        ),
        FetchError::NotACvd { .. } => (
            "what answers is no mirror, or a proxy's page in its place",
            "source = \"URL\" of the directory that holds the CVDs, or an exception in the proxy".into(),
        ),
        FetchError::Denied { .. } | FetchError::Limited { .. } | FetchError::CoolDown { .. } => {
            ("asking on would prolong it, so the source is left alone", CVDUPDATE.into())
        }
        FetchError::Unreachable { url, .. } => (NOTHING_NEWER, reach(url)),
        FetchError::TooSlow { origin, .. } | FetchError::Truncated { origin, .. } => {
            (NOTHING_NEWER, reach(origin))
        }
        FetchError::Status { url, .. } => (NOTHING_NEWER, reach(url)),
        FetchError::NotAFile { path, .. } => {
            (NOTHING_NEWER, format!("put a plain file at {}", path.display()))
        }
        FetchError::Io { path, source } if source.kind() == std::io::ErrorKind::PermissionDenied => {
            (NOTHING_NEWER, format!("chmod a+rX {}", path.display()))
        }
        _ => (NOTHING_NEWER, "try again: it was changed while it was read".into()),
    }
}

fn reach(url: &str) -> String {
    format!(
        "start the source, or open the way to it (firewall, or https_proxy=URL): curl -I {url} must answer"
    )
}

async fn directory(check: &mut Check, config: &Config, path: &Path, held: &DirectorySource) -> Headers {
    let mut headers = Headers::new();
    if let Err(e) = std::fs::read_dir(path) {
        let fix = match e.kind() {
            std::io::ErrorKind::NotFound => "source = \"dir:PATH\" of a directory that is there".to_owned(),
            std::io::ErrorKind::PermissionDenied => format!("chmod a+rx {}", path.display()),
            _ => "source = \"dir:PATH\" of a directory".to_owned(),
        };
        check.find(format!("{}: {e}", path.display()), NOTHING_NEWER, fix);
        return headers;
    }
    for database in &config.databases {
        match held.probe(database).await {
            Ok(header) => {
                check.say(format!("{database} is at version {}", header.version));
                headers.insert(database.clone(), header);
            }
            Err(FetchError::Absent { origin }) if path.join(format!("{database}.cld")).exists() => check
                .find(
                    format!("{origin}: not there, but {database}.cld is"),
                    "freshclam patched its CVD into a CLD, which carries no signature and is not taken",
                    "ScriptedUpdates no, in the freshclam.conf that fills this directory",
                ),
            Err(e) => {
                let (why, fix) = remedy(&e, database);
                check.find(plainly(&e), why, fix);
            }
        }
        let newest = held.newest(database).await.ok().and_then(|newest| newest.at_s);
        let age_s = newest.map(|at_s| epoch_s().saturating_sub(at_s)).filter(|age_s| *age_s > TXT_MAX_AGE_S);
        if let Some(age_s) = age_s {
            check.find(
                format!("{}: written {} ago", path.join("dns.txt").display(), ago(age_s)),
                "what fills this directory has not run since: nothing newer comes",
                "0 * * * * cvdupdate update, in its user's crontab",
            );
            break;
        }
    }
    headers
}

/// Compares what the record says with the headers; how far its time lies ahead of the clock, seconds.
async fn record(check: &mut Check, config: &Config, headers: &Headers) -> Option<i64> {
    let Some(name) = &config.txt_record else {
        check.say("none is asked: the files' headers say what is newest");
        return None;
    };
    let resolver = TxtResolver::new(name, config.nameserver);
    let mut off = None;
    for database in &config.databases {
        let said = match resolver.lookup(database).await {
            Ok(said) => said,
            Err(e) => {
                let why = "each round asks the files' headers instead, and waits for the answer first";
                let fix = match config.nameserver {
                    Some(_) => "nameserver = \"IP\" of one that answers, or txt_record = \"none\"",
                    None => "nameserver = \"9.9.9.9\", or txt_record = \"none\"",
                };
                check.find(e.to_string(), why, fix);
                return off;
            }
        };
        off = off.or(said.time_s.and_then(|at_s| clock::off_by(epoch_s(), at_s)).filter(|off| *off < 0));
        compare(check, name, database, said, headers.get(database));
    }
    off
}

fn compare(check: &mut Check, name: &str, database: &Database, said: Said, header: Option<&Header>) {
    const OTHERS: &str = "nameserver = \"9.9.9.9\", or txt_record = \"none\"";
    let Some(version) = said.version else {
        let what = format!("{name} names no version of {database}");
        return check.find(what, "each round asks the file's header instead", "txt_record = \"none\"");
    };
    let age_s = said.time_s.map(|at_s| epoch_s().saturating_sub(at_s));
    match (age_s, header) {
        (Some(age_s), _) if age_s > TXT_MAX_AGE_S => check.find(
            format!("{name} is {} old", ago(age_s)),
            "a resolver on the way keeps an old record, or this clock is wrong: it is not believed",
            OTHERS,
        ),
        (_, Some(header)) if header.version > version => check.find(
            format!("{name} says {database} {version}, the source has {}", header.version),
            "the record is another source's, or kept by a resolver on the way: new versions are noticed late",
            OTHERS,
        ),
        (_, Some(header)) if version - header.version > MAX_AHEAD => check.find(
            format!("{name} says {database} {version}, the source has {}", header.version),
            "the record speaks of versions that this source does not have",
            "txt_record = \"none\", or the record that belongs to the source",
        ),
        _ => check.say(format!("{name} says {database} {version}")),
    }
}
