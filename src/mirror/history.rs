//! What rounds did, for people: the last events, when each version appeared where, and what rebuilding spared.
//!
//! Guarantees: bounded in every direction, whatever a source says; an event that lasts is one event that counts.
//! Kept in state.redb and written at most once a round, so it survives a restart and may be lost with that file.
use super::{
    Snapshot,
    report::{DatabaseReport, Detail, FileReport, Outcome, RoundReport},
};
use crate::{
    cvd::{Database, FileKind, FileName},
    source::budget::{self, Count, RequestKind},
    trouble::Trouble,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Events that are kept.
const EVENTS: usize = 50;
/// Versions of a database that are kept.
const VERSIONS: usize = 60;
/// Databases whose versions are kept: far more than there are, since the settings bound them.
const DATABASES: usize = 64;
/// Characters of a text that are kept.
const TEXT: usize = 500;

/// Everything that is remembered of past rounds.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct History {
    /// What happened, oldest first.
    pub events: Vec<Event>,
    /// When each version appeared, by database.
    pub versions: BTreeMap<String, BTreeMap<u32, Milestones>>,
    /// Full CVDs that were rebuilt here, by day: how many, and their length together.
    pub rebuilt: BTreeMap<String, Count>,
}

/// When a version appeared, epoch seconds.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Milestones {
    /// When the source first spoke of it.
    pub announced_at_s: Option<u64>,
    /// When a client could first reach it here, by a full CVD or by CDIFFs.
    pub held_at_s: Option<u64>,
    /// When its full CVD was first here.
    pub full_at_s: Option<u64>,
}

/// Something that happened, or that went on happening.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// When it happened last, epoch seconds.
    pub at_s: u64,
    /// When it happened first.
    pub first_at_s: u64,
    /// In how many rounds it happened.
    pub times: u32,
    /// To which database; `None` for the store.
    pub database: Option<String>,
    /// What.
    pub what: What,
}

/// What can happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The source speaks of a version for the first time.
    Announced(u32),
    /// A version can be reached by CDIFFs from here on.
    Patched(u32),
    /// A full CVD came.
    Fetched {
        /// Its version.
        version: u32,
        /// Its length.
        bytes: u64,
    },
    /// A full CVD was rebuilt from CDIFFs.
    Rebuilt {
        /// Its version.
        version: u32,
        /// Its length.
        bytes: u64,
    },
    /// Checks succeed again.
    Recovered,
    /// The source answered with an older file than it speaks of.
    Lagged(Trouble),
    /// What came was not taken.
    Refused(Trouble),
    /// A file could not be had, or not be rebuilt.
    Missed(Trouble),
    /// The newest version could not be had.
    Failed(Trouble),
    /// What the source says does not agree.
    Doubted(Trouble),
    /// Something is wrong with the store.
    Found(Trouble),
}

impl What {
    /// Whether things go on well from here: what went wrong before is another story.
    pub fn is_good(&self) -> bool {
        self.trouble().is_none()
    }

    /// The trouble; none where things went well.
    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Lagged(trouble)
            | Self::Refused(trouble)
            | Self::Missed(trouble)
            | Self::Failed(trouble)
            | Self::Doubted(trouble)
            | Self::Found(trouble) => Some(trouble),
            Self::Announced(_)
            | Self::Patched(_)
            | Self::Fetched { .. }
            | Self::Rebuilt { .. }
            | Self::Recovered => None,
        }
    }

    /// Whether it is the same trouble again.
    fn recurs(&self, other: &Self) -> bool {
        let same = |a: &Trouble, b: &Trouble| match self {
            // Each thing in the store is trouble of its own.
            Self::Found(_) => a == b,
            _ => a.recurs(b),
        };
        std::mem::discriminant(self) == std::mem::discriminant(other)
            && self.trouble().zip(other.trouble()).is_some_and(|(a, b)| same(a, b))
    }
}

impl History {
    /// Its times for what they can be at `now_s`: nothing happened in the future.
    pub fn plausible(mut self, now_s: u64) -> Self {
        for event in &mut self.events {
            event.at_s = event.at_s.min(now_s);
            event.first_at_s = event.first_at_s.min(now_s);
        }
        for when in self.versions.values_mut().flat_map(BTreeMap::values_mut) {
            for at_s in [&mut when.announced_at_s, &mut when.held_at_s, &mut when.full_at_s] {
                *at_s = at_s.map(|at_s| at_s.min(now_s));
            }
        }
        self
    }

