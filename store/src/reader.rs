//! Verified positional reads.
//!
//! Guarantees: no byte is handed out that did not hash right in this process; memory does not grow with the object.
use crate::{
    Error, ObjectId, Pack,
    tables::{self, ObjectRow, STRIPE},
};
use bytes::{Bytes, BytesMut};
use redb::OwnedAccessGuard;

impl Pack {
    /// Opens one of its objects; `None` if it has no such object.
    pub fn open(&self, id: &ObjectId) -> Result<Option<ObjectReader>, Error> {
        Ok(self.reader(id))
    }

    pub(crate) fn reader(&self, id: &ObjectId) -> Option<ObjectReader> {
        let place = self.place_of(id)?;
        Some(ObjectReader { pack: self.clone(), place, others: Vec::new() })
    }
}

/// Reads one object by position; every piece is verified when read. Cheap to clone, blocking.
#[derive(Clone)]
pub struct ObjectReader {
    pack: Pack,
    /// The object's index in the pack.
    place: usize,
    /// Packs with another copy, for when this one is corrupt.
    others: Vec<Pack>,
}

impl ObjectReader {
    fn row(&self) -> &ObjectRow {
        self.pack.object_at(self.place)
    }

    pub(crate) fn with_others(mut self, others: Vec<Pack>) -> Self {
        self.others = others;
        self
    }

    /// The object.
    pub fn id(&self) -> ObjectId {
        self.row().id
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.row().size
    }

    /// The pack it is read from.
    pub fn pack(&self) -> &Pack {
        &self.pack
    }

    /// The bytes from `offset` to the end of the chunk that holds it, at most about 256 KiB; empty from `size` on.
    /// Bytes that do not hash right are [`Error::Corrupt`], unless another pack has them right.
    pub fn chunk_at(&self, offset: u64) -> Result<Bytes, Error> {
        let Some(piece) = self.piece_at(offset) else {
            return Ok(Bytes::new());
        };
        match self.read_piece(&piece) {
            Ok(bytes) => Ok(bytes.slice((offset - piece.start) as usize..)),
            Err(error) => self.elsewhere(offset).ok_or(error),
        }
    }

    /// As `chunk_at`, from this pack alone and not hashed; `None` if it is not there. For a caller that hashes the whole.
    pub(crate) fn unverified_chunk_at(&self, offset: u64) -> Result<Option<Bytes>, Error> {
        let Some(piece) = self.piece_at(offset) else {
            return Ok(None);
        };
        let bytes = self.read_stream(self.row().start + piece.start, piece.len)?;
        Ok(bytes.map(|bytes| bytes.slice((offset - piece.start) as usize..)))
    }

    /// Lets the kernel forget what it read ahead or kept of the pack's file, for a caller that has a copy of its own.
    pub fn forget_file(&self) {
        // Advice: where it is not taken, memory is used twice and nothing is wrong.
        let _ = rustix::fs::fadvise(self.pack.file(), 0, None, rustix::fs::Advice::DontNeed);
    }

    fn elsewhere(&self, offset: u64) -> Option<Bytes> {
        self.others.iter().find_map(|pack| {
            let copy = pack.reader(&self.id())?;
            copy.chunk_at(offset).ok().filter(|_| copy.size() == self.size())
        })
    }

    fn piece_at(&self, offset: u64) -> Option<Piece> {
        let ObjectRow { start: at, size, .. } = *self.row();
        if offset >= size {
            return None;
        }
        // An object's pieces are its share of each stripe of the stream.
        let stripe = tables::stripe_start(at + offset);
        let start = stripe.saturating_sub(at);
        let end = (stripe + STRIPE - at).min(size);
        Some(Piece { index: stripe / STRIPE - at / STRIPE, start, len: end - start })
    }

    fn read_piece(&self, piece: &Piece) -> Result<Bytes, Error> {
        let row = self.row();
        let corrupt = || Error::Corrupt { pack: self.pack.id().clone(), object: row.id, offset: piece.start };
        let hash = match row.pieces.get(piece.index as usize) {
            Some(hash) => hash,
            None if row.pieces.is_empty() => row.id.as_bytes(),
            None => return Err(corrupt()),
        };
        let bytes = self.read_stream(row.start + piece.start, piece.len)?.ok_or_else(corrupt)?;
        if blake3::hash(&bytes).as_bytes() != hash {
            return Err(corrupt());
        }
        Ok(bytes)
    }

    /// Reads `len` bytes of the pack's stream, all within one stripe. `None` if rows are missing, of another length than the
    /// format has them, or cannot be reached.
    fn read_stream(&self, from: u64, len: u64) -> Result<Option<Bytes>, Error> {
        let mut out = BytesMut::new();
        let end = from + len;
        loop {
            let at = from + out.len() as u64;
            let (key, row_len) = tables::row_at(at, self.pack.data_len());
            let row = match self.pack.stream_row(key) {
                Ok(Some(row)) if row.value().len() as u64 == row_len => Row(row),
                // Unusable: the tree that leads to the row is damaged.
                Ok(_) | Err(Error::Unusable { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let part = (at - key) as usize..(end.min(key + row_len) - key) as usize;
            // Most pieces are a row of their own: hand out redb's buffer instead of a copy. A small share of a row is
            // copied, so that it does not keep the whole row in memory.
            if part.len() as u64 == len && len >= row_len / 2 {
                return Ok(Some(Bytes::from_owner(row).slice(part)));
            }
            out.extend_from_slice(&row.as_ref()[part]);
            if out.len() as u64 == len {
                return Ok(Some(out.freeze()));
            }
        }
    }
}

impl std::fmt::Debug for ObjectReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ObjectReader({} in {})", self.id(), self.pack.id())
    }
}

/// A piece of an object, in the object's own offsets.
struct Piece {
    index: u64,
    start: u64,
    len: u64,
}

/// A row of the byte stream, alive as long as its bytes are held.
struct Row(OwnedAccessGuard<&'static [u8]>);
impl AsRef<[u8]> for Row {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}
