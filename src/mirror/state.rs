//! state.redb: what a mirror remembers beside its store and may lose.
//!
//! Lost or broken, it costs a verification of every pack at the next start and the memory of past checks;
//! nothing held is affected. Values are JSON, so that a person with `redb` at hand can read them.
mod clients;
mod database;
mod read_only;

pub use database::{Readable, Writable};

use super::{OpenError, history::History};
use crate::{cvd::Database, source::budget::Book};
use cvdmirror_store::{ObjectId, Pack, PackId};
use redb::{ReadableTable, TableDefinition};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

/// Written into every state file; a greater one is refused.
const FORMAT: u64 = 1;
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const PACKS: TableDefinition<&str, &str> = TableDefinition::new("packs-0");
/// Packs that were merged or dropped and whose files wait for the end of the grace period: when, epoch seconds.
const RETIRED: TableDefinition<&str, u64> = TableDefinition::new("retired-0");
/// Copies of objects that were found rotten: pack, a space, object.
const ROTTEN: TableDefinition<&str, u64> = TableDefinition::new("rotten-0");
const DATABASES: TableDefinition<&str, &str> = TableDefinition::new("databases-0");
/// Single values: the installation's id, the upstream's ledger, the history, the key of the clients' hashes.
const VALUES: TableDefinition<&str, &str> = TableDefinition::new("values-0");
const CACHE_BYTES: usize = 1 << 20;

/// That a pack was sealed here, or verified whole when it was first met.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trusted {
    /// Order of trust: where two packs bind a name differently, the lower rank is published.
    pub rank: u64,
    /// Length of the file when it was trusted, bytes; another length is another file.
    pub file_len: u64,
}

/// What is known of packs, by their ids.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KnownPacks {
    /// Sealed here, or verified whole when they were first met.
    pub trusted: BTreeSet<String>,
    /// Merged or dropped; their files wait for the end of the grace period.
    pub retired: BTreeSet<String>,
}

/// What is remembered of one database.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseState {
    /// The version the source last spoke of.
    pub newest: Option<u32>,
    /// When the source was last asked, epoch seconds.
    pub checked_at_s: Option<u64>,
    /// When what is published was last confirmed as the newest, epoch seconds.
    pub confirmed_at_s: Option<u64>,
    /// What went wrong at the last check, in words.
    pub last_error: Option<String>,
    /// When a check last ended well, epoch seconds.
    #[serde(default)]
    pub succeeded_at_s: Option<u64>,
    /// When a check last ended otherwise, epoch seconds.
    #[serde(default)]
    pub failed_at_s: Option<u64>,
}

/// An open state file: for writing, or beside nobody who writes for reading.
#[derive(Debug)]
pub struct State<D = Writable> {
    path: PathBuf,
    database: D,
}

/// The state file could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}{}", path.display(), remedy(source))]
pub struct StateError {
    path: PathBuf,
    source: redb::Error,
}

