//! What the mirror keeps in state.redb: which packs are whole, which names hold, what is retired or corrupt, how checks went.
use super::{
    history::History,
    judgement::{Binding, Verdict, Verdicts},
};
use crate::{
    cvd::Database,
    source::budget::Book,
    state::{Readable, State, StateError, VALUES, json},
    trouble::Trouble,
};
use cvdmirror_store::{ObjectId, Pack, PackId};
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const PACKS: TableDefinition<&str, &str> = TableDefinition::new("packs-0");
/// What was found of bindings: name, a space, object.
const VERDICTS: TableDefinition<&str, &str> = TableDefinition::new("verdicts-0");
/// Packs that were merged or dropped and whose files wait for the end of the grace period: when, epoch seconds.
const RETIRED: TableDefinition<&str, u64> = TableDefinition::new("retired-0");
/// Copies of objects that were found corrupt: pack, a space, object. The name in the file is that of earlier builds.
const CORRUPT: TableDefinition<&str, u64> = TableDefinition::new("corrupt-0");
const DATABASES: TableDefinition<&str, &str> = TableDefinition::new("databases-0");

/// That a pack was sealed here, or found whole when it was first met.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Trusted {
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
    /// Bindings that were found not to hold: name, object.
    #[serde(default)]
    pub withdrawn: Vec<(String, String)>,
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
    /// What went wrong at the last check.
    pub last_error: Option<Trouble>,
    /// When a check last ended well, epoch seconds.
    #[serde(default)]
    pub succeeded_at_s: Option<u64>,
    /// When a check last ended otherwise, epoch seconds.
    #[serde(default)]
    pub failed_at_s: Option<u64>,
}

impl DatabaseState {
    /// Its times for what they can be at `now_s`. Where one has not come yet, the clock was set back, by nobody knows how
    /// much: then none of them tells anything.
    pub fn plausible(self, now_s: u64) -> Self {
        let times = [self.checked_at_s, self.confirmed_at_s, self.succeeded_at_s, self.failed_at_s];
        match times.into_iter().flatten().any(|at_s| at_s > now_s) {
            true => Self { newest: self.newest, last_error: self.last_error, ..Self::default() },
            false => self,
        }
    }

    /// Moves its times with a wall clock that went back by `back_s`, so that each lies as far in the past as before.
    pub(super) fn set_back(&mut self, back_s: u64) {
        for at_s in [
            &mut self.checked_at_s,
            &mut self.confirmed_at_s,
            &mut self.succeeded_at_s,
            &mut self.failed_at_s,
        ] {
            *at_s = at_s.map(|at_s| at_s.saturating_sub(back_s));
        }
    }
}

