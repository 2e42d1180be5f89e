//! What rounds came to since this process began, in numbers.
use super::report::{DatabaseRound, Outcome, Round};
use std::collections::BTreeMap;

/// Numbers of rounds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Tally {
    /// Each database that a round was done for.
    pub databases: BTreeMap<String, DatabaseTally>,
    /// How long the last round took, milliseconds.
    pub last_round_ms: Option<u64>,
    /// Length of the retired packs' files that were still there after the last tidying.
    pub waiting_bytes: u64,
}

/// Numbers of one database's rounds.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct DatabaseTally {
    /// After which everything advertised was held.
    pub complete: u64,
    /// The others.
    pub failed: u64,
    /// Files that were asked for, by what came of it.
    pub files: BTreeMap<Outcome, u64>,
}

impl Tally {
    pub(super) fn database(&mut self, report: &DatabaseRound) {
        let tally = self.databases.entry(report.database.clone()).or_default();
        match report.error {
            None => tally.complete += 1,
            Some(_) => tally.failed += 1,
        }
        for file in &report.files {
            *tally.files.entry(file.outcome).or_default() += 1;
        }
    }

    pub(super) fn round(&mut self, round: &Round) {
        self.last_round_ms = Some(round.took_ms);
    }
}
