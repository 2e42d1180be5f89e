//! The open file: for writing, or for reading only.
//!
//! A write that the disk refuses (it is full, or read-only now) fails alone: the file is opened anew at the next use.
//! redb panics on some damage to a file: here that is an error like any.
use super::CACHE_BYTES;
use parking_lot::Mutex;
use redb::ReadableDatabase;
use std::{
    fs::File,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::Path,
};

const MODE: u32 = 0o600;

/// Runs a step of redb.
pub(super) fn guarded<T>(step: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let damaged = || Err(redb::Error::Corrupted("its structure is damaged".into()));
    cvdmirror_store::caught(step).unwrap_or_else(damaged)
}

/// A file open for writing. After one failed write redb refuses everything until the file is opened anew, so it is
/// let go then.
#[derive(Debug)]
pub struct Writable(Mutex<Option<redb::Database>>);

impl Writable {
    pub(super) fn open(path: &Path) -> Result<Self, redb::Error> {
        Ok(Self(Mutex::new(Some(create(path)?))))
    }

    /// Runs a step on the open file; opens it first where it was let go.
    pub(super) fn with<T>(
        &self,
        path: &Path,
        step: impl FnOnce(&redb::Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let mut open = self.0.lock();
        let database = match &mut *open {
            Some(database) => database,
            none => none.insert(create(path)?),
        };
        let result = guarded(|| step(database));
        if let Err(redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::Corrupted(_)) = &result {
            let_go(open.take());
        }
        result
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        let_go(self.0.get_mut().take());
    }
}

/// Closes a file, which writes to it too.
fn let_go(open: Option<redb::Database>) {
    let _ = cvdmirror_store::caught(|| drop(open));
}

fn create(path: &Path) -> Result<redb::Database, redb::Error> {
    let mut builder = redb::Builder::new();
    // The file is small: reading all of it costs less than what damage could do later.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    guarded(|| {
        own(path)?;
        Ok(builder.create(path)?)
    })
}

/// Makes the file its owner's alone: it knows who asked, and by what key they are told apart.
fn own(path: &Path) -> std::io::Result<()> {
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(MODE).open(path)?;
    let mut mode = file.metadata()?.permissions();
    if mode.mode() & 0o777 != MODE {
        mode.set_mode(MODE);
        // It may be another user's, whose writer made it so.
        let _ = file.set_permissions(mode);
    }
    Ok(())
}

/// What a state file can be read through.
pub trait Readable {
    /// Runs a step on one state of the file.
    ///
    /// # Errors
    /// The step's own, or when the file cannot be read.
    fn read<T>(
        &self,
        path: &Path,
        step: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error>;
}

impl Readable for Writable {
    fn read<T>(
        &self,
        path: &Path,
        step: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        self.with(path, |database| step(&database.begin_read()?))
    }
}

impl Readable for redb::ReadOnlyDatabase {
    fn read<T>(
        &self,
        _path: &Path,
        step: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        guarded(|| step(&self.begin_read()?))
    }
}
