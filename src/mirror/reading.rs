//! The one way to read what a name is bound to: name → record → object → bytes.
use cvdmirror_store::{NameRecord, ObjectReader, View};
use std::io::{self, Read};

/// Why what a name is bound to cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum Unheld {
    /// No pack binds it to an object that is held.
    #[error("{0} is not held")]
    Name(String),
    /// The store does not give its object.
    #[error(transparent)]
    Store(#[from] cvdmirror_store::Error),
}

/// Opens what a name is bound to.
///
/// # Errors
/// See [`Unheld`].
pub fn open<'v>(view: &'v View, name: &str) -> Result<(&'v NameRecord, Reading), Unheld> {
    let unheld = || Unheld::Name(name.to_owned());
    let record = view.lookup(name).ok_or_else(unheld)?;
    let object = view.open(&record.object)?.ok_or_else(unheld)?;
    Ok((record, Reading::new(object)))
}

/// An object of the store as a stream.
#[derive(Debug)]
pub struct Reading {
    object: ObjectReader,
    chunk: bytes::Bytes,
    offset: u64,
}

impl Reading {
    /// Reads from the start.
    pub fn new(object: ObjectReader) -> Self {
        Self { object, chunk: bytes::Bytes::new(), offset: 0 }
    }

    /// Has the next piece at hand, so that reading does not fail.
    ///
    /// # Errors
    /// When the store does not give it.
    pub fn fill(&mut self) -> Result<(), cvdmirror_store::Error> {
        if self.chunk.is_empty() {
            self.chunk = self.next_chunk()?;
        }
        Ok(())
    }

    /// The next piece; empty at the end.
    ///
    /// # Errors
    /// When the store does not give it.
    pub fn next_chunk(&mut self) -> Result<bytes::Bytes, cvdmirror_store::Error> {
        if self.offset >= self.object.size() {
            return Ok(bytes::Bytes::new());
        }
        let chunk = self.object.chunk_at(self.offset)?;
        self.offset += chunk.len() as u64;
        Ok(chunk)
    }
}

impl Read for Reading {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.fill().map_err(io::Error::other)?;
        let n = out.len().min(self.chunk.len());
        out[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
