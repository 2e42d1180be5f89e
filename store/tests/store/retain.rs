//! Dropping, merging, and the cost of a year of it.
use crate::support::{Home, NOW_S, commit, file_names, noise, read_all, read_name, record};
use cvdmirror_store::{Error, ObjectId, PackId, PackSize, check_view, merges};
use std::collections::BTreeMap;

#[test]
fn merging_carries_what_stays_and_swaps_the_view_at_once() {
    let home = Home::new();
    let store = home.open_clean();
    let files: Vec<_> = (0..6).map(|i| (format!("n{i}"), noise(i, 90_000 * i as usize))).collect();
    let packs: Vec<_> = files.iter().map(|(n, b)| commit(&store, &[(n, b)])).collect();
    let before = store.view();
    let reader = before.open(&ObjectId::of(&files[1].1)).unwrap().unwrap();
    let ids: Vec<_> = packs[..5].iter().map(|p| p.id().clone()).collect();

    let merged = store.merge(&ids, &|name| name != "n1" && name != "n3", NOW_S + 9).unwrap();
    assert_eq!(merged.retired, ids);
    let names: Vec<_> = merged.pack.as_ref().unwrap().names().map(|(n, _)| n.to_owned()).collect();
    assert_eq!(names, ["n0", "n2", "n4"]);
    assert_eq!(store.view().packs().len(), 2);
    assert!(store.view().lookup("n1").is_none());

    // The old view still shows and serves what it did, also when the files are gone.
    let freed = store.remove_retired(&ids).unwrap();
    assert_eq!(freed, packs[..5].iter().map(|p| p.file_len()).sum::<u64>());
    assert_eq!(before.names().count(), 6);
    assert_eq!(read_all(&reader), files[1].1);

    let store = home.open_clean();
    assert_eq!(store.view().names().count(), 4);
    for i in [0, 2, 4, 5] {
        assert_eq!(read_name(&store, &files[i].0), files[i].1);
    }
    let mut findings = Vec::new();
    check_view(&store.view(), &|_| false, &|_| {}, &mut |f| findings.push(f));
    assert_eq!(findings, []);
    assert!(file_names(&home.tmp_dir()).is_empty());
}

#[test]
fn an_object_that_another_packs_name_needs_is_carried_and_cannot_be_retired() {
    let home = Home::new();
    let store = home.open_clean();
    let shared = noise(1, 500_000);
    let holder = commit(&store, &[("old", &shared), ("gone", b"gone")]);
    let user = commit(&store, &[("new", &shared)]);
    assert_eq!(user.objects().len(), 0);

    let refused = store.retire(&[holder.id().clone()]).unwrap_err();
    assert!(
        matches!(&refused, Error::StillNeeded { pack, name, object }
            if pack == holder.id() && name == "new" && *object == ObjectId::of(&shared)),
        "{refused}"
    );
    let merged = store.merge(&[holder.id().clone()], &|_| false, NOW_S + 1).unwrap();
    let pack = merged.pack.unwrap();
    assert_eq!((pack.names().len(), pack.objects().len()), (0, 1));
    assert_eq!(read_name(&store, "new"), shared);
    store.remove_retired(&merged.retired).unwrap();
    assert_eq!(read_name(&home.open_clean(), "new"), shared);

    store.retire(&[user.id().clone(), pack.id().clone()]).unwrap();
    assert_eq!(store.view().names().count(), 0);
}

#[test]
fn a_merge_that_keeps_nothing_leaves_no_pack() {
    let home = Home::new();
    let store = home.open_clean();
    let pack = commit(&store, &[("a", b"a")]);
    let in_view = store.remove_retired(&[pack.id().clone()]).unwrap_err();
    assert!(matches!(in_view, Error::InView { pack: id } if id == *pack.id()));
    let merged = store.merge(&[pack.id().clone()], &|_| false, NOW_S + 1).unwrap();
    assert!(merged.pack.is_none());
    let unknown = store.merge(&[pack.id().clone()], &|_| true, NOW_S + 1).unwrap_err();
    assert!(matches!(unknown, Error::UnknownPack { .. }));
    store.remove_retired(&merged.retired).unwrap();
    assert!(file_names(&home.store_dir()).is_empty());
    assert!(file_names(&home.tmp_dir()).is_empty());
}

#[test]
fn a_pack_with_a_disputed_name_is_neither_merged_nor_retired() {
    let home = Home::new();
    let store = home.open_clean();
    let ours = commit(&store, &[("daily-5.cvd", b"ours"), ("other", b"other")]);
    let foreign_home = Home::new();
    let foreign = commit(&foreign_home.open_clean(), &[("daily-5.cvd", b"foreign")]);
    let place = home.store_dir().join(foreign.id().file_name());
    std::fs::copy(foreign.path(), place).unwrap();

    let mut packs = cvdmirror_store::Store::scan(&home.store_dir()).unwrap().packs;
    packs.sort_by_key(|p| p.id() != ours.id());
    let (store, findings) =
        cvdmirror_store::Store::assemble(&home.store_dir(), &home.tmp_dir(), packs).unwrap();
    assert_eq!(findings.len(), 1);
    let sizes = store.view().sizes(&|_| false);
    assert!(sizes[0].troubled && sizes[1].troubled);
    assert_eq!(merges(&sizes), [[]; 0]);
    for pack in [&ours, &foreign] {
        let ids = [pack.id().clone()];
        let refused = [store.merge(&ids, &|_| false, NOW_S + 1).err(), store.retire(&ids).err()];
        let unsettled =
            |e: &Option<Error>| matches!(e, Some(Error::Unsettled { name, .. }) if name == "daily-5.cvd");
        assert!(refused.iter().all(unsettled), "{refused:?}");
    }
}

