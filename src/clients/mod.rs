//! Which installations asked lately, so that an admin sees which are stale. Off by default.
//!
//! Guaranteed: no UUID is kept, only its BLAKE3 hash under a random key of this mirror, cut to 16 bytes. What is kept of
//! an installation (its hash, its engine, the version of each database it fetched last, when it last asked) is deleted
//! when it has not asked for the configured time. At most [`MOST`] installations and [`MOST_ENGINES`] names of engines are
//! kept, even if a client invents more. No request waits for the disk. A crash loses what was seen since the file was last
//! written. A client that learns from the DNS that nothing is new asks nothing, and is not seen.
//!
//! With `client_reports`, hosts may tell more of themselves ([`Sighting`]), under a label of their own choice, which is kept
//! as it is, for the same time; at most [`MOST_HOSTS`] of them. Where that is off, none of it is kept.
//!
//! The key is in the same file as the hashes. The hashes say nothing to a reader of a report and cannot be compared with
//! another mirror's; but anybody who has the file and knows a UUID can tell whether it is in it.
mod installation;
mod report;
mod sighting;
mod table;

pub use installation::Installation;
pub use report::{DatabaseClients, Lagging, Lags, Report};
pub use sighting::{MAX_SIGHTING_BYTES, Sighting, SightingError, is_label, own_label};

use crate::{
    clock::epoch_s,
    cvd::Database,
    state::{Readable, State, StateError},
    trouble::Trouble,
};
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fmt,
    future::Future,
    sync::Arc,
    time::Duration,
};

/// Most installations kept. When there are more, known ones stay and new ones are not counted.
pub const MOST: usize = 100_000;
/// Most hosts kept that tell of themselves: of the installations, not beside them.
pub const MOST_HOSTS: usize = 10_000;
/// Most names of engines kept; further ones count as unknown.
pub const MOST_ENGINES: usize = 64;
/// How often the file is written, if anything has changed.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// The hash of an installation, or of an engine for all its clients without a UUID.
pub type Id = [u8; 16];

/// What a request shows that its client has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// This version, from now on.
    Now(Database, u32),
    /// This version or a newer one, since before.
    Before(Database, u32),
}

/// What is kept of one installation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Known {
    /// When it last asked, epoch seconds.
    at_s: u64,
    engine: Arc<str>,
    /// The version of each database that it fetched last.
    has: Vec<(Arc<str>, u32)>,
    /// Stands for all clients of an engine that send no UUID.
    nameless: bool,
    /// Its name, where it sends reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    host: Option<Arc<str>>,
    /// The version of each database that its clamd has loaded, where it tells that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    loaded: Vec<(Arc<str>, u32)>,
}

/// The installations that asked.
pub struct Clients {
    key: [u8; 32],
    retention_s: u64,
    takes_reports: bool,
    most: usize,
    most_hosts: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    known: HashMap<Id, Known>,
    /// How many of them told of themselves.
    hosts: usize,
    /// Each engine's name, shared.
    names: BTreeSet<Arc<str>>,
    engines: BTreeSet<Arc<str>>,
    /// Changed since the file was last written.
    changed: HashSet<Id>,
    /// Requests of installations beyond [`MOST`].
    turned_away: u64,
}

impl Clients {
    /// Remembers clients for the configured time, or forgets all where that is off. An error of the state file is logged, and
    /// no client is remembered: the mirror serves all the same.
    pub fn keep(state: &State, retention: Option<Duration>) -> Option<Self> {
        let kept = match retention {
            Some(time) => Self::open(state, time.as_secs()).map(Some),
            None => state.forget_clients().map(|()| None),
        };
        kept.unwrap_or_else(|e| {
            tracing::warn!("no client is remembered until the next start: {}", Trouble::from(&e));
            None
        })
    }

    /// Starts from the state file.
    ///
    /// # Errors
    /// When the file cannot be read, or the key cannot be stored in it.
    pub fn open(state: &State, retention_s: u64) -> Result<Self, StateError> {
        Ok(Self::new(state.clients_key()?, retention_s, state.clients()?))
    }

