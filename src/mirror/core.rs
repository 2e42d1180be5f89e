//! The mirror's parts together, and how they wait: only for the network, for the next turn, and for commands.
//!
//! Guarantees: one thing at a time. While it waits for the network it takes out corrupt copies at once, and lets other
//! commands wait. When it is stopped it ends wherever it waits; a pack that is being sealed is finished.
use super::{
    Command, DataDir, Handle, OpenError, Standing, Verifier,
    asked::Asked,
    cld::{CldMaker, Clds},
    data_dir::Lock,
    gc::Collected,
    holdings::Holdings,
    record::Record,
    retention::Retention,
    trust::Trust,
};
use crate::{
    clock::Clock,
    cvd::Database,
    source::{Activity, Source},
    state::State,
    trouble::{Told, Trouble},
};
use arc_swap::ArcSwap;
use cvdmirror_store::PackId;
use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    path::PathBuf,
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{
    runtime,
    sync::{mpsc, watch},
};

/// Commands that are put off while it waits for the network, at most; further ones wait where they are sent.
const PUT_OFF: usize = 64;

/// A mirror that may write to its data directory.
#[derive(Debug)]
pub struct Mirror {
    pub(super) holdings: Holdings,
    pub(super) record: Record,
    pub(super) source: Arc<Source>,
    pub(super) signs: Asked,
    pub(super) backfill: u32,
    pub(super) cld_maker: Option<CldMaker>,
    pub(super) clds: Arc<Clds>,
    /// When the next round is planned, by the monotonic clock.
    pub(super) due: Option<Duration>,
    retention: Retention,
    standing: Arc<ArcSwap<Standing>>,
    commands: mpsc::Receiver<Command>,
    put_off: VecDeque<Command>,
    pub(super) runtime: runtime::Handle,
    stopped: watch::Receiver<bool>,
    _lock: Lock,
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
    /// Whether CLDs are made and published.
    pub publish_cld: bool,
    /// The directory of the CA whose signer signs them.
    pub site_ca: Option<PathBuf>,
    /// Where files come from.
    pub source: Source,
    /// What makes a file fit to be stored.
    pub verifier: Verifier,
    /// Where its CA certificates are read from, at each round.
    pub certs_dir: Option<PathBuf>,
    /// How old a confirmation may be.
    pub max_age: Duration,
    /// How old the newest build may be, seconds, by database.
    pub max_build_age_s: BTreeMap<Database, u64>,
    /// What is being fetched or rebuilt.
    pub activity: Arc<Activity>,
    /// By which everything is decided.
    pub clock: Clock,
}

/// The mirror was stopped while it waited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("stopped")]
pub struct Stopped;

/// What ended a wait.
enum Event<T> {
    Stopped,
    Done(T),
    Command(Command),
    /// Nobody is left who could command anything.
    Alone,
}

