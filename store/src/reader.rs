//! Verified positional reads.
//!
//! Guarantees: no byte is handed out that did not hash right in this process; memory does not grow with the object.
use crate::{
    Error, ObjectId, Pack,
    tables::{self, ObjectRow, STRIPE},
};
use bytes::Bytes;
use redb::OwnedAccessGuard;
use std::sync::Arc;

/// Verified pieces that were read lately, shared by all readers of one store: serving a piece again needs no disk, no hashing
/// and no copy. Bounded by bytes.
pub(crate) type HotCache = quick_cache::sync::Cache<PieceKey, Bytes, PieceWeight>;

/// Pack serial, object, piece. The object is part of the key because verified means verified as that object's.
type PieceKey = (u64, ObjectId, u64);

#[derive(Clone, Debug)]
pub(crate) struct PieceWeight;
impl quick_cache::Weighter<PieceKey, Bytes> for PieceWeight {
    fn weight(&self, _: &PieceKey, piece: &Bytes) -> u64 {
        // Key, list links and reference counts weigh too, so that many tiny pieces stay within the bound.
        piece.len() as u64 + 256
    }
}

pub(crate) fn hot_cache(capacity_bytes: u64) -> Arc<HotCache> {
    let pieces = (capacity_bytes / STRIPE).max(16) as usize;
    Arc::new(HotCache::with_weighter(pieces, capacity_bytes, PieceWeight))
}

/// Reads one object by position; every piece is verified when read. Cheap to clone, blocking.
#[derive(Clone)]
pub struct ObjectReader {
    pack: Pack,
    /// Of the object, among the pack's.
    place: usize,
    cache: Option<Arc<HotCache>>,
    /// Packs with another copy, for when this one is rotten.
    others: Vec<Pack>,
}

impl ObjectReader {
    pub(crate) fn new(pack: Pack, place: usize, cache: Option<Arc<HotCache>>) -> Self {
        Self { pack, place, cache, others: Vec::new() }
    }

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
    /// Zero-copy where the chunk is in the hot cache. Bytes that do not hash right are [`Error::Rotten`], unless another pack
    /// has them right.
    pub fn chunk_at(&self, offset: u64) -> Result<Bytes, Error> {
        let Some(piece) = self.piece_at(offset) else {
            return Ok(Bytes::new());
        };
        if let Some(bytes) = self.cached(&piece) {
            return Ok(bytes.slice((offset - piece.start) as usize..));
        }
        let bytes = match self.read_piece(&piece) {
            Ok(bytes) => bytes,
            Err(error) => return self.elsewhere(offset).ok_or(error),
        };
        if let Some(cache) = &self.cache {
            cache.insert(self.key(&piece), bytes.clone());
        }
        Ok(bytes.slice((offset - piece.start) as usize..))
    }

    /// As `chunk_at`, from this pack alone and not hashed; `None` if it is not there. For whoever hashes the whole.
    pub(crate) fn unverified_chunk_at(&self, offset: u64) -> Result<Option<Bytes>, Error> {
        let Some(piece) = self.piece_at(offset) else {
            return Ok(None);
        };
        let bytes = self.read_stream(self.row().start + piece.start, piece.len)?;
        Ok(bytes.map(|bytes| bytes.slice((offset - piece.start) as usize..)))
    }

    /// As `chunk_at`, but only if it needs no disk: the verified chunk is in the hot cache.
    pub fn cached_chunk_at(&self, offset: u64) -> Option<Bytes> {
        let Some(piece) = self.piece_at(offset) else {
            return Some(Bytes::new());
        };
        let bytes = self.cached(&piece)?;
        Some(bytes.slice((offset - piece.start) as usize..))
    }

    fn elsewhere(&self, offset: u64) -> Option<Bytes> {
        self.others.iter().find_map(|pack| {
            let copy = pack.open_cached(&self.id(), self.cache.clone()).ok()??;
            copy.chunk_at(offset).ok().filter(|_| copy.size() == self.size())
        })
    }

    fn cached(&self, piece: &Piece) -> Option<Bytes> {
        self.cache.as_ref()?.get(&self.key(piece))
    }

    fn key(&self, piece: &Piece) -> PieceKey {
        (self.pack.0.serial, self.id(), piece.index)
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
        let rotten = || Error::Rotten { pack: self.pack.id().clone(), object: row.id, offset: piece.start };
        let hash = match row.pieces.get(piece.index as usize) {
            Some(hash) => hash,
            None if row.pieces.is_empty() => row.id.as_bytes(),
            None => return Err(rotten()),
        };
        let bytes = self.read_stream(row.start + piece.start, piece.len)?.ok_or_else(rotten)?;
        if blake3::hash(&bytes).as_bytes() != hash {
            return Err(rotten());
        }
        Ok(bytes)
    }

    /// Reads `len` bytes of the pack's stream, all within one stripe. `None` if rows are missing or cannot be reached.
    fn read_stream(&self, from: u64, len: u64) -> Result<Option<Bytes>, Error> {
        let mut key = tables::stripe_start(from);
        let mut out = Vec::new();
        let end = from + len;
        loop {
            let row = match self.pack.stream_row(key) {
                Ok(Some(row)) => Row(row),
                // The tree that leads to the row is damaged.
                Ok(None) | Err(Error::Unusable { .. }) => return Ok(None),
                Err(error) => return Err(error),
            };
            let row_len = row.as_ref().len() as u64;
            if row_len == 0 || row_len > STRIPE {
                return Ok(None);
            }
            let row_end = key + row_len;
            if row_end <= from {
                key = row_end;
                continue;
            }
            let low = from.max(key) - key;
            let high = end.min(row_end) - key;
            // Most pieces are a row of their own: hand out redb's buffer instead of a copy. A small share of a row is
            // copied, lest it keeps the whole row in memory.
            if low + len == high && len >= row_len / 2 {
                let bytes = Bytes::from_owner(row);
                return Ok(Some(bytes.slice(low as usize..high as usize)));
            }
            if out.is_empty() {
                out.reserve_exact(len as usize);
            }
            out.extend_from_slice(&row.as_ref()[low as usize..high as usize]);
            if out.len() as u64 == len {
                return Ok(Some(out.into()));
            }
            key = row_end;
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

/// A row of the byte stream, kept alive by whoever holds its bytes.
struct Row(OwnedAccessGuard<&'static [u8]>);
impl AsRef<[u8]> for Row {
    fn as_ref(&self) -> &[u8] {
        self.0.value()
    }
}
