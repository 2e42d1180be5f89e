//! What CDIFFs of one database are applied with, to see where they lead.
use super::{
    holdings::Holdings,
    reading::{self, Unheld},
};
use crate::cvd::{
    self, Database, FileKind, FileName, Limits, Rebuild, RebuildError, TrustKeys, VerifyError,
    apply::ApplyError,
};
use cvdmirror_store::View;
use std::{cell::OnceCell, fs::File, io, path::PathBuf};

/// What CDIFFs of one database are applied with.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) database: Database,
    pub(super) keys: TrustKeys,
    pub(super) limits: Limits,
    pub(super) tmp: PathBuf,
    scratch: OnceCell<File>,
}

/// Why it is not known that CDIFFs lead to a version.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotApplied {
    #[error(transparent)]
    Unheld(#[from] Unheld),
    #[error(transparent)]
    Cdiff(#[from] VerifyError),
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    #[error(transparent)]
    Scratch(#[from] io::Error),
}

impl NotApplied {
    /// Whether it lies in the CDIFF, and not in the disk or what is held.
    pub(super) fn disproves(&self) -> bool {
        matches!(self, Self::Rebuild(e) if Self::is_fault(e))
    }

    /// The same of what a rebuild says.
    pub(super) fn is_fault(e: &RebuildError) -> bool {
        match e {
            RebuildError::Apply { source, .. } => !matches!(source, ApplyError::Scratch(_)),
            e => matches!(
                e,
                RebuildError::Chain { .. } | RebuildError::Version { .. } | RebuildError::Mismatch(_)
            ),
        }
    }
}

impl Bench {
    pub(super) fn new(holdings: &Holdings, database: Database) -> Self {
        let verifier = &holdings.trust.verifier;
        let (keys, limits, tmp) = (verifier.keys.clone(), verifier.limits, holdings.tmp.clone());
        Self { database, keys, limits, tmp, scratch: OnceCell::new() }
    }

    /// Loads a full CVD that is held.
    pub(super) fn load(&self, view: &View, base: u32) -> Result<Rebuild<'_>, NotApplied> {
        let scratch = match self.scratch.get() {
            Some(scratch) => scratch,
            None => {
                let new = tempfile::tempfile_in(&self.tmp)?;
                self.scratch.get_or_init(|| new)
            }
        };
        scratch.set_len(0)?;
        let name = FileName::new(&self.database, base, FileKind::Cvd).to_string();
        let (_, old) = reading::open(view, &name)?;
        Ok(Rebuild::new(&self.database, old, scratch, &self.keys, &self.limits)?)
    }

    /// Applies the CDIFFs held up to a version.
    pub(super) fn lead<'b>(
        &'b self,
        view: &View,
        mut rebuild: Rebuild<'b>,
        version: u32,
    ) -> Result<Rebuild<'b>, NotApplied> {
        for next in rebuild.version() + 1..=version {
            let name = FileName::new(&self.database, next, FileKind::Cdiff);
            let (_, bytes) = reading::open(view, &name.to_string())?;
            rebuild = rebuild.apply(&cvd::verify_cdiff(&name, bytes, &self.keys, &self.limits)?)?;
        }
        Ok(rebuild)
    }
}
