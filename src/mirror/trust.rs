//! The verifier in force: the certificates that sign files must lead to are read again at each round.
//!
//! Guarantees: a certs directory that cannot be read costs sign files and nothing else. Clients take a file without
//! one as before, so serving goes on; no sign file is taken that is not verified. What was read last stays in force.
use super::{Verifier, verify::anchors_in};
use crate::{cvd::Anchors, trouble::Trouble};
use std::path::PathBuf;

#[derive(Debug)]
pub(super) struct Trust {
    certs_dir: Option<PathBuf>,
    pub(super) verifier: Verifier,
    /// Why the certificates cannot be read; nothing while they can.
    pub(super) fault: Option<Trouble>,
}

impl Trust {
    /// Starts with what can be read now.
    pub(super) fn new(verifier: Verifier, certs_dir: Option<PathBuf>) -> Self {
        let anchors = certs_dir.as_ref().map(|_| Anchors::default()).or(verifier.anchors.clone());
        let mut trust = Self { certs_dir, verifier: Verifier { anchors, ..verifier }, fault: None };
        trust.refresh();
        trust
    }

    /// Reads the certificates again; says whether they are others now.
    pub(super) fn refresh(&mut self) -> bool {
        let Some(dir) = &self.certs_dir else { return false };
        match anchors_in(dir) {
            Err(e) => {
                self.fault = Some(Trouble::from(&e));
                false
            }
            Ok(anchors) => {
                self.fault = None;
                let anchors = Some(anchors);
                let others = self.verifier.anchors != anchors;
                self.verifier.anchors = anchors;
                others
            }
        }
    }
}
