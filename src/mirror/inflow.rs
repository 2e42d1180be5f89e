//! A file on its way in, read on the mirror's own thread, and written while it is read.
use super::{core::Mirror, work::RoundError};
use crate::source::{Incoming, Progress, Shown};
use bytes::{Buf as _, Bytes};
use cvdmirror_store::ObjectWriter;
use std::io::{self, Read};

/// A file on its way in.
pub(super) struct Inflow<'p> {
    incoming: Incoming,
    /// What of it was not read yet.
    chunk: Bytes,
    pub(super) got: u64,
    shown: Shown<'p>,
    /// Why nothing more comes.
    pub(super) failed: Option<RoundError>,
}

impl<'p> Inflow<'p> {
    /// Tells `progress` of it as it comes.
    pub(super) fn new(incoming: Incoming, progress: &'p dyn Progress) -> Self {
        let shown = Shown::new(progress, &incoming.wanted.to_string(), incoming.announced);
        Self { incoming, chunk: Bytes::new(), got: 0, shown, failed: None }
    }

    /// Reads so many bytes of it, or what there is.
    pub(super) fn read(&mut self, mirror: &mut Mirror, most: u64) -> Result<Vec<u8>, RoundError> {
        let mut bytes = Vec::new();
        // What it fails with stands beside it.
        let _ = Pull { mirror, inflow: self }.take(most).read_to_end(&mut bytes);
        self.failed.take().map_or(Ok(bytes), Err)
    }

    fn next_chunk(&mut self, mirror: &mut Mirror) -> Result<Option<Bytes>, RoundError> {
        Ok(mirror.wait(self.incoming.chunk())??)
    }
}

/// Reads it on the mirror's thread, which goes on doing what must not wait.
pub(super) struct Pull<'a, 'p> {
    pub(super) mirror: &'a mut Mirror,
    pub(super) inflow: &'a mut Inflow<'p>,
}

impl Read for Pull<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let Self { mirror, inflow } = self;
        while inflow.chunk.is_empty() {
            match inflow.next_chunk(mirror) {
                Ok(Some(chunk)) => inflow.chunk = chunk,
                Ok(None) => return Ok(0),
                Err(e) => {
                    inflow.failed = Some(e);
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
            }
        }
        let taken = inflow.chunk.len().min(into.len());
        inflow.chunk.copy_to_slice(&mut into[..taken]);
        inflow.got += taken as u64;
        inflow.shown.advance(taken as u64);
        Ok(taken)
    }
}

/// Writes what is read through it into an object.
pub(super) struct Tee<'a, 'b, R> {
    pub(super) reader: R,
    pub(super) object: &'a mut ObjectWriter<'b>,
    pub(super) failed: Option<cvdmirror_store::Error>,
}

impl<R: Read> Read for Tee<'_, '_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(into)?;
        self.object.append(&into[..got]).map_err(|e| {
            self.failed = Some(e);
            io::Error::from(io::ErrorKind::BrokenPipe)
        })?;
        Ok(got)
    }
}
