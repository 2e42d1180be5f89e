//! Trust at the door: which packs may be published.
//!
//! A pack that this installation sealed, or verified whole before, is remembered by its id and length. Any other
//! (restored, copied in, carried here) is verified first: its file's hash, every object, and every name against
//! what it is bound to. A pack with one wrong thing in it is not published at all.
use super::{OpenError, state::State, verify::Verifier};
use cvdmirror_store::{Pack, Store};
use std::path::Path;

/// What stands in the store directory, judged.
#[derive(Debug)]
pub(super) struct Judged {
    /// Packs that may be published, the longest trusted first.
    pub(super) trusted: Vec<Pack>,
    /// What is not published, and why.
    pub(super) findings: Vec<String>,
}

/// Judges every file of the store directory.
///
/// # Errors
/// When the directory cannot be read, or a pack is of a newer format.
pub(super) fn judge(store_dir: &Path, state: &State, verifier: &Verifier) -> Result<Judged, OpenError> {
    let scan = Store::scan(store_dir)?;
    let mut findings: Vec<String> = scan.findings.iter().map(ToString::to_string).collect();
    let mut ranked = Vec::new();
    let mut strangers = Vec::new();
    for pack in &scan.packs {
        let pack = pack.clone();
        match state.trusted(pack.id())? {
            Some(trusted) if trusted.file_len == pack.file_len() => ranked.push((trusted.rank, pack)),
            _ => strangers.push(pack),
        }
    }
    for pack in strangers {
        match verifier.verify_pack(&pack, &scan.packs) {
            Ok(()) => {
                let trusted = state.trust(pack.id(), pack.file_len())?;
                tracing::info!(pack = %pack.id(), "verified a pack that was not sealed here");
                ranked.push((trusted.rank, pack));
            }
            Err(why) => {
                findings.push(format!("pack {} is not published: {why}; move it out of the store", pack.id()))
            }
        }
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    Ok(Judged { trusted: ranked.into_iter().map(|(_, pack)| pack).collect(), findings })
}
