//! Pull-through: what a client asks for by a versioned name and is not held is fetched for it, once for all who ask.
//!
//! No client can make the mirror hammer its source. Only names near what is known are asked for; what did not come is not
//! asked for again until the newest version that is known moves (a failure that may pass: for a while); and so many misses
//! of a database are the last until then. What the source refuses a client (403) is refused to those of its name alone.
//! Those who wait are bounded in number and in time, and one that leaves harms nobody: the fetch is no client's own.
use crate::{
    cvd::{Database, FileKind, FileName},
    mirror::{Command, Demand, Demanded, Handle, Standing},
    source::fields::end_to_end,
};
use hyper::{
    HeaderMap,
    header::{
        ACCEPT_ENCODING, AUTHORIZATION, COOKIE, HeaderName, HeaderValue, IF_MATCH, IF_MODIFIED_SINCE,
        IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, PROXY_AUTHORIZATION, RANGE, USER_AGENT, VIA,
    },
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout_at},
};

/// How far above the newest version that is known a name may be: a record moves before it is read here.
const AHEAD: u32 = 2;
/// How far below: the CDN keeps CDIFFs for about 90 days.
const BEHIND: u32 = 90;
/// Names of a database that are being fetched or did not come, at most, until the newest version that is known moves.
const MISSES: usize = 5;
/// How long a failure that may pass is remembered.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Clients that wait at a time.
const WAITING: usize = 256;

/// Fields of a request that concern its sender alone: its login, its conditions, and what form it takes.
const OWN: [HeaderName; 10] = [
    ACCEPT_ENCODING,
    AUTHORIZATION,
    COOKIE,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    IF_UNMODIFIED_SINCE,
    PROXY_AUTHORIZATION,
    RANGE,
];

/// What clients asked for.
#[derive(Debug)]
pub struct Demands {
    mirror: Handle,
    /// How long a client waits.
    patience: Duration,
    asked: Mutex<BTreeMap<Database, Asked>>,
    waiting: Semaphore,
}

/// What was asked for of one database since `newest` was known.
#[derive(Default, Debug)]
struct Asked {
    newest: u32,
    running: HashMap<FileName, watch::Receiver<Option<Demanded>>>,
    /// What did not come, and until when that counts; with a name of clients (User-Agent) what is refused to these alone.
    missed: HashMap<(FileName, Option<HeaderValue>), (Demanded, Option<Instant>)>,
}

/// Why a client does not get what it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Unmet {
    /// The source does not have it, or it was not asked for: the name is nowhere near, or too many were asked.
    Absent,
    /// It came and does not verify, or could not be fetched.
    Failed,
    /// It did not come in time.
    Late,
    /// Too many wait.
    Busy,
}

impl Demands {
    /// Clients wait for so long.
    pub fn new(mirror: Handle, patience: Duration) -> Self {
        let (asked, waiting) = (Mutex::default(), Semaphore::new(WAITING));
        Self { mirror, patience, asked, waiting }
    }

    /// Waits until the file is published.
    pub(super) async fn wait(self: &Arc<Self>, name: &FileName, fields: &HeaderMap) -> Result<(), Unmet> {
        let newest = || newest_near(name, &self.mirror.standing()).ok_or(Unmet::Absent);
        newest()?;
        let _place = self.waiting.try_acquire().map_err(|_| Unmet::Busy)?;
        let until = Instant::now() + self.patience;
        loop {
            let mut ended = self.join(name, newest()?, fields)?;
            let came = match timeout_at(until, ended.wait_for(Option::is_some)).await {
                Err(_) => return Err(Unmet::Late),
                Ok(came) => came.ok().and_then(|came| *came),
            };
            match came {
                Some(Demanded::Published) => return Ok(()),
                // That was about whoever asked first; this one may have another name, or else it is in the book now.
                Some(Demanded::Denied) => {}
                came => return Err(unmet(came)),
            }
        }
    }

