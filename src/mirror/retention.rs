//! What is kept and for how long, and how what is not comes off the disk.
//!
//! Guarantees: what is advertised is never dropped (the newest CVDs, the patches after them, and a chain without
//! gaps behind them); a download that runs goes on, because its pack stays open; a file of a retired pack stays for
//! the grace period, so that a copy of the store that is under way finds every file it listed.
use super::{Mirror, OpenError, plan::Held};
use crate::cvd::{Database, FileKind, FileName};
use cvdmirror_store::{NameRecord, PackId, merges};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What is kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retention {
    /// Full CVDs of a database, where it has no number of its own.
    pub cvds: u32,
    /// Full CVDs of single databases.
    pub cvds_of: BTreeMap<Database, u32>,
    /// How long a CDIFF is kept, seconds.
    pub cdiffs_s: u64,
    /// How long the file of a retired pack stays, seconds.
    pub grace_s: u64,
}

impl Retention {
    /// Says which names are to go. Pure.
    pub fn drops(&self, files: &BTreeMap<FileName, NameRecord>, now_s: u64) -> BTreeSet<FileName> {
        let databases: BTreeSet<&Database> = files.keys().map(|name| &name.database).collect();
        let mut drops = BTreeSet::new();
        for database in databases {
            let held = Held::of(files, database);
            let keep = self.cvds_of.get(database).copied().unwrap_or(self.cvds).max(1) as usize;
            for version in held.cvds.iter().rev().skip(keep) {
                drops.insert(FileName::new(database, *version, FileKind::Cvd));
            }
            // From the oldest up to the first that is young or leads on from a CVD kept: no gap is ever made.
            let base = held.newest_cvd().unwrap_or(0);
            for version in held.cdiffs.keys().take_while(|version| **version <= base) {
                let name = FileName::new(database, *version, FileKind::Cdiff);
                let stored_at_s = files.get(&name).map_or(now_s, |record| record.stored_at_s);
                if now_s.saturating_sub(stored_at_s) <= self.cdiffs_s {
                    break;
                }
                drops.insert(name);
            }
        }
        let signs: Vec<FileName> = drops.iter().filter_map(FileName::sign).collect();
        drops.extend(signs.into_iter().filter(|sign| files.contains_key(sign)));
        drops
    }
}

/// What tidying up did, or would do.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Tidied {
    /// Names that go.
    pub dropped: Vec<String>,
    /// Packs that are replaced by merged ones, or go.
    pub retired: Vec<String>,
    /// Bytes of the files of packs retired earlier that are removed now.
    pub freed_bytes: u64,
    /// Bytes of files that wait for the end of the grace period.
    pub waiting_bytes: u64,
}

impl Mirror {
    /// Drops what is to go, merges small packs, and removes retired files whose grace period is over.
    ///
    /// # Errors
    /// When the store or the state file refuses; what is published stays as it is.
    pub(super) fn tidy(&self, now_s: u64) -> Result<Tidied, OpenError> {
        let mut tidied = self.would_tidy(now_s);
        let drops = self.retention.drops(&self.published.load().files, now_s);
        let keep = |name: &str| name.parse().map_or(true, |name: FileName| !drops.contains(&name));
        let view = self.store.view();
        for group in merges(&view.sizes(&keep)) {
            let merged = self.store.merge(&group, &keep, now_s)?;
            self.state.retire(&merged.retired, merged.pack.as_ref(), now_s)?;
        }
        if !tidied.retired.is_empty() {
            self.publish();
        }
        let over = self.state.retired()?;
        let over: Vec<PackId> = over
            .into_iter()
            .filter(|(_, at_s)| now_s.saturating_sub(*at_s) >= self.retention.grace_s)
            .map(|(id, _)| id)
            .collect();
        if !over.is_empty() {
            tidied.freed_bytes = self.store.remove_retired(&over)?;
            self.state.forget_retired(&over)?;
        }
        tidied.waiting_bytes = self.waiting_bytes()?;
        Ok(tidied)
    }

    /// Tidies up between two rounds.
    ///
    /// # Errors
    /// As for a round's own tidying.
    pub async fn gc(&self, now_s: u64) -> Result<Tidied, OpenError> {
        let _one_at_a_time = self.round.lock().await;
        tokio::task::block_in_place(|| self.tidy(now_s))
    }

    /// What tidying up would do now.
    pub fn would_tidy(&self, now_s: u64) -> Tidied {
        let drops = self.retention.drops(&self.published.load().files, now_s);
        let keep = |name: &str| name.parse().map_or(true, |name: FileName| !drops.contains(&name));
        let groups = merges(&self.store.view().sizes(&keep));
        Tidied {
            dropped: drops.iter().map(ToString::to_string).collect(),
            retired: groups.iter().flatten().map(|id| id.as_str().to_owned()).collect(),
            freed_bytes: 0,
            waiting_bytes: self.waiting_bytes().unwrap_or_default(),
        }
    }

    fn waiting_bytes(&self) -> Result<u64, OpenError> {
        let files = self.state.retired()?;
        let len =
            |id: &PackId| self.store.dir().join(id.file_name()).symlink_metadata().map_or(0, |m| m.len());
        Ok(files.keys().map(len).sum())
    }
}

impl fmt::Display for Tidied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.dropped {
            writeln!(f, "drops {name}")?;
        }
        for pack in &self.retired {
            writeln!(f, "retires {pack}")?;
        }
        writeln!(
            f,
            "{} names dropped, {} packs retired, {} bytes freed, {} bytes wait for the end of the grace period",
            self.dropped.len(),
            self.retired.len(),
            self.freed_bytes,
            self.waiting_bytes
        )
    }
}
