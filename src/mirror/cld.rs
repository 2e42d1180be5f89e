//! CLDs that are published: each is made here from the CVD of its version.
//!
//! Guarantees: a CLD is served only beside its CVD, and goes with it; what is served was read back when it was made, and
//! again after a start, by Talos' list. They lie in packs of their own, in `DATA_DIR/cld`, so that neither admission nor
//! retention, sync or backup of the store knows of them: what is lost is made anew, byte for byte.
use super::{
    DataDir, Verifier,
    cld_sign::{CldSign, CldSigner},
    holdings::Holdings,
    reading::{self, Reading, Unheld},
};
use crate::{
    cvd::{FileKind, FileName, Rebuild, RebuildError, check_cld},
    trouble::Trouble,
};
use cvdmirror_store::{Error, Finding, NameRecord, Pack, PackId, Proof, Store, View};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::PathBuf,
    sync::Arc,
};

/// The CLDs that were made.
#[derive(Debug, Default)]
pub struct Clds {
    /// By the CVD each is made from.
    files: BTreeMap<FileName, NameRecord>,
    view: Option<Arc<View>>,
    /// Their sign files, where the site has a CA.
    signs: BTreeMap<FileName, CldSign>,
}

impl Clds {
    /// Each with the CVD it is made from.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&FileName, &NameRecord, &Arc<View>)> {
        let all = self.view.iter().flat_map(|view| self.files.iter().map(move |file| (file, view)));
        all.map(|((cvd, record), view)| (cvd, record, view))
    }

    /// The sign file of each, with the CVD that the CLD is made from.
    pub(super) fn signs(&self) -> impl Iterator<Item = (&FileName, &CldSign)> {
        self.signs.iter()
    }
}

