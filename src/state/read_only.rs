//! A state file that is only looked into: nothing of it is written, not even a repair.
use super::{CACHE_BYTES, META, State, StateError, database::guarded, is_broken};
use redb::ReadableDatabase;
use std::path::Path;

impl State<redb::ReadOnlyDatabase> {
    /// Opens the file for reading only; `None` when there is none yet.
    ///
    /// # Errors
    /// When it cannot be read, which is so while another process has it open for writing.
    pub fn open_read_only(path: &Path) -> Result<Option<Self>, StateError> {
        if !path.exists() {
            return Ok(None);
        }
        let mut builder = redb::Builder::new();
        builder.set_cache_size(CACHE_BYTES);
        let database = guarded(|| match builder.open_read_only(path) {
            Err(redb::DatabaseError::RepairAborted) => Ok(repaired_copy(path)?),
            other => Ok(other?),
        });
        let opened = database.and_then(|database| {
            guarded(|| Ok(database.begin_read()?.open_table(META).map(drop)?))?;
            Ok(database)
        });
        match opened {
            Ok(database) => Ok(Some(Self { path: path.into(), database })),
            // Its writer was killed before it had put the first thing, all tables at once, into it.
            Err(redb::Error::TableDoesNotExist(_)) => Ok(None),
            // The next writer puts it aside and begins anew; until then nothing is remembered.
            Err(e) if is_broken(&e) => Ok(None),
            Err(source) => Err(StateError::Redb { path: path.into(), source }),
        }
    }
}

/// Opens a copy of a state file whose writer was killed. Only a writer may repair the file itself; who only looks
/// repairs a copy that nobody else sees.
fn repaired_copy(path: &Path) -> Result<redb::ReadOnlyDatabase, redb::DatabaseError> {
    let mut copy = tempfile::tempfile()?;
    std::io::copy(&mut std::fs::File::open(path)?, &mut copy)?;
    let backend = || redb::backends::FileBackend::new(copy.try_clone()?);
    let mut builder = redb::Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    drop(builder.create_with_backend(backend()?)?);
    builder.open_read_only_with_backend(backend()?)
}