impl Mirror {
    /// Opens a data directory that was locked, and its state: verifies every pack, and publishes what is held. Its
    /// network waits run on `runtime`, and end when `stopped` says so.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(
        dir: &DataDir,
        lock: Lock,
        state: Arc<State>,
        settings: Settings,
        runtime: runtime::Handle,
        stopped: watch::Receiver<bool>,
    ) -> Result<(Self, Handle), OpenError> {
        let Settings { databases, backfill, retention, source, verifier, certs_dir, .. } = settings;
        let Settings { max_age, max_build_age_s, activity, clock, publish_cld, site_ca, .. } = settings;
        let trust = Trust::new(verifier, certs_dir);
        let record = Record::new(state.history()?.plausible(clock.epoch_s()));
        let holdings = Holdings::open(dir, state, trust, &databases, clock.clone())?;
        let standing = Standing::new(holdings.snapshot.clone(), dir.root().into(), max_age.as_secs());
        let standing = Standing { max_build_age_s, activity, ..standing.by(clock) };
        let (handle, commands) = Handle::new(standing);
        let mut mirror = Self {
            holdings,
            record,
            source: Arc::new(source),
            signs: Asked::default(),
            backfill,
            cld_maker: CldMaker::new(dir, publish_cld, site_ca),
            clds: Arc::default(),
            due: None,
            retention,
            standing: handle.shared(),
            commands,
            put_off: VecDeque::new(),
            runtime,
            stopped,
            _lock: lock,
        };
        mirror.show();
        Ok((mirror, handle))
    }

    /// Shows everybody where the mirror stands now.
    pub(super) fn show(&mut self) {
        self.holdings.follow_clock();
        let before = self.standing.load();
        let Holdings { snapshot, databases, findings, .. } = &self.holdings;
        let mut remarks: Vec<Told> = self.surroundings().into_iter().map(Told::of_all).collect();
        remarks.extend(self.record.doubts());
        // Read here: on a mount that hangs, every reader of the standing would wait.
        let disk = rustix::fs::statvfs(&before.data_dir).ok();
        let shown = Standing::clone(&before).by(self.holdings.clock.clone());
        self.standing.store(Arc::new(Standing {
            snapshot: snapshot.clone(),
            clds: self.clds.clone(),
            disk_free_bytes: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
            due: self.due,
            databases: databases.clone(),
            findings: findings.clone(),
            remarks,
            book: self.source.book().map(Arc::new),
            history: self.record.history.clone(),
            counters: self.record.counters.clone(),
            ..shown
        }));
    }

    /// What is not as it should be around the store: the certificates and the clock.
    pub(super) fn surroundings(&self) -> Vec<Trouble> {
        let clock = self.source.off_by_s().map(|off_s| Trouble::clock(off_s, "the source's"));
        let source = self.source.fault().map(|fault| Trouble::from(&fault).warning());
        self.holdings.trust.fault.iter().cloned().chain(clock).chain(source).collect()
    }

    /// Drops what is not kept, and merges small packs.
    ///
    /// # Errors
    /// The first trouble, when the store or the state file refuses; what is published stays as it is.
    pub fn gc(&mut self) -> Result<Collected, Trouble> {
        let collected = self.holdings.gc(&self.retention);
        if let Ok(collected) = &collected {
            Arc::make_mut(&mut self.record.counters).waiting_bytes = collected.waiting_bytes;
        }
        self.show();
        collected.map_err(|e| Trouble::from(&e))
    }

    /// What that would do now.
    pub fn would_gc(&self) -> Collected {
        self.holdings.would_gc(&self.retention)
    }

    /// Does what is short, and must not wait until a long download has ended; gives any other command back.
    pub(super) fn obey_at_once(&mut self, command: Command) -> Option<Command> {
        // That nobody waits for the answer any more is no error.
        let _ = match command {
            Command::Check(pack, object, answer) => {
                let corrupt = self.holdings.check(&pack, &object);
                self.show();
                answer.send(corrupt).is_ok()
            }
            Command::Corrupt(pack, object) => {
                if !self.forget_cld(&pack) {
                    self.holdings.quarantine(&pack, object);
                    self.show();
                }
                true
            }
            command => return Some(command),
        };
        None
    }

    /// Waits for the network.
    pub(super) fn wait<T>(&mut self, network: impl Future<Output = T>) -> Result<T, Stopped> {
        let mut network = pin!(network);
        loop {
            match self.event(network.as_mut(), self.put_off.len() < PUT_OFF) {
                Event::Stopped => return Err(Stopped),
                Event::Done(value) => return Ok(value),
                Event::Alone => {}
                Event::Command(command) => {
                    let long = self.obey_at_once(command);
                    self.put_off.extend(long);
                }
            }
        }
    }

    /// Waits for the next command, of those that were put off the first; `None` when it is time.
    pub(super) fn next(&mut self, due: impl Future<Output = ()>) -> Result<Option<Command>, Stopped> {
        if let Some(command) = self.put_off.pop_front() {
            return Ok(Some(command));
        }
        let mut due = pin!(due);
        loop {
            match self.event(due.as_mut(), true) {
                Event::Stopped => return Err(Stopped),
                Event::Done(()) => return Ok(None),
                Event::Command(command) => return Ok(Some(command)),
                Event::Alone => {}
            }
        }
    }

    fn event<T>(&mut self, awaited: std::pin::Pin<&mut impl Future<Output = T>>, listen: bool) -> Event<T> {
        let Self { runtime, stopped, commands, .. } = self;
        let listen = listen && !(commands.is_closed() && commands.is_empty());
        runtime.block_on(async {
            tokio::select! {
                biased;
                // An error means that the other end is gone, which is a stop as well.
                _ = stopped.wait_for(|stop| *stop) => Event::Stopped,
                value = awaited => Event::Done(value),
                command = commands.recv(), if listen => command.map_or(Event::Alone, Event::Command),
            }
        })
    }
}

impl Mirror {
    /// Brings the CLDs that are published into line with the CVDs.
    pub(super) fn follow_clds(&mut self) {
        let Some(maker) = &mut self.cld_maker else { return };
        let (clds, troubles) = maker.follow(&self.holdings);
        self.clds = Arc::new(clds);
        troubles.into_iter().for_each(|trouble| self.holdings.find(trouble));
        self.show();
    }

    /// Lets a CLD go that was found corrupt, so that the next round makes it anew; says whether it was one.
    pub(super) fn forget_cld(&mut self, pack: &PackId) -> bool {
        let is_cld = self.cld_maker.as_ref().is_some_and(|maker| maker.forget(pack));
        if is_cld {
            tracing::error!("the CLD in pack {pack} is corrupt: it is made anew");
            self.follow_clds();
        }
        is_cld
    }
}
