//! An HTTP upstream: the CDN, another mirror, or anything that serves the files by their names.
//!
//! Caches answer by name, so an answer is never taken for what was asked: its content says what it is. CDIFFs
//! and sign files are asked by their immutable names; a CVD as `<db>.cvd?version=N`, the convention cvdupdate
//! uses towards the CDN, and plainly where a source does not know that.
use super::{
    Evidence, FetchError, Fetched, Newest, Wanted,
    budget::Ledger,
    get::{Answer, Getter},
    login::Login,
    staging::Intake,
    txt::TxtResolver,
};
use crate::{
    clock::{self, ago, epoch_s},
    cvd::{Database, HEADER_BYTES, Header},
};
use reqwest::{Url, header::HeaderValue};
use std::{
    collections::BTreeMap,
    io::Read as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// A TXT record older than this is not believed: the same bound as freshclam's.
const TXT_MAX_AGE_S: u64 = 12 * 3600;
/// An HTTP upstream and, where configured, its TXT record.
#[derive(Debug)]
pub struct HttpSource {
    base: Url,
    getter: Getter,
    txt: Option<TxtResolver>,
    /// The last header probed of each database, with its ETag.
    probed: Mutex<BTreeMap<Database, (HeaderValue, Header)>>,
    /// The version of each database whose full CVD was fetched last, and how often.
    fetched: Mutex<BTreeMap<Database, (u32, u32)>>,
}

impl HttpSource {
    /// Uses the upstream at `base`, as whoever `login` says; what is asked of it is noted in `ledger`.
    ///
    /// # Errors
    /// When no TLS client can be made, in words.
    pub fn new(
        mut base: Url,
        login: Option<Login>,
        txt: Option<TxtResolver>,
        intake: Intake,
        ledger: Ledger,
        user_agent: &str,
    ) -> Result<Self, String> {
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let getter = Getter::new(&base, login, intake, ledger, user_agent)?;
        Ok(Self { base, getter, txt, probed: Mutex::default(), fetched: Mutex::default() })
    }

    /// What was asked of the upstream.
    pub fn ledger(&self) -> &Ledger {
        self.getter.ledger()
    }

    /// How far this machine's clock is ahead of the upstream's `Date`, seconds; nothing while they agree.
    pub fn off_by_s(&self) -> Option<i64> {
        self.getter.off_by_s()
    }

    /// What it stages with.
    pub fn intake(&self) -> &Intake {
        &self.getter.intake
    }

    /// Says what is newest: by the TXT record, or by the header of the file where there is no usable record.
    ///
    /// # Errors
    /// When neither can be had; the error is the probe's, or the record's where the probe says less.
    pub async fn newest(&self, database: &Database) -> Result<Newest, FetchError> {
        let mut remarks = Vec::new();
        let (mut recorded, mut recorded_at_s) = (None, None);
        if let Some(txt) = &self.txt {
            match txt.lookup(database).await {
                Ok(said) => {
                    let version = said.version;
                    let age_s = epoch_s().saturating_sub(said.time_s.unwrap_or_default());
                    let ahead = said.time_s.and_then(|at_s| clock::off_by(epoch_s(), at_s));
                    if let Some(off) = ahead.filter(|off| *off < 0) {
                        remarks.push(clock::remark(off, "the TXT record's time"));
                    }
                    if let Some(version) = version.filter(|_| age_s <= TXT_MAX_AGE_S) {
                        return Ok(Newest {
                            version,
                            evidence: Evidence::TxtRecord,
                            at_s: said.time_s,
                            remarks,
                        });
                    }
                    (recorded, recorded_at_s) = (version, said.time_s);
                    remarks.push(match (version, said.time_s) {
                        (Some(version), Some(_)) => format!(
                            "the TXT record says {version} but is {} old; the file itself is asked",
                            ago(age_s)
                        ),
                        (Some(version), None) => {
                            format!("the TXT record says {version} but not when; the file itself is asked")
                        }
                        (None, _) => {
                            "the TXT record does not name this database; the file itself is asked".into()
                        }
                    });
                }
                Err(e) => remarks.push(format!("{e}; the file itself is asked")),
            }
        }
        match self.probe(database).await {
            Ok(header) => {
                let version = header.version;
                Ok(Newest { version, evidence: Evidence::Header, at_s: None, remarks })
            }
            Err(e) => match recorded {
                Some(version) => {
                    remarks.push(e.to_string());
                    Ok(Newest { version, evidence: Evidence::TxtRecord, at_s: recorded_at_s, remarks })
                }
                None if remarks.is_empty() => Err(e),
                None => Err(FetchError::Unreachable {
                    url: self.base.to_string(),
                    why: format!("{}; and then: {e}", remarks.join("; ")),
                }),
            },
        }
    }

    /// Reads the header of the CVD that is offered now; asks for it only if its ETag has changed.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn probe(&self, database: &Database) -> Result<Header, FetchError> {
        let known = self.probed().get(database).cloned();
        let url = self.url(&format!("{database}.cvd"))?;
        let wanted = Wanted::Header(database.clone(), None);
        let (fetched, etag) =
            match self.getter.get(&url, &wanted, known.as_ref().map(|(etag, _)| etag)).await? {
                Answer::New(fetched, etag) => (fetched, etag),
                Answer::Unchanged => {
                    return known
                        .map(|(_, header)| header)
                        .ok_or(FetchError::Status { url: url.to_string(), status: 304 });
                }
            };
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        let not_a_cvd = |why: String| FetchError::NotACvd { origin: fetched.origin.clone(), why };
        fetched
            .staged
            .reader()
            .and_then(|mut reader| reader.read_to_end(&mut bytes))
            .map_err(|e| not_a_cvd(e.to_string()))?;
        let header = Header::parse(&bytes).map_err(|e| not_a_cvd(e.to_string()))?;
        match etag {
            Some(etag) => self.probed().insert(database.clone(), (etag, header.clone())),
            None => self.probed().remove(database),
        };
        Ok(header)
    }

    fn probed(&self) -> MutexGuard<'_, BTreeMap<Database, (HeaderValue, Header)>> {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches one file.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, wanted: &Wanted) -> Result<Fetched, FetchError> {
        match wanted {
            Wanted::Named(name) => self.get(&name.to_string(), wanted).await,
            Wanted::Header(database, None) => self.get(&format!("{database}.cvd"), wanted).await,
            Wanted::Cvd(database, version) | Wanted::Header(database, Some(version)) => {
                let name = self.name_of(database, *version, matches!(wanted, Wanted::Cvd(..)));
                match self.get(&name, wanted).await {
                    Err(FetchError::Absent { .. }) => self.get(&format!("{database}.cvd"), wanted).await,
                    other => other,
                }
            }
        }
    }

    /// Names a version of a CVD. One that is wanted again after it was fetched whole was not what came: a cache on
    /// the way that keeps that answer would give it for ever, so that the name is made another one.
    fn name_of(&self, database: &Database, version: u32, whole: bool) -> String {
        let mut fetched = self.fetched.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, count) = fetched.entry(database.clone()).or_default();
        if *last != version {
            (*last, *count) = (version, 0);
        }
        let again = if *count > 0 { format!("&again={count}") } else { String::new() };
        *count += u32::from(whole);
        format!("{database}.cvd?version={version}{again}")
    }

    async fn get(&self, relative: &str, wanted: &Wanted) -> Result<Fetched, FetchError> {
        match self.getter.get(&self.url(relative)?, wanted, None).await? {
            Answer::New(fetched, _) => Ok(fetched),
            Answer::Unchanged => Err(FetchError::Status { url: relative.into(), status: 304 }),
        }
    }

    fn url(&self, relative: &str) -> Result<Url, FetchError> {
        self.base
            .join(relative)
            .map_err(|e| FetchError::Unreachable { url: self.base.to_string(), why: e.to_string() })
    }
}
