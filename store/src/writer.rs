//! Building one pack in a temporary directory.
//!
//! Guarantees: an object is in the pack only if its bytes were of the announced length and hash; a refused object leaves no
//! trace and the batch stays usable; after a failure of the disk the batch is dead and says so; a batch dropped unsealed
//! leaves no file. Memory does not grow with an object's length.
use crate::{
    Error, NameRecord, ObjectId, PackId,
    disk::{self, PackFile},
    pack::{Cores, MAX_NAME_BYTES, guarded, hash_file},
    tables::{self, NameRow, ObjectRow, STRIPE},
    view::View,
};
use redb::{Database, ReadableTable, WriteTransaction};
use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// Longest name in bytes.
pub const MAX_NAME_LEN: usize = 255;
/// Longest `origin` or `proof` of a [`NameRecord`] in bytes.
pub const MAX_TEXT_LEN: usize = 4096;
/// Most names, and most objects, in one pack.
pub const MAX_ROWS: u64 = 250_000;
/// Longest object in bytes.
pub const MAX_OBJECT_LEN: u64 = 16 << 30;

/// redb's cache while a pack is built: it bounds memory, and pages leave it for the file in bulk.
const WRITE_CACHE_BYTES: usize = 8 << 20;

/// Builds one pack in a temporary directory. Dropped unsealed, it leaves nothing.
pub struct PackWriter {
    /// What the store held when the batch began: not stored again, not bound otherwise.
    held: Option<Arc<View>>,
    file: PackFile,
    /// `None` once the batch is dead.
    open: Option<(WriteTransaction, Database)>,
    /// The stripe being filled; its first byte is at `stripe_start(stream_len)`.
    stripe: Vec<u8>,
    /// The first stripe, once it is full: its small rows are written last, into the gaps between large pages.
    first: Option<Vec<u8>>,
    stream_len: u64,
    objects: BTreeMap<ObjectId, ObjectRow>,
    names: BTreeMap<String, NameRecord>,
}

/// A sealed file that still has its temporary name.
pub(crate) struct Sealed {
    pub(crate) path: PathBuf,
    pub(crate) id: PackId,
}

impl PackWriter {
    /// Starts a pack in `tmp_dir`.
    pub fn create(tmp_dir: &Path) -> Result<Self, Error> {
        Self::create_beside(tmp_dir, None)
    }

    pub(crate) fn create_beside(tmp_dir: &Path, held: Option<Arc<View>>) -> Result<Self, Error> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let path = tmp_dir.join(format!(
            "pack-{}-{}.tmp",
            std::process::id(),
            COUNTER.fetch_add(1, Ordering::Relaxed)
        ));
        let file = Arc::new(disk::create_new(&path)?);
        let mut writer = Self {
            held,
            file: PackFile { file, path },
            open: None,
            stripe: Vec::with_capacity(STRIPE as usize),
            first: None,
            stream_len: 0,
            objects: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        let backend = writer.file.clone();
        writer.open = Some(guarded(&writer.file.path, "start", || {
            let db = Database::builder().set_cache_size(WRITE_CACHE_BYTES).create_with_backend(backend)?;
            let txn = db.begin_write()?;

            Ok((txn, db))
        })?);
        Ok(writer)
    }

    /// Says whether the batch or the store already has an object: then there is no need to put it.
    pub fn holds(&self, id: &ObjectId) -> bool {
        self.size_of(id).is_some()
    }

