//! What is kept and for how long, and how what is not comes off the disk.
//!
//! Guarantees: what is advertised is never dropped (the newest CVDs, the patches after them, and a chain without
//! gaps behind them); a download that runs goes on, because its pack stays open; a file of a retired pack stays for
//! the grace period, so that a copy of the store that is under way finds every file it listed.
use super::{Mirror, OpenError, plan::Held, state::KnownPacks};
use crate::cvd::{Database, FileKind, FileName};
use cvdmirror_store::{Error, NameRecord, PackId, PackSize, View, merges};
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
    /// Bytes that come back once the retired packs' grace period is over, beyond what the merged ones take.
    pub saved_bytes: u64,
    /// Bytes of the files of packs retired earlier that are removed now.
    pub freed_bytes: u64,
    /// Bytes of files that wait for the end of the grace period.
    pub waiting_bytes: u64,
}

/// What is to be done to the packs.
struct Groups {
    /// Packs of which nothing is needed.
    gone: Vec<PackId>,
    /// Packs to rewrite together.
    merged: Vec<Vec<PackId>>,
    /// Bytes of all their files beyond what of them is needed.
    saved_bytes: u64,
}

impl Groups {
    fn of(view: &View, keep: &dyn Fn(&str) -> bool) -> Self {
        let sizes: BTreeMap<PackId, PackSize> =
            view.sizes(keep).into_iter().map(|size| (size.id.clone(), size)).collect();
        let mut merged = merges(&sizes.values().cloned().collect::<Vec<_>>());
        // A rotten copy that another one has replaced is not worth a look at every start.
        for (pack, _) in view.quarantined() {
            let healed = sizes.get(pack).is_some_and(|size| !size.troubled);
            if healed && !merged.iter().flatten().any(|id| id == pack) {
                merged.push(vec![pack.clone()]);
            }
        }
        let all = || merged.iter().flatten().filter_map(|id| sizes.get(id));
        let saved_bytes = all().map(|size| size.bytes.saturating_sub(size.kept)).sum();
        let gone = |id: &PackId| sizes.get(id).is_some_and(|size| size.kept == 0 && size.kept_names == 0);
        let (gone, merged): (Vec<_>, Vec<_>) = merged.into_iter().partition(|group| group.iter().all(gone));
        Self { gone: gone.into_iter().flatten().collect(), merged, saved_bytes }
    }
}

impl Mirror {
    /// Removes retired files whose grace period is over, drops what is to go, and merges small packs. What fails
    /// does not keep the rest from being done: on a full disk it is the removing that helps.
    ///
    /// # Errors
    /// The first, when the store or the state file refuses; what is published stays as it is.
    pub(super) fn tidy(&self, now_s: u64) -> Result<Tidied, OpenError> {
        let mut tidied = self.would_tidy(now_s);
        let over = self.over(now_s)?;
        if !over.is_empty() {
            tidied.freed_bytes = self.store.remove_retired(&over)?;
            self.state.forget_retired(&over)?;
        }
        let drops = self.retention.drops(&self.published.load().files, now_s);
        let keep = |name: &str| name.parse().map_or(true, |name: FileName| !drops.contains(&name));
        let groups = Groups::of(&self.store.view(), &keep);
        let mut failed = None;
        if !groups.gone.is_empty() {
            failed = self.retire(&groups.gone, now_s).err();
        }
        for group in &groups.merged {
            if let Err(e) = self.merge(group, &keep, now_s) {
                failed.get_or_insert(e);
            }
        }
        if !tidied.retired.is_empty() {
            self.publish();
        }
        // Without a grace period the space comes back at once.
        let over = self.over(now_s)?;
        if !over.is_empty() {
            tidied.freed_bytes += self.store.remove_retired(&over)?;
            self.state.forget_retired(&over)?;
        }
        tidied.waiting_bytes = self.waiting_bytes()?;
        self.tallied().waiting_bytes = tidied.waiting_bytes;
        failed.map_or(Ok(tidied), Err)
    }

