//! A state file that is only looked into: nothing of it is written, not even a repair.
use super::{CACHE_BYTES, META, State, StateError, is_broken};
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
        let database = match redb::Builder::new().set_cache_size(CACHE_BYTES).open_read_only(path) {
            Err(redb::DatabaseError::RepairAborted) => repaired_copy(path),
            other => other,
        };
        let fail = |source| StateError { path: path.into(), source };
        let database = match database.map_err(redb::Error::from) {
            // The next writer puts it aside and begins anew; until then nothing is remembered.
            Err(e) if is_broken(&e) => return Ok(None),
            other => other.map_err(fail)?,
        };
        // Its writer was killed before it had put the first thing, all tables at once, into it.
        match database.begin_read().map_err(|e| fail(e.into()))?.open_table(META) {
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
            Err(e) => Err(fail(e.into())),
            Ok(_) => Ok(Some(Self { path: path.into(), database })),
        }
    }
}

/// Opens a copy of a state file whose writer was killed. Only a writer may repair the file itself; whoever only looks
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