    /// Says whether nothing was put or bound that is not held already.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty() && self.names.is_empty()
    }

    /// Length of the objects put so far, in bytes.
    pub fn len(&self) -> u64 {
        self.stream_len
    }

    /// Adds an object: exactly `len` bytes that must hash to `id`. One already held is not read from `bytes` at all.
    /// After an error about the object (`Short`, `Long`, `WrongHash`, `WrongSize`, `Source`, `TooMuch`) the batch goes on
    /// without it; after any other it is dead.
    pub fn put(&mut self, id: ObjectId, len: u64, bytes: &mut dyn Read) -> Result<(), Error> {
        self.alive()?;
        if let Some(held) = self.size_of(&id) {
            return same_size(id, held, len);
        }
        bounded("object length in bytes", len, MAX_OBJECT_LEN)?;
        bounded("objects in a pack", self.objects.len() as u64 + 1, MAX_ROWS)?;
        let start = self.stream_len;
        let result = self.append(id, len, bytes);
        match result {
            Ok(pieces) => {
                let row = ObjectRow { id, start, size: len, pieces };
                self.objects.insert(id, row);
                Ok(())
            }
            Err(error) => {
                if self.open.is_some() {
                    self.rewind(start)?;
                }
                Err(error)
            }
        }
    }

    /// Binds a name to an object that the batch or the store holds by the time of commit.
    /// A name the store already binds to that object is left as it is; to another object is refused.
    pub fn bind(&mut self, name: &str, record: NameRecord) -> Result<(), Error> {
        self.alive()?;
        check_name(name)?;
        for text in [&record.origin, &record.proof] {
            if text.len() > MAX_TEXT_LEN {
                return Err(bad_name(name, "origin and proof have 4096 bytes at most"));
            }
        }
        let bound = self.names.get(name).or_else(|| self.held.as_ref().and_then(|view| view.binding(name)));
        if let Some(bound) = bound {
            return same_object(name, bound, &record);
        }
        bounded("names in a pack", self.names.len() as u64 + 1, MAX_ROWS)?;
        if let Some(held) = self.size_of(&record.object) {
            same_size(record.object, held, record.size)?;
        }
        self.names.insert(name.to_owned(), record);
        Ok(())
    }

    /// Takes a name over from a pack that is being merged.
    pub(crate) fn carry(&mut self, name: &str, record: NameRecord) {
        self.names.insert(name.to_owned(), record);
    }

    /// Streams an object to the end of the stream; gives its pieces' hashes, none where one piece is all.
    fn append(&mut self, id: ObjectId, len: u64, bytes: &mut dyn Read) -> Result<Vec<[u8; 32]>, Error> {
        let mut whole = blake3::Hasher::new();
        let mut pieces = Vec::new();
        let mut done = 0;
        while done < len {
            let from = self.stripe.len();
            let room = STRIPE - from as u64;
            self.stripe.resize(from + room.min(len - done) as usize, 0);
            let got = read_full(bytes, &mut self.stripe[from..])
                .map_err(|source| Error::Source { object: id, source })?;
            self.stripe.truncate(from + got);
            self.stream_len += got as u64;
            done += got as u64;
            let piece = &self.stripe[from..];
            whole.update(piece);
            if done < len && self.stripe.len() as u64 != STRIPE {
                return Err(Error::Short { object: id, expected: len, found: done });
            }
            // One piece is all: its hash is the id.
            if from as u64 + len > STRIPE || !pieces.is_empty() {
                pieces.push(*blake3::hash(piece).as_bytes());
            }
            if self.stripe.len() as u64 == STRIPE {
                let at = tables::stripe_start(self.stream_len - 1);
                let full = std::mem::take(&mut self.stripe);
                if at == 0 {
                    self.first = Some(full);
                } else {
                    self.write_rows(at, &full)?;
                    self.stripe = full;
                    self.stripe.clear();
                }
            }
        }
        let mut beyond = [0];
        if read_full(bytes, &mut beyond).map_err(|source| Error::Source { object: id, source })? > 0 {
            return Err(Error::Long { object: id, expected: len });
        }
        let found = ObjectId::from_bytes(*whole.finalize().as_bytes());
        if found != id {
            return Err(Error::WrongHash { expected: id, found });
        }
        Ok(pieces)
    }

    /// Writes a stripe, or what there is of it.
    fn write_rows(&mut self, mut at: u64, stripe: &[u8]) -> Result<(), Error> {
        self.write(|txn| {
            let mut table = txn.open_table(tables::TABLE)?;
            let mut rest = stripe;
            while !rest.is_empty() {
                let (row, after) = rest.split_at(tables::row_len(at, rest.len() as u64) as usize);
                table.insert((tables::BYTES, at), row)?;
                at += row.len() as u64;
                rest = after;
            }
            Ok(())
        })
    }

    /// Takes the stream back to `start`, from where a refused object was appended.
    fn rewind(&mut self, start: u64) -> Result<(), Error> {
        let stripe_at = tables::stripe_start(start);
        let keep = (start - stripe_at) as usize;
        let mut stripe = std::mem::take(&mut self.stripe);
        if stripe_at == 0 {
            stripe = self.first.take().unwrap_or(stripe);
        }
        self.write(|txn| {
            let mut table = txn.open_table(tables::TABLE)?;
            if let Some(row) = table.get((tables::BYTES, stripe_at))? {
                stripe.clear();
                stripe.extend_from_slice(row.value().get(..keep).unwrap_or_default());
            }
            // Until it is sealed the table has rows of the stream alone.
            while table.last()?.is_some_and(|(key, _)| key.value().1 >= stripe_at) {
                table.pop_last()?;
            }
            Ok(())
        })?;
        stripe.truncate(keep);
        self.stripe = stripe;
        self.stream_len = start;
        Ok(())
    }

    /// Writes what is left, closes, compacts, fsyncs and hashes the file.
    /// On any error the batch is dropped and its file gone.
    pub(crate) fn seal(mut self, now_s: u64) -> Result<Sealed, Error> {
        self.alive()?;
        if self.is_empty() {
            return Err(Error::EmptyBatch);
        }
        bounded("names in a pack", self.names.len() as u64, MAX_ROWS)?;
        bounded("objects in a pack", self.objects.len() as u64, MAX_ROWS)?;
        let mut name_bytes = 0;
        for (name, record) in &self.names {
            name_bytes += NameRow::new(name, record).text_len();
            let held = self
                .size_of(&record.object)
                .ok_or_else(|| Error::ObjectMissing { name: name.clone(), object: record.object })?;
            same_size(record.object, held, record.size)?;
        }
        bounded("bytes of names in a pack", name_bytes as u64, MAX_NAME_BYTES as u64)?;
        self.settle()?;
        let (first, last) = (self.first.take(), std::mem::take(&mut self.stripe));
        self.write_rows(0, &first.unwrap_or_default())?;
        self.write_rows(tables::stripe_start(self.stream_len), &last)?;
        let objects = std::mem::take(&mut self.objects);
        let names = std::mem::take(&mut self.names);
        let head = tables::encode_head(&tables::Head {
            sealed_at_s: now_s,
            stream_len: self.stream_len,
            objects: objects.len() as u64,
            names: names.len() as u64,
        });
        self.write(|txn| {
            let mut table = txn.open_table(tables::TABLE)?;
            table.insert(tables::FORMAT_KEY, tables::encode_format(tables::FORMAT).as_slice())?;
            table.insert(tables::HEAD_KEY, head.as_slice())?;
            let mut write = |key, block: &[u8]| table.insert(key, block).map(drop);
            tables::encode_blocks(tables::OBJECTS, objects.values(), &mut write)?;
            let names = names.iter().map(|(name, record)| NameRow::new(name, record));
            tables::encode_blocks(tables::NAMES, names, &mut write)?;
            Ok(())
        })?;
        let path = self.file.path.clone();
        if let Some((txn, mut db)) = self.open.take() {
            guarded(&path, "write", || {
                txn.commit()?;
                db.compact()?;
                Ok(db.close()?)
            })?;
        }
        disk::seal(&self.file.file, &path)?;
        let hash = hash_file(&self.file.file, &path, Cores::All, &mut |_| {})?;
        let id = PackId::new(now_s, &hash)?;
        // From here the file is the store's: dropping `self` must not remove it.
        self.file.path = PathBuf::new();
        Ok(Sealed { path, id })
    }

    pub(crate) fn names(&self) -> &BTreeMap<String, NameRecord> {
        &self.names
    }

    pub(crate) fn object_ids(&self) -> impl Iterator<Item = &ObjectId> {
        self.objects.keys()
    }

    fn size_of(&self, id: &ObjectId) -> Option<u64> {
        self.objects
            .get(id)
            .map(|row| row.size)
            .or_else(|| self.held.as_ref().and_then(|view| view.size_of(id)))
    }

    fn alive(&self) -> Result<(), Error> {
        match self.open {
            Some(_) => Ok(()),
            None => Err(Error::DeadBatch { path: self.file.path.clone() }),
        }
    }

    /// Moves the large pages together at the start of the file, before small ones settle in gaps that a large one could take.
    fn settle(&mut self) -> Result<(), Error> {
        if let Some((txn, mut db)) = self.open.take() {
            self.open = Some(guarded(&self.file.path, "write", || {
                txn.commit()?;
                db.compact()?;
                Ok((db.begin_write()?, db))
            })?);
        }
        Ok(())
    }

    /// Runs a step of the write transaction; its failure ends the batch.
    fn write(
        &mut self,
        step: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), Error> {
        self.alive()?;
        let result = match &self.open {
            Some((txn, _)) => guarded(&self.file.path, "write", || step(txn)),
            None => Ok(()),
        };
        if result.is_err() {
            self.abandon();
        }
        result
    }

    fn abandon(&mut self) {
        if let Some((txn, db)) = self.open.take() {
            // The file goes anyway: what aborting or closing it says is of no interest.
            let _ = guarded(&self.file.path, "drop", || Ok(txn.abort()?));
            let _ = guarded(&self.file.path, "drop", || Ok(db.close()?));
        }
    }
}