    /// Takes packs out of the store that nothing needs. Writes no pack: it works on a full disk.
    fn retire(&self, gone: &[PackId], now_s: u64) -> Result<(), OpenError> {
        self.store.retire(gone)?;
        Ok(self.state.retire(gone, None, now_s)?)
    }

    fn merge(&self, group: &[PackId], keep: &dyn Fn(&str) -> bool, now_s: u64) -> Result<(), OpenError> {
        match self.store.merge(group, keep, now_s) {
            Ok(merged) => Ok(self.state.retire(&merged.retired, merged.pack.as_ref(), now_s)?),
            // Found on the way: the next round fetches it anew, and then they merge.
            Err(Error::Rotten { pack, object, .. }) => Ok(self.quarantine(&pack, object)?),
            Err(e) => Err(e.into()),
        }
    }

    /// Retired packs whose grace period is over.
    fn over(&self, now_s: u64) -> Result<Vec<PackId>, OpenError> {
        let retired = self.state.retired()?.into_iter();
        let over = retired.filter(|(_, at_s)| now_s.saturating_sub(*at_s) >= self.retention.grace_s);
        Ok(over.map(|(id, _)| id).collect())
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
        let groups = Groups::of(&self.store.view(), &keep);
        let freed_bytes = self.over(now_s).map_or(0, |over| self.bytes_of(&over));
        Tidied {
            dropped: drops.iter().map(ToString::to_string).collect(),
            retired: groups
                .gone
                .iter()
                .chain(groups.merged.iter().flatten())
                .map(ToString::to_string)
                .collect(),
            saved_bytes: groups.saved_bytes,
            freed_bytes,
            waiting_bytes: self.waiting_bytes().unwrap_or_default().saturating_sub(freed_bytes),
        }
    }

    /// What is known of the packs.
    ///
    /// # Errors
    /// When the state file cannot be read.
    pub fn known_packs(&self) -> Result<KnownPacks, OpenError> {
        Ok(self.state.known_packs()?)
    }

    fn waiting_bytes(&self) -> Result<u64, OpenError> {
        Ok(self.bytes_of(self.state.retired()?.keys()))
    }

