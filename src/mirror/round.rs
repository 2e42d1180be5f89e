//! One round of one database: ask what is newest, do what the plan says, publish as soon as something is whole.
//!
//! Whatever fails, the round goes on with the next thing that makes sense, and its report says what happened.
use super::{
    core::Stopped,
    memory::DatabaseState,
    plan::{self, Step},
    report::DatabaseReport,
    work::{Round, RoundError},
};
use crate::{
    cvd::{FileKind, FileName},
    source::{Doubt, Evidence, Newest, Wanted},
    state::StateError,
    trouble::Trouble,
};

impl Round<'_> {
    /// Does it.
    pub(super) fn run(mut self) -> Result<DatabaseReport, Stopped> {
        let followed = self.follow();
        self.mirror.holdings.release();
        let error = match followed {
            Ok(()) => None,
            Err(RoundError::Stopped(stopped)) => return Err(stopped),
            Err(RoundError::Fetch(e)) => Some(Trouble::from(&e)),
            Err(RoundError::Store(e)) => Some(Trouble::from(&e)),
            Err(RoundError::State(e)) => Some(Trouble::from(&e)),
        };
        if let Some(error) = &error {
            self.report.unsettle(self.settled, error);
        }
        let published = self.mirror.holdings.snapshot.databases.get(&self.database);
        let report = &mut self.report;
        (report.published, report.cvd) = (published.map(|p| p.version), published.map(|p| p.cvd));
        let newest = report.newest.as_ref().map(|newest| newest.version);
        report.error = error.or_else(|| {
            let behind = newest.filter(|newest| report.published.is_none_or(|held| held < *newest));
            behind.map(|newest| Trouble::behind(newest, report.published))
        });
        // What a client was refused says nothing of the source.
        if !self.mirror.source.client_is_denied()
            && let Err(e) = self.conclude()
        {
            self.report.error.get_or_insert(Trouble::from(&e));
        }
        self.mirror.show();
        Ok(self.report)
    }

    /// Remembers how it ended, and lets the snapshot say when it was confirmed.
    fn conclude(&mut self) -> Result<(), StateError> {
        let Self { mirror, database, report, .. } = self;
        mirror.holdings.follow_clock();
        let before = mirror.holdings.databases.get(database).cloned().unwrap_or_default();
        let now_s = mirror.holdings.clock.epoch_s();
        let newest = report.newest.as_ref().map(|n| n.version);
        let at_s = report.newest.as_ref().and_then(|n| n.at_s).map_or(now_s, |at_s| at_s.min(now_s));
        let at_s = before.confirmed_at_s.max(Some(at_s));
        // A source that has gone back confirms nothing.
        let confirmed = report.error.is_none() && newest >= report.published && newest.is_some();
        let state = DatabaseState {
            newest: newest.or(before.newest),
            checked_at_s: Some(now_s),
            confirmed_at_s: if confirmed { at_s } else { before.confirmed_at_s },
            last_error: report.error.clone(),
            succeeded_at_s: if report.error.is_none() { Some(now_s) } else { before.succeeded_at_s },
            failed_at_s: if report.error.is_some() { Some(now_s) } else { before.failed_at_s },
        };
        mirror.holdings.remember(database, state)
    }

    /// Follows the plan to its end.
    fn follow(&mut self) -> Result<(), RoundError> {
        let newest = self.newest()?;
        let version = newest.version;
        self.report.newest = Some(newest);
        while let Some(step) = plan::next(&self.held, version, &self.answers, self.mirror.backfill) {
            if step.publish_before() {
                self.seal()?;
            }
            self.answers.done.insert(step);
            match step {
                Step::Cdiff(v) | Step::Backfill(v) => {
                    self.fetch(&Wanted::Named(FileName::new(&self.database, v, FileKind::Cdiff)))?;
                }
                Step::Header(v) => self.fetch(&Wanted::Header(self.database.clone(), Some(v)))?,
                Step::Cvd(v) => self.fetch(&Wanted::Cvd(self.database.clone(), v))?,
                Step::Rebuild(v) => self.rebuild(v)?,
            }
        }
        self.seal()?;
        self.mirror.holdings.release();
        self.mirror.show();
        self.fetch_late()?;
        self.seal()
    }

    /// What the source says is newest; a version far past what is held is believed only of the file itself.
    fn newest(&mut self) -> Result<Newest, RoundError> {
        let source = self.mirror.source.clone();
        let mut newest = self.mirror.wait(source.newest(&self.database))??;
        if newest.evidence != Evidence::Header && plan::absurd(&self.held, newest.version) {
            newest.doubts.push(Doubt::Absurd { evidence: newest.evidence, version: newest.version });
            newest.version = self.mirror.wait(source.probe(&self.database))??;
            newest.evidence = Evidence::Header;
            newest.at_s = None;
        }
        if newest.evidence == Evidence::Header && plan::absurd(&self.held, newest.version) {
            newest.doubts.push(Doubt::Absurd { evidence: Evidence::Header, version: newest.version });
        }
        if let Some(held) = self.held.reachable().filter(|held| newest.version < *held) {
            newest.doubts.push(Doubt::Older { version: newest.version, held });
        }
        Ok(newest)
    }
}
