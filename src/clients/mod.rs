//! Which installations asked lately, so that an admin sees who is stale. Off unless it is set.
//!
//! Guaranteed: no UUID is kept, only its BLAKE3 hash under a random key of this mirror, cut to 16 bytes; what is kept
//! of an installation (its hash, its engine, the version of each database it fetched last, when it last asked) goes
//! once it has not asked for the time that is set; at most [`MOST`] installations and [`MOST_ENGINES`] names of
//! engines are kept, whoever invents more; no request waits for the disk. Lost at a crash: what was seen since the
//! file was last written. Not seen: who learns from the DNS that nothing is new and so asks nothing.
//!
//! The key lies in the same file as the hashes. So the hashes tell nothing to whoever reads a report, and cannot be
//! compared with another mirror's; but whoever has the file and already knows a UUID can tell whether it is there.
mod installation;
mod report;

pub use installation::Installation;
pub use report::{DatabaseClients, Lags, Report};

use crate::{
    clock::epoch_s,
    cvd::Database,
    mirror::state::{Readable, State, StateError},
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Installations that are kept at most: beyond, those that are known stay, and others are not counted.
pub const MOST: usize = 100_000;
/// Names of engines that are told apart at most; further ones count as unknown.
pub const MOST_ENGINES: usize = 64;
/// How often the file is written, if anything has changed.
const SAVE_EVERY: Duration = Duration::from_secs(300);

/// An installation's hash, or that of an engine for all its clients that name no installation.
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
    /// Whether it stands for all clients of an engine that name no installation.
    nameless: bool,
}

/// The installations that asked.
pub struct Clients {
    key: [u8; 32],
    retention_s: u64,
    most: usize,
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    known: HashMap<Id, Known>,
    /// Each name once, however many have it.
    names: BTreeSet<Arc<str>>,
    engines: BTreeSet<Arc<str>>,
    /// Changed since the file was last written.
    changed: HashSet<Id>,
    /// Requests of installations that there was no room for.
    turned_away: u64,
}

impl Clients {
    /// Goes on remembering for as long as is set; or forgets everybody, where it is switched off. What the state file
    /// refuses is said in the log, and nobody is remembered: a mirror serves all the same.
    pub fn keep(state: &State, retention: Option<Duration>) -> Option<Self> {
        let kept = match retention {
            Some(time) => Self::open(state, time.as_secs()).map(Some),
            None => state.forget_clients().map(|()| None),
        };
        kept.unwrap_or_else(|e| {
            tracing::warn!("no client is remembered until the next start: {e}");
            None
        })
    }

    /// Goes on with what is kept in the state file, for as long as is set.
    ///
    /// # Errors
    /// When the file cannot be read, or no key be kept in it.
    pub fn open(state: &State, retention_s: u64) -> Result<Self, StateError> {
        Ok(Self::of(state.clients_key()?, retention_s, state.clients()?))
    }

