//! Verified positional reads.
use crate::{Error, ObjectId};
use bytes::Bytes;
/// Reads one object by position; every chunk is verified when read. Cheap to clone, blocking.
#[derive(Clone, Debug)]
pub struct ObjectReader;
impl ObjectReader {
    /// The object.
    pub fn id(&self) -> ObjectId {
        todo!()
    }
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        todo!()
    }
    /// The bytes from `offset` (below `size`) to the end of the chunk that holds it, at most about 256 KiB.
    /// Zero-copy where the chunk is in the hot cache.
    pub fn chunk_at(&self, _offset: u64) -> Result<Bytes, Error> {
        todo!()
    }
    /// As `chunk_at`, but only if it needs no disk: the verified chunk is in the hot cache.
    pub fn cached_chunk_at(&self, _offset: u64) -> Option<Bytes> {
        todo!()
    }
}
