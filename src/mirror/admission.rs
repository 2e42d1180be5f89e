//! Admission: which packs are whole. What their names are worth is for [`judgement`](super::judgement) to say.
//!
//! A pack that this installation sealed, or found whole before, is remembered by its id and length. Any other (restored,
//! copied in, imported) is checked first: its file's hash, its structure, and every object. One that is not whole is not used.
use super::{OpenError, verify::check_whole};
use crate::{
    state::{Readable, State},
    trouble::Trouble,
};
use cvdmirror_store::{Pack, PackId, Scan};
use std::collections::{BTreeMap, BTreeSet};

/// What stands in the store directory, judged.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    /// Packs that are whole.
    pub(super) packs: Vec<Pack>,
    /// Which of them were found to be so just now.
    pub(super) new: BTreeSet<PackId>,
    /// What is not used, and why.
    pub(super) findings: Vec<Trouble>,
}

/// Remembers what it refused, so that a big pack is not checked again at every look.
#[derive(Debug, Default)]
pub(super) struct Admission {
    refused: BTreeMap<PackId, (u64, Trouble)>,
}

impl Admission {
    /// Admits what is whole of what was found in the store directory, and remembers it.
    ///
    /// # Errors
    /// When the state file cannot be read or written.
    pub(super) fn admit(&mut self, scan: Scan, state: &State) -> Result<Admitted, OpenError> {
        let (mut admitted, unknown) = known(scan, Some(state))?;
        for pack in unknown {
            match self.check(&pack) {
                Ok(()) => {
                    state.trust(&pack)?;
                    admitted.new.insert(pack.id().clone());
                    admitted.packs.push(pack);
                }
                Err(why) => admitted.findings.push(why),
            }
        }
        Ok(admitted)
    }

    fn check(&mut self, pack: &Pack) -> Result<(), Trouble> {
        if let Some((_, why)) = self.refused.get(pack.id()).filter(|(len, _)| *len == pack.file_len()) {
            return Err(why.clone());
        }
        check_whole(pack).map_err(|why| {
            let why = Trouble::refused_pack(pack.id(), &why);
            self.refused.insert(pack.id().clone(), (pack.file_len(), why.clone()));
            why
        })?;
        let pack = pack.id().as_str();
        tracing::info!(pack, "a pack that was not sealed here is whole, its names are judged: {pack}");
        Ok(())
    }
}

/// What is known to be whole, without checking anything: for a look beside nobody.
///
/// # Errors
/// When the state file cannot be read.
pub(super) fn trusted<D: Readable>(scan: Scan, state: Option<&State<D>>) -> Result<Admitted, OpenError> {
    let (mut admitted, unknown) = known(scan, state)?;
    admitted.findings.extend(unknown.iter().map(|pack| Trouble::unverified_pack(pack.id())));
    Ok(admitted)
}

/// Drops what is retired, and tells what is trusted from what is not known.
fn known<D: Readable>(scan: Scan, state: Option<&State<D>>) -> Result<(Admitted, Vec<Pack>), OpenError> {
    let findings = scan.findings.iter().map(Trouble::from).collect();
    let (mut packs, mut unknown) = (Vec::new(), Vec::new());
    let retired = state.map(State::retired).transpose()?.unwrap_or_default();
    for pack in scan.packs.into_iter().filter(|pack| !retired.contains_key(pack.id())) {
        let trusted = state.map(|state| state.trusted(pack.id())).transpose()?.flatten();
        match trusted.is_some_and(|known| known.file_len == pack.file_len()) {
            true => packs.push(pack),
            false => unknown.push(pack),
        }
    }
    Ok((Admitted { packs, new: BTreeSet::new(), findings }, unknown))
}
