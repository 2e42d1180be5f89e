//! Where the mirror stands at one moment: the one immutable value that HTTP, DNS, control and notify read.
//!
//! It holds facts, not verdicts: what is fresh now depends on the time at which it is asked.
use super::{
    History, Published, Snapshot, cld::Clds, cld_sign::CldSign, counters::Counters, memory::DatabaseState,
};
use crate::{
    clock::Clock,
    cvd::{Database, FileKind, FileName},
    source::{Activity, budget::Book},
    trouble::{Told, Trouble, TroubleKind},
};
use cvdmirror_store::{NameRecord, View};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

/// Where the mirror stands at one moment.
#[derive(Clone, Debug)]
pub struct Standing {
    /// What is published.
    pub snapshot: Arc<Snapshot>,
    /// What was made of it as CLDs.
    pub clds: Arc<Clds>,
    /// The data directory.
    pub data_dir: PathBuf,
    /// What was free on its disk when this was made, bytes.
    pub disk_free_bytes: Option<u64>,
    /// Older than this a confirmation is no longer fresh, seconds.
    pub max_age_s: u64,
    /// Older than this the build of what is published is frozen, seconds, by database.
    pub max_build_age_s: BTreeMap<Database, u64>,
    /// When the next round is done, by the monotonic clock; `None` while one is, and where none is planned.
    pub due: Option<Duration>,
    /// The clock by which it is judged.
    pub clock: Clock,
    /// What the clock showed when this was made: epoch seconds, and the monotonic clock.
    pub made: (u64, Duration),
    /// What is remembered of each database that is mirrored.
    pub databases: BTreeMap<Database, DatabaseState>,
    /// What is wrong with the store.
    pub findings: Vec<Trouble>,
    /// What is not as it should be around it: certificates, clock, and what did not agree at the source.
    pub remarks: Vec<Told>,
    /// What was asked of the upstream; `None` for a directory.
    pub book: Option<Arc<Book>>,
    /// What is being fetched or rebuilt.
    pub activity: Arc<Activity>,
    /// What rounds did.
    pub history: Arc<History>,
    /// What rounds came to since this process began.
    pub counters: Arc<Counters>,
}

/// What `/health` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// Why what is published is not fresh; empty when it is.
    pub stale: Vec<Told>,
    /// What goes wrong now; what is published can be fresh all the same.
    pub troubles: Vec<Told>,
    /// In how many seconds the source is asked again, where that is known.
    pub next_s: Option<u64>,
}

impl Health {
    /// Whether everything published is fresh.
    pub fn is_fresh(&self) -> bool {
        self.stale.is_empty()
    }
}

impl Standing {
    /// Of a snapshot of which nothing more is known.
    pub fn new(snapshot: Arc<Snapshot>, data_dir: PathBuf, max_age_s: u64) -> Self {
        let clock = Clock::system();
        Self {
            snapshot,
            clds: Arc::default(),
            data_dir,
            disk_free_bytes: None,
            max_age_s,
            max_build_age_s: BTreeMap::new(),
            due: None,
            made: (clock.epoch_s(), clock.monotonic()),
            clock,
            databases: BTreeMap::new(),
            findings: Vec::new(),
            remarks: Vec::new(),
            book: None,
            activity: Arc::default(),
            history: Arc::default(),
            counters: Arc::default(),
        }
    }

    /// The CLDs that are published, each with the CVD it is made from and the packs that hold it.
    pub fn clds(&self) -> impl Iterator<Item = (&FileName, &NameRecord, &Arc<View>)> {
        self.clds.iter().filter(|(cvd, ..)| self.snapshot.files.contains_key(*cvd))
    }

    /// The sign files of these, each with the CVD that its CLD is made from.
    pub fn cld_signs(&self) -> impl Iterator<Item = (&FileName, &CldSign)> {
        self.clds.signs().filter(|(cvd, _)| self.snapshot.files.contains_key(*cvd))
    }

    /// By this clock from now on.
    pub fn by(self, clock: Clock) -> Self {
        Self { made: (clock.epoch_s(), clock.monotonic()), clock, ..self }
    }

