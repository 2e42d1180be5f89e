//! Looking for damage ahead of time: re-hashes, cross-checks, and says what it found.
//!
//! Guarantees: any changed byte of a sealed pack is found, by the file's hash. In a pack that is not [`Proven`], so is content
//! that never matched its id, and structure that redb would refuse, even where the file's hash is right. Nothing is written,
//! not even by redb's own check.
//! Does not interpret names and contents. Does not hash the pieces of an object whose own hash is right: a piece with a wrong
//! listed hash is refused when it is read.
use crate::{Error, Finding, ObjectId, Pack, PackId, View, disk::Cores, panics::guarded};
use parking_lot::Mutex;
use redb::{Builder, StorageBackend};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    io,
    os::unix::fs::FileExt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
};

/// Gets the number of bytes just checked; called from several threads. [`check_len`] says what they add up to.
pub type Progress<'a> = dyn Fn(u64) + Sync + 'a;

/// How many bytes [`check_pack`] reports as progress for a pack.
pub fn check_len(pack: &Pack) -> u64 {
    pack.file_len() + pack.data_len()
}

/// Whether a pack was checked whole before, when it was sealed or imported. As long as its file has the hash in its name it
/// has not changed since, and its content is not checked again.
pub type Proven<'a> = dyn Fn(&Pack) -> bool + Sync + 'a;

/// Checks every pack of a view, and looks for unused objects. Names whose object is missing or disputed are found when a
/// view is assembled, not here. Returns the proven packs that have not changed.
pub fn check_view(
    view: &View,
    proven: &Proven<'_>,
    progress: &Progress<'_>,
    report: &mut dyn FnMut(Finding),
) -> BTreeSet<PackId> {
    let mut names = HashMap::<ObjectId, Vec<&str>>::new();
    for (name, record) in view.names() {
        names.entry(record.object).or_default().push(name);
    }
    // The large ones first, so that all cores are busy to the end.
    let mut packs: Vec<&Pack> = view.packs().iter().collect();
    packs.sort_by_key(|pack| std::cmp::Reverse(pack.file_len()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = if packs.len() < workers { Cores::All } else { Cores::One };
    let (next, (found, findings)) = (AtomicUsize::new(0), mpsc::channel());
    let unchanged = Mutex::new(BTreeSet::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            let (found, names, packs, next, unchanged) = (found.clone(), &names, &packs, &next, &unchanged);
            scope.spawn(move || {
                // The receiver outlives the workers.
                let mut report = |finding| drop(found.send(finding));
                while let Some(pack) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if check_one(pack, names, proven(pack), cores, progress, &mut report) {
                        unchanged.lock().insert(pack.id().clone());
                    }
                    let unused = pack.objects().filter(|(id, _)| !names.contains_key(id));
                    let (objects, bytes) = unused.fold((0, 0), |(n, sum), (_, size)| (n + 1, sum + size));
                    if objects > 0 {
                        report(Finding::Unused { pack: pack.id().clone(), objects, bytes });
                    }
                }
            });
        }
        drop(found);
        findings.into_iter().for_each(report);
    });
    unchanged.into_inner()
}

/// Checks one pack: its file against the hash in its name; redb's structure and every object against its id, unless that is
/// `proven` (see [`Proven`]) and the file unchanged, which is returned.
pub fn check_pack(
    pack: &Pack,
    proven: bool,
    progress: &Progress<'_>,
    report: &mut dyn FnMut(Finding),
) -> bool {
    let mut names = HashMap::<ObjectId, Vec<&str>>::new();
    for (name, record) in pack.names() {
        names.entry(record.object).or_default().push(name);
    }
    check_one(pack, &names, proven, Cores::All, progress, report)
}

fn check_one(
    pack: &Pack,
    names: &HashMap<ObjectId, Vec<&str>>,
    proven: bool,
    cores: Cores,
    progress: &Progress<'_>,
    report: &mut dyn FnMut(Finding),
) -> bool {
    let hashed = pack.check_file_hash_on(cores, &mut |n| progress(n));
    if proven && hashed.is_ok() {
        progress(pack.data_len());
        return true;
    }
    for error in [hashed.err(), check_structure(pack).err()].into_iter().flatten() {
        report(as_finding(pack, error));
    }
    for (id, error) in check_objects(pack, progress) {
        report(match error {
            Error::Corrupt { offset, .. } => Finding::Corrupt {
                pack: pack.id().clone(),
                object: id,
                offset,
                names: names.get(&id).into_iter().flatten().map(|n| (*n).to_owned()).collect(),
            },
            error => as_finding(pack, error),
        });
    }
    false
}

