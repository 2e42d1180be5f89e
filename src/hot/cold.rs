//! Chunks of objects that are not in the hot set, on their way to clients.
//!
//! Guaranteed: all clients together hold little more than [`MOST`] bytes of them, however many there are: beyond it each
//! gets a small part of a chunk at a time, which is read and verified again for the next.
use bytes::Bytes;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

/// From here on chunks are cut.
const MOST: u64 = 16 << 20;
/// What is handed out of a chunk then, bytes.
const CUT: usize = 32 << 10;

/// Bytes that clients hold now.
#[derive(Clone, Default, Debug)]
pub struct Cold(Arc<AtomicU64>);

impl Cold {
    /// Whether there is so much that nothing should be read ahead.
    pub fn is_full(&self) -> bool {
        self.0.load(Relaxed) >= MOST
    }

    /// Hands out the start of a chunk, counted until it is dropped.
    pub fn lend(&self, mut chunk: Bytes) -> Bytes {
        if self.is_full() && chunk.len() > CUT {
            chunk = Bytes::copy_from_slice(&chunk[..CUT]);
        }
        self.0.fetch_add(chunk.len() as u64, Relaxed);
        Bytes::from_owner(Lent { chunk, from: self.clone() })
    }
}

struct Lent {
    chunk: Bytes,
    from: Cold,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.chunk
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.from.0.fetch_sub(self.chunk.len() as u64, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_whole_until_many_are_held_and_again_later() {
        let (cold, chunk) = (Cold::default(), Bytes::from(vec![7; 256 << 10]));
        let held: Vec<_> = (0..500).map(|_| cold.lend(chunk.clone())).collect();
        let whole = held.iter().filter(|bytes| bytes.len() == chunk.len()).count() as u64;
        assert_eq!(whole, MOST / chunk.len() as u64);
        assert!(cold.is_full() && cold.0.load(Relaxed) < MOST + 500 * CUT as u64);
        drop(held);
        assert_eq!(cold.0.load(Relaxed), 0);
        assert_eq!(cold.lend(chunk.clone()).len(), chunk.len());
    }
}