    /// Now, as its times are to be judged: by the wall clock, but never less far from them than the monotonic one says.
    /// So a clock that is set back makes nothing look younger.
    pub fn now_s(&self) -> u64 {
        let (made_s, made) = self.made;
        let since = self.clock.monotonic().saturating_sub(made);
        self.clock.epoch_s().max(made_s.saturating_add(since.as_secs()))
    }

    /// In how many seconds the source is asked again, where that is known.
    pub fn next_s(&self) -> Option<u64> {
        Some(self.due?.saturating_sub(self.clock.monotonic()).as_secs())
    }

    /// Why what is published of one database is not fresh.
    pub fn stale_of(&self, database: &Database, now_s: u64) -> Option<Trouble> {
        stale(self.snapshot.databases.get(database), self.databases.get(database)?, self.max_age_s, now_s)
    }

    /// Judges what is published at this time.
    pub fn health(&self, now_s: u64) -> Health {
        let mut stale = Vec::new();
        for database in self.databases.keys() {
            if let Some(why) = self.stale_of(database, now_s) {
                Told::add(&mut stale, database, false, &why);
            }
        }
        // A name never changes its content: that one does is an alarm.
        let alarms = self.findings.iter().filter(|finding| finding.kind == TroubleKind::NameConflict);
        stale.extend(alarms.cloned().map(Told::of_all));
        Health { stale, troubles: self.troubles(now_s), next_s: self.next_s() }
    }

    /// How old the newest build that is published of a database is, where that is older than the site allows, seconds.
    /// Of a version that is held as a CDIFF alone, the CDIFF came when it was new.
    pub fn frozen_s(&self, database: &Database, now_s: u64) -> Option<u64> {
        let limit_s = self.max_build_age_s.get(database)?;
        let published = self.snapshot.databases.get(database)?;
        let patch = FileName::new(database, published.version, FileKind::Cdiff);
        let patch = self.snapshot.files.get(&patch).filter(|_| published.version > published.cvd);
        let built_s = published.stime_s.max(patch.map_or(0, |patch| patch.stored_at_s));
        Some(now_s.saturating_sub(built_s)).filter(|age_s| age_s > limit_s)
    }

    /// Everything that goes wrong now, one cause once: checks, the surroundings, the store.
    fn troubles(&self, now_s: u64) -> Vec<Told> {
        let mut told = Vec::new();
        for (database, state) in &self.databases {
            if let Some(why) = &state.last_error {
                Told::add(&mut told, database, true, why);
            }
        }
        for database in self.databases.keys() {
            if let Some(age_s) = self.frozen_s(database, now_s) {
                let limit_s = self.max_build_age_s.get(database).copied().unwrap_or_default();
                Told::add(&mut told, database, false, &Trouble::frozen(age_s, limit_s));
            }
        }
        told.extend(self.remarks.iter().cloned());
        told.extend(self.findings.iter().cloned().map(Told::of_all));
        told
    }

    /// What is published, in one line.
    pub fn line(&self, now_s: u64) -> String {
        let why = self.health(now_s).stale.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let published = self.snapshot.databases.iter();
        let databases = published.map(|(database, published)| format!("{database} {}", published.version));
        let databases = databases.collect::<Vec<_>>().join(", ");
        match (why.is_empty(), databases.is_empty()) {
            (true, _) => format!("fresh: {databases}"),
            (false, true) => format!("nothing is published yet: {why}"),
            (false, false) => format!("stale: {databases}: {why}"),
        }
    }
}

