//! What rounds came to since this process began, in numbers.
use super::report::{DatabaseReport, Outcome};
use crate::cvd::Database;
use std::collections::BTreeMap;

/// Numbers of rounds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Counters {
    /// Each database that a round was done for.
    pub databases: BTreeMap<Database, DatabaseCounters>,
    /// How long the last round took, milliseconds.
    pub last_round_ms: Option<u64>,
    /// Length of the retired packs' files that were still there after the last gc.
    pub waiting_bytes: u64,
}

/// Numbers of one database's rounds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct DatabaseCounters {
    /// After which everything advertised was held.
    pub complete: u64,
    /// The others.
    pub failed: u64,
    /// Files that were asked for, by what came of it.
    pub files: BTreeMap<Outcome, u64>,
}

impl Counters {
    pub(super) fn count(&mut self, report: &DatabaseReport) {
        let counters = self.databases.entry(report.database.clone()).or_default();
        match report.error {
            None => counters.complete += 1,
            Some(_) => counters.failed += 1,
        }
        for file in &report.files {
            *counters.files.entry(file.outcome).or_default() += 1;
        }
    }
}