impl State {
    /// Opens or creates the file. One that is broken is put aside (its name gains `.broken`) and begun anew.
    ///
    /// # Errors
    /// [`OpenError::NewerState`] for a file of a newer format, [`OpenError::State`] for what the disk refuses.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        match Self::open_existing(path) {
            Err(OpenError::State(StateError { source, .. })) if is_broken(&source) => {
                let aside = path.with_extension("redb.broken");
                tracing::warn!(
                    "{}: {source}; put aside as {} and begun anew: every pack is verified again",
                    path.display(),
                    aside.display()
                );
                std::fs::rename(path, &aside)
                    .map_err(|source| OpenError::Io { path: path.into(), source })?;
                Self::open_existing(path)
            }
            other => other,
        }
    }

    fn open_existing(path: &Path) -> Result<Self, OpenError> {
        let fail = |source: redb::Error| StateError { path: path.into(), source };
        let database = Writable::open(path).map_err(fail)?;
        let state = Self { path: path.into(), database };
        let found = state
            .write(|txn| {
                let mut meta = txn.open_table(META)?;
                let found = meta.get("format")?.map(|guard| guard.value());
                match found {
                    // Nothing more of it is touched: its tables may have other types.
                    Some(found) if found > FORMAT => return Ok(found),
                    Some(_) => {}
                    None => drop(meta.insert("format", FORMAT)?),
                }
                // Every table exists from here on, so that readers need not ask.
                txn.open_table(PACKS)?;
                txn.open_table(DATABASES)?;
                txn.open_table(VALUES)?;
                txn.open_table(RETIRED)?;
                txn.open_table(ROTTEN)?;
                txn.open_table(clients::CLIENTS)?;
                Ok(found.unwrap_or(FORMAT))
            })
            .map_err(OpenError::State)?;
        if found > FORMAT {
            return Err(OpenError::NewerState { path: path.into(), found, supported: FORMAT });
        }
        Ok(state)
    }

    /// Remembers a pack as trusted, after all that are.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn trust(&self, pack: &Pack) -> Result<Trusted, StateError> {
        self.write(|txn| {
            let mut packs = txn.open_table(PACKS)?;
            let mut rank = 0;
            for entry in packs.iter()? {
                let known: Option<Trusted> = serde_json::from_str(entry?.1.value()).ok();
                rank = rank.max(known.map_or(0, |trusted| trusted.rank + 1));
            }
            let trusted = Trusted { rank, file_len: pack.file_len() };
            packs.insert(pack.id().as_str(), json(&trusted).as_str())?;
            Ok(trusted)
        })
    }

    /// Remembers that packs are retired, and that `merged`, if any, stands in their place in the order of trust.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn retire(&self, retired: &[PackId], merged: Option<&Pack>, now_s: u64) -> Result<(), StateError> {
        self.write(|txn| {
            let mut packs = txn.open_table(PACKS)?;
            let mut waiting = txn.open_table(RETIRED)?;
            let mut rotten = txn.open_table(ROTTEN)?;
            let mut rank = u64::MAX;
            for id in retired {
                // What of it was rotten was not carried along.
                let of_it = format!("{} ", id.as_str());
                rotten.retain(|key, _| !key.starts_with(&of_it))?;
                let known = packs.remove(id.as_str())?;
                let known: Option<Trusted> = known.and_then(|guard| serde_json::from_str(guard.value()).ok());
                rank = rank.min(known.map_or(u64::MAX, |trusted| trusted.rank));
                waiting.insert(id.as_str(), now_s)?;
            }
            if let Some(pack) = merged {
                let trusted = Trusted { rank, file_len: pack.file_len() };
                packs.insert(pack.id().as_str(), json(&trusted).as_str())?;
            }
            Ok(())
        })
    }

    /// Forgets retired packs whose files are gone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_retired(&self, gone: &[PackId]) -> Result<(), StateError> {
        self.write(|txn| {
            let mut waiting = txn.open_table(RETIRED)?;
            for id in gone {
                waiting.remove(id.as_str())?;
            }
            Ok(())
        })
    }

    /// Remembers that a copy of an object is rotten.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn quarantine(&self, pack: &PackId, object: ObjectId, now_s: u64) -> Result<(), StateError> {
        self.write(|txn| {
            txn.open_table(ROTTEN)?.insert(format!("{} {object}", pack.as_str()).as_str(), now_s)?;
            Ok(())
        })
    }

    /// Remembers it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_database(&self, database: &Database, state: &DatabaseState) -> Result<(), StateError> {
        self.put(DATABASES, database.as_str(), state)
    }

    /// This installation's id, a random UUID made at the first call: it tells the upstream one client from many
    /// behind the same address, and nothing else.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn installation(&self) -> Result<String, StateError> {
        if let Some(id) = self.get(VALUES, "installation")? {
            return Ok(id);
        }
        let id = uuid::Builder::from_random_bytes(rand::random()).into_uuid().to_string();
        self.put(VALUES, "installation", &id)?;
        Ok(id)
    }

    /// Remembers what was asked of the upstream.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_book(&self, book: &Book) -> Result<(), StateError> {
        self.put(VALUES, "ledger", book)
    }

    /// Remembers what rounds did.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_history(&self, history: &History) -> Result<(), StateError> {
        self.put(VALUES, "history", history)
    }

    fn put(
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

    fn write<T>(
        &self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StateError> {
        let written = self.database.with(&self.path, |database| {
            let txn = database.begin_write()?;
            let value = change(&txn)?;
            txn.commit()?;
            Ok(value)
        });
        written.map_err(|source| StateError { path: self.path.clone(), source })
    }
}

impl<D: Readable> State<D> {
    /// What is known of a pack.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn trusted(&self, pack: &PackId) -> Result<Option<Trusted>, StateError> {
        self.get(PACKS, pack.as_str())
    }

    /// What is known of packs, for who looks into the store from outside.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn known_packs(&self) -> Result<KnownPacks, StateError> {
        let trusted = self.database.read(&self.path, |txn| {
            let packs = txn.open_table(PACKS)?;
            packs.iter()?.map(|entry| Ok(entry?.0.value().to_owned())).collect()
        });
        let trusted = trusted.map_err(|source| StateError { path: self.path.clone(), source })?;
        let retired = self.retired()?.into_keys().map(|id| id.to_string()).collect();
        Ok(KnownPacks { trusted, retired })
    }

    /// Packs that are retired, and since when.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn retired(&self) -> Result<BTreeMap<PackId, u64>, StateError> {
        self.each(RETIRED, |key, at_s| Some((pack_id(key)?, at_s)))
    }

    /// Copies of objects that are rotten.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn rotten(&self) -> Result<BTreeMap<(PackId, ObjectId), u64>, StateError> {
        self.each(ROTTEN, |key, at_s| {
            let (pack, object) = key.split_once(' ')?;
            Some(((pack_id(pack)?, object.parse().ok()?), at_s))
        })
    }

    fn each<K: Ord>(
        &self,
        table: TableDefinition<&str, u64>,
        read: impl Fn(&str, u64) -> Option<(K, u64)>,
    ) -> Result<BTreeMap<K, u64>, StateError> {
        let all = self.database.read(&self.path, |txn| {
            let mut found = BTreeMap::new();
            for entry in txn.open_table(table)?.iter()? {
                let (key, value) = entry?;
                found.extend(read(key.value(), value.value()));
            }
            Ok(found)
        });
        all.map_err(|source| StateError { path: self.path.clone(), source })
    }

    /// What is remembered of a database.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn database(&self, database: &Database) -> Result<DatabaseState, StateError> {
        Ok(self.get(DATABASES, database.as_str())?.unwrap_or_default())
    }

    /// What was asked of the upstream.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn book(&self) -> Result<Book, StateError> {
        Ok(self.get(VALUES, "ledger")?.unwrap_or_default())
    }

    /// What rounds did.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn history(&self) -> Result<History, StateError> {
        Ok(self.get(VALUES, "history")?.unwrap_or_default())
    }

    /// A value, or `None` if there is none that reads: what does not read is as good as lost.
    fn get<T: DeserializeOwned>(
        &self,
        table: TableDefinition<&str, &str>,
        key: &str,
    ) -> Result<Option<T>, StateError> {
        let value = self.database.read(&self.path, |txn| {
            let value = txn.open_table(table)?.get(key)?;
            Ok(value.and_then(|guard| serde_json::from_str(guard.value()).ok()))
        });
        value.map_err(|source| StateError { path: self.path.clone(), source })
    }
}