fn stale(
    published: Option<&Published>,
    state: &DatabaseState,
    max_age_s: u64,
    now_s: u64,
) -> Option<Trouble> {
    if published.is_none() {
        return Some(Trouble::empty());
    }
    let age_s = state.confirmed_at_s.map(|at_s| now_s.saturating_sub(at_s));
    age_s.is_none_or(|age_s| age_s > max_age_s).then(|| Trouble::stale(age_s))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::clock::Clock;
    use cvdmirror_store::Store;

    const DAY_S: u64 = 86_400;

    /// Two databases that were confirmed at this time, of which one is held.
    fn standing(confirmed_at_s: u64) -> Standing {
        let (store, _) = Store::assemble("".as_ref(), "".as_ref(), Vec::new()).unwrap();
        let published = Published {
            version: 7,
            cvd: 7,
            chain: None,
            stime_s: 0,
            signatures: 0,
            functionality_level: 0,
            confirmed_at_s: Some(confirmed_at_s),
        };
        let snapshot = Snapshot {
            files: BTreeMap::new(),
            databases: [("daily".parse().unwrap(), published)].into(),
            confirmed_at_s: Some(confirmed_at_s),
            view: store.view(),
        };
        let state = DatabaseState { confirmed_at_s: Some(confirmed_at_s), ..DatabaseState::default() };
        let databases = [("daily".parse().unwrap(), state)].into();
        Standing { databases, ..Standing::new(Arc::new(snapshot), "data".into(), DAY_S) }
    }

    #[test]
    fn the_same_standing_turns_stale_as_time_passes() {
        let clock = Clock::simulated(1_795_381_080);
        let standing = standing(clock.epoch_s());
        for day in 0..30 {
            let health = standing.health(clock.epoch_s());
            assert_eq!(health.is_fresh(), day <= 1, "day {day}");
            assert_eq!(standing.line(clock.epoch_s()).starts_with("fresh: daily 7"), day <= 1);
            clock.pass(DAY_S);
        }
        let health = standing.health(clock.epoch_s());
        assert_eq!(health.stale[0].to_string(), "daily: last confirmed by the source 30 days ago");
    }

    #[test]
    fn a_clock_that_is_set_back_makes_nothing_younger() {
        let clock = Clock::simulated(1_795_381_080);
        let standing = standing(clock.epoch_s()).by(clock.clone());
        clock.pass(3600);
        clock.step(-365 * DAY_S.cast_signed());
        assert_eq!(standing.now_s(), 1_795_381_080 + 3600);
        clock.pass(DAY_S);
        assert!(!standing.health(standing.now_s()).is_fresh());
        clock.step(400 * DAY_S.cast_signed());
        assert_eq!(standing.now_s(), clock.epoch_s(), "a clock ahead is believed: nothing is fresh by it");
    }

    #[test]
    fn a_build_is_frozen_past_the_limit_of_its_database_alone() {
        let mut standing = standing(20 * DAY_S);
        let daily: Database = "daily".parse().unwrap();
        let at = |standing: &Standing, now_s| {
            let Health { stale, troubles, .. } = standing.health(now_s);
            assert!(stale.is_empty());
            troubles.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(at(&standing, 20 * DAY_S), [""; 0], "no limit");
        standing.max_build_age_s.insert(daily.clone(), 20 * DAY_S);
        assert_eq!(at(&standing, 20 * DAY_S), [""; 0]);
        let told = at(&standing, 20 * DAY_S + 1);
        assert!(told[0].starts_with("daily: the newest version was built 20 days ago"), "{told:?}");
        assert_eq!(standing.frozen_s(&daily, 20 * DAY_S + 1), Some(20 * DAY_S + 1));
    }

    #[test]
    fn a_database_that_is_not_held_is_empty_and_one_cause_is_told_once() {
        let mut standing = standing(1000);
        let down = |file: &str| Trouble::new(TroubleKind::Unreachable, file).because("refused");
        for name in ["bytecode", "main"] {
            let state = DatabaseState { last_error: Some(down(name)), ..DatabaseState::default() };
            standing.databases.insert(name.parse().unwrap(), state);
        }
        let Health { stale, troubles, .. } = standing.health(1000);
        assert_eq!(stale.len(), 1);
        assert_eq!(stale[0].to_string(), "bytecode, main: nothing is held yet");
        assert_eq!(troubles.len(), 1);
        assert_eq!(troubles[0].databases, ["bytecode", "main"]);
    }
}
