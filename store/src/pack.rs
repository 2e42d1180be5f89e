//! A sealed pack, open for reading.
//!
//! Guarantees: opening reads the lists of names and objects, checks them and their number, and follows no symbolic link; a file
//! that is foreign, cut short or altered is an error, not a panic. An open pack stays readable when its file is unlinked.
//! Does not guarantee that the objects' bytes are whole: that is checked piece by piece when they are read
//! ([`ObjectReader`]), or ahead of time by [`crate::check`].
use crate::{
    Error, ObjectId, ObjectReader, caught,
    disk::{self, PackFile},
    reader::HotCache,
    tables::{self, BadRow, Head, NameRow, ObjectRow},
    writer::{MAX_ROWS, bounded, check_name},
};
use redb::{Builder, OwnedAccessGuard, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase};
use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

/// redb's cache for one sealed pack. The hot cache holds what is served and the kernel's page cache the rest: here only
/// the inner nodes of a tree are worth keeping, and there may be hundreds of packs.
const READ_CACHE_BYTES: usize = 64 << 10;

/// Most bytes of names and their records in one pack. They are held in memory.
pub(crate) const MAX_NAME_BYTES: usize = 64 << 20;

/// A sealed pack's id: its file stem, e.g. `20261122T205800Z-3f2a91c04d5e6b77`.
/// Ids sort by the time of sealing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackId(Arc<str>);

impl PackId {
    const HASH_HEX: usize = 16;

    pub(crate) fn new(sealed_at_s: u64, hash: &blake3::Hash) -> Result<Self, Error> {
        let year_9999_s = 253_402_300_799;
        bounded("time in seconds", sealed_at_s, year_9999_s)?;
        let time = jiff::Timestamp::from_second(sealed_at_s as i64).unwrap_or_default();
        let hash = hash.to_hex();
        Ok(Self(format!("{}-{}", time.strftime("%Y%m%dT%H%M%SZ"), &hash[..Self::HASH_HEX]).into()))
    }

    /// Takes the name of a file in `store/`; `None` if no pack is called so.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".redb")?;
        let fits = stem.len() == 33
            && stem.bytes().enumerate().all(|(i, b)| match i {
                8 => b == b'T',
                15 => b == b'Z',
                16 => b == b'-',
                0..=14 => b.is_ascii_digit(),
                _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
            });
        fits.then(|| Self(stem.into()))
    }

    /// The name of its file in `store/`.
    pub fn file_name(&self) -> String {
        format!("{}.redb", self.0)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The start of the BLAKE3 hash of the sealed file, 16 hex digits.
    pub fn hash_start(&self) -> &str {
        &self.0[self.0.len() - Self::HASH_HEX..]
    }
}

impl serde::Serialize for PackId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl std::fmt::Display for PackId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}

/// What a name is bound to, and how it came here.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct NameRecord {
    /// The object.
    pub object: ObjectId,
    /// Its length in bytes.
    pub size: u64,
    /// The content's own date (HTTP's Last-Modified), epoch seconds, where it has one.
    pub modified_s: Option<u64>,
    /// When this installation stored it, epoch seconds.
    pub stored_at_s: u64,
    /// Where the bytes came from: a URL or a path.
    pub origin: String,
    /// How they were verified, in words.
    pub proof: String,
}

/// A sealed pack, open for reading. Cheap to clone.
#[derive(Clone)]
pub struct Pack(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: PackId,
    /// Tells packs apart in the hot cache, also when one is opened twice.
    pub(crate) serial: u64,
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<File>,
    file_len: u64,
    head: Head,
    /// By name.
    names: Names,
    /// By id.
    objects: Vec<ObjectRow>,
    handle: RwLock<Arc<Handle>>,
}

impl Pack {
    /// Opens a sealed pack. Its file name must be a pack's.
    pub fn open_file(path: &Path) -> Result<Self, Error> {
        let id = path
            .file_name()
            .and_then(|name| PackId::from_file_name(name.to_str()?))
            .ok_or_else(|| Error::unusable(path, "its name is not a pack's"))?;
        Self::open_as(path, id, path.to_owned())
    }

