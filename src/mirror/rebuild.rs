//! A full CVD made here, from the newest held, the CDIFFs and the header that was fetched.
use super::{
    bench::NotApplied,
    report::{Detail, FileReport, Outcome},
    verify::Proof,
    work::{Round, RoundError},
};
use crate::{
    cvd::{FileKind, FileName, HEADER_BYTES, RebuildError},
    source::{FetchError, Shown, Wanted},
    trouble::Trouble,
};
use cvdmirror_store::{ObjectId, Proof as Level};

/// What was in the way.
#[derive(Debug, thiserror::Error)]
enum NotRebuilt {
    #[error(transparent)]
    Applied(#[from] NotApplied),
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
}

impl Round<'_> {
    /// Rebuilds a full CVD, and fetches its sign file.
    pub(super) fn rebuild(&mut self, version: u32) -> Result<(), RoundError> {
        let (Some(base), Some(header)) = (self.held.newest_cvd(), self.header) else { return Ok(()) };
        let name = FileName::new(&self.database, version, FileKind::Cvd);
        let mut row = FileReport::new(Wanted::from(&name));
        row.detail = Detail::RebuiltFrom(base);
        row.origin = row.detail.to_string();
        match self.rebuild_to(version, &header)? {
            Ok((object, size, proof)) => {
                (row.outcome, row.bytes) = (Outcome::Rebuilt, size);
                self.bind(name.clone(), (object, size), version, &row.origin, &proof)?;
                self.report.files.push(row);
                self.fetch_sign(&name, object)
            }
            // Whatever is in the way, the full file is the way round.
            Err(why) => {
                let trouble = Trouble::not_rebuilt(&why);
                tracing::warn!("{name} {trouble}; the full file is fetched instead");
                row.detail = Detail::Trouble(trouble);
                self.report.files.push(row);
                Ok(())
            }
        }
    }

    /// Writes it into the batch.
    fn rebuild_to(
        &mut self,
        version: u32,
        header: &[u8; HEADER_BYTES],
    ) -> Result<Result<(ObjectId, u64, Proof), NotRebuilt>, RoundError> {
        let applied = match self.applied_to(version)? {
            Ok(applied) => applied,
            Err(e) => return Ok(Err(e.into())),
        };
        let source = self.mirror.source.clone();
        let what = format!("rebuilding {}-{version}.cvd", self.database);
        let bench = self.bench;
        let shown = Shown::new(&*source.intake().progress, &what, None);
        let written = self.write::<_, RoundError>(|_, mut object| {
            match applied.write(header, shown.beside(&mut object)) {
                Ok(cvd) => Ok(Ok((cvd, object.finish()?))),
                Err(RebuildError::Write(e)) => Err(match e.downcast::<cvdmirror_store::Error>() {
                    Ok(e) => e.into(),
                    Err(source) => FetchError::Io { path: bench.tmp.clone(), source }.into(),
                }),
                Err(e) => Ok(Err(e)),
            }
        })?;
        Ok(match written {
            Ok((cvd, (object, size))) => {
                self.applied = Some(applied);
                let proof = Proof { modified_s: Some(cvd.header.stime_s), level: Level::Rebuilt };
                Ok((object, size, proof))
            }
            Err(e) => Err(e.into()),
        })
    }
}