    /// Reads the state file, for a report without a server.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read<D: Readable>(state: &State<D>, retention_s: u64) -> Result<Self, StateError> {
        Ok(Self::new([0; 32], retention_s, state.clients()?))
    }

    fn new(key: [u8; 32], retention_s: u64, kept: Vec<(Id, Known)>) -> Self {
        let mut seen = Seen::default();
        for (id, known) in kept.into_iter().take(MOST) {
            let engine = seen.engine(&known.engine);
            let has = known.has.iter().map(|(database, version)| (seen.name(database), *version)).collect();
            seen.hosts += usize::from(known.host.is_some());
            seen.known.insert(id, Known { engine, has, ..known });
        }
        let (most, most_hosts) = (MOST, MOST_HOSTS);
        Self { key, retention_s, takes_reports: false, most, most_hosts, seen: Mutex::new(seen) }
    }

    /// Whether hosts may tell of themselves. Where they may not, what they told is not reported, and deleted.
    pub fn taking_reports(self, takes_reports: bool) -> Self {
        Self { takes_reports, ..self }
    }

    /// Whether hosts may tell of themselves.
    pub fn takes_reports(&self) -> bool {
        self.takes_reports
    }

    /// Notes a host's report, as far as it is about databases that are published.
    pub fn heard(&self, sighting: &Sighting, published: &BTreeMap<Database, u32>) {
        self.heard_at(sighting, published, epoch_s());
    }

    fn heard_at(&self, sighting: &Sighting, published: &BTreeMap<Database, u32>, now_s: u64) {
        let mut seen = self.lock();
        // Longer than a UUID: none has the same hash.
        let id = self.id(format!("host that tells: {}", sighting.host).as_bytes());
        let full = seen.known.len() >= self.most || seen.hosts >= self.most_hosts;
        if full && !seen.known.contains_key(&id) {
            seen.turned_away += 1;
            return;
        }
        let mut of = |versions: &BTreeMap<String, u32>| {
            let told = published.keys().filter_map(|database| {
                let version = versions.get(database.as_str())?;
                Some((seen.name(database.as_str()), *version))
            });
            told.collect()
        };
        let (has, loaded) = (of(&sighting.installed), of(&sighting.loaded));
        let (engine, host) = (seen.engine(sighting.engine()), Some(sighting.host.as_str().into()));
        let known = Known { at_s: now_s, engine, has, nameless: false, host, loaded };
        if seen.known.insert(id, known).is_none() {
            seen.hosts += 1;
        }
        seen.changed.insert(id);
    }

    /// Notes a request.
    pub fn saw(&self, client: &Installation, fetched: Option<Fetched>) {
        self.saw_at(client, fetched, epoch_s());
    }

    fn saw_at(&self, client: &Installation, fetched: Option<Fetched>, now_s: u64) {
        let mut seen = self.lock();
        let engine = seen.engine(&client.engine);
        let id = match &client.uuid {
            Some(uuid) => self.id(uuid),
            // Of another length than a UUID: no UUID has the same hash.
            None => self.id(format!("engine {engine}").as_bytes()),
        };
        let fetched = fetched.map(|fetched| match fetched {
            Fetched::Now(database, version) => (seen.name(database.as_str()), version, true),
            Fetched::Before(database, version) => (seen.name(database.as_str()), version, false),
        });
        if !seen.known.contains_key(&id) && seen.known.len() >= self.most {
            seen.turned_away += 1;
            return;
        }
        let known = seen.known.entry(id).or_insert_with(|| Known {
            at_s: now_s,
            engine: engine.clone(),
            has: Vec::new(),
            nameless: client.uuid.is_none(),
            host: None,
            loaded: Vec::new(),
        });
        known.at_s = known.at_s.max(now_s);
        known.engine = engine;
        if let Some((database, version, exact)) = fetched.filter(|_| !known.nameless) {
            match known.has.iter_mut().find(|(name, _)| *name == database) {
                Some((_, had)) => *had = if exact { version } else { version.max(*had) },
                None => known.has.push((database, version)),
            }
        }
        seen.changed.insert(id);
    }

    fn id(&self, name: &[u8]) -> Id {
        let hash = blake3::keyed_hash(&self.key, name);
        let mut id = Id::default();
        id.copy_from_slice(&hash.as_bytes()[..16]);
        id
    }

    /// Saves from time to time, and at the end.
    pub async fn save_until(self: Arc<Self>, state: Arc<State>, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        loop {
            let ends = tokio::select! {
                () = &mut stopped => true,
                () = tokio::time::sleep(SAVE_EVERY) => false,
            };
            let (clients, state) = (self.clone(), state.clone());
            // That the thread itself failed means that the runtime ends.
            if let Ok(Err(e)) = tokio::task::spawn_blocking(move || clients.save(&state)).await {
                tracing::warn!("who asked is not written down: {}", Trouble::from(&e));
            }
            if ends {
                return;
            }
        }
    }

    /// Writes changes to the state file, and forgets, there and here, installations that have not asked for too long.
    /// Blocks on the disk.
    ///
    /// # Errors
    /// When the file cannot be written; it is tried again at the next call.
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        self.save_at(state, epoch_s())
    }

    fn save_at(&self, state: &State, now_s: u64) -> Result<(), StateError> {
        let (changed, gone) = {
            let mut seen = self.lock();
            let gone: Vec<Id> =
                seen.known.iter().filter(|(_, k)| self.is_over(k, now_s)).map(|(id, _)| *id).collect();
            for id in &gone {
                let told = seen.known.remove(id).is_some_and(|known| known.host.is_some());
                seen.hosts -= usize::from(told);
            }
            let changed = std::mem::take(&mut seen.changed);
            let kept = changed.iter().filter_map(|id| Some((*id, seen.known.get(id)?.clone())));
            (kept.collect::<Vec<_>>(), gone)
        };
        if changed.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let saved = state.save_clients(&changed, &gone);
        if saved.is_err() {
            // Who is gone is judged anew from the file at the next start.
            self.lock().changed.extend(changed.iter().map(|(id, _)| *id));
        }
        saved
    }

    fn is_over(&self, known: &Known, now_s: u64) -> bool {
        now_s.saturating_sub(known.at_s) > self.retention_s || known.host.is_some() && !self.takes_reports
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock()
    }
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clients").field("known", &self.lock().known.len()).finish_non_exhaustive()
    }
}

impl Seen {
    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return known.clone();
        }
        let name: Arc<str> = name.into();
        self.names.insert(name.clone());
        name
    }

    fn engine(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.engines.get(name) {
            return known.clone();
        }
        let name: Arc<str> =
            if self.engines.len() < MOST_ENGINES { name } else { installation::UNKNOWN }.into();
        self.engines.insert(name.clone());
        name
    }
}

#[cfg(test)]
mod tests;
