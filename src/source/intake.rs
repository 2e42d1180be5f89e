//! What every source needs to let files in, and who is told how far one is.
use super::FetchLimits;
use std::{
    fmt,
    io::{self, Write},
    sync::Arc,
};

/// What every source needs to take files in.
#[derive(Clone, Debug)]
pub struct Intake {
    /// Bounds on each fetch.
    pub limits: FetchLimits,
    /// Who is told how far a fetch is.
    pub progress: Arc<dyn Progress>,
}

/// Is told how far a fetch is, for people who wait.
pub trait Progress: Send + Sync + fmt::Debug {
    /// A file begins; `total` bytes are announced.
    fn begin(&self, what: &str, total: Option<u64>);
    /// More bytes came.
    fn advance(&self, bytes: u64);
    /// The file is complete, or given up.
    fn end(&self);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _what: &str, _total: Option<u64>) {}
    fn advance(&self, _bytes: u64) {}
    fn end(&self) {}
}

/// One file whose way in is shown, until this is dropped.
pub struct Shown<'p>(&'p dyn Progress);

impl<'p> Shown<'p> {
    /// Begins; `total` bytes are announced.
    pub fn new(progress: &'p dyn Progress, what: &str, total: Option<u64>) -> Self {
        progress.begin(what, total);
        Self(progress)
    }

    /// More bytes came.
    pub fn advance(&self, bytes: u64) {
        self.0.advance(bytes);
    }

    /// Shows what is written through this into `writer`.
    pub fn beside<'a>(&'a self, writer: impl Write + 'a) -> impl Write + 'a {
        Beside { shown: self, writer }
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

struct Beside<'a, W> {
    shown: &'a Shown<'a>,
    writer: W,
}

impl<W: Write> Write for Beside<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.shown.advance(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