    /// Takes in what a round did; `snapshot` is what is published after it, `now_s` its end.
    pub(super) fn note(&mut self, round: &RoundReport, snapshot: &Snapshot, now_s: u64) {
        for database in &round.databases {
            self.note_database(database, snapshot, round.started_at_s, now_s);
        }
        for finding in &round.findings {
            // One that lasts is shown as long as it does; here it happened once.
            let what = What::Found(finding.cut(TEXT));
            if !self.events.iter().any(|event| event.what.recurs(&what)) {
                self.push(None, what, now_s);
            }
        }
        while self.versions.len() > DATABASES {
            self.versions.pop_first();
        }
    }

    fn note_database(&mut self, round: &DatabaseReport, snapshot: &Snapshot, began_s: u64, now_s: u64) {
        if let Some(newest) = &round.newest {
            let at_s = newest.at_s.map_or(began_s, |at_s| at_s.min(now_s));
            if self.announced(&round.database, newest.version, at_s) {
                self.push(Some(&round.database), What::Announced(newest.version), now_s);
            }
        }
        self.reached(round, snapshot);
        let patched = |file: &FileReport| {
            file.outcome == Outcome::Stored && RequestKind::from(&file.wanted) == RequestKind::Cdiff
        };
        // With the first full file, what was held before it could not be reached.
        let first = round.before.is_none();
        if first {
            self.note_files(round, snapshot, now_s);
        }
        if let Some(version) = round
            .published
            .filter(|_| round.published > round.before.max(if first { round.cvd } else { None }))
            && round.files.iter().any(patched)
        {
            self.push(Some(&round.database), What::Patched(version), now_s);
        }
        if !first {
            self.note_files(round, snapshot, now_s);
        }
        for doubt in round.newest.iter().flat_map(|newest| &newest.doubts) {
            self.trouble(&round.database, What::Doubted(Trouble::from(doubt).cut(TEXT)), now_s);
        }
        match &round.error {
            Some(error) => self.trouble(&round.database, What::Failed(error.cut(TEXT)), now_s),
            None if self.episode(&round.database).any(|(_, what)| matches!(what, What::Failed(_))) => {
                self.push(Some(&round.database), What::Recovered, now_s);
            }
            None => {}
        }
    }

    fn note_files(&mut self, round: &DatabaseReport, snapshot: &Snapshot, now_s: u64) {
        for file in &round.files {
            self.note_file(round, file, snapshot, now_s);
        }
    }

    fn note_file(&mut self, round: &DatabaseReport, file: &FileReport, snapshot: &Snapshot, now_s: u64) {
        let database = &round.database;
        let full = || {
            let version = round.cvd?;
            Some((version, snapshot.files.get(&FileName::new(database, version, FileKind::Cvd))?.size))
        };
        let trouble = file.detail.trouble().unwrap_or_else(|| file.wanted.to_string().into()).cut(TEXT);
        match file.outcome {
            Outcome::Rebuilt => {
                let Some((version, bytes)) = full() else { return };
                self.push(Some(database), What::Rebuilt { version, bytes }, now_s);
                let today = budget::on_day(&mut self.rebuilt, now_s);
                today.requests += 1;
                today.bytes += bytes;
            }
            Outcome::Stored if RequestKind::from(&file.wanted) == RequestKind::Cvd => {
                if let Some((version, bytes)) = full() {
                    self.push(Some(database), What::Fetched { version, bytes }, now_s);
                }
                if file.detail != Detail::None {
                    self.trouble(database, What::Lagged(trouble), now_s);
                }
            }
            Outcome::Stale => self.trouble(database, What::Lagged(trouble), now_s),
            Outcome::Refused => self.trouble(database, What::Refused(trouble), now_s),
            Outcome::Failed => self.trouble(database, What::Missed(trouble), now_s),
            // What the source does not have is no event: if it is missed, the round's error says so.
            Outcome::Stored | Outcome::Used | Outcome::Absent => {}
        }
    }

    /// Notes that the source speaks of a version. Says whether it is newer than all before it.
    fn announced(&mut self, database: &Database, version: u32, at_s: u64) -> bool {
        let versions = self.versions.entry(database.to_string()).or_default();
        // A source that once spoke of a version far away, and takes it back, leaves no trace.
        let far = version.saturating_add(VERSIONS as u32);
        versions.retain(|known, when| *known <= far || when.held_at_s.is_some());
        let newest = versions.iter().rev().find(|(_, when)| when.announced_at_s.is_some());
        let new = newest.is_none_or(|(known, _)| *known < version);
        if new {
            versions.entry(version).or_default().announced_at_s = Some(at_s);
        }
        new
    }

