//! The mirror: what it holds, what it publishes, and how it gets what is newer.
//!
//! Guarantees: bytes are verified, then sealed in a pack, then published in one swap, in that order; a version
//! that is published stays so, whatever the source answers later.
mod advert;
pub mod backup;
pub mod data_dir;
mod door;
pub mod history;
mod late_signs;
pub mod plan;
pub mod report;
pub mod retention;
pub mod snapshot;
pub mod state;
pub mod status;
mod sync;
pub mod tally;
mod trust;
pub mod verify;

pub use data_dir::DataDir;
pub use history::History;
pub use report::Round;
pub use snapshot::{Published, Snapshot};
pub use verify::Verifier;

use crate::{
    clock::epoch_s,
    cvd::Database,
    source::{FetchError, Source, budget::Book},
};
use arc_swap::ArcSwap;
use cvdmirror_store::{ObjectId, PackId, Store, View};
use door::Door;
use retention::Retention;
use snapshot::UnreadableHeader;
use state::{DatabaseState, State, StateError};
use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};
use tally::Tally;
use trust::Trust;

/// Why a mirror cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process writes to the data directory.
    #[error(
        "{} is in use by another cvdmirror (process {holder}); stop that one, or use another --data-dir",
        data_dir.display()
    )]
    Locked {
        /// The data directory.
        data_dir: PathBuf,
        /// Its process id, as it wrote it.
        holder: String,
    },
    /// The state file is of a newer format.
    #[error("{} has format {found}, this build reads up to {supported}; run a newer cvdmirror", path.display())]
    NewerState {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest this build reads.
        supported: u64,
    },
    /// The state file cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] cvdmirror_store::Error),
    /// There is no store to look into.
    #[error(
        "{}: nothing is held there yet; start `cvdmirror serve` or `cvdmirror sync` with it, or give another --data-dir",
        data_dir.display()
    )]
    NoStore {
        /// The data directory.
        data_dir: PathBuf,
    },
    /// A file or directory cannot be used.
    #[error("{}: {source}{}", path.display(), cvdmirror_store::remedy(source))]
    Io {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

/// Why a file that was fetched is not stored, or a round cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The source did not give it.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What came does not verify.
    #[error("{name} from {origin}: {why}; not taken")]
    Refused {
        /// What was asked for.
        name: String,
        /// Where it came from.
        origin: String,
        /// The rule that failed.
        why: String,
    },
    /// The source sent a full CVD that is older than the one held.
    #[error("{origin} holds version {found}, older than {held} that is held; not taken")]
    Older {
        /// Where it came from.
        origin: String,
        /// What it is.
        found: u32,
        /// What is held.
        held: u32,
    },
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] cvdmirror_store::Error),
    /// The state file refused.
    #[error(transparent)]
    State(#[from] StateError),
}

/// A mirror that may write to its data directory.
#[derive(Debug)]
pub struct Mirror {
    databases: Vec<Database>,
    backfill: u32,
    retention: Retention,
    source: Source,
    trust: Trust,
    door: Mutex<Door>,
    store: Store,
    state: Arc<State>,
    published: Arc<ArcSwap<Snapshot>>,
    findings: RwLock<Vec<String>>,
    remembered: RwLock<BTreeMap<Database, DatabaseState>>,
    last_round: ArcSwap<Option<Round>>,
    history: ArcSwap<History>,
    signs: late_signs::Asked,
    tally: Mutex<Tally>,
    /// One round at a time.
    round: tokio::sync::Mutex<()>,
    _lock: data_dir::Lock,
}

/// What a mirror is to do.
#[derive(Debug)]
pub struct Settings {
    /// Databases to mirror.
    pub databases: Vec<Database>,
    /// CDIFFs wanted that led to the newest CVD.
    pub backfill: u32,
    /// What is kept, and for how long.
    pub retention: Retention,
    /// Where files come from.
    pub source: Source,
    /// What makes a file fit to be stored.
    pub verifier: Verifier,
    /// Where its CA certificates are read from, at each round.
    pub certs_dir: Option<PathBuf>,
}

