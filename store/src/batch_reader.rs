//! Reading back an object of a batch that is not sealed yet.
use crate::{
    Error, ObjectId, PackWriter,
    tables::{ObjectRow, STRIPE, stripe_start},
};
use std::io::{self, Read};

impl PackWriter {
    /// Reads back an object that was put into this batch; `None` if it is not in it.
    pub fn open(&self, id: &ObjectId) -> Option<BatchReader<'_>> {
        let row = self.objects().get(id)?;
        Some(BatchReader { batch: self, row, read: 0, piece: Vec::new(), at: 0 })
    }
}

/// An object of a batch, read from its start. Every piece is verified when read.
#[derive(Debug)]
pub struct BatchReader<'a> {
    batch: &'a PackWriter,
    row: &'a ObjectRow,
    /// How much of the object was read into `piece`, which is handed out from `at`.
    read: u64,
    piece: Vec<u8>,
    at: usize,
}

impl BatchReader<'_> {
    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        self.row.size
    }

    fn next_piece(&mut self) -> Result<(), Error> {
        let ObjectRow { id, start, size, pieces } = self.row;
        let from = start + self.read;
        let stripe_at = stripe_start(from);
        let end = (stripe_at + STRIPE).min(start + size);
        let range = (from - stripe_at) as usize..(end - stripe_at) as usize;
        self.piece.clear();
        self.batch.with_stripe(stripe_at, |stripe| {
            self.piece.extend_from_slice(stripe.get(range).unwrap_or_default());
        })?;
        let index = stripe_at / STRIPE - stripe_start(*start) / STRIPE;
        let expected = pieces.get(index as usize).unwrap_or(id.as_bytes());
        if ObjectId::of(&self.piece).as_bytes() != expected {
            return Err(self.batch.altered());
        }
        self.read += self.piece.len() as u64;
        self.at = 0;
        Ok(())
    }
}

impl Read for BatchReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.at == self.piece.len() && self.read < self.row.size {
            self.next_piece().map_err(io::Error::other)?;
        }
        let left = &self.piece[self.at..];
        let n = left.len().min(out.len());
        out[..n].copy_from_slice(&left[..n]);
        self.at += n;
        Ok(n)
    }
}