    /// Notes what is here, by the times under which the store keeps it.
    fn reached(&mut self, round: &DatabaseReport, snapshot: &Snapshot) {
        let database = &round.database;
        let Some(published) = snapshot.databases.get(database) else { return };
        let stored_at_s = |version, kind| {
            let record = snapshot.files.get(&FileName::new(database, version, kind))?;
            (record.size > 0).then_some(record.stored_at_s)
        };
        let full = |version| stored_at_s(version, FileKind::Cvd);
        let versions = self.versions.entry(database.to_string()).or_default();
        let held = [full(published.version), stored_at_s(published.version, FileKind::Cdiff)];
        let when = versions.entry(published.version).or_default();
        when.held_at_s = when.held_at_s.or(held.into_iter().flatten().min());
        let when = versions.entry(published.cvd).or_default();
        when.full_at_s = when.full_at_s.or(full(published.cvd));
        while versions.len() > VERSIONS {
            versions.pop_first();
        }
    }

    /// Notes trouble: the same again, while nothing went well in between, is the same event.
    fn trouble(&mut self, database: &Database, what: What, now_s: u64) {
        let same = self.episode(database).find(|(_, known)| known.recurs(&what)).map(|(at, _)| at);
        match same {
            Some(at) => {
                let before = self.events.remove(at);
                let times = before.times.saturating_add(1);
                self.events.push(Event { at_s: now_s, times, what, ..before });
            }
            None => self.push(Some(database), what, now_s),
        }
    }

    /// What happened to a database since things last went well, newest first.
    fn episode(&self, database: &Database) -> impl Iterator<Item = (usize, &What)> {
        let events = self.events.iter().enumerate().rev();
        let of_it = events.filter(move |(_, event)| event.database.as_deref() == Some(database.as_str()));
        of_it.map(|(at, event)| (at, &event.what)).take_while(|(_, what)| !what.is_good())
    }

    fn push(&mut self, database: Option<&Database>, what: What, now_s: u64) {
        let database = database.map(ToString::to_string);
        self.events.push(Event { at_s: now_s, first_at_s: now_s, times: 1, database, what });
        let over = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..over);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{
        mirror::{Published, Snapshot},
        source::{Evidence, FetchError, Newest},
    };
    use cvdmirror_store::{NameRecord, ObjectId, Store};

    /// What is published with these files, each stored at its time.
    fn snapshot(version: u32, cvd: u32, files: &[(&str, u64)]) -> Snapshot {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::assemble(dir.path(), dir.path(), Vec::new()).unwrap();
        let record = |at_s: u64| NameRecord {
            object: ObjectId::of(b""),
            size: 1000,
            modified_s: None,
            stored_at_s: at_s,
            origin: String::new(),
            proof: cvdmirror_store::Proof::Unknown,
        };
        let published = Published {
            version,
            cvd,
            chain: None,
            stime_s: 0,
            signatures: 0,
            functionality_level: 0,
            confirmed_at_s: None,
        };
        Snapshot {
            files: files.iter().map(|(name, at_s)| (name.parse().unwrap(), record(*at_s))).collect(),
            databases: [("daily".parse().unwrap(), published)].into(),
            confirmed_at_s: None,
            view: store.view(),
        }
    }

    fn newest(version: u32) -> Option<Newest> {
        Some(Newest { version, evidence: Evidence::TxtRecord, at_s: None, doubts: Vec::new() })
    }

    fn file(wanted: &str, outcome: Outcome, detail: &str) -> FileReport {
        FileReport { outcome, detail: detail.to_owned().into(), ..FileReport::new(wanted.parse().unwrap()) }
    }

    fn daily(newest: Option<Newest>) -> DatabaseReport {
        DatabaseReport { newest, ..DatabaseReport::new("daily".parse().unwrap()) }
    }

    fn failed(error: &Trouble) -> DatabaseReport {
        DatabaseReport { error: Some(error.clone()), ..daily(None) }
    }

    fn waits(minutes: u64) -> Trouble {
        Trouble::from(&FetchError::CoolDown { url: "x".into(), wait_s: minutes * 60, why: "429".into() })
    }

    fn round(started_at_s: u64, database: DatabaseReport) -> RoundReport {
        RoundReport { started_at_s, databases: vec![database], ..RoundReport::default() }
    }

    fn told(history: &History) -> Vec<(u64, u32, What)> {
        history.events.iter().map(|e| (e.at_s, e.times, e.what.clone())).collect()
    }

