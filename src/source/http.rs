//! An HTTP upstream: the CDN, another mirror, or anything that serves the files by their names.
//!
//! Caches answer by name, so an answer is never taken for what was asked: its content says what it is. CDIFFs
//! and sign files are asked by their immutable names; a CVD as `<db>.cvd?version=N`, the convention cvdupdate
//! uses towards the CDN, and plainly where a source does not know that.
pub use super::response::WrongPart;
use super::{
    ClientError, Doubt, Evidence, FetchError, Incoming, Newest, Wanted,
    get::{Answer, Getter, Passed},
    intake::Intake,
    ledger::Ledger,
    login::Login,
    txt::{Said, TxtFault, TxtResolver},
};
use crate::{
    clock,
    cvd::{Database, Header},
};
use parking_lot::Mutex;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue},
};
use std::{collections::BTreeMap, sync::Arc};

/// A TXT record older than this is not believed: the same bound as freshclam's.
const TXT_MAX_AGE_S: u64 = 12 * 3600;

/// Where an upstream is, and how it is asked.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// The directory of the files.
    pub base: Url,
    /// Hosts besides its own to which it may redirect, as they stand in a URL.
    pub redirect_hosts: Vec<String>,
    /// As whom it is asked.
    pub login: Option<Login>,
    /// What the client says it is.
    pub user_agent: String,
}

/// An HTTP upstream and, where configured, its TXT record.
#[derive(Debug)]
pub struct HttpSource {
    base: Url,
    getter: Arc<Getter>,
    intake: Intake,
    txt: Option<TxtResolver>,
    /// The last header probed of each database, with its ETag.
    probed: Mutex<BTreeMap<Database, (HeaderValue, Header)>>,
    /// The version of each database whose full CVD was fetched last, and how often.
    fetched: Mutex<BTreeMap<Database, (u32, u32)>>,
}

impl HttpSource {
    /// Uses `upstream`; what is asked of it is noted in `ledger`, whose clock tells how old a record is.
    ///
    /// # Errors
    /// When no TLS client can be made.
    pub fn new(
        upstream: Upstream,
        txt: Option<TxtResolver>,
        intake: Intake,
        ledger: Ledger,
    ) -> Result<Self, ClientError> {
        let Upstream { mut base, redirect_hosts, login, user_agent } = upstream;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let limits = intake.limits.clone();
        let getter = Getter::new(&base, redirect_hosts, login, limits, ledger, &user_agent)?;
        let (probed, fetched) = (Mutex::default(), Mutex::default());
        Ok(Self { base, getter: Arc::new(getter), intake, txt, probed, fetched })
    }

    /// What was asked of the upstream.
    pub fn ledger(&self) -> &Ledger {
        self.getter.ledger()
    }

    /// How far this machine's clock is ahead of the upstream's `Date`, seconds; nothing while they agree.
    pub fn off_by_s(&self) -> Option<i64> {
        self.getter.off_by_s()
    }

    /// From now on asks with these fields besides its own.
    pub(super) fn asks_for(&self, client: HeaderMap) {
        self.getter.asks_for(client);
    }

    /// Whether the client for which it asks was refused.
    pub(super) fn client_is_denied(&self) -> bool {
        self.getter.client_is_denied()
    }

    /// What passes the requests of others on.
    pub(super) fn passer(&self) -> Passer {
        Passer { base: self.base.clone(), getter: self.getter.clone() }
    }

    /// What it stages with.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Says what is newest: by the TXT record, or by the header of the file where there is no usable record.
    ///
    /// # Errors
    /// When neither can be had; the error is the probe's.
    pub async fn newest(&self, database: &Database) -> Result<Newest, FetchError> {
        let mut doubts = Vec::new();
        let recorded = self.recorded(database, &mut doubts).await;
        if let Some(Recorded { version, at_s, age_s }) = recorded
            && age_s <= TXT_MAX_AGE_S
        {
            let newest = Newest { version, evidence: Evidence::TxtRecord, at_s: Some(at_s), doubts };
            return Ok(self.looked_at(database, newest).await);
        }
        match (self.probe(database).await, recorded) {
            (Ok(header), _) => {
                let version = header.version;
                Ok(Newest { version, evidence: Evidence::Header, at_s: None, doubts })
            }
            (Err(e), Some(Recorded { version, at_s, .. })) => {
                doubts.push(Doubt::Unread { why: e.to_string() });
                Ok(Newest { version, evidence: Evidence::TxtRecord, at_s: Some(at_s), doubts })
            }
            (Err(e), None) => {
                // One cause is enough: without a network neither can be had.
                doubts.iter().for_each(|doubt| tracing::debug!("{database}: {doubt:?}"));
                Err(e)
            }
        }
    }

