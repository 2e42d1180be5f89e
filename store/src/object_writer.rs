//! Writing one object into a batch.
//!
//! Guarantees: an object is in the batch only once it is finished; one that is dropped before, or was there already, leaves no
//! byte behind. Memory does not grow with an object's length.
use crate::{
    Error, Hasher, ObjectId, PackWriter,
    limits::{MAX_OBJECT_LEN, MAX_ROWS, bounded},
    name_record::same_size,
    tables::{ObjectRow, STRIPE},
};
use std::io::{self, Read};

impl PackWriter {
    /// Starts an object: write its bytes into the result, then finish that.
    pub fn object(&mut self) -> Result<ObjectWriter<'_>, Error> {
        self.alive()?;
        bounded("objects in a pack", self.objects().len() as u64 + 1, MAX_ROWS)?;
        let start = self.len();
        let (hasher, pieces) = (Hasher::new(), Vec::new());
        Ok(ObjectWriter {
            batch: self,
            start,
            hasher,
            pieces,
            offered: 0,
            limit: MAX_OBJECT_LEN,
            kept: false,
        })
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
        let mut object = self.object()?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            match bytes.read(&mut buffer) {
                Ok(0) if object.len() < len => {
                    return Err(Error::Short { object: id, expected: len, found: object.len() });
                }
                Ok(0) => return object.finish_as(id).map(drop),
                Ok(n) if object.len() + n as u64 > len => {
                    return Err(Error::Long { object: id, expected: len });
                }
                Ok(n) => object.append(&buffer[..n])?,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Source { object: id, source }),
            }
        }
    }
}

/// Takes the bytes of one object in pieces of any length, and hashes them. Dropped unfinished, it takes back all of them.
#[derive(Debug)]
pub struct ObjectWriter<'a> {
    batch: &'a mut PackWriter,
    /// Where it begins in the pack's stream.
    start: u64,
    hasher: Hasher,
    /// Hashes of its pieces so far.
    pieces: Vec<[u8; 32]>,
    /// Bytes offered so far, and how many may be.
    offered: u64,
    limit: u64,
    kept: bool,
}

impl ObjectWriter<'_> {
    /// Bytes taken so far.
    pub fn len(&self) -> u64 {
        self.batch.len() - self.start
    }

    /// Says whether no byte was taken so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the next bytes. An object longer than [`MAX_OBJECT_LEN`] is refused ([`Error::TooMuch`]); after any other error
    /// the batch is dead. [`io::Write`] does the same, with the error inside an [`io::Error`].
    pub fn append(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.offered = self.offered.saturating_add(bytes.len() as u64);
        bounded("object length in bytes", self.offered, self.limit)?;
        while !bytes.is_empty() {
            bytes = self.batch.fill_stripe(bytes)?;
            if self.batch.stripe().len() as u64 == STRIPE {
                let from = self.piece_start();
                let Self { batch, hasher, pieces, .. } = self;
                batch.close_stripe(|stripe| hash_piece(&stripe[from..], hasher, pieces))?;
            }
        }
        Ok(())
    }

    /// Keeps the object and gives its id and length in bytes. One that the batch or the store has already is not kept twice.
    pub fn finish(mut self) -> Result<(ObjectId, u64), Error> {
        let id = self.close();
        self.keep(id)
    }

    /// As `finish`, if the object is `expected`.
    pub(crate) fn finish_as(mut self, expected: ObjectId) -> Result<(ObjectId, u64), Error> {
        let found = self.close();
        if found != expected {
            return Err(Error::WrongHash { expected, found });
        }
        self.keep(found)
    }

    fn close(&mut self) -> ObjectId {
        let from = self.piece_start();
        hash_piece(&self.batch.stripe()[from..], &mut self.hasher, &mut self.pieces);
        // The hash of an object that is one piece is its id.
        if self.pieces.len() == 1 {
            self.pieces.clear();
        }
        self.hasher.finish()
    }

    fn keep(mut self, id: ObjectId) -> Result<(ObjectId, u64), Error> {
        self.batch.alive()?;
        bounded("object length in bytes", self.offered, self.limit)?;
        let size = self.len();
        if let Some(held) = self.batch.size_of(&id) {
            same_size(id, held, size)?;
            return Ok((id, size));
        }
        let pieces = std::mem::take(&mut self.pieces);
        self.batch.keep(ObjectRow { id, start: self.start, size, pieces });
        self.kept = true;
        Ok((id, size))
    }

    /// Where the object's share of the stripe being filled begins.
    fn piece_start(&self) -> usize {
        let stripe = self.batch.stripe().len();
        let stripe_at = self.batch.len() - stripe as u64;
        (self.start.saturating_sub(stripe_at) as usize).min(stripe)
    }
}

/// Hashes the next piece of an object; an empty one is none.
fn hash_piece(piece: &[u8], hasher: &mut Hasher, pieces: &mut Vec<[u8; 32]>) {
    if piece.is_empty() {
        return;
    }
    hasher.update(piece);
    // So far there is only the first piece.
    let hash = if pieces.is_empty() { hasher.finish() } else { ObjectId::of(piece) };
    pieces.push(*hash.as_bytes());
}

impl io::Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.append(bytes) {
            Ok(()) => Ok(bytes.len()),
            Err(Error::Io { source, path, op }) => {
                let kind = source.kind();
                Err(io::Error::new(kind, Error::Io { source, path, op }))
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ObjectWriter<'_> {
    fn drop(&mut self) {
        if !self.kept {
            // If that fails the batch is dead, and its next use returns the error.
            let _ = self.batch.rewind(self.start);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use io::Write;

    #[test]
    fn an_object_beyond_its_limit_is_refused_and_not_kept_in_part() {
        let dir = tempfile::tempdir().unwrap();
        let mut batch = PackWriter::create(dir.path()).unwrap();
        for excess in [1, 300_000] {
            let mut object = batch.object().unwrap();
            object.limit = 300_000;
            object.append(&vec![7; 300_000]).unwrap();
            let error = object.write_all(&vec![7; excess]).unwrap_err().downcast::<Error>().unwrap();
            let offered = 300_000 + excess as u64;
            assert!(matches!(error, Error::TooMuch { found, limit: 300_000, .. } if found == offered));
            assert!(matches!(object.finish(), Err(Error::TooMuch { .. })));
            assert_eq!(batch.len(), 0);
        }
        let mut object = batch.object().unwrap();
        object.limit = 300_000;
        object.append(&vec![7; 300_000]).unwrap();
        assert_eq!(object.finish().unwrap(), (ObjectId::of(&vec![7; 300_000]), 300_000));
    }
}