    #[test]
    fn a_version_is_announced_then_held_then_full() {
        let mut history = History::default();
        let before = DatabaseReport {
            before: Some(8),
            published: Some(9),
            cvd: Some(8),
            files: vec![
                file("daily-9.cdiff", Outcome::Stored, ""),
                file("header of daily-9.cvd", Outcome::Stale, "asked for 9, got 8"),
            ],
            ..daily(newest(9))
        };
        history.note(&round(100, before), &snapshot(9, 8, &[("daily-9.cdiff", 101)]), 110);
        let then = DatabaseReport {
            before: Some(9),
            published: Some(9),
            cvd: Some(9),
            files: vec![file("daily-9.cvd", Outcome::Rebuilt, "")],
            ..daily(newest(9))
        };
        history.note(
            &round(200, then),
            &snapshot(9, 9, &[("daily-9.cdiff", 101), ("daily-9.cvd", 201)]),
            210,
        );
        assert_eq!(
            told(&history),
            [
                (110, 1, What::Announced(9)),
                (110, 1, What::Patched(9)),
                (110, 1, What::Lagged("asked for 9, got 8".into())),
                (210, 1, What::Rebuilt { version: 9, bytes: 1000 }),
            ]
        );
        let when = Milestones { announced_at_s: Some(100), held_at_s: Some(101), full_at_s: Some(201) };
        assert_eq!(history.versions["daily"][&9], when);
        assert_eq!(history.rebuilt["1970-01-01"], Count { requests: 1, bytes: 1000 });
    }

    #[test]
    fn a_record_speaks_for_the_time_it_was_made_but_never_for_the_future() {
        let mut history = History::default();
        for (version, at_s, known_s) in [(9, 50, 50), (10, 9999, 110)] {
            let said = newest(version).map(|newest| Newest { at_s: Some(at_s), ..newest });
            history.note(&round(100, daily(said)), &snapshot(9, 9, &[]), 110);
            assert_eq!(history.versions["daily"][&version].announced_at_s, Some(known_s));
        }
    }

    #[test]
    fn trouble_that_lasts_is_one_event_that_counts() {
        let mut history = History::default();
        let (held, again) = (snapshot(9, 9, &[]), failed(&waits(9)));
        history.note(&round(1, failed(&waits(30))), &held, 1);
        history.note(&round(2, failed(&"the disk is full".into())), &held, 2);
        history.note(&round(3, failed(&waits(9))), &held, 3);
        let waits = What::Failed(waits(9));
        assert_eq!(told(&history), [(2, 1, What::Failed("the disk is full".into())), (3, 2, waits.clone())]);
        assert_eq!(history.events[1].first_at_s, 1);
        // What comes after things went well is another story.
        history.note(&round(4, daily(None)), &held, 4);
        history.note(&round(5, daily(None)), &held, 5);
        history.note(&round(6, again), &held, 6);
        assert_eq!(told(&history)[2..], [(4, 1, What::Recovered), (6, 1, waits)]);
    }

    #[test]
    fn a_finding_that_lasts_is_told_once() {
        let mut history = History::default();
        let found = RoundReport { findings: vec!["pack x is corrupt".into()], ..RoundReport::default() };
        history.note(&found, &snapshot(9, 9, &[]), 1);
        history.note(&found, &snapshot(9, 9, &[]), 2);
        assert_eq!(told(&history), [(1, 1, What::Found("pack x is corrupt".into()))]);
    }

    #[test]
    fn whatever_a_source_says_it_stays_small() {
        let mut history = History::default();
        for at in 1..=500_u32 {
            let letter = char::from_u32('a' as u32 + at).unwrap();
            let mut report = failed(&String::from(letter).repeat(10_000).into());
            report.newest = newest(at);
            let findings = (0..10).map(|n| String::from(letter).repeat(n).into()).collect();
            let held = snapshot(at, at, &[(&format!("daily-{at}.cvd"), u64::from(at))]);
            history.note(&RoundReport { findings, ..round(1, report) }, &held, u64::from(at) * 86_400);
        }
        assert_eq!(history.events.len(), EVENTS);
        assert_eq!(history.versions["daily"].len(), VERSIONS);
        assert!(serde_json::to_vec(&history).unwrap().len() < 200_000);
    }

    #[test]
    fn a_version_far_away_is_forgotten_once_the_source_takes_it_back() {
        let mut history = History::default();
        let held = snapshot(9, 9, &[("daily-9.cvd", 1)]);
        history.note(&round(1, daily(newest(4_000_000_000))), &held, 1);
        history.note(&round(2, daily(newest(10))), &held, 2);
        assert_eq!(history.versions["daily"].keys().copied().collect::<Vec<_>>(), [9, 10]);
    }
}