    /// Looks at the file itself now and then, though the record seems right: who holds back both the record and the files
    /// would have to forge the file as well. A file that is newer than its record is followed.
    async fn looked_at(&self, database: &Database, mut newest: Newest) -> Newest {
        if !self.ledger().header_due(database) {
            return newest;
        }
        match self.probe(database).await {
            Ok(header) if header.version > newest.version => {
                newest.doubts.push(Doubt::Ahead { recorded: newest.version, found: header.version });
                Newest { version: header.version, evidence: Evidence::Header, at_s: None, ..newest }
            }
            // The file may come later than the record; and a source that is left alone says so by itself.
            Ok(_) | Err(FetchError::CoolDown { .. }) => newest,
            Err(e) => {
                newest.doubts.push(Doubt::Unread { why: e.to_string() });
                newest
            }
        }
    }

    /// What the TXT record says of a database, if it can count for anything: a record that does not say when it was
    /// made, or says a time that has not come yet, may be as old as it likes.
    async fn recorded(&self, database: &Database, doubts: &mut Vec<Doubt>) -> Option<Recorded> {
        let (version, time_s) = match self.txt.as_ref()?.lookup(database).await {
            Ok(Said { version, time_s }) => (version, time_s),
            // A database without a field in the main record need not have one of its own.
            Err(FetchError::Txt { why: TxtFault::NoSuchName | TxtFault::NoRecord, .. })
                if !TxtResolver::shares(database) =>
            {
                return None;
            }
            Err(e) => {
                doubts.push(Doubt::Unrecorded { why: e.to_string() });
                return None;
            }
        };
        let now_s = self.ledger().clock().epoch_s();
        let Some(version) = version else {
            doubts.push(Doubt::Unnamed);
            return None;
        };
        let Some(at_s) = time_s else {
            doubts.push(Doubt::Undated { version });
            return None;
        };
        if let Some(off) = clock::off_by(now_s, at_s).filter(|off| *off < 0) {
            doubts.push(Doubt::Early { off_s: off, in_directory: false });
            return None;
        }
        let age_s = now_s.saturating_sub(at_s);
        if age_s > TXT_MAX_AGE_S {
            doubts.push(Doubt::Old { version, age_s });
        }
        Some(Recorded { version, at_s, age_s })
    }

    /// Reads the header of the CVD that is offered now; asks for it only if its ETag has changed.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn probe(&self, database: &Database) -> Result<Header, FetchError> {
        let known = self.probed.lock().get(database).cloned();
        let url = self.url(&format!("{database}.cvd"))?;
        let wanted = Wanted::Header(database.clone(), None);
        let etag = known.as_ref().map(|(etag, _)| etag);
        let incoming = match (self.getter.open(&url, &wanted, etag).await?, known) {
            (Answer::New(incoming), _) => incoming,
            (Answer::Unchanged, Some((_, header))) => return Ok(header),
            (Answer::Unchanged, None) => return Err(unasked_304(&url)),
        };
        let (origin, etag) = (incoming.origin.clone(), incoming.etag.clone());
        let header = Header::parse(&incoming.bytes().await?)
            .map_err(|e| FetchError::NotACvd { origin, why: e.to_string() })?;
        let mut probed = self.probed.lock();
        match etag {
            Some(etag) => probed.insert(database.clone(), (etag, header.clone())),
            None => probed.remove(database),
        };
        Ok(header)
    }

    /// Begins to fetch one file.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn open(&self, wanted: &Wanted) -> Result<Incoming, FetchError> {
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
        let mut fetched = self.fetched.lock();
        let (last, count) = fetched.entry(database.clone()).or_default();
        if *last != version {
            (*last, *count) = (version, 0);
        }
        let again = if *count > 0 { format!("&again={count}") } else { String::new() };
        *count += u32::from(whole);
        format!("{database}.cvd?version={version}{again}")
    }

    async fn get(&self, relative: &str, wanted: &Wanted) -> Result<Incoming, FetchError> {
        let url = self.url(relative)?;
        match self.getter.open(&url, wanted, None).await? {
            Answer::New(incoming) => Ok(incoming),
            Answer::Unchanged => Err(unasked_304(&url)),
        }
    }

    fn url(&self, relative: &str) -> Result<Url, FetchError> {
        self.base
            .join(relative)
            .map_err(|e| FetchError::Unreachable { url: self.base.to_string(), why: e.to_string() })
    }
}

/// Passes requests of others on to an upstream.
#[derive(Clone)]
pub(super) struct Passer {
    base: Url,
    getter: Arc<Getter>,
}

impl Passer {
    /// Passes on one for a file of this name.
    pub(super) async fn pass(
        &self,
        name: &str,
        wanted: &Wanted,
        fields: HeaderMap,
    ) -> Result<Passed, FetchError> {
        let url = self.base.join(name);
        let url =
            url.map_err(|e| FetchError::Unreachable { url: self.base.to_string(), why: e.to_string() })?;
        self.getter.pass(&url, wanted, fields).await
    }
}

/// A TXT record that says when it was made.
#[derive(Clone, Copy)]
struct Recorded {
    version: u32,
    at_s: u64,
    age_s: u64,
}

fn unasked_304(url: &Url) -> FetchError {
    FetchError::Status { url: url.to_string(), status: 304 }
}