impl Mirror {
    /// Opens a data directory that was locked, and its state: judges every pack, and publishes what is held.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        dir: &DataDir,
        lock: data_dir::Lock,
        state: Arc<State>,
        settings: Settings,
    ) -> Result<Self, OpenError> {
        let mut door = Door::default();
        let trust = Trust::new(settings.verifier, settings.certs_dir);
        let judged = door.judge(&dir.store(), &state, &trust.verifier())?;
        let (store, conflicts) = Store::assemble(&dir.store(), &dir.tmp(), judged.trusted)?;
        let mut findings = judged.findings;
        findings.extend(conflicts.iter().map(ToString::to_string));
        for (pack, object) in state.rotten()?.into_keys() {
            store.quarantine(&pack, object);
            findings.extend(rotten(&store.view(), &pack, object));
        }
        let mut remembered = BTreeMap::new();
        for database in &settings.databases {
            remembered.insert(database.clone(), state.database(database)?);
        }
        let (snapshot, unreadable) = publishable(&store, &state, &remembered);
        findings.extend(unreadable);
        let history = state.history()?;
        for finding in &findings {
            tracing::error!("{finding}");
        }
        Ok(Self {
            databases: settings.databases,
            backfill: settings.backfill,
            retention: settings.retention,
            source: settings.source,
            trust,
            door: Mutex::new(door),
            store,
            state,
            published: Arc::new(ArcSwap::from_pointee(snapshot)),
            findings: RwLock::new(findings),
            remembered: RwLock::new(remembered),
            last_round: ArcSwap::from_pointee(None),
            history: ArcSwap::from_pointee(history),
            signs: late_signs::Asked::default(),
            tally: Mutex::default(),
            round: tokio::sync::Mutex::new(()),
            _lock: lock,
        })
    }

    /// What is published, for whoever serves it.
    pub fn published(&self) -> Arc<ArcSwap<Snapshot>> {
        self.published.clone()
    }

    /// What is wrong with the store, in words.
    pub fn findings(&self) -> Vec<String> {
        self.findings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is not as it should be around the store, in words that name the fix: the certificates and the clock.
    fn surroundings(&self) -> Vec<String> {
        self.trust.fault().into_iter().chain(self.source.clock()).collect()
    }

    /// The same, and what did not agree at the source when it was last asked.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = self.surroundings();
        let round = self.last_round();
        for database in round.iter().flat_map(|round| &round.databases) {
            let said = database.newest.iter().flat_map(|newest| &newest.remarks);
            remarks.extend(said.map(|remark| format!("{}: {remark}", database.database)));
        }
        remarks
    }

    /// The databases it mirrors, and what is remembered of each.
    pub fn remembered(&self) -> BTreeMap<Database, DatabaseState> {
        self.remembered.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What was asked of an upstream so far.
    pub fn book(&self) -> Option<Book> {
        self.source.book()
    }

    /// The report of the last round.
    pub fn last_round(&self) -> Arc<Option<Round>> {
        self.last_round.load_full()
    }

    /// What rounds did so far.
    pub fn history(&self) -> Arc<History> {
        self.history.load_full()
    }

    /// What rounds came to so far.
    pub fn tally(&self) -> Tally {
        self.tallied().clone()
    }

    fn tallied(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state file.
    pub fn state(&self) -> Arc<State> {
        self.state.clone()
    }

    /// Looks at the store directory again, between two rounds.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn look(&self) -> Result<(), OpenError> {
        let _one_at_a_time = self.round.lock().await;
        tokio::task::block_in_place(|| self.look_again())
    }

    /// Looks at the store directory again: packs put in by hand are judged, and published if they are fit.
    fn look_again(&self) -> Result<(), OpenError> {
        let mut door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        if self.trust.refresh() {
            door.reconsider();
        }
        let judged = door.judge(self.store.dir(), &self.state, &self.trust.verifier())?;
        let mut findings = judged.findings;
        findings.extend(self.store.adopt(judged.trusted).iter().map(ToString::to_string));
        let view = self.store.view();
        findings.extend(view.quarantined().iter().filter_map(|(pack, object)| rotten(&view, pack, *object)));
        *self.findings.write().unwrap_or_else(PoisonError::into_inner) = findings;
        self.publish();
        Ok(())
    }

    /// Takes a copy of an object that was found rotten out of what is served; the next round gets it anew.
    ///
    /// # Errors
    /// When that cannot be remembered; it holds until the next start all the same.
    pub fn quarantine(&self, pack: &PackId, object: ObjectId) -> Result<(), StateError> {
        tracing::error!(
            "object {object} in pack {} is rotten: no longer served, fetched again",
            pack.as_str()
        );
        self.store.quarantine(pack, object);
        if let Some(finding) = rotten(&self.store.view(), pack, object) {
            self.find(finding);
        }
        self.publish();
        self.state.quarantine(pack, object, epoch_s())
    }

    /// Reads a copy of an object that somebody says is rotten (`<pack>/<object>`), and quarantines it if it is. Says
    /// whether it is.
    pub fn suspect(&self, copy: &str) -> bool {
        let view = self.store.view();
        let read = || -> Option<cvdmirror_store::Error> {
            let (pack, object) = copy.split_once('/')?;
            let pack = view.packs().iter().find(|held| held.id().as_str() == pack)?;
            let object = pack.open(&object.parse().ok()?).ok()??;
            let mut at = 0;
            while at < object.size() {
                match object.chunk_at(at) {
                    Ok(chunk) => at += chunk.len() as u64,
                    Err(e) => return Some(e),
                }
            }
            None
        };
        let Some(cvdmirror_store::Error::Rotten { pack, object, .. }) = read() else { return false };
        if let Err(e) = self.quarantine(&pack, object) {
            tracing::warn!("the quarantine is forgotten at the next start: {e}");
        }
        true
    }

    /// Publishes what the store holds now.
    fn publish(&self) {
        let (snapshot, unreadable) = publishable(&self.store, &self.state, &self.remembered());
        for why in unreadable {
            tracing::error!("{why}");
            self.find(why);
        }
        self.published.store(Arc::new(snapshot));
    }

    fn find(&self, finding: String) {
        let mut findings = self.findings.write().unwrap_or_else(PoisonError::into_inner);
        if !findings.contains(&finding) {
            findings.push(finding);
        }
    }

    /// Remembers it; what cannot be saved holds until the next start all the same, and says so.
    fn remember(&self, database: &Database, mut state: DatabaseState) -> Result<(), StateError> {
        let saved = self.state.set_database(database, &state);
        if let Err(e) = &saved {
            state.last_error.get_or_insert(e.to_string());
        }
        let mut remembered = self.remembered.write().unwrap_or_else(PoisonError::into_inner);
        remembered.insert(database.clone(), state);
        saved
    }
}

