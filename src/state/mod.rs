//! state.redb: what a mirror remembers beside its store and may lose.
//!
//! Lost or broken, it costs a verification of every pack at the next start and the memory of past checks;
//! nothing held is affected. Values are JSON, so that a person with `redb` at hand can read them. What is kept in it
//! stands with whom it belongs to: `mirror::memory`, `clients::table`.
mod database;
mod read_only;

pub use database::{Readable, Writable};

use redb::{ReadableTable, TableDefinition};
use serde::{Serialize, de::DeserializeOwned};
use std::path::{Path, PathBuf};

/// Written into every state file; a greater one is refused.
const FORMAT: u64 = 1;
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
/// Single values: the installation's id, the upstream's ledger, the history, the key of the clients' hashes.
pub(crate) const VALUES: TableDefinition<&str, &str> = TableDefinition::new("values-0");
const CACHE_BYTES: usize = 1 << 20;

/// An open state file: for writing, or beside nobody who writes for reading.
#[derive(Debug)]
pub struct State<D = Writable> {
    path: PathBuf,
    database: D,
}

/// The state file could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// redb's error.
    #[error("{}: {source}", path.display())]
    Redb {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: redb::Error,
    },
    /// It is of a newer format.
    #[error("{} has format {found}, this build reads up to {supported}", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u64,
        /// The newest this build reads.
        supported: u64,
    },
    /// A broken file cannot be put aside.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl StateError {
    /// Whether the file itself is at fault, not the disk or another process.
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Redb { source, .. } if is_broken(source))
    }
}

impl State {
    /// Opens or creates the file. One that is broken is put aside (its name gains `.broken`) and begun anew.
    ///
    /// # Errors
    /// [`StateError::Newer`] for a file of a newer format; the others for what the disk refuses.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        match Self::open_existing(path) {
            Err(e) if e.is_broken() => {
                let aside = path.with_extension("redb.broken");
                tracing::warn!(
                    "{e}; put aside as {} and begun anew: every pack is verified again",
                    aside.display()
                );
                std::fs::rename(path, &aside)
                    .map_err(|source| StateError::Io { path: path.into(), source })?;
                Self::open_existing(path)
            }
            other => other,
        }
    }

    fn open_existing(path: &Path) -> Result<Self, StateError> {
        let database =
            Writable::open(path).map_err(|source| StateError::Redb { path: path.into(), source })?;
        let state = Self { path: path.into(), database };
        let found = state.write(|txn| {
            let mut meta = txn.open_table(META)?;
            let found = meta.get("format")?.map(|guard| guard.value());
            if found.is_none() {
                meta.insert("format", FORMAT)?;
            }
            Ok(found.unwrap_or(FORMAT))
        })?;
        if found > FORMAT {
            return Err(StateError::Newer { path: path.into(), found, supported: FORMAT });
        }
        Ok(state)
    }

    /// Keeps a value under a key.
    pub(crate) fn put(
        &self,
        table: TableDefinition<&str, &str>,
        key: &str,
        value: &impl Serialize,
    ) -> Result<(), StateError> {
        self.write(|txn| {
            txn.open_table(table)?.insert(key, json(value).as_str())?;
            Ok(())
        })
    }

    /// Makes changes, all of them or none.
    pub(crate) fn write<T>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        let written = self.database.with(&self.path, |database| {
            let txn = database.begin_write()?;
            let value = change(&txn)?;
            txn.commit()?;
            Ok(value)
        });
        written.map_err(|source| StateError::Redb { path: self.path.clone(), source })
    }
}

impl<D: Readable> State<D> {
    /// A value, or `None` if there is none that reads: what does not read is as good as lost.
    pub(crate) fn get<T: DeserializeOwned>(
        &self,
        table: TableDefinition<&str, &str>,
        key: &str,
    ) -> Result<Option<T>, StateError> {
        self.read(|txn| {
            let Some(table) = existing(txn.open_table(table))? else { return Ok(None) };
            let value = table.get(key)?;
            Ok(value.and_then(|guard| serde_json::from_str(guard.value()).ok()))
        })
    }

