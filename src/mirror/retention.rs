//! What is kept and for how long.
//!
//! Guarantees: what is advertised is never dropped (the newest CVDs, the patches after them, and a chain without
//! gaps behind them).
use super::plan::Held;
use crate::cvd::{Database, FileKind, FileName};
use cvdmirror_store::NameRecord;
use std::collections::{BTreeMap, BTreeSet};

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
            let held = Held::new(files, database);
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
                proof: cvdmirror_store::Proof::Unknown,
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
            let (before, after) = (Held::new(&before, &database), Held::new(&after, &database));
            proptest::prop_assert_eq!(before.reachable(), after.reachable());
            proptest::prop_assert_eq!(before.newest_cvd(), after.newest_cvd());
            proptest::prop_assert_eq!(after.cvds.len(), before.cvds.len().min(keep.max(1) as usize));
            let gaps = before.gaps();
            let within = |(first, last): &(u32, u32)| gaps.iter().any(|(from, to)| from <= first && last <= to);
            proptest::prop_assert!(after.gaps().iter().all(within));
        }
    }
}