fn as_finding(pack: &Pack, error: Error) -> Finding {
    let path = pack.path().to_owned();
    match error {
        Error::FileChanged { expected, found, .. } => Finding::FileChanged { path, expected, found },
        Error::Unusable { reason, .. } => Finding::Structure { path, reason },
        error => Finding::Unreadable { path, reason: error.to_string() },
    }
}

/// Hashes every object whole. Gives those that failed.
pub(crate) fn check_objects(pack: &Pack, progress: &Progress<'_>) -> BTreeMap<ObjectId, Error> {
    let mut failed = BTreeMap::new();
    for id in pack.ids_in_stream_order() {
        if let Err(error) = check_object(pack, &id, progress) {
            failed.insert(id, error);
        }
    }
    failed
}

fn check_object(pack: &Pack, id: &ObjectId, progress: &Progress<'_>) -> Result<(), Error> {
    let corrupt = || Error::Corrupt { pack: pack.id().clone(), object: *id, offset: 0 };
    let reader = pack.open(id)?.ok_or_else(corrupt)?;
    let mut whole = crate::Hasher::new();
    let mut at = 0;
    while at < reader.size() {
        // Hashing each piece as well would double the time, and is only of use where the whole is wrong.
        let Some(chunk) = reader.unverified_chunk_at(at)? else { break };
        whole.update(&chunk);
        at += chunk.len() as u64;
        progress(chunk.len() as u64);
    }
    if at == reader.size() && whole.finish() == *id {
        return Ok(());
    }
    let mut at = 0;
    while at < reader.size() {
        at += reader.chunk_at(at)?.len() as u64;
    }
    Err(corrupt())
}

/// Runs redb's integrity check. It needs to write, and repairs: here it writes into memory.
fn check_structure(pack: &Pack) -> Result<(), Error> {
    let backend = Overlay {
        base: pack.file().clone(),
        state: Mutex::new(OverlayState {
            len: pack.file_len(),
            base_len: pack.file_len(),
            pages: BTreeMap::new(),
        }),
    };
    let clean = guarded(pack.path(), "check", || {
        let mut db = Builder::new().set_cache_size(1 << 20).create_with_backend(backend)?;
        Ok(db.check_integrity()?)
    })?;
    match clean {
        true => Ok(()),
        false => Err(Error::unusable(pack.path(), "redb's integrity check would repair it")),
    }
}

/// A pack's file with what is written kept aside in memory.
struct Overlay {
    base: Arc<File>,
    state: Mutex<OverlayState>,
}

struct OverlayState {
    len: u64,
    /// How much of the base still shows: a file cut and grown again reads zeros beyond.
    base_len: u64,
    /// Written pages by number.
    pages: BTreeMap<u64, Box<[u8; PAGE]>>,
}

const PAGE: usize = 4096;
/// A commit that changes nothing writes a few pages for each gigabyte.
const MAX_OVERLAY_PAGES: usize = (64 << 20) / PAGE;

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Overlay")
    }
}

impl Overlay {
    fn read_base(&self, base_len: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = base_len.saturating_sub(offset).min(out.len() as u64) as usize;
        let (there, beyond) = out.split_at_mut(there);
        beyond.fill(0);
        self.base.read_exact_at(there, offset)
    }
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state.lock();
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > state.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_base(state.base_len, offset, out)?;
        let (first, last) = (offset / PAGE as u64, (offset + out.len() as u64) / PAGE as u64);
        for (number, page) in state.pages.range(first..=last) {
            let page_at = number * PAGE as u64;
            let from = offset.max(page_at);
            let to = (offset + out.len() as u64).min(page_at + PAGE as u64);
            if from < to {
                out[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&page[(from - page_at) as usize..(to - page_at) as usize]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        state.len = len;
        state.base_len = state.base_len.min(len);
        state.pages.split_off(&len.div_ceil(PAGE as u64));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, mut data: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        let mut at = offset;
        state.len = state.len.max(offset + data.len() as u64);
        while !data.is_empty() {
            let number = at / PAGE as u64;
            let within = (at % PAGE as u64) as usize;
            let (now, later) = data.split_at(data.len().min(PAGE - within));
            if !state.pages.contains_key(&number) {
                if state.pages.len() >= MAX_OVERLAY_PAGES {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                let mut page = Box::new([0; PAGE]);
                self.read_base(state.base_len, number * PAGE as u64, &mut *page)?;
                state.pages.insert(number, page);
            }
            if let Some(page) = state.pages.get_mut(&number) {
                page[within..within + now.len()].copy_from_slice(now);
            }
            at += now.len() as u64;
            data = later;
        }
        Ok(())
    }
}
