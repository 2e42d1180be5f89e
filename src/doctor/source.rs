//! The source, its TXT record, and the clock by which both are judged.
use super::Check;
use crate::{
    clock::{self, Clock, ago, epoch_s},
    config::{Config, SourceSpec},
    cvd::{Database, Header},
    mirror::status::Status,
    service::PRODUCT,
    source::{
        ClientError, FetchError, FetchLimits, Intake, Silent,
        budget::Book,
        directory::DirectorySource,
        downloader::Downloader,
        http::{HttpSource, Upstream},
        ledger::Ledger,
        txt::{Said, TxtFault, TxtResolver},
    },
    trouble::{NOTHING_NEWER, Trouble, TroubleKind},
    units::os,
};
use std::{collections::BTreeMap, path::Path, sync::Arc};

/// Older than this a record is not believed, by freshclam as little as here.
const TXT_MAX_AGE_S: u64 = 12 * 3600;
/// A record this far ahead of the file is not the CDN's usual delay.
const MAX_AHEAD: u32 = 30;

type Headers = BTreeMap<Database, Header>;

/// Looks at the source, the TXT record and the clock, in this order.
pub(super) async fn check(config: &Config, running: Option<&Status>) -> (Check, Check, Check) {
    let (mut source, mut txt, mut time) = (
        Check::new("source", TroubleKind::Source),
        Check::new("TXT record", TroubleKind::TxtRecord),
        Check::new("clock", TroubleKind::Clock),
    );
    let limits = FetchLimits { stall: config.stall_timeout, ..FetchLimits::default() };
    let intake = Intake { limits, progress: Arc::new(Silent) };
    let mut off = None;
    let headers = match &config.source {
        SourceSpec::Directory(path) => {
            let held = DirectorySource::new(path.clone(), intake, Clock::system());
            directory(&mut source, config, path, &held).await
        }
        SourceSpec::Downloader(_) => {
            let upstream = upstream(config.upstream.clone(), config, intake, Book::default());
            downloader(&mut source, config, upstream, running).await;
            off = record(&mut txt, config, &Headers::new()).await.map(|off| (off, "the TXT record's time"));
            Headers::new()
        }
        SourceSpec::Http(url) => {
            let book = running.and_then(|status| status.ledger.clone()).unwrap_or_default();
            let headers = match upstream(url.clone(), config, intake, book) {
                Ok(upstream) => {
                    let headers = probe(&mut source, config, &upstream).await;
                    off = upstream.off_by_s().map(|off| (off, "the source's"));
                    headers
                }
                Err(e) => {
                    source.trouble(&Trouble::from(&e), NOTHING_NEWER);
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
        Some((off, whose)) => {
            time.findings.push(Trouble::clock(off, whose));
        }
        None if headers.is_empty() => time.say("nothing to compare it with"),
        None => time.say("agrees with the source"),
    }
    (source, txt, time)
}

fn upstream(
    url: reqwest::Url,
    config: &Config,
    intake: Intake,
    book: Book,
) -> Result<HttpSource, ClientError> {
    let ledger = Ledger::new(book, Clock::system(), |_| {});
    let upstream = Upstream {
        base: url,
        redirect_hosts: config.redirect_hosts.clone(),
        login: config.source_login.clone(),
        user_agent: format!("{PRODUCT} (doctor)"),
    };
    HttpSource::new(upstream, None, intake, ledger)
}

/// Looks at the downloader, and at what a running server met with it.
async fn downloader(
    check: &mut Check,
    config: &Config,
    upstream: Result<HttpSource, ClientError>,
    running: Option<&Status>,
) {
    match upstream {
        Ok(upstream) => {
            let setup = config.downloader.clone();
            let tool = setup.tool;
            match Downloader::new(setup, &config.data_dir, upstream, None).examine().await {
                Ok((path, version)) => check.say(format!("{tool} {version} is {}", path.display())),
                Err(fault) => check.trouble(&Trouble::from(&fault), NOTHING_NEWER),
            }
        }
        Err(e) => check.trouble(&Trouble::from(&e), NOTHING_NEWER),
    }
    for told in running.iter().flat_map(|status| &status.troubles).filter(|told| told.failed) {
        check.trouble(&told.trouble, NOTHING_NEWER);
    }
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
                unusable(check, &e, database);
                if !matches!(e, FetchError::Absent { .. } | FetchError::NotACvd { .. }) {
                    break;
                }
            }
        }
    }
    headers
}

/// Finds what a source does not give, and says what comes of it.
fn unusable(check: &mut Check, e: &FetchError, database: &Database) {
    let trouble = Trouble::from(e);
    match trouble.kind {
        TroubleKind::Absent => check.find(
            trouble.said(),
            "this database is configured and cannot be had",
            format!("a source that has {database}.cvd, or database = [...] without {database}"),
        ),
        TroubleKind::NotACvd => {
            check.trouble(&trouble, "what answers is no mirror, or a proxy's page in its place");
        }
        TroubleKind::Denied | TroubleKind::Limited | TroubleKind::CoolDown => {
            check.trouble(&trouble, "asking on would prolong it, so the source is left alone");
        }
        TroubleKind::Redirect => check.trouble(
            &trouble,
            "a redirect decides whom this machine asks, so only hosts that are known are followed to",
        ),
        _ => check.trouble(&trouble, NOTHING_NEWER),
    }
}

async fn directory(check: &mut Check, config: &Config, path: &Path, held: &DirectorySource) -> Headers {
    let mut headers = Headers::new();
    if let Err(e) = std::fs::read_dir(path) {
        let fix = match e.kind() {
            std::io::ErrorKind::NotFound => "source = \"dir:PATH\" of a directory that is there".to_owned(),
            std::io::ErrorKind::PermissionDenied => format!("chmod a+rx {}", path.display()),
            _ => "source = \"dir:PATH\" of a directory".to_owned(),
        };
        check.find(format!("{}: {}", path.display(), os(&e)), NOTHING_NEWER, fix);
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
                unusable(check, &e, database);
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
            Err(FetchError::Txt { name, why: why @ (TxtFault::NoSuchName | TxtFault::NoRecord) })
                if !TxtResolver::shares(database) =>
            {
                check.say(format!("{name}: {why}, which no database need have: the file's header is asked"));
                continue;
            }
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
