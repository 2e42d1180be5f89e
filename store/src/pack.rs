//! A sealed pack, open for reading.
//!
//! Guarantees: opening reads the lists of names and objects, checks them and their number, and follows no symbolic link; a file
//! that is foreign, cut short or altered is an error, not a panic. No list, however hostile, makes reading every object once
//! cost more than the file's own length. An open pack stays readable when its file is unlinked.
//! Does not guarantee that the objects' bytes are whole: that is checked piece by piece when they are read
//! (`reader`), or ahead of time by `check`.
use crate::{
    Error, NameRecord, ObjectId, PackId,
    disk::{self, Cores, PackFile},
    limits::{MAX_NAME_BYTES, MAX_ROWS, bounded, check_name},
    panics::guarded,
    tables::{self, BadRow, Head, ObjectRow},
};
use parking_lot::RwLock;
use redb::{Builder, OwnedAccessGuard, ReadOnlyDatabase, ReadOnlyTable, ReadableDatabase};
use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

/// redb's cache for one sealed pack. The kernel's page cache holds the rest: here only the inner nodes of a tree are worth
/// keeping, and there may be hundreds of packs.
const READ_CACHE_BYTES: usize = 64 << 10;

/// A sealed pack, open for reading. Cheap to clone.
#[derive(Clone)]
pub struct Pack(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) id: PackId,
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
        let format = found.map_err(|BadRow| Error::unusable(path, "it says no format version"))?;
        if format > tables::FORMAT {
            let (path, found) = (path.to_owned(), format);
            return Err(Error::NewerFormat { path, found, supported: tables::FORMAT });
        }
        let head = guarded(path, op, || {
            let row = table.get(tables::HEAD_KEY)?;
            Ok(row.ok_or(BadRow).and_then(|row| tables::decode_head(row.value())))
        })?;
        let head = head.map_err(|BadRow| Error::unusable(path, "its head is damaged"))?;
        bounded("objects in a pack", head.objects, MAX_ROWS)?;
        bounded("names in a pack", head.names, MAX_ROWS)?;
        if head.stream_len > file_len {
            return Err(Error::unusable(path, "its objects are longer than the file"));
        }
        let (objects, names) = (read_objects(path, table, &head)?, read_names(path, table, &head, format)?);
        Ok(Self(Arc::new(Inner {
            id,
            path: home,
            file,
            file_len,
            head,
            names,
            objects,
            handle: RwLock::new(Arc::new(handle)),
        })))
    }

    /// The same pack with the id and path that it has once sealed; for a pack that nobody else has open yet.
    pub(crate) fn sealed_as(mut self, id: PackId, path: PathBuf) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            (inner.id, inner.path) = (id, path);
        }
        self
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

    /// What it binds a name to.
    pub fn lookup(&self, name: &str) -> Option<&NameRecord> {
        let place = self.0.names.binary_search_by(|(known, _)| (**known).cmp(name)).ok()?;
        Some(self.name_at(place).1)
    }

    /// The objects it holds, by id, with their length in bytes.
    pub fn objects(&self) -> impl ExactSizeIterator<Item = (ObjectId, u64)> {
        self.0.objects.iter().map(|row| (row.id, row.size))
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
        let found = PackId::start_of(&disk::hash_file(&inner.file, &inner.path, cores, progress)?);
        let expected = inner.id.hash_start();
        if found == expected {
            return Ok(());
        }
        Err(Error::FileChanged { path: inner.path.clone(), expected: expected.to_owned(), found })
    }

    /// The name at a place among [`Pack::names`].
    pub(crate) fn name_at(&self, place: usize) -> (&str, &NameRecord) {
        let (name, record) = &self.0.names[place];
        (name, record)
    }

    /// The place of an object among [`Pack::objects`].
    pub(crate) fn place_of(&self, id: &ObjectId) -> Option<usize> {
        self.0.objects.binary_search_by_key(id, |row| row.id).ok()
    }

    /// The object at a place.
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
            let handle = inner.handle.read().clone();
            guarded(&inner.path, "read", || {
                let row = handle.table.get_owned((tables::BYTES, at))?;
                // On a damaged page looking the value up panics, and does so here.
                row.as_ref().map(|row| row.value().len());
                Ok(row)
            })
        };
        let reopen = || {
            let fresh = Handle::open(&inner.file, &inner.path)?;
            *inner.handle.write() = Arc::new(fresh);
            Ok(())
        };
        match read() {
            Ok(row) => Ok(row),
            // Another reader's failure, which redb repeats to all users of its handle.
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
    // Objects do not share bytes: together they are no longer than the stream.
    let mut left = head.stream_len;
    let whole = read_blocks(path, table, tables::OBJECTS, |key, block| {
        tables::decode_block(key, block, |row: ObjectRow| {
            let ascends = objects.last().is_none_or(|last| last.id < row.id);
            // An empty object is never read, so its id is checked here.
            let fits = row.fits(head.stream_len) && (row.size > 0 || row.id == ObjectId::of(b""));
            if !ascends || !fits || objects.len() as u64 >= head.objects {
                return Err(BadRow);
            }
            left = left.checked_sub(row.size).ok_or(BadRow)?;
            objects.push(row);
            Ok(())
        })
    })?;
    if whole.is_err() || objects.len() as u64 != head.objects {
        return Err(Error::unusable(path, "its list of objects is damaged"));
    }
    Ok(objects)
}

fn read_names(path: &Path, table: &Table, head: &Head, format: u64) -> Result<Names, Error> {
    let mut names = Names::new();
    let mut name_bytes = 0;
    let whole = read_blocks(path, table, tables::NAMES, |key, block| {
        tables::decode_names(format, key, block, |name, record| {
            name_bytes += name.len() + record.origin.len();
            let ascends = names.last().is_none_or(|(last, _)| **last < *name);
            let allowed = check_name(name).is_ok() && name_bytes <= MAX_NAME_BYTES;
            if !ascends || !allowed || names.len() as u64 >= head.names {
                return Err(BadRow);
            }
            names.push((name.into(), record));
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
