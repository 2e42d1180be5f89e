//! A round of one database: its work, and what of it is not yet sealed.
use super::{
    bench::Bench,
    core::{Mirror, Stopped},
    plan::{Answers, Held},
    report::DatabaseReport,
};
use crate::{
    cvd::{Database, HEADER_BYTES, Rebuild},
    source::FetchError,
    state::StateError,
};
use cvdmirror_store::PackWriter;

/// One database's work, and what of it is not yet sealed.
pub(super) struct Round<'m> {
    pub(super) mirror: &'m mut Mirror,
    pub(super) database: Database,
    pub(super) batch: Option<PackWriter>,
    /// What is held, with what the batch will add.
    pub(super) held: Held,
    pub(super) answers: Answers,
    pub(super) header: Option<[u8; HEADER_BYTES]>,
    pub(super) bench: &'m Bench,
    /// A full CVD with the CDIFFs applied that this round has proved.
    pub(super) applied: Option<Rebuild<'m>>,
    pub(super) report: DatabaseReport,
    /// Rows of the report that are settled: what they say was stored is sealed.
    pub(super) settled: usize,
}

/// Why a round cannot go on: not a single file that does not come, but what every further one would meet too.
#[derive(Debug, thiserror::Error)]
pub(super) enum RoundError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Store(#[from] cvdmirror_store::Error),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

impl<'m> Round<'m> {
    pub(super) fn new(mirror: &'m mut Mirror, bench: &'m Bench) -> Self {
        let database = bench.database.clone();
        let snapshot = &mirror.holdings.snapshot;
        let held = Held::new(&snapshot.files, &database);
        let mut report = DatabaseReport::new(database.clone());
        report.before = snapshot.databases.get(&database).map(|p| p.version);
        if report.before.is_none() {
            mirror.holdings.withhold(&database);
        }
        let answers =
            Answers { is_wary: mirror.holdings.doubts(&database).knows_bodies(), ..Answers::default() };
        let (batch, header, applied) = (None, None, None);
        Self { mirror, database, batch, held, answers, header, bench, applied, report, settled: 0 }
    }

    /// Seals what was gathered and publishes it, but at a first sync: what is published then is whole.
    pub(super) fn seal(&mut self) -> Result<(), RoundError> {
        let Some(batch) = self.batch.take().filter(|batch| !batch.is_empty()) else { return Ok(()) };
        let remembered = self.mirror.holdings.seal(batch)?;
        self.settled = self.report.files.len();
        self.mirror.show();
        Ok(remembered?)
    }
}
