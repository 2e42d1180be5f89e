//! The sign files of the CLDs that are published, by the signer of the site's own CA.
//!
//! Guarantees: each is of a CLD that is published, and by a signer that is in force. They are made anew in each process,
//! and when there is another signer, so that one name has several contents in time; nobody may keep them without asking.
//! No CVD is ever signed here: a Talos CVD's sign file is Talos'.
use super::reading::{Reading, Unheld};
use crate::{
    ca::{CaError, Signer},
    cvd::FileName,
};
use bytes::Bytes;
use cvdmirror_store::{Error, Hasher, NameRecord, ObjectId, View};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

/// A sign file.
#[derive(Clone, Debug)]
pub struct CldSign {
    /// The hash of its content.
    pub object: ObjectId,
    /// Its content.
    pub content: Bytes,
}

/// Why a CLD is not signed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CldSignError {
    #[error("site_ca: {0}")]
    Ca(#[from] CaError),
    #[error(transparent)]
    Cld(#[from] Unheld),
    #[error(transparent)]
    Store(#[from] Error),
}

/// Signs CLDs.
#[derive(Debug)]
pub(super) struct CldSigner {
    dir: PathBuf,
    /// Who made them.
    serial: Vec<u8>,
    /// By the CLD that each is of.
    made: BTreeMap<ObjectId, CldSign>,
}

impl CldSigner {
    /// By the signer in this directory, which is read again each time.
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, serial: Vec::new(), made: BTreeMap::new() }
    }

    /// Signs those CLDs that are not signed yet, and forgets all others; and says why one, or any, could not be.
    pub(super) fn follow(
        &mut self,
        clds: &BTreeMap<FileName, NameRecord>,
        view: &Arc<View>,
        now_s: u64,
    ) -> (BTreeMap<FileName, CldSign>, Option<CldSignError>) {
        let signer = match Signer::open(&self.dir, now_s) {
            Ok(signer) => signer,
            Err(e) => return (BTreeMap::new(), Some(e.into())),
        };
        self.made.retain(|cld, _| clds.values().any(|record| record.object == *cld));
        if self.serial != signer.serial() {
            self.made.clear();
            self.serial = signer.serial().to_vec();
        }
        let (mut signs, mut failed) = (BTreeMap::new(), None);
        for (cvd, record) in clds {
            let made = self.made.get(&record.object).cloned();
            match made.map_or_else(|| sign(&signer, cvd, record, view), Ok) {
                Ok(sign) => {
                    self.made.insert(record.object, sign.clone());
                    signs.insert(cvd.clone(), sign);
                }
                Err(e) => failed = Some(e),
            }
        }
        (signs, failed)
    }
}

fn sign(
    signer: &Signer,
    cvd: &FileName,
    record: &NameRecord,
    view: &Arc<View>,
) -> Result<CldSign, CldSignError> {
    let cld = view.open(&record.object)?.ok_or_else(|| Unheld::Name(cvd.cld()))?;
    let content = Bytes::from(signer.sign(Reading::new(cld))?);
    let mut hasher = Hasher::new();
    hasher.update(&content);
    tracing::info!("{} was signed by the site's CA", cvd.cld());
    Ok(CldSign { object: hasher.finish(), content })
}
