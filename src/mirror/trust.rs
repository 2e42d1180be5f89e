//! The verifier in force: the certificates that sign files must lead to are read again at each round.
//!
//! Guarantees: a certs directory that cannot be read costs sign files and nothing else. Clients take a file without
//! one as before, so serving goes on; no sign file is taken that is not verified. What was read last stays in force.
use super::{Verifier, verify::anchors_in};
use crate::cvd::Anchors;
use arc_swap::ArcSwap;
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

#[derive(Debug)]
pub(super) struct Trust {
    certs_dir: Option<PathBuf>,
    verifier: ArcSwap<Verifier>,
    fault: Mutex<Option<String>>,
}

impl Trust {
    /// Starts with what can be read now.
    pub(super) fn new(verifier: Verifier, certs_dir: Option<PathBuf>) -> Self {
        let anchors = certs_dir.as_ref().map(|_| Anchors::default()).or(verifier.anchors.clone());
        let verifier = ArcSwap::from_pointee(Verifier { anchors, ..verifier });
        let trust = Self { certs_dir, verifier, fault: Mutex::default() };
        trust.refresh();
        trust
    }

    /// Reads the certificates again; says whether they are others now.
    pub(super) fn refresh(&self) -> bool {
        let Some(dir) = &self.certs_dir else { return false };
        let (read, fault) = match anchors_in(dir) {
            Ok(anchors) => (Some(anchors), None),
            Err(e) => {
                let fault = format!(
                    "certs_dir: {e}; no new sign file is served until it can be read: put ClamAV's certificates \
                     there (its packages bring them in /etc/clamav/certs), or take certs_dir out"
                );
                (None, Some(fault))
            }
        };
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = fault;
        let before = self.verifier.load();
        if read.is_none() || before.anchors == read {
            return false;
        }
        self.verifier.store(Arc::new(Verifier { anchors: read, ..Verifier::clone(&before) }));
        true
    }

    pub(super) fn verifier(&self) -> Arc<Verifier> {
        self.verifier.load_full()
    }

    /// Why the certificates cannot be read, and what to do; nothing while they can.
    pub(super) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