    fn bytes_of<'a>(&self, packs: impl IntoIterator<Item = &'a PackId>) -> u64 {
        let len =
            |id: &PackId| self.store.dir().join(id.file_name()).symlink_metadata().map_or(0, |m| m.len());
        packs.into_iter().map(len).sum()
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
            "{} names dropped; {} packs retired, which gives {} bytes back when their grace period is over\n\
             {} bytes freed now; {} bytes wait for the end of the grace period",
            self.dropped.len(),
            self.retired.len(),
            self.saved_bytes,
            self.freed_bytes,
            self.waiting_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use cvdmirror_store::ObjectId;

    const DAY_S: u64 = 86_400;
    const NOW_S: u64 = 1_795_381_080;

    /// Names, each stored so many days ago; a CDIFF called `!` is empty.
    fn files(names: &[(&str, u64)]) -> BTreeMap<FileName, NameRecord> {
        let file = |(name, days_ago): &(&str, u64)| {
            let record = NameRecord {
                object: ObjectId::of(name.as_bytes()),
                size: u64::from(!name.starts_with('!')),
                modified_s: None,
                stored_at_s: NOW_S - days_ago * DAY_S,
                origin: String::new(),
                proof: String::new(),
            };
            (name.trim_start_matches('!').parse().unwrap(), record)
        };
        names.iter().map(file).collect()
    }

    fn keeping(cvds: u32, cdiff_days: u64) -> Retention {
        Retention { cvds, cvds_of: BTreeMap::new(), cdiffs_s: cdiff_days * DAY_S, grace_s: 0 }
    }

    fn drops(retention: &Retention, names: &[(&str, u64)]) -> Vec<String> {
        retention.drops(&files(names), NOW_S).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_newest_cvds_stay_with_their_signs() {
        let names = [("daily-1.cvd", 9), ("daily-1.cvd.sign", 9), ("daily-2.cvd", 5), ("daily-4.cvd", 0)];
        assert_eq!(drops(&keeping(2, 90), &names), ["daily-1.cvd", "daily-1.cvd.sign"]);
        assert_eq!(drops(&keeping(3, 90), &names), [""; 0]);
        // The newest is advertised: none is too few.
        assert_eq!(drops(&keeping(0, 90), &names), drops(&keeping(1, 90), &names));
        assert!(!drops(&keeping(0, 0), &names).contains(&"daily-4.cvd".to_owned()));
    }

    #[test]
    fn a_database_has_a_number_of_its_own() {
        let mut retention = keeping(1, 90);
        retention.cvds_of.insert("main".parse().unwrap(), 2);
        let names = [("daily-1.cvd", 1), ("daily-2.cvd", 0), ("main-1.cvd", 1), ("main-2.cvd", 0)];
        assert_eq!(drops(&retention, &names), ["daily-1.cvd"]);
    }

    #[test]
    fn old_cdiffs_go_from_the_oldest_on_and_leave_no_gap() {
        let names = [
            ("daily-1.cdiff", 99),
            ("daily-1.cdiff.sign", 99),
            ("daily-2.cdiff", 95),
            // Fetched anew after it had rotted: what follows it stays, however old.
            ("daily-3.cdiff", 1),
            ("daily-4.cdiff", 93),
            ("daily-4.cvd", 93),
        ];
        let gone = ["daily-1.cdiff", "daily-1.cdiff.sign", "daily-2.cdiff"];
        assert_eq!(drops(&keeping(2, 90), &names), gone);
        assert_eq!(drops(&keeping(2, 100), &names), [""; 0]);
    }

    #[test]
    fn cdiffs_past_the_newest_cvd_are_advertised_and_stay() {
        let names =
            [("daily-4.cdiff", 99), ("daily-4.cvd", 99), ("daily-5.cdiff", 99), ("daily-6.cdiff", 98)];
        assert_eq!(drops(&keeping(2, 90), &names), ["daily-4.cdiff"]);
        // Without any CVD nothing leads anywhere, and nothing is dropped.
        assert_eq!(drops(&keeping(2, 90), &[("daily-5.cdiff", 99)]), [""; 0]);
    }

    #[test]
    fn a_clock_that_went_back_drops_nothing() {
        let files = files(&[("daily-4.cdiff", 0), ("daily-4.cvd", 0)]);
        assert_eq!(keeping(2, 90).drops(&files, NOW_S - 400 * DAY_S), BTreeSet::new());
    }

    proptest::proptest! {
        /// Whatever is held: what is reachable stays so, and the chain that stays has no gap that was not there.
        #[test]
        fn what_is_advertised_stays(
            cvds in proptest::collection::btree_set(1u32..40, 1..6),
            cdiffs in proptest::collection::btree_map(1u32..50, (0u64..200, proptest::bool::ANY), 0..40),
            keep in 0u32..4,
            days in 0u64..120,
        ) {
            let mut names: Vec<(String, u64)> = cvds.iter().map(|v| (format!("daily-{v}.cvd"), 0)).collect();
            let cdiff = |(v, (age, empty)): (&u32, &(u64, bool))| {
                (format!("{}daily-{v}.cdiff", if *empty { "!" } else { "" }), *age)
            };
            names.extend(cdiffs.iter().map(cdiff));
            let names: Vec<(&str, u64)> = names.iter().map(|(name, age)| (&**name, *age)).collect();
            let before = files(&names);
            let mut after = before.clone();
            for name in keeping(keep, days).drops(&before, NOW_S) {
                after.remove(&name);
            }
            let database = "daily".parse().unwrap();
            let (before, after) = (Held::of(&before, &database), Held::of(&after, &database));
            proptest::prop_assert_eq!(before.reachable(), after.reachable());
            proptest::prop_assert_eq!(before.newest_cvd(), after.newest_cvd());
            proptest::prop_assert_eq!(after.cvds.len(), before.cvds.len().min(keep.max(1) as usize));
            let gaps: BTreeSet<u32> = before.gaps().into_iter().collect();
            proptest::prop_assert!(after.gaps().iter().all(|gap| gaps.contains(gap)));
        }
    }
}