    /// Joins those who wait for the file, or begins to fetch it.
    fn join(
        self: &Arc<Self>,
        name: &FileName,
        newest: u32,
        fields: &HeaderMap,
    ) -> Result<watch::Receiver<Option<Demanded>>, Unmet> {
        let mut asked = self.asked.lock();
        let asked = asked.entry(name.database.clone()).or_default();
        if asked.newest != newest {
            asked.newest = newest;
            asked.missed.clear();
        }
        asked.missed.retain(|_, (_, until)| until.is_none_or(|until| until > Instant::now()));
        if let Some(ended) = asked.running.get(name) {
            return Ok(ended.clone());
        }
        let agent = fields.get(USER_AGENT).cloned().unwrap_or_else(|| HeaderValue::from_static(""));
        for whose in [None, Some(agent.clone())] {
            if let Some((missed, _)) = asked.missed.get(&(name.clone(), whose)) {
                return Err(unmet(Some(*missed)));
            }
        }
        if asked.missed.len() >= MISSES {
            return Err(Unmet::Absent);
        }
        if asked.missed.len() + asked.running.len() >= MISSES {
            return Err(Unmet::Busy);
        }
        let (tell, ended) = watch::channel(None);
        asked.running.insert(name.clone(), ended.clone());
        let (demands, name, fields) = (self.clone(), name.clone(), passed_on(fields));
        tokio::spawn(async move {
            let demand = Demand { name: name.clone(), fields };
            let came = demands.mirror.ask(|answer| Command::Demand(demand, answer)).await;
            let came = came.unwrap_or(Demanded::Failed);
            demands.ended(&name, agent, came);
            let _ = tell.send(Some(came));
        });
        Ok(ended)
    }

    fn ended(&self, name: &FileName, agent: HeaderValue, came: Demanded) {
        let mut asked = self.asked.lock();
        let Some(asked) = asked.get_mut(&name.database) else { return };
        asked.running.remove(name);
        let passes = matches!(came, Demanded::Failed | Demanded::Denied);
        let until = passes.then(|| Instant::now() + REMEMBERED);
        if came != Demanded::Published {
            let whose = (came == Demanded::Denied).then_some(agent);
            asked.missed.insert((name.clone(), whose), (came, until));
        }
    }
}

fn unmet(came: Option<Demanded>) -> Unmet {
    match came {
        Some(Demanded::Absent) => Unmet::Absent,
        _ => Unmet::Failed,
    }
}

/// The newest version that is known of the name's database, if the name is near it and of use: sign files come with what
/// they sign, and an older full CVD is of no use to anybody.
fn newest_near(name: &FileName, standing: &Standing) -> Option<u32> {
    let published = standing.snapshot.databases.get(&name.database)?;
    let told = standing.databases.get(&name.database).and_then(|state| state.newest);
    let newest = told.unwrap_or_default().max(published.version);
    let least = match name.kind {
        FileKind::Cdiff => newest.saturating_sub(BEHIND),
        FileKind::Cvd => published.cvd.saturating_add(1),
        FileKind::CvdSign | FileKind::CdiffSign => return None,
    };
    (least..=newest.saturating_add(AHEAD)).contains(&name.version).then_some(newest)
}

/// A client's fields as a proxy passes them on (RFC 9110, 7.6).
fn passed_on(fields: &HeaderMap) -> HeaderMap {
    let mut passed = end_to_end(fields);
    for name in OWN {
        passed.remove(name);
    }
    passed.append(VIA, HeaderValue::from_static("1.1 cvdmirror"));
    passed
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_clients_fields_are_passed_on_but_for_those_of_its_connection() {
        let mut fields = HeaderMap::new();
        for (name, value) in [
            ("user-agent", "ClamAV/1.4.6"),
            ("cache-control", "no-cache"),
            ("via", "1.0 other"),
            ("connection", "close, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("host", "mirror"),
            ("range", "bytes=0-511"),
            ("if-modified-since", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("authorization", "Basic x"),
        ] {
            fields.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let passed = passed_on(&fields);
        let mut passed: Vec<_> =
            passed.iter().map(|(name, v)| (name.as_str(), v.to_str().unwrap())).collect();
        passed.sort_unstable();
        let expected = [
            ("cache-control", "no-cache"),
            ("user-agent", "ClamAV/1.4.6"),
            ("via", "1.0 other"),
            ("via", "1.1 cvdmirror"),
        ];
        assert_eq!(passed, expected);
    }
}
