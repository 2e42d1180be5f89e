//! The directory of packs as one store.
//!
//! Guarantees: a view is swapped only after what it shows is durable; a commit never binds a name to a second object; what
//! in the directory is no pack is reported and left alone, and neither followed, blocked on nor read further than it takes to see.
//! Does not guarantee that one process writes at a time: the caller holds the data directory's lock.
use crate::{
    Error, Finding, ObjectId, Pack, PackId, PackWriter, View,
    check::check_objects,
    disk::{self, Cores, PackFile},
    finding::ForeignKind,
    limits::bounded,
    view::{Excluded, Withdrawn},
};
use parking_lot::{Mutex, MutexGuard, RwLock};
use std::{
    ffi::OsString,
    fs::FileType,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Most packs one directory may have: each keeps a file descriptor open.
const MAX_PACKS: u64 = 4096;
/// Most entries looked at in one directory, packs or not.
const MAX_ENTRIES: u64 = 65_536;

/// What a directory of packs holds.
#[derive(Debug)]
pub struct Scan {
    /// Every pack that opens, oldest first.
    pub packs: Vec<Pack>,
    /// Every file that is no pack, or does not open.
    pub findings: Vec<Finding>,
}

/// The packs of one directory, put together.
#[derive(Debug)]
pub struct Store {
    store_dir: PathBuf,
    tmp_dir: PathBuf,
    view: RwLock<Arc<View>>,
    /// Held while the set of packs changes.
    changing: Mutex<()>,
}

impl Store {
    /// Opens every pack of a directory; what does not open is a finding.
    /// Fails if the directory cannot be read, if a pack is of a newer format, or if the machine lacks the means
    /// (file descriptors) to open a pack that may well be whole.
    pub fn scan(store_dir: &Path) -> Result<Scan, Error> {
        let entries = list(store_dir).map_err(Error::io(store_dir, "list"))?;
        bounded("entries in a store", entries.len() as u64, MAX_ENTRIES)?;
        let mut scan = Scan { packs: Vec::new(), findings: Vec::new() };
        for (name, kind) in entries {
            let path = store_dir.join(&name);
            let is_pack = name.to_str().and_then(PackId::from_file_name).is_some();
            let foreign = if kind.is_symlink() {
                ForeignKind::Link
            } else if kind.is_dir() {
                ForeignKind::Directory
            } else if !kind.is_file() {
                ForeignKind::Special
            } else if !is_pack {
                ForeignKind::File
            } else {
                bounded("packs in a store", scan.packs.len() as u64 + 1, MAX_PACKS)?;
                match Pack::open_file(&path) {
                    Ok(pack) => scan.packs.push(pack),
                    Err(error) => scan.findings.extend(unopened(path, error)?),
                }
                continue;
            };
            scan.findings.push(Finding::Foreign { path, what: foreign });
        }
        Ok(scan)
    }

    /// Puts packs together, in any order. Where they bind a name to different contents none of them is shown, and the finding
    /// names them.
    pub fn assemble(
        store_dir: &Path,
        tmp_dir: &Path,
        packs: Vec<Pack>,
    ) -> Result<(Self, Vec<Finding>), Error> {
        let (view, findings) = View::build(packs, Excluded::default());
        let store = Self {
            store_dir: store_dir.to_owned(),
            tmp_dir: tmp_dir.to_owned(),
            view: RwLock::new(Arc::new(view)),
            changing: Mutex::new(()),
        };
        Ok((store, findings))
    }

    /// Removes what a crash left in the temporary directory: regular files called `*.tmp`, as batches and staged downloads are.
    /// Only for the process that holds the data directory's lock. Returns how many went.
    pub fn empty_tmp(tmp_dir: &Path) -> Result<u64, Error> {
        let mut removed = 0;
        let entries = std::fs::read_dir(tmp_dir).map_err(Error::io(tmp_dir, "list"))?;
        for entry in entries {
            let entry = entry.map_err(Error::io(tmp_dir, "list"))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::io(&path, "inspect"))?;
            if kind.is_file() && path.extension().is_some_and(|e| e == "tmp") {
                disk::unlink(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// What is held now; later commits do not change a view.
    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// The directory of the packs.
    pub fn dir(&self) -> &Path {
        &self.store_dir
    }

    /// A new empty batch. Objects and names held now are not stored again.
    pub fn batch(&self) -> Result<PackWriter, Error> {
        PackWriter::create_beside(&self.tmp_dir, Some(self.view()))
    }

    /// Seals a batch (fsync, rename, fsync of the directory) and adds it. `now_s` is epoch seconds.
    /// When this returns, what is in the batch is durable and in the view.
    pub fn commit(&self, batch: PackWriter, now_s: u64) -> Result<Pack, Error> {
        let _changing = self.change();
        let view = self.view();
        // The view may have moved on since the batch began.
        for (name, record) in batch.names() {
            if let Some(held) = view.binding(name)
                && !held.gives_way_to(name, record)?
            {
                continue;
            }
            if view.size_of(&record.object).is_none() && !batch.objects().contains_key(&record.object) {
                return Err(Error::ObjectMissing { name: name.clone(), object: record.object });
            }
        }
        let pack = self.seal(batch, now_s)?;
        let mut packs = view.packs().to_vec();
        packs.push(pack.clone());
        self.show(packs, view.excluded().clone());
        Ok(pack)
    }

    /// Adds packs that somebody else put into the directory. Says what is wrong in the whole view;
    /// with no packs it changes nothing.
    pub fn adopt(&self, new: Vec<Pack>) -> Vec<Finding> {
        let _changing = self.change();
        let view = self.view();
        let known = |pack: &Pack| view.packs().iter().any(|held| held.id() == pack.id());
        let new = new.into_iter().filter(|pack| !known(pack));
        let packs = view.packs().iter().cloned().chain(new).collect();
        self.show(packs, view.excluded().clone())
    }

    /// Takes the corrupt copy of an object out of the view: its names go with it unless another pack holds the object, and the
    /// object can be put again. Lasts as long as this `Store`; the caller remembers it across restarts.
    pub fn quarantine(&self, pack: &PackId, object: ObjectId) -> Vec<Finding> {
        let _changing = self.change();
        let view = self.view();
        let mut excluded = view.excluded().clone();
        excluded.copies.insert((pack.clone(), object));
        self.show(view.packs().to_vec(), excluded)
    }

    /// Says anew which bindings do not count. Says what is wrong in the whole view then.
    pub fn withdraw(&self, bindings: Withdrawn) -> Vec<Finding> {
        let _changing = self.change();
        let view = self.view();
        let excluded = Excluded { bindings: Arc::new(bindings), ..view.excluded().clone() };
        self.show(view.packs().to_vec(), excluded)
    }

    pub(crate) fn tmp_dir(&self) -> &Path {
        &self.tmp_dir
    }

    pub(crate) fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock()
    }

    /// Seals a batch into the directory and opens it; the view is the caller's.
    pub(crate) fn seal(&self, batch: PackWriter, now_s: u64) -> Result<Pack, Error> {
        let closed = batch.close(now_s)?;
        // Read back before it is published: a pack that is not what was put into it, for whatever reason, never enters the
        // store, so that from here on its file's hash vouches for its objects.
        let PackFile { file, path } = &closed;
        let read_back = || {
            // What it is called follows from its hash, which is taken on another core meanwhile.
            let unnamed = PackId::new(now_s, &blake3::hash(b""));
            let mut hash = None;
            let pack = rayon_core::in_place_scope(|scope| {
                scope.spawn(|_| hash = Some(disk::hash_file(file, path, Cores::One, &mut |_| {})));
                let pack = Pack::open_as(path, unnamed.clone(), path.clone())?;
                check_objects(&pack, &|_| {}).into_values().next().map_or(Ok(pack), Err)
            })?;
            let id = hash.transpose()?.map_or(unnamed, |hash| PackId::new(now_s, &hash));
            let path = self.store_dir.join(id.file_name());
            Ok(pack.sealed_as(id, path))
        };
        let sealed = disk::seal(file, path, read_back)
            .and_then(|pack| disk::rename_new(path, pack.path()).map(|()| pack));
        let pack = match sealed {
            Ok(pack) => pack,
            Err(error) => {
                // What cannot be removed now goes when tmp/ is emptied at the next start.
                let _ = disk::unlink(path);
                return Err(error);
            }
        };
        if let Err(error) = disk::sync_dir(&self.store_dir) {
            // The caller is told that nothing was stored, so that nothing should come to light at the next start; if it
            // does, it is a whole pack.
            let _ = disk::unlink(pack.path());
            return Err(error);
        }
        Ok(pack)
    }

    /// Swaps the view.
    pub(crate) fn show(&self, packs: Vec<Pack>, excluded: Excluded) -> Vec<Finding> {
        let (view, findings) = View::build(packs, excluded);
        *self.view.write() = Arc::new(view);
        findings
    }
}

/// The entries of a directory by name, up to one more than is allowed.
fn list(dir: &Path) -> std::io::Result<Vec<(OsString, FileType)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(dir)?.take(MAX_ENTRIES as usize + 1) {
        let entry = entry?;
        match entry.file_type() {
            Ok(kind) => entries.push((entry.file_name(), kind)),
            // Gone since it was listed: a pack retired before.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
    }
    entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(entries)
}

/// What a pack that does not open means: its own fault is a finding, the machine's or a newer build's ends the scan.
/// A file that went since it was listed is nothing: a retired pack.
fn unopened(path: PathBuf, error: Error) -> Result<Option<Finding>, Error> {
    match error {
        error @ Error::NewerFormat { .. } => Err(error),
        error if error.is_transient() => Err(error),
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Error::Io { source, .. } => Ok(Some(Finding::Unreadable { path, reason: source.to_string() })),
        Error::Unusable { reason, .. } => Ok(Some(Finding::Unusable { path, reason })),
        error => Ok(Some(Finding::Unusable { path, reason: error.to_string() })),
    }
}
