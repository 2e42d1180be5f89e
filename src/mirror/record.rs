//! What rounds did: history, counters, and the last round's report.
use super::{History, RoundReport, Snapshot, counters::Counters};
use crate::{
    state::State,
    trouble::{Told, Trouble},
};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Record {
    pub(super) history: Arc<History>,
    pub(super) counters: Arc<Counters>,
    last: Option<RoundReport>,
}

impl Record {
    pub(super) fn new(history: History) -> Self {
        Self { history: Arc::new(history), counters: Arc::default(), last: None }
    }

    /// Notes what a round did. What cannot be saved is known until the next start all the same.
    pub(super) fn note(&mut self, report: &RoundReport, snapshot: &Snapshot, state: &State, now_s: u64) {
        Arc::make_mut(&mut self.counters).last_round_ms = Some(report.took_ms);
        self.last = Some(report.clone());
        let mut history = History::clone(&self.history).plausible(now_s);
        history.note(report, snapshot, now_s);
        if history == *self.history {
            return;
        }
        if let Err(e) = state.set_history(&history) {
            tracing::warn!("{}", Trouble::forgotten("what this round did", &e));
        }
        self.history = Arc::new(history);
    }

    /// What did not agree at the source when it was last asked.
    pub(super) fn doubts(&self) -> Vec<Told> {
        let mut told = Vec::new();
        for database in self.last.iter().flat_map(|round| &round.databases) {
            for doubt in database.newest.iter().flat_map(|newest| &newest.doubts) {
                Told::add(&mut told, &database.database, false, &Trouble::from(doubt));
            }
        }
        told
    }
}
