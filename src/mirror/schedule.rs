//! When rounds are done: at an interval, when somebody says so, and sooner after one that failed.
use super::{
    Command, RoundReport,
    bench::Bench,
    core::{Mirror, Stopped},
    work::Round,
};
use crate::{cvd::Database, source::watch::Watch, trouble::Trouble};
use rand::RngExt as _;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};

/// The first pause after a round that failed; it doubles until it reaches the interval.
const FIRST_RETRY: Duration = Duration::from_secs(30);

impl Mirror {
    /// Does one round over every database.
    ///
    /// # Errors
    /// When it is stopped meanwhile; what was sealed until then stays.
    pub fn round(&mut self) -> Result<RoundReport, Stopped> {
        let started = Instant::now();
        let mut report =
            RoundReport { started_at_s: self.holdings.clock.epoch_s(), ..RoundReport::default() };
        // Packs put in by hand, and objects found corrupt since, change what is to be fetched.
        if let Err(e) = self.holdings.look() {
            self.holdings.find(Trouble::unlooked(&Trouble::from(&e)));
        }
        self.download()?;
        self.follow_clds();
        let databases: Vec<Database> = self.holdings.databases.keys().cloned().collect();
        for database in databases {
            let bench = Bench::new(&self.holdings, database);
            let database = Round::new(self, &bench).run()?;
            database.log();
            Arc::make_mut(&mut self.record.counters).count(&database);
            report.databases.push(database);
        }
        report.remarks = self.surroundings();
        self.source.end_round();
        if let Err(trouble) = self.gc() {
            let trouble = Trouble::gc(&trouble);
            tracing::warn!("{trouble}; the next round tries again");
            self.holdings.find(trouble);
        }
        self.follow_clds();
        report.findings.extend(self.holdings.findings.iter().cloned());
        for remark in &report.remarks {
            tracing::warn!("{remark}");
        }
        report.took_ms = started.elapsed().as_millis() as u64;
        let now_s = self.holdings.clock.epoch_s();
        self.record.note(&report, &self.holdings.snapshot, &self.holdings.state, now_s);
        self.show();
        Ok(report)
    }

    /// Does rounds at jittered intervals, when the source tells of something new, and when it is told to; after a round that failed, or that left a full CVD
    /// behind a stale edge, it does the next sooner, and then less and less soon. Ends when it is stopped.
    pub fn run(mut self, interval: Duration) {
        let runtime = self.runtime.clone();
        let _timers = runtime.enter();
        // What it is stopped in the middle of is done anew at the next start.
        let Err(Stopped) = self.go_round(interval);
    }

    fn go_round(&mut self, interval: Duration) -> Result<std::convert::Infallible, Stopped> {
        let mut retry = FIRST_RETRY.min(interval);
        let mut watch = self.source.watch();
        loop {
            let report = self.round()?;
            let pause = if report.is_complete() && !report.lags() {
                retry = FIRST_RETRY.min(interval);
                interval
            } else {
                let pause = retry;
                retry = (retry * 2).min(interval);
                pause
            };
            // A tenth either way, so that the mirrors of the world do not ask at the same second.
            let pause = pause.mul_f64(rand::rng().random_range(0.9..1.1));
            report.log(pause);
            let due = tokio::time::Instant::now() + pause;
            self.due = Some(self.holdings.clock.monotonic() + pause);
            self.show();
            let next = async {
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = changed(&mut watch) => {}
                }
            };
            let mut next = std::pin::pin!(next);
            while let Some(command) = self.next(next.as_mut())? {
                self.obey(command)?;
            }
            self.due = None;
        }
    }

    fn obey(&mut self, command: Command) -> Result<(), Stopped> {
        // That nobody waits for the answer any more is no error.
        let _ = match self.obey_at_once(command) {
            None | Some(Command::Check(..) | Command::Corrupt(..)) => true,
            Some(Command::Sync(answer)) => {
                let report = self.round()?;
                let left = self.due.map(|due| due.saturating_sub(self.holdings.clock.monotonic()));
                report.log(left.unwrap_or_default());
                answer.send(report).is_ok()
            }
            Some(Command::Demand(demand, answer)) => answer.send(self.demand(demand)?).is_ok(),
            Some(Command::Gc(answer)) => answer.send(self.gc()).is_ok(),
            Some(Command::WouldGc(answer)) => answer.send(self.would_gc()).is_ok(),
            Some(Command::Look(answer)) => {
                let looked = self.holdings.look();
                self.show();
                answer.send(looked.map_err(|e| Trouble::from(&e))).is_ok()
            }
        };
        Ok(())
    }
}

/// Resolves when the source has something new, if it can tell.
async fn changed(watch: &mut Option<Watch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
