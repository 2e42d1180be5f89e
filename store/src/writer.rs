//! Building one pack in a temporary directory.
//!
//! Guarantees: a refused object leaves no trace and the batch stays usable, and refusing objects does not make the file grow;
//! after a failure of the disk the batch is dead and says so; a batch dropped unsealed leaves no file. Memory does not grow
//! with an object's length.
use crate::{
    Error, NameRecord, ObjectId, PackId,
    disk::{self, PackFile},
    limits::{MAX_NAME_BYTES, MAX_ROWS, MAX_TEXT_LEN, bad_name, bounded, check_name},
    name_record::same_size,
    panics::guarded,
    tables::{self, NameRow, ObjectRow, STRIPE},
    view::View,
};
use redb::{Database, ReadableTable, WriteTransaction};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

/// redb's cache while a pack is built: it bounds memory, and pages leave it for the file in bulk.
const WRITE_CACHE_BYTES: usize = 8 << 20;
/// After so many bytes what was written is committed: redb takes the checksums of pages that are still in its cache, which
/// it would read back from the file later. Nothing is durable by that, and nobody sees it.
const COMMIT_BYTES: u64 = 4 << 20;
/// Shorter packs are compacted before their last rows are written, too.
const COMPACT_TWICE_BYTES: u64 = 16 << 20;

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
    uncommitted: u64,
    ahead: disk::Ahead,
    objects: BTreeMap<ObjectId, ObjectRow>,
    names: BTreeMap<String, NameRecord>,
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
            uncommitted: 0,
            ahead: disk::Ahead::default(),
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

    /// Binds a name to an object that the batch or the store holds by the time of commit.
    /// A name the store already binds to that object is left as it is; to another object is refused, unless content takes the
    /// place of an empty object.
    pub fn bind(&mut self, name: &str, record: NameRecord) -> Result<(), Error> {
        self.alive()?;
        check_name(name)?;
        if record.origin.len() > MAX_TEXT_LEN {
            return Err(bad_name(name, "its origin has 4096 bytes at most"));
        }
        let bound = self.names.get(name).or_else(|| self.held.as_ref().and_then(|view| view.binding(name)));
        if let Some(bound) = bound
            && !bound.gives_way_to(name, &record)?
        {
            return Ok(());
        }
        bounded("names in a pack", self.names.len() as u64 + 1, MAX_ROWS)?;
        if let Some(held) = self.size_of(&record.object) {
            same_size(record.object, held, record.size)?;
        }
        self.names.insert(name.to_owned(), record);
        Ok(())
    }

    /// Takes a name over from a pack that is being merged.
    pub(crate) fn take_over(&mut self, name: &str, record: NameRecord) {
        self.names.insert(name.to_owned(), record);
    }

    /// The stripe being filled.
    pub(crate) fn stripe(&self) -> &[u8] {
        &self.stripe
    }

    /// Takes as many bytes as the stripe has room for, and gives the rest. A full stripe is to be closed.
    pub(crate) fn fill_stripe<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Error> {
        self.alive()?;
        let room = STRIPE as usize - self.stripe.len();
        let (now, later) = bytes.split_at(bytes.len().min(room));
        self.stripe.extend_from_slice(now);
        self.stream_len += now.len() as u64;
        Ok(later)
    }

    /// Writes a full stripe, while `beside` reads it on another core, and starts the next.
    pub(crate) fn close_stripe(&mut self, beside: impl FnOnce(&[u8]) + Send) -> Result<(), Error> {
        let at = self.stream_len - self.stripe.len() as u64;
        let full = std::mem::take(&mut self.stripe);
        if at == 0 {
            beside(&full);
            self.stripe.reserve_exact(STRIPE as usize);
            self.first = Some(full);
            return Ok(());
        }
        rayon_core::in_place_scope(|scope| {
            scope.spawn(|_| beside(&full));
            self.write_rows(at, &full)
        })?;
        self.stripe = full;
        self.stripe.clear();
        self.uncommitted += STRIPE;
        if self.uncommitted >= COMMIT_BYTES {
            self.commit(false)?;
            if let Err(error) = self.ahead.push(&self.file.file) {
                self.abandon();
                return Err(Error::io(&self.file.path, "write")(error));
            }
        }
        Ok(())
    }

    /// The objects put so far.
    pub(crate) fn objects(&self) -> &BTreeMap<ObjectId, ObjectRow> {
        &self.objects
    }

    /// Keeps the object whose bytes were appended last.
    pub(crate) fn keep(&mut self, row: ObjectRow) {
        self.objects.insert(row.id, row);
    }

    /// Gives the stripe that begins at `at`, or what there is of it.
    pub(crate) fn with_stripe(&self, at: u64, take: impl FnOnce(&[u8])) -> Result<(), Error> {
        match (&self.open, &self.first) {
            _ if at + self.stripe.len() as u64 == self.stream_len => take(&self.stripe),
            (_, Some(first)) if at == 0 => take(first),
            (None, _) => return self.alive(),
            (Some((txn, _)), _) => guarded(&self.file.path, "read", || {
                let table = txn.open_table(tables::TABLE)?;
                if let Some(row) = table.get((tables::BYTES, at))? {
                    take(row.value());
                }
                Ok(())
            })?,
        }
        Ok(())
    }

    /// The error of a batch whose file gives back other bytes than were written.
    pub(crate) fn altered(&self) -> Error {
        Error::unusable(&self.file.path, "it was altered while it was written")
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
    pub(crate) fn rewind(&mut self, start: u64) -> Result<(), Error> {
        if start == self.stream_len {
            return Ok(());
        }
        if start >= self.stream_len - self.stripe.len() as u64 {
            self.stripe.truncate(self.stripe.len() - (self.stream_len - start) as usize);
            self.stream_len = start;
            return Ok(());
        }
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

    /// Writes what is left, compacts and closes: gives a whole pack's file, still to be made durable.
    /// On any error the batch is dropped and its file gone.
    pub(crate) fn close(mut self, now_s: u64) -> Result<PackFile, Error> {
        self.alive()?;
        if self.is_empty() {
            return Err(Error::EmptyBatch);
        }
        bounded("time in seconds", now_s, PackId::MAX_TIME_S)?;
        bounded("names in a pack", self.names.len() as u64, MAX_ROWS)?;
        bounded("objects in a pack", self.objects.len() as u64, MAX_ROWS)?;
        let mut name_bytes = 0;
        for (name, record) in &self.names {
            name_bytes += name.len() + record.origin.len();
            let held = self
                .size_of(&record.object)
                .ok_or_else(|| Error::ObjectMissing { name: name.clone(), object: record.object })?;
            same_size(record.object, held, record.size)?;
        }
        bounded("bytes of names in a pack", name_bytes as u64, MAX_NAME_BYTES as u64)?;
        // Moves the large pages together at the start of the file, before small ones settle in gaps that a large one could
        // take. In a long file these gaps are of no weight, and looking through it costs a read of all of it.
        self.commit(self.stream_len < COMPACT_TWICE_BYTES)?;
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
        if let Some((txn, mut db)) = self.open.take() {
            guarded(&self.file.path, "write", || {
                txn.commit()?;
                db.compact()?;
                Ok(db.close()?)
            })?;
        }
        self.ahead.finish().map_err(Error::io(&self.file.path, "write"))?;
        // From here the file is the store's: dropping `self` must not remove it.
        let path = std::mem::take(&mut self.file.path);
        Ok(PackFile { file: self.file.file.clone(), path })
    }

    pub(crate) fn names(&self) -> &BTreeMap<String, NameRecord> {
        &self.names
    }

    pub(crate) fn size_of(&self, id: &ObjectId) -> Option<u64> {
        self.objects
            .get(id)
            .map(|row| row.size)
            .or_else(|| self.held.as_ref().and_then(|view| view.size_of(id)))
    }

    pub(crate) fn alive(&self) -> Result<(), Error> {
        match self.open {
            Some(_) => Ok(()),
            None => Err(Error::DeadBatch { path: self.file.path.clone() }),
        }
    }

    fn commit(&mut self, compact: bool) -> Result<(), Error> {
        self.uncommitted = 0;
        if let Some((txn, mut db)) = self.open.take() {
            self.open = Some(guarded(&self.file.path, "write", || {
                txn.commit()?;
                if compact {
                    db.compact()?;
                }
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
