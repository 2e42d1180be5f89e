//! Files on their way in: private, hashed as they are written, gone when dropped.
use super::{FetchError, FetchLimits};
use cvdmirror_store::{Hasher, ObjectId};
use std::{
    fs::File,
    io::{self, Read, Seek, Write},
    path::PathBuf,
    sync::Arc,
};

/// A complete file in the staging directory. It has no name there, so nothing is left when it is dropped or
/// the process dies.
#[derive(Debug)]
pub struct Staged {
    file: File,
    len: u64,
    id: ObjectId,
}

impl Staged {
    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The BLAKE3 hash of its bytes.
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Reads it from the start. Only one reader at a time makes sense: they share a position.
    ///
    /// # Errors
    /// When the file cannot be rewound.
    pub fn reader(&self) -> io::Result<impl Read + '_> {
        let mut file = &self.file;
        file.rewind()?;
        Ok(io::BufReader::with_capacity(1 << 18, file))
    }
}

/// What every source needs to take files in.
#[derive(Clone, Debug)]
pub struct Intake {
    /// The staging directory.
    pub dir: PathBuf,
    /// Bounds on each fetch.
    pub limits: FetchLimits,
    /// Who is told how far a fetch is.
    pub progress: Arc<dyn Progress>,
}

/// Is told how far a fetch is, for people who wait.
pub trait Progress: Send + Sync + std::fmt::Debug {
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

/// A file being staged.
#[derive(Debug)]
pub struct Staging<'a> {
    file: io::BufWriter<File>,
    hasher: Hasher,
    len: u64,
    cap_bytes: u64,
    origin: String,
    intake: &'a Intake,
}

impl<'a> Staging<'a> {
    /// Starts a file of at most `cap_bytes`; `what` is shown, `origin` named in errors, `total` bytes are announced.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn create(
        intake: &'a Intake,
        what: &str,
        cap_bytes: u64,
        origin: String,
        total: Option<u64>,
    ) -> Result<Self, FetchError> {
        let file = tempfile::tempfile_in(&intake.dir)
            .map_err(|source| FetchError::Io { path: intake.dir.clone(), source })?;
        intake.progress.begin(what, total);
        Ok(Self {
            file: io::BufWriter::with_capacity(1 << 18, file),
            hasher: Hasher::new(),
            len: 0,
            cap_bytes,
            origin,
            intake,
        })
    }

    /// Bytes taken so far.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether no byte was taken yet.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`FetchError::TooLarge`] past the cap; [`FetchError::Io`] when the disk does not take them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), FetchError> {
        self.len += bytes.len() as u64;
        if self.len > self.cap_bytes {
            return Err(FetchError::TooLarge { origin: self.origin.clone(), cap_bytes: self.cap_bytes });
        }
        self.hasher.update(bytes);
        self.intake.progress.advance(bytes.len() as u64);
        let io = |source| FetchError::Io { path: self.intake.dir.clone(), source };
        self.file.write_all(bytes).map_err(io)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`FetchError::Io`] when the disk does not take the last bytes.
    pub fn finish(mut self) -> Result<Staged, FetchError> {
        let io = |source| FetchError::Io { path: self.intake.dir.clone(), source };
        self.file.flush().map_err(io)?;
        let file = self.file.get_ref().try_clone().map_err(io)?;
        Ok(Staged { file, len: self.len, id: self.hasher.finish() })
    }
}

/// For what writes by itself, such as a rebuild.
impl Write for Staging<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Staging::write(self, bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        self.intake.progress.end();
    }
}