/// Says that a copy of an object is rotten, and whether another takes its place; nothing once its pack is gone.
fn rotten(view: &View, pack: &PackId, object: ObjectId) -> Option<String> {
    view.packs().iter().find(|held| held.id() == pack)?;
    Some(match view.size_of(&object) {
        Some(_) => format!("object {object} in pack {pack} is rotten; another copy is served"),
        None => {
            format!("object {object} in pack {pack} is rotten and not served; the next round fetches it anew")
        }
    })
}

/// What may be published of a store, and in words what may not. A copy of a CVD that shows here that it is rotten
/// is quarantined, so that another takes its place, or else the next round gets it anew.
fn publishable(
    store: &Store,
    state: &State,
    remembered: &BTreeMap<Database, DatabaseState>,
) -> (Snapshot, Vec<String>) {
    let confirmed = |database: &Database| remembered.get(database).and_then(|s| s.confirmed_at_s);
    let mut findings = Vec::new();
    // Ends, because each turn but the last takes a copy out of the view.
    loop {
        let (snapshot, unreadable) = Snapshot::of(store.view(), confirmed);
        let mut again = false;
        for unreadable in unreadable {
            findings.push(unreadable.to_string());
            if let UnreadableHeader::Store(cvdmirror_store::Error::Rotten { pack, object, .. }) =
                unreadable.why
            {
                again = true;
                store.quarantine(&pack, object);
                if let Err(e) = state.quarantine(&pack, object, epoch_s()) {
                    findings.push(format!("the quarantine is forgotten at the next start: {e}"));
                }
            }
        }
        if !again {
            return (snapshot, findings);
        }
    }
}