    /// Reads what is kept, for a report without a server.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read<D: Readable>(state: &State<D>, retention_s: u64) -> Result<Self, StateError> {
        Ok(Self::of([0; 32], retention_s, state.clients()?))
    }

    fn of(key: [u8; 32], retention_s: u64, kept: Vec<(Id, Known)>) -> Self {
        let mut seen = Seen::default();
        for (id, known) in kept.into_iter().take(MOST) {
            let engine = seen.engine(&known.engine);
            let has = known.has.iter().map(|(database, version)| (seen.name(database), *version)).collect();
            seen.known.insert(id, Known { engine, has, ..known });
        }
        Self { key, retention_s, most: MOST, seen: Mutex::new(seen) }
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

    /// Writes down who asked, now and then and at the end.
    pub async fn save_until(&self, state: &State, stopped: impl Future<Output = ()>) {
        let mut stopped = std::pin::pin!(stopped);
        loop {
            let ends = tokio::select! {
                () = &mut stopped => true,
                () = tokio::time::sleep(SAVE_EVERY) => false,
            };
            if let Err(e) = tokio::task::block_in_place(|| self.save(state)) {
                tracing::warn!("who asked is not written down: {e}");
            }
            if ends {
                return;
            }
        }
    }

    /// Writes what has changed to the state file, and forgets there and here who has not asked for too long.
    /// Waits for the disk.
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
                seen.known.remove(id);
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
        now_s.saturating_sub(known.at_s) > self.retention_s
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
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
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::collections::BTreeMap;

    const DAY_S: u64 = 86_400;
    const NOW_S: u64 = 1_795_381_080;

    struct Fixture {
        dir: tempfile::TempDir,
        state: State,
        clients: Clients,
    }

    impl Fixture {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let state = State::open(&dir.path().join("state.redb")).unwrap();
            let clients = Clients::open(&state, 14 * DAY_S).unwrap();
            Self { dir, state, clients }
        }
        fn saw(&self, agent: &str, fetched: Option<Fetched>, now_s: u64) {
            self.clients.saw_at(&Installation::of(agent.as_bytes()), fetched, now_s);
        }
        fn report(&self) -> Report {
            self.clients.report_at(&published(7), NOW_S)
        }
    }

    fn published(version: u32) -> BTreeMap<Database, u32> {
        [("test".parse().unwrap(), version)].into()
    }

    fn agent(number: u64) -> String {
        format!("ClamAV/1.4.6 (UUID: 6f1c2f0e-8a44-4c1a-9b1e-{number:012x})")
    }

    fn now(version: u32) -> Option<Fetched> {
        Some(Fetched::Now("test".parse().unwrap(), version))
    }

    fn before(version: u32) -> Option<Fetched> {
        Some(Fetched::Before("test".parse().unwrap(), version))
    }

    #[test]
    fn installations_are_told_apart_and_others_only_by_their_engine() {
        let fixture = Fixture::new();
        for (number, fetched) in [(1, now(7)), (1, None), (2, now(6)), (3, None), (4, now(1)), (5, now(5))] {
            fixture.saw(&agent(number), fetched, NOW_S);
        }
        fixture.saw("curl/8.0", now(7), NOW_S);
        fixture.saw("curl/8.0", None, NOW_S);
        let report = fixture.report();
        assert_eq!(report.installations, 5);
        assert_eq!(report.engines, [("ClamAV/1.4.6".to_owned(), 5)].into());
        assert_eq!(report.nameless, [("curl/8.0".to_owned(), NOW_S)].into());
        let test = &report.databases["test"];
        assert_eq!(test.versions, [(1, 1), (5, 1), (6, 1), (7, 1)].into());
        assert_eq!(
            test.lags,
            Lags { current: 1, one_behind: 1, up_to_seven_behind: 2, older: 0, unknown: 1 }
        );
    }

    #[test]
    fn what_was_fetched_last_counts_and_a_304_never_lowers_it() {
        let fixture = Fixture::new();
        for (fetched, has) in
            [(before(4), 4), (now(6), 6), (before(5), 6), (before(7), 7), (now(3), 3), (None, 3)]
        {
            fixture.saw(&agent(1), fetched, NOW_S);
            assert_eq!(fixture.report().databases["test"].versions, [(has, 1)].into());
        }
    }

    #[test]
    fn a_restart_knows_them_and_no_uuid_is_in_the_file() {
        let fixture = Fixture::new();
        fixture.saw(&agent(1), now(7), NOW_S);
        fixture.saw(&agent(2), now(6), NOW_S);
        fixture.clients.save_at(&fixture.state, NOW_S).unwrap();
        let before = fixture.report();
        drop((fixture.state, fixture.clients));
        let path = fixture.dir.path().join("state.redb");
        let bytes = std::fs::read(&path).unwrap();
        let uuid = b"6f1c2f0e-8a44-4c1a-9b1e-000000000001";
        assert!(memchr::memmem::find(&bytes, uuid).is_none());
        let raw = uuid::Uuid::try_parse_ascii(uuid).unwrap();
        assert!(memchr::memmem::find(&bytes, raw.as_bytes()).is_none());

        let state = State::open(&path).unwrap();
        let clients = Clients::open(&state, 14 * DAY_S).unwrap();
        assert_eq!(clients.report_at(&published(7), NOW_S), before);
        // The same installation, by the same key.
        clients.saw_at(&Installation::of(agent(1).as_bytes()), None, NOW_S);
        assert_eq!(clients.report_at(&published(7), NOW_S).installations, 2);
        state.forget_clients().unwrap();
        let anew = Clients::open(&state, 14 * DAY_S).unwrap();
        assert_eq!(anew.report_at(&published(7), NOW_S).installations, 0);
        assert_ne!(anew.key, clients.key);
    }

    #[test]
    fn who_has_not_asked_for_too_long_is_forgotten_here_and_in_the_file() {
        let fixture = Fixture::new();
        fixture.saw(&agent(1), now(7), NOW_S - 14 * DAY_S - 1);
        fixture.saw(&agent(2), now(7), NOW_S - 14 * DAY_S);
        // Not shown, even before it is gone.
        assert_eq!(fixture.report().installations, 1);
        fixture.clients.save_at(&fixture.state, NOW_S - 14 * DAY_S).unwrap();
        assert_eq!(fixture.state.clients().unwrap().len(), 2);
        fixture.clients.save_at(&fixture.state, NOW_S).unwrap();
        assert_eq!(fixture.state.clients().unwrap().len(), 1);
        assert_eq!(fixture.clients.lock().known.len(), 1);
        // A clock that goes back forgets nobody.
        fixture.clients.save_at(&fixture.state, 0).unwrap();
        assert_eq!(fixture.state.clients().unwrap().len(), 1);
    }

    #[test]
    fn whoever_invents_uuids_finds_no_room_and_displaces_nobody() {
        let mut fixture = Fixture::new();
        fixture.clients.most = 100;
        fixture.saw(&agent(1), now(7), NOW_S);
        for number in 2..10_000 {
            fixture.saw(&agent(number), now(1), NOW_S);
        }
        fixture.saw(&agent(1), now(6), NOW_S);
        let report = fixture.report();
        assert_eq!((report.installations, report.turned_away), (100, 9_899));
        assert_eq!(report.databases["test"].versions, [(1, 99), (6, 1)].into());
        fixture.clients.save_at(&fixture.state, NOW_S).unwrap();
        assert_eq!(fixture.state.clients().unwrap().len(), 100);
        assert!(fixture.clients.lock().changed.is_empty());
    }

    #[test]
    fn whoever_invents_engines_is_unknown() {
        let fixture = Fixture::new();
        for number in 0..1000_u64 {
            fixture.saw(&format!("engine/{number}"), None, NOW_S);
            fixture.saw(&agent(number).replace("1.4.6", &format!("0.{number}")), None, NOW_S);
        }
        let report = fixture.report();
        assert_eq!(report.installations, 1000);
        assert!(report.engines.len() <= MOST_ENGINES + 1 && report.nameless.len() <= MOST_ENGINES + 1);
        assert!(report.engines[installation::UNKNOWN] > 900, "{report:?}");
    }
}