    /// Opens the file at `path` as the pack that is, or will be, at `home`.
    pub(crate) fn open_as(path: &Path, id: PackId, home: PathBuf) -> Result<Self, Error> {
        let file = Arc::new(disk::open_regular(path)?);
        let file_len = file.metadata().map_err(Error::io(path, "inspect"))?.len();
        let handle = Handle::open(&file, path)?;
        let table = &handle.table;
        let op = "read";
        let found = guarded(path, op, || {
            let found = table.get(tables::FORMAT_KEY)?;
            Ok(found.ok_or(BadRow).and_then(|row| tables::decode_format(row.value())))
        })?;
        match found {
            Ok(tables::FORMAT) => {}
            Ok(found) => {
                return Err(Error::NewerFormat { path: path.to_owned(), found, supported: tables::FORMAT });
            }
            Err(BadRow) => return Err(Error::unusable(path, "it says no format version")),
        }
        let head = guarded(path, op, || {
            let row = table.get(tables::HEAD_KEY)?;
            Ok(row.ok_or(BadRow).and_then(|row| tables::decode_head(row.value())))
        })?;
        let head = head.map_err(|BadRow| Error::unusable(path, "its head is damaged"))?;
        bounded("objects in a pack", head.objects, MAX_ROWS)?;
        bounded("names in a pack", head.names, MAX_ROWS)?;
        let (objects, names) = (read_objects(path, table, &head)?, read_names(path, table, &head)?);
        static SERIAL: AtomicU64 = AtomicU64::new(0);
        Ok(Self(Arc::new(Inner {
            id,
            serial: SERIAL.fetch_add(1, Ordering::Relaxed),
            path: home,
            file,
            file_len,
            head,
            names,
            objects,
            handle: RwLock::new(Arc::new(handle)),
        })))
    }

    /// Its id.
    pub fn id(&self) -> &PackId {
        &self.0.id
    }

    /// Where its file was when it was opened.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Length of the sealed file in bytes.
    pub fn file_len(&self) -> u64 {
        self.0.file_len
    }

    /// Length of its objects in bytes, all together.
    pub fn data_len(&self) -> u64 {
        self.0.head.stream_len
    }

    /// When it was sealed, epoch seconds.
    pub fn sealed_at_s(&self) -> u64 {
        self.0.head.sealed_at_s
    }

    /// The names it binds, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = (&str, &NameRecord)> {
        self.0.names.iter().map(|(name, record)| (&**name, record))
    }

    /// The objects it holds, by id, with their length in bytes.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = (ObjectId, u64)> {
        self.0.objects.iter().map(|row| (row.id, row.size))
    }

    /// Opens one of its objects; `None` if it has no such object.
    pub fn open(&self, id: &ObjectId) -> Result<Option<ObjectReader>, Error> {
        self.open_cached(id, None)
    }

    pub(crate) fn open_cached(
        &self,
        id: &ObjectId,
        cache: Option<Arc<HotCache>>,
    ) -> Result<Option<ObjectReader>, Error> {
        let place = self.0.objects.binary_search_by_key(id, |row| row.id);
        Ok(place.ok().map(|place| ObjectReader::new(self.clone(), place, cache)))
    }

    /// Re-hashes the file at reading speed and compares with the hash in its name: finds any changed byte.
    /// `progress` gets the number of bytes just read.
    pub fn check_file_hash(&self, progress: &mut dyn FnMut(u64)) -> Result<(), Error> {
        self.check_file_hash_on(Cores::All, progress)
    }

    pub(crate) fn check_file_hash_on(
        &self,
        cores: Cores,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), Error> {
        let inner = &*self.0;
        let hash = hash_file(&inner.file, &inner.path, cores, progress)?.to_hex();
        let found = &hash[..PackId::HASH_HEX];
        if found == inner.id.hash_start() {
            return Ok(());
        }
        Err(Error::FileChanged {
            path: inner.path.clone(),
            expected: inner.id.hash_start().to_owned(),
            found: found.to_owned(),
        })
    }

    /// The name at a place among [`Pack::names`].
    pub(crate) fn name_at(&self, place: u32) -> (&str, &NameRecord) {
        let (name, record) = &self.0.names[place as usize];
        (name, record)
    }

    /// The object at a place among [`Pack::objects`].
    pub(crate) fn object_at(&self, place: usize) -> &ObjectRow {
        &self.0.objects[place]
    }

    pub(crate) fn file(&self) -> &Arc<File> {
        &self.0.file
    }

    pub(crate) fn ids_in_stream_order(&self) -> Vec<ObjectId> {
        let mut ids: Vec<_> = self.0.objects.iter().map(|row| (row.start, row.id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id).collect()
    }

    /// Reads a row of the byte stream; `None` if there is none.
    pub(crate) fn stream_row(&self, at: u64) -> Result<Option<OwnedAccessGuard<&'static [u8]>>, Error> {
        let inner = &*self.0;
        let read = || {
            let handle = inner.handle.read().unwrap_or_else(PoisonError::into_inner).clone();
            guarded(&inner.path, "read", || {
                let row = handle.table.get_owned((tables::BYTES, at))?;
                // On a damaged page finding the value panics: here, or not at all.
                row.as_ref().map(|row| row.value().len());
                Ok(row)
            })
        };
        let reopen = || {
            let fresh = Handle::open(&inner.file, &inner.path)?;
            *inner.handle.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(fresh);
            Ok(())
        };
        match read() {
            Ok(row) => Ok(row),
            // Another reader's failure, which redb remembers for all of its handle.
            Err(Error::Redb { .. }) => {
                reopen()?;
                read()
            }
            Err(error) => {
                reopen()?;
                Err(error)
            }
        }
    }
}

