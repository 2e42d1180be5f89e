//! Trust at the door: which packs may be published.
//!
//! A pack that this installation sealed, or verified whole before, is remembered by its id and length. Any other
//! (restored, copied in, carried here) is verified first: its file's hash, every object, and every name against
//! what it is bound to. A pack with one wrong thing in it is not published at all.
use super::{OpenError, state::State, verify::Verifier};
use cvdmirror_store::{Pack, PackId, Store};
use std::{collections::BTreeMap, path::Path};

/// What stands in the store directory, judged.
#[derive(Debug)]
pub(super) struct Judged {
    /// Packs that may be published, the longest trusted first.
    pub(super) trusted: Vec<Pack>,
    /// What is not published, and why.
    pub(super) findings: Vec<String>,
}

/// Remembers whom it turned away, lest a big pack is verified again at every look.
#[derive(Debug, Default)]
pub(super) struct Door {
    refused: BTreeMap<PackId, (u64, String)>,
}

impl Door {
    /// Judges those again that were turned away: what is trusted has changed.
    pub(super) fn reconsider(&mut self) {
        self.refused.clear();
    }

    /// Judges every file of the store directory.
    ///
    /// # Errors
    /// When the directory cannot be read, or a pack is of a newer format.
    pub(super) fn judge(
        &mut self,
        store_dir: &Path,
        state: &State,
        verifier: &Verifier,
    ) -> Result<Judged, OpenError> {
        let scan = Store::scan(store_dir)?;
        let mut findings: Vec<String> = scan.findings.iter().map(ToString::to_string).collect();
        let retired = state.retired()?;
        let mut ranked = Vec::new();
        for pack in scan.packs.iter().filter(|pack| !retired.contains_key(pack.id())) {
            let trusted = state.trusted(pack.id())?.filter(|known| known.file_len == pack.file_len());
            match trusted {
                Some(trusted) => ranked.push((trusted.rank, pack.clone())),
                None => match self.verify(pack, &scan.packs, verifier) {
                    Ok(()) => ranked.push((state.trust(pack)?.rank, pack.clone())),
                    Err(why) => findings.push(format!(
                        "pack {} is not published: {why}; move it out of the store",
                        pack.id().as_str()
                    )),
                },
            }
        }
        ranked.sort_by_key(|(rank, _)| *rank);
        Ok(Judged { trusted: ranked.into_iter().map(|(_, pack)| pack).collect(), findings })
    }

    fn verify(&mut self, pack: &Pack, all: &[Pack], verifier: &Verifier) -> Result<(), String> {
        if let Some((_, why)) = self.refused.get(pack.id()).filter(|(len, _)| *len == pack.file_len()) {
            return Err(why.clone());
        }
        verifier.verify_pack(pack, all).inspect_err(|why| {
            self.refused.insert(pack.id().clone(), (pack.file_len(), why.clone()));
        })?;
        let pack = pack.id().as_str();
        tracing::info!(pack, "verified a pack that was not sealed here, now published: {pack}");
        Ok(())
    }
}