/// Why there is no CLD of a CVD.
#[derive(Debug, thiserror::Error)]
enum CldError {
    #[error(transparent)]
    Cvd(#[from] Unheld),
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    #[error(transparent)]
    Store(#[from] Error),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Makes and keeps them.
#[derive(Debug)]
pub(super) struct CldMaker {
    dir: DataDir,
    /// Opened when it is first needed, so that a start does not wait until everything is read back.
    store: Option<Store>,
    signer: Option<CldSigner>,
}

impl CldMaker {
    /// With `publish`, begins with what lies there; without, none is kept. The signer of the CA in `site_ca` signs them.
    pub(super) fn new(dir: &DataDir, publish: bool, site_ca: Option<PathBuf>) -> Option<Self> {
        if publish {
            return Some(Self { dir: dir.clone(), store: None, signer: site_ca.map(CldSigner::new) });
        }
        if let Err(e) = fs::remove_dir_all(dir.cld())
            && e.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{}: {e}; it is of no use any more, remove it", dir.cld().display());
        }
        None
    }

    /// Makes the CLD of each newest CVD, and lets those go whose CVD went.
    pub(super) fn follow(&mut self, holdings: &Holdings) -> (Clds, Vec<Trouble>) {
        let store = match &mut self.store {
            Some(store) => store,
            none => match open(&self.dir, &holdings.trust.verifier) {
                Ok(store) => none.insert(store),
                Err(e) => return (Clds::default(), vec![Trouble::no_cld(&"any CVD", &e)]),
            },
        };
        let mut troubles = Vec::new();
        let served = &holdings.snapshot.files;
        let stays = |pack: &Pack| {
            pack.names().all(|(name, _)| FileName::of_cld(name).is_some_and(|cvd| served.contains_key(&cvd)))
        };
        let gone: Vec<PackId> =
            store.view().packs().iter().filter(|pack| !stays(pack)).map(|pack| pack.id().clone()).collect();
        if let Err(e) = remove(store, &gone) {
            troubles.push(Trouble::gc(&Trouble::from(&e)));
        }
        for (database, published) in &holdings.snapshot.databases {
            let cvd = FileName::new(database, published.cvd, FileKind::Cvd);
            if store.view().lookup(&cvd.cld()).is_none()
                && let Err(e) = make(store, &cvd, holdings)
            {
                let trouble = Trouble::no_cld(&cvd, &e);
                tracing::warn!("{trouble}");
                troubles.push(trouble);
            }
        }
        let view = store.view();
        let named = view.names().filter_map(|(name, record)| Some((FileName::of_cld(name)?, record.clone())));
        let files = named.collect();
        let now_s = holdings.clock.epoch_s();
        let signed = self.signer.as_mut().map(|signer| signer.follow(&files, &view, now_s));
        let (signs, failed) = signed.unwrap_or_default();
        if let Some(e) = failed {
            let trouble = Trouble::unsigned_clds(&e);
            tracing::warn!("{trouble}");
            troubles.push(trouble);
        }
        (Clds { files, view: Some(view), signs }, troubles)
    }

    /// Lets a pack go, of which something was found corrupt; says whether it is one of these.
    pub(super) fn forget(&self, pack: &PackId) -> bool {
        let Some(store) = &self.store else { return false };
        let is_ours = store.view().packs().iter().any(|held| held.id() == pack);
        if is_ours && let Err(e) = remove(store, std::slice::from_ref(pack)) {
            tracing::warn!("pack {pack}: {e}");
        }
        is_ours
    }
}

/// Downloads that run keep what they read open.
fn remove(store: &Store, packs: &[PackId]) -> Result<(), Error> {
    if !packs.is_empty() {
        store.retire(packs)?;
        store.remove_retired(packs)?;
    }
    Ok(())
}

/// Opens what an earlier process made; what does not hold is removed.
fn open(dir: &DataDir, verifier: &Verifier) -> Result<Store, CldError> {
    let path = dir.cld();
    let io = |path: &PathBuf| {
        let path = path.clone();
        move |source| CldError::Io { path, source }
    };
    DirBuilder::new().recursive(true).mode(0o750).create(&path).map_err(io(&path))?;
    let scan = Store::scan(&path)?;
    let mut names = BTreeSet::new();
    let (packs, unfit): (Vec<Pack>, Vec<Pack>) =
        scan.packs.into_iter().partition(|pack| holds(pack, verifier).is_some_and(|cvd| names.insert(cvd)));
    let unusable = scan.findings.into_iter().filter_map(|finding| match finding {
        Finding::Unusable { path, .. } => Some(path),
        _ => None,
    });
    for path in unfit.iter().map(|pack| pack.path().to_owned()).chain(unusable) {
        tracing::warn!("{} does not hold, and is removed", path.display());
        fs::remove_file(&path).map_err(io(&path))?;
    }
    Ok(Store::assemble(&path, &dir.tmp(), packs)?.0)
}

/// The CVD of the one CLD in a pack, if that is what its name says.
fn holds(pack: &Pack, verifier: &Verifier) -> Option<FileName> {
    let mut names = pack.names();
    let (Some((name, record)), None) = (names.next(), names.next()) else { return None };
    let cvd = FileName::of_cld(name)?;
    let cld = Reading::new(pack.open(&record.object).ok()??);
    check_cld(&cvd, cld, &verifier.keys, &verifier.limits).ok()?;
    Some(cvd)
}

/// Makes one, seals it, and reads it back.
fn make(store: &Store, cvd: &FileName, holdings: &Holdings) -> Result<(), CldError> {
    let Verifier { keys, limits, .. } = &holdings.trust.verifier;
    let scratch = tempfile::tempfile_in(&holdings.tmp)
        .map_err(|source| CldError::Io { path: holdings.tmp.clone(), source })?;
    let (_, old) = reading::open(&holdings.snapshot.view, &cvd.to_string())?;
    let rebuild = Rebuild::new(&cvd.database, old, &scratch, keys, limits)?;
    let mut batch = store.batch()?;
    let mut object = batch.object()?;
    let cld = rebuild.write_cld(&mut object)?;
    let (object, size) = object.finish()?;
    let record = NameRecord {
        object,
        size,
        modified_s: Some(cld.header.stime_s),
        stored_at_s: holdings.clock.epoch_s(),
        origin: cvd.to_string(),
        proof: Proof::Unknown,
    };
    batch.bind(&cvd.cld(), record)?;
    let pack = store.commit(batch, holdings.clock.epoch_s())?;
    let read = pack.open(&object)?.ok_or_else(|| Unheld::Name(cvd.cld()))?;
    if let Err(e) = check_cld(cvd, Reading::new(read), keys, limits) {
        remove(store, std::slice::from_ref(pack.id()))?;
        return Err(e.into());
    }
    tracing::info!("{} was made from {cvd}", cvd.cld());
    Ok(())
}