impl State {
    /// Remembers a pack as whole.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn trust(&self, pack: &Pack) -> Result<(), StateError> {
        self.put(PACKS, pack.id().as_str(), &Trusted { file_len: pack.file_len() })
    }

    /// Remembers what was found of bindings, and forgets others.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(super) fn set_verdicts<'a>(
        &self,
        found: &Verdicts,
        gone: impl Iterator<Item = &'a Binding>,
    ) -> Result<(), StateError> {
        self.write(|txn| {
            let mut verdicts = txn.open_table(VERDICTS)?;
            for ((name, object), verdict) in found {
                verdicts.insert(format!("{name} {object}").as_str(), json(verdict).as_str())?;
            }
            for (name, object) in gone {
                verdicts.remove(format!("{name} {object}").as_str())?;
            }
            Ok(())
        })
    }

    /// Remembers that packs are retired, and that `merged`, if any, stands in their place.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn retire(&self, retired: &[PackId], merged: Option<&Pack>, now_s: u64) -> Result<(), StateError> {
        self.write(|txn| {
            let mut packs = txn.open_table(PACKS)?;
            let mut waiting = txn.open_table(RETIRED)?;
            let mut corrupt = txn.open_table(CORRUPT)?;
            for id in retired {
                // What of it was corrupt was not merged.
                let of_it = format!("{} ", id.as_str());
                corrupt.retain(|key, _| !key.starts_with(&of_it))?;
                packs.remove(id.as_str())?;
                waiting.insert(id.as_str(), now_s)?;
            }
            if let Some(pack) = merged {
                let trusted = Trusted { file_len: pack.file_len() };
                packs.insert(pack.id().as_str(), json(&trusted).as_str())?;
            }
            Ok(())
        })
    }

    /// Takes packs that are retired in the future, by a clock that was ahead, for retired now.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn retired_by(&self, now_s: u64) -> Result<(), StateError> {
        let ahead: Vec<PackId> =
            self.retired()?.into_iter().filter(|(_, at_s)| *at_s > now_s).map(|(id, _)| id).collect();
        if ahead.is_empty() {
            return Ok(());
        }
        self.write(|txn| {
            let mut waiting = txn.open_table(RETIRED)?;
            for id in &ahead {
                waiting.insert(id.as_str(), now_s)?;
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

    /// Remembers that a copy of an object is corrupt.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn quarantine(&self, pack: &PackId, object: ObjectId, now_s: u64) -> Result<(), StateError> {
        self.write(|txn| {
            txn.open_table(CORRUPT)?.insert(format!("{} {object}", pack.as_str()).as_str(), now_s)?;
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
        let trusted = self.each(PACKS, |id, _| Some(id.to_owned()))?;
        let retired = self.retired()?.into_keys().map(|id| id.to_string()).collect();
        let verdicts = self.verdicts()?.into_iter();
        let withdrawn = verdicts.filter(|(_, verdict)| verdict.refused.is_some());
        let withdrawn = withdrawn.map(|((name, object), _)| (name, object.to_string())).collect();
        Ok(KnownPacks { trusted, retired, withdrawn })
    }

    /// What was found of bindings.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn verdicts(&self) -> Result<Verdicts, StateError> {
        self.each(VERDICTS, |key, verdict| {
            let (name, object) = key.rsplit_once(' ')?;
            let verdict: Verdict = serde_json::from_str(verdict).ok()?;
            Some(((name.to_owned(), object.parse().ok()?), verdict))
        })
    }

    /// Packs that are retired, and since when.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn retired(&self) -> Result<BTreeMap<PackId, u64>, StateError> {
        self.each(RETIRED, |key, at_s| Some((pack_id(key)?, at_s)))
    }

    /// Copies of objects that are corrupt.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn corrupt(&self) -> Result<BTreeMap<(PackId, ObjectId), u64>, StateError> {
        self.each(CORRUPT, |key, at_s| {
            let (pack, object) = key.split_once(' ')?;
            Some(((pack_id(pack)?, object.parse().ok()?), at_s))
        })
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
}

fn pack_id(text: &str) -> Option<PackId> {
    PackId::from_file_name(&format!("{text}.redb"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::mirror::history::What;

    /// As builds wrote it that knew trouble in words alone.
    #[test]
    fn what_earlier_builds_kept_reads() {
        let state: DatabaseState = serde_json::from_str(
            r#"{"newest":7,"checked_at_s":2,"confirmed_at_s":1,"last_error":"the disk is full"}"#,
        )
        .unwrap();
        assert_eq!((state.confirmed_at_s, state.last_error), (Some(1), Some("the disk is full".into())));
        let history: History = serde_json::from_str(
            r#"{"events":[{"at_s":2,"first_at_s":1,"times":2,"database":"daily","what":{"failed":"429"}}],
                "versions":{},"rebuilt":{}}"#,
        )
        .unwrap();
        assert_eq!(history.events[0].what, What::Failed("429".into()));
    }

    #[test]
    fn a_time_that_has_not_come_yet_tells_nothing() {
        let state = DatabaseState {
            newest: Some(7),
            confirmed_at_s: Some(9),
            checked_at_s: Some(11),
            ..Default::default()
        };
        assert_eq!(state.clone().plausible(11), state);
        assert_eq!(state.plausible(10), DatabaseState { newest: Some(7), ..Default::default() });
    }

    #[test]
    fn a_pack_retired_in_the_future_is_retired_now() {
        let dir = tempfile::tempdir().unwrap();
        let state = State::open(&dir.path().join("state.redb")).unwrap();
        let id = |n: u8| pack_id(&format!("20261122T205800Z-{n:016x}")).unwrap();
        state.retire(&[id(1)], None, 5).unwrap();
        state.retire(&[id(2)], None, 500).unwrap();
        state.retired_by(10).unwrap();
        assert_eq!(state.retired().unwrap().into_values().collect::<Vec<_>>(), [5, 10]);
    }

    #[test]
    fn remembers_across_reopening() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.redb");
        let daily: Database = "daily".parse().unwrap();
        let kept = DatabaseState { newest: Some(7), last_error: Some("x".into()), ..Default::default() };
        State::open(&path).unwrap().set_database(&daily, &kept).unwrap();
        assert_eq!(State::open(&path).unwrap().database(&daily).unwrap(), kept);
    }
}
