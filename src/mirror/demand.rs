//! A file that a client asks for and that is not held: it is fetched, verified and published as in any round.
use super::{
    bench::Bench,
    core::{Mirror, Stopped},
    report::Outcome,
    work::{Round, RoundError},
};
use crate::{
    cvd::{FileKind, FileName},
    source::Wanted,
};
use http::HeaderMap;

/// A file that a client asks for, and the fields with which it did, as they are passed on.
#[derive(Debug)]
pub struct Demand {
    /// The file.
    pub name: FileName,
    /// For the upstream.
    pub fields: HeaderMap,
}

/// What came of a demand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Demanded {
    /// It is published.
    Published,
    /// The source does not have it.
    Absent,
    /// What came does not verify; nothing of it is kept.
    Refused,
    /// The source refuses this client (403).
    Denied,
    /// It could not be fetched now.
    Failed,
}

impl Mirror {
    /// Fetches what a client asks for: a CDIFF by its name, a full CVD by a round, which may rebuild it.
    pub(super) fn demand(&mut self, demand: Demand) -> Result<Demanded, Stopped> {
        let Demand { name, fields } = demand;
        // It may have come since.
        if !self.holdings.snapshot.files.contains_key(&name) {
            self.source.clone().asks_for(Some(fields));
            let came = self.bring(&name);
            let is_denied = self.source.client_is_denied();
            self.source.clone().asks_for(None);
            let came = came?;
            if !self.holdings.snapshot.files.contains_key(&name) {
                return Ok(if is_denied { Demanded::Denied } else { came.unwrap_or(Demanded::Absent) });
            }
        }
        Ok(Demanded::Published)
    }

    /// Returns why it did not come, where that is known.
    fn bring(&mut self, name: &FileName) -> Result<Option<Demanded>, Stopped> {
        let bench = Bench::new(&self.holdings, name.database.clone());
        let round = Round::new(self, &bench);
        let (report, failed) = match name.kind {
            FileKind::Cvd => {
                let report = round.run()?;
                let failed = report.error.is_some();
                (report, failed)
            }
            _ => round.fetch_alone(name)?,
        };
        for row in &report.files {
            tracing::info!("{} on a client's demand: {:?}", row.wanted, row.outcome);
        }
        let asked = report.files.iter().find(|row| row.wanted.to_string() == name.to_string());
        Ok(match asked.map(|row| row.outcome) {
            Some(Outcome::Refused | Outcome::Stale) => Some(Demanded::Refused),
            Some(Outcome::Failed) => Some(Demanded::Failed),
            Some(Outcome::Absent) => Some(Demanded::Absent),
            None if failed => Some(Demanded::Failed),
            Some(_) | None => None,
        })
    }
}

impl Round<'_> {
    /// Fetches one file; says as well whether it could not go on.
    fn fetch_alone(mut self, name: &FileName) -> Result<(super::report::DatabaseReport, bool), Stopped> {
        let fetched = self.fetch(&Wanted::Named(name.clone())).and_then(|()| self.seal());
        self.mirror.holdings.release();
        self.mirror.show();
        match fetched {
            Err(RoundError::Stopped(stopped)) => Err(stopped),
            fetched => Ok((self.report, fetched.is_err())),
        }
    }
}