impl std::fmt::Debug for Pack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pack({})", self.0.id)
    }
}

/// An open redb database. After one failed read, of a damaged page or from a failing disk, it refuses every other.
struct Handle {
    table: Table,
    /// Keeps the table readable.
    _db: ReadOnlyDatabase,
}

impl Handle {
    fn open(file: &Arc<File>, path: &Path) -> Result<Self, Error> {
        let backend = PackFile { file: file.clone(), path: path.to_owned() };
        guarded(path, "read", || {
            let db = Builder::new().set_cache_size(READ_CACHE_BYTES).open_read_only_with_backend(backend)?;
            let table = db.begin_read()?.open_table(tables::TABLE)?;
            Ok(Self { table, _db: db })
        })
    }
}

type Table = ReadOnlyTable<tables::Key, &'static [u8]>;
type Names = Vec<(Box<str>, NameRecord)>;

fn read_objects(path: &Path, table: &Table, head: &Head) -> Result<Vec<ObjectRow>, Error> {
    let mut objects = Vec::<ObjectRow>::new();
    let whole = read_blocks(path, table, tables::OBJECTS, |key, block| {
        tables::decode_block(key, block, |row: ObjectRow| {
            let ascends = objects.last().is_none_or(|last| last.id < row.id);
            // Nothing of an empty object is ever read and compared with its id.
            let fits = row.fits(head.stream_len) && (row.size > 0 || row.id == ObjectId::of(b""));
            if !ascends || !fits || objects.len() as u64 >= head.objects {
                return Err(BadRow);
            }
            objects.push(row);
            Ok(())
        })
    })?;
    if whole.is_err() || objects.len() as u64 != head.objects {
        return Err(Error::unusable(path, "its list of objects is damaged"));
    }
    Ok(objects)
}

fn read_names(path: &Path, table: &Table, head: &Head) -> Result<Names, Error> {
    let mut names = Names::new();
    let mut name_bytes = 0;
    let whole = read_blocks(path, table, tables::NAMES, |key, block| {
        tables::decode_block(key, block, |row: NameRow<'_>| {
            name_bytes += row.text_len();
            let ascends = names.last().is_none_or(|(last, _)| **last < *row.name);
            let allowed = check_name(row.name).is_ok() && name_bytes <= MAX_NAME_BYTES;
            if !ascends || !allowed || names.len() as u64 >= head.names {
                return Err(BadRow);
            }
            names.push((row.name.into(), row.record()));
            Ok(())
        })
    })?;
    if whole.is_err() || names.len() as u64 != head.names {
        return Err(Error::unusable(path, "its list of names is damaged"));
    }
    Ok(names)
}

/// Gives every block of a section to `take`, until that refuses one.
fn read_blocks(
    path: &Path,
    table: &Table,
    section: u8,
    mut take: impl FnMut(tables::Key, &[u8]) -> Result<(), BadRow>,
) -> Result<Result<(), BadRow>, Error> {
    guarded(path, "read", || {
        for (expected, row) in table.range((section, 0)..=(section, u64::MAX))?.enumerate() {
            let (key, block) = row?;
            if key.value() != (section, expected as u64) {
                return Ok(Err(BadRow));
            }
            if let Err(bad) = take(key.value(), block.value()) {
                return Ok(Err(bad));
            }
        }
        Ok(Ok(()))
    })
}

/// On how many cores one file is hashed.
#[derive(Clone, Copy)]
pub(crate) enum Cores {
    /// The others are hashing other files.
    One,
    All,
}

pub(crate) fn hash_file(
    file: &File,
    path: &Path,
    cores: Cores,
    progress: &mut dyn FnMut(u64),
) -> Result<blake3::Hash, Error> {
    let mut hasher = blake3::Hasher::new();
    // Long enough to be worth hashing on several cores, short enough to stay in a core's cache.
    let mut buffer = match cores {
        Cores::One => vec![0; 256 << 10],
        Cores::All => vec![0; 1 << 20],
    };
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(n) => {
                match cores {
                    Cores::One => hasher.update(&buffer[..n]),
                    Cores::All => hasher.update_rayon(&buffer[..n]),
                };
                at += n as u64;
                progress(n as u64);
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(path, "read")(e)),
        }
    }
}

/// Runs a step of redb on the file at `path`; a panic becomes an error about the file.
pub(crate) fn guarded<T>(
    path: &Path,
    op: &'static str,
    step: impl FnOnce() -> Result<T, redb::Error>,
) -> Result<T, Error> {
    match caught(step) {
        Some(result) => result.map_err(|e| Error::redb(path, op, e)),
        None => Err(Error::unusable(path, "its structure is damaged")),
    }
}