impl Drop for PackWriter {
    fn drop(&mut self) {
        self.abandon();
        if !self.file.path.as_os_str().is_empty() {
            // What cannot be removed now goes when tmp/ is emptied at the next start.
            let _ = disk::unlink(&self.file.path);
        }
    }
}

impl std::fmt::Debug for PackWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackWriter")
            .field("path", &self.file.path)
            .field("objects", &self.objects.len())
            .field("names", &self.names.len())
            .field("bytes", &self.stream_len)
            .finish_non_exhaustive()
    }
}

/// Checks the form of a name: 1 to [`MAX_NAME_LEN`] bytes, no `/`, no control characters, not `.` or `..`.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let rule = if name.is_empty() || name.len() > MAX_NAME_LEN {
        "a name has 1 to 255 bytes"
    } else if name.contains('/') || name == "." || name == ".." {
        "a name is no path"
    } else if name.chars().any(char::is_control) {
        "a name has no control characters"
    } else {
        return Ok(());
    };
    Err(bad_name(name, rule))
}

fn bad_name(name: &str, rule: &'static str) -> Error {
    Error::BadName { name: name.chars().take(MAX_NAME_LEN).collect(), rule }
}

pub(crate) fn same_object(name: &str, held: &NameRecord, offered: &NameRecord) -> Result<(), Error> {
    if held.object == offered.object {
        return same_size(held.object, held.size, offered.size);
    }
    Err(Error::NameConflict { name: name.to_owned(), held: held.object, offered: offered.object })
}

fn same_size(object: ObjectId, held: u64, claimed: u64) -> Result<(), Error> {
    if held == claimed {
        return Ok(());
    }
    Err(Error::WrongSize { object, held, claimed })
}

pub(crate) fn bounded(what: &'static str, found: u64, limit: u64) -> Result<(), Error> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::TooMuch { what, found, limit })
}

/// Reads until `buffer` is full or the source ends.
fn read_full(source: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