fn remedy(error: &redb::Error) -> &'static str {
    match error {
        redb::Error::Io(e) => cvdmirror_store::remedy(e),
        _ if is_broken(error) => "; the next `serve` or `sync` puts it aside and begins anew",
        _ => "",
    }
}

/// Whether the file itself is at fault, not the disk or another process.
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

fn pack_id(text: &str) -> Option<PackId> {
    PackId::from_file_name(&format!("{text}.redb"))
}

fn json(value: &impl Serialize) -> String {
    // Our own plain structs: serialising them cannot fail.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    #[test]
    fn remembers_across_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let daily: Database = "daily".parse().unwrap();
        let kept = DatabaseState { newest: Some(7), last_error: Some("x".into()), ..Default::default() };
        State::open(&path).unwrap().set_database(&daily, &kept).unwrap();
        assert_eq!(State::open(&path).unwrap().database(&daily).unwrap(), kept);
    }

    #[test]
    fn a_newer_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let state = State::open(&path).unwrap();
        state.write(|txn| Ok(txn.open_table(META)?.insert("format", FORMAT + 1).map(drop)?)).unwrap();
        drop(state);
        match State::open(&path) {
            Err(OpenError::NewerState { found, supported, .. }) => {
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
        let database: Database = "daily".parse().unwrap();
        State::open(&path).unwrap().set_database(&database, &DatabaseState::default()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        // redb trusts the names of tables' types to be UTF-8, and panics where it has not checked them.
        let types = whole.windows(4).enumerate().filter(|(_, bytes)| bytes == b"&str").map(|(at, _)| at);
        let mut broken = 0;
        for at in types.chain((0..whole.len()).step_by(211)) {
            let mut altered = whole.clone();
            altered[at] ^= 0xff;
            std::fs::write(&path, altered).unwrap();
            // Whoever only looks finds nothing, or an error, or what is whole.
            let _ = State::open_read_only(&path).unwrap().map(|state| state.known_packs());
            let state = State::open(&path).unwrap();
            state.set_database(&database, &DatabaseState::default()).unwrap();
            broken += usize::from(std::fs::remove_file(&aside).is_ok());
        }
        assert!(broken > 0);
    }
}