    /// Reads a table's entries into a collection; what `read` makes nothing of is left out.
    pub(crate) fn each<V: redb::Value + 'static, T, C: FromIterator<T>>(
        &self,
        table: TableDefinition<&str, V>,
        read: impl Fn(&str, V::SelfType<'_>) -> Option<T>,
    ) -> Result<C, StateError> {
        self.read(|txn| {
            let Some(table) = existing(txn.open_table(table))? else { return Ok(C::from_iter([])) };
            let entries = table.iter()?.filter_map(|entry| match entry {
                Ok((key, value)) => read(key.value(), value.value()).map(Ok),
                Err(e) => Some(Err(redb::Error::from(e))),
            });
            entries.collect()
        })
    }

    fn read<T>(
        &self,
        step: impl FnOnce(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        let read = self.database.read(&self.path, step);
        read.map_err(|source| StateError::Redb { path: self.path.clone(), source })
    }
}

/// A table, or `None` where nothing was ever put into it.
fn existing<T>(opened: Result<T, redb::TableError>) -> Result<Option<T>, redb::Error> {
    match opened {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// Whether the file itself is at fault.
fn is_broken(error: &redb::Error) -> bool {
    match error {
        redb::Error::Io(e) => e.kind() == std::io::ErrorKind::InvalidData,
        redb::Error::Corrupted(_)
        | redb::Error::RepairAborted
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::UpgradeRequired(_) => true,
        _ => false,
    }
}

/// As it is kept.
pub(crate) fn json(value: &impl Serialize) -> String {
    // Our own plain structs: serialising them cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    const ANY: &str = "any";

    #[test]
    fn remembers_across_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        State::open(&path).unwrap().put(VALUES, ANY, &7).unwrap();
        assert_eq!(State::open(&path).unwrap().get(VALUES, ANY).unwrap(), Some(7));
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let state = State::open(&path).unwrap();
        state.write(|txn| Ok(txn.open_table(META)?.insert("format", FORMAT + 1).map(drop)?)).unwrap();
        drop(state);
        match State::open(&path) {
            Err(StateError::Newer { found, supported, .. }) => {
                assert_eq!((found, supported), (FORMAT + 1, FORMAT));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_broken_file_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        std::fs::write(&path, vec![b'x'; 8192]).unwrap();
        State::open(&path).unwrap();
        assert_eq!(std::fs::read(dir.path().join("state.redb.broken")).unwrap(), vec![b'x'; 8192]);
    }

    #[test]
    fn a_file_with_any_byte_altered_is_put_aside_or_as_good_as_new() {
        let dir = tempfile::tempdir().unwrap();
        let (path, aside) = (dir.path().join("state.redb"), dir.path().join("state.redb.broken"));
        State::open(&path).unwrap().put(VALUES, ANY, &7).unwrap();
        let whole = std::fs::read(&path).unwrap();
        // redb trusts the names of tables' types to be UTF-8, and panics where it has not checked them.
        let types = whole.windows(4).enumerate().filter(|(_, bytes)| bytes == b"&str").map(|(at, _)| at);
        let mut broken = 0;
        for at in types.chain((0..whole.len()).step_by(211)) {
            let mut altered = whole.clone();
            altered[at] ^= 0xff;
            std::fs::write(&path, altered).unwrap();
            // Who only looks finds nothing, or an error, or what is whole.
            let _ = State::open_read_only(&path).unwrap().map(|state| state.get::<u32>(VALUES, ANY));
            let state = State::open(&path).unwrap();
            state.put(VALUES, ANY, &7).unwrap();
            broken += usize::from(std::fs::remove_file(&aside).is_ok());
        }
        assert!(broken > 0);
    }
}