#[test]
fn a_corrupt_object_stops_a_merge_with_its_own_error_and_nothing_changes() {
    let home = Home::new();
    let store = home.open_clean();
    let bytes = noise(1, 3_000_000);
    let pack = commit(&store, &[("a", &bytes)]);
    drop(store);
    crate::support::flip_object_byte(pack.path(), &bytes, 2_000_000);
    let store = home.open_clean();
    let error = store.merge(&[pack.id().clone()], &|_| true, NOW_S + 1).unwrap_err();
    assert!(matches!(error, Error::Corrupt { object, .. } if object == ObjectId::of(&bytes)));
    assert_eq!(store.view().packs().len(), 1);
    assert!(file_names(&home.tmp_dir()).is_empty());

    // Quarantined, its name goes, and the object can be put again under the same name only.
    store.quarantine(pack.id(), ObjectId::of(&bytes));
    assert!(store.view().lookup("a").is_none());
    let mut batch = store.batch().unwrap();
    let other = batch.bind("a", record(b"other")).unwrap_err();
    assert!(matches!(other, Error::NameConflict { .. }));
    drop(batch);
    commit(&store, &[("a", &bytes)]);
    assert_eq!(read_name(&store, "a"), bytes);
    // Without the quarantine, the whole copy stands in for the corrupt one.
    assert_eq!(read_name(&home.open_clean(), "a"), bytes);
}

/// A pack of the simulation: names by their day and length.
struct Sim {
    packs: BTreeMap<PackId, Vec<(u32, u64)>>,
    next: u64,
    stored: u64,
    rewritten: u64,
    most_packs: usize,
}

impl Sim {
    const OVERHEAD: u64 = 40 << 10;

    fn add(&mut self, content: Vec<(u32, u64)>) {
        self.next += 1;
        let name = format!("20260101T000000Z-{:016x}.redb", self.next);
        self.packs.insert(PackId::from_file_name(&name).unwrap(), content);
        self.most_packs = self.most_packs.max(self.packs.len());
    }

    /// `keep_days` for small files, and three days for large ones.
    fn gc(&mut self, today: u32, keep_days: u32) {
        let keep = |(day, size): &(u32, u64)| today - day < if *size > 1 << 20 { 3 } else { keep_days };
        loop {
            let sizes = self.packs.iter().map(|(id, content)| PackSize {
                id: id.clone(),
                bytes: content.iter().map(|c| c.1).sum::<u64>() + Self::OVERHEAD,
                kept: content.iter().filter(|c| keep(c)).map(|c| c.1).sum(),
                kept_names: content.iter().filter(|c| keep(c)).count() as u64,
                troubled: false,
            });
            let groups = merges(&sizes.collect::<Vec<_>>());
            if groups.is_empty() {
                return;
            }
            for group in groups {
                let old = group.iter().flat_map(|id| self.packs.remove(id).unwrap());
                let kept: Vec<_> = old.filter(keep).collect();
                if !kept.is_empty() {
                    self.rewritten += kept.iter().map(|c| c.1).sum::<u64>() + Self::OVERHEAD;
                    self.add(kept);
                }
            }
        }
    }
}

#[test]
fn a_year_of_daily_versions_stays_under_64_packs_and_three_rewrites() {
    for (keep_days, with_cvds) in [(30, true), (90, true), (90, false), (100_000, true), (100_000, false)] {
        let mut sim = Sim { packs: BTreeMap::new(), next: 0, stored: 0, rewritten: 0, most_packs: 0 };
        for day in 0..365 {
            // A CDIFF and three signatures a version, one to three versions a day, one CVD of the last.
            for version in 0..=day % 3 {
                let mut files = vec![(day, 3_000 + u64::from(day * 7919 + version) % 29_000)];
                files.extend([(day, 9_000); 2]);
                if with_cvds && version == 0 {
                    files.push((day, 60_000_000));
                }
                sim.stored += files.iter().map(|f| f.1).sum::<u64>();
                sim.add(files);
            }
            sim.gc(day, keep_days);
        }
        let ratio = sim.rewritten as f64 / sim.stored as f64;
        println!(
            "CDIFFs kept {keep_days} days, CVDs {with_cvds}: stored {} MB, rewritten {ratio:.2} times, {} packs at most",
            sim.stored / 1_000_000,
            sim.most_packs
        );
        assert!(sim.most_packs < 64);
        assert!(ratio <= 3.0);
    }
}
