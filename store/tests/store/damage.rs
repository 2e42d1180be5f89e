//! Foreign, cut and altered files: each is found and named, none is followed, blocked on, or served.
use crate::support::{Home, NOW_S, commit, noise, read_name, record, rewrite};
use cvdmirror_store::{
    Error, Finding, ForeignKind, ObjectId, Pack, PackId, Severity, Store, check_len, check_pack, check_view,
};
use std::{
    os::unix::{ffi::OsStrExt, fs::symlink},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

fn findings_of(home: &Home) -> Vec<Finding> {
    home.open().1
}

fn check(pack: &Pack) -> Vec<Finding> {
    let mut findings = Vec::new();
    let done = AtomicU64::new(0);
    check_pack(
        pack,
        false,
        &|n| {
            done.fetch_add(n, Ordering::Relaxed);
        },
        &mut |f| findings.push(f),
    );
    assert!(done.into_inner() <= check_len(pack));
    findings
}

#[test]
fn what_is_no_pack_is_named_and_left_alone() {
    let home = Home::new();
    let dir = home.store_dir();
    commit(&home.open_clean(), &[("a", b"a")]);
    let pack_name = |n: u32| format!("20260101T000000Z-{n:016x}.redb");
    std::fs::write(dir.join("notes.txt"), "x").unwrap();
    std::fs::write(dir.join(std::ffi::OsStr::from_bytes(b"\xff.redb")), "x").unwrap();
    std::fs::write(dir.join(format!(".{}.Xa81bc", pack_name(9))), "half an rsync").unwrap();
    std::fs::create_dir(dir.join(pack_name(1))).unwrap();
    symlink("/dev/zero", dir.join(pack_name(2))).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        dir.join(pack_name(3)),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o644),
        0,
    )
    .unwrap();
    std::fs::write(dir.join(pack_name(4)), "").unwrap();
    std::fs::write(dir.join(pack_name(5)), "not redb").unwrap();
    std::fs::write(dir.join(pack_name(6)), noise(1, 100_000)).unwrap();

    let (store, findings) = home.open();
    assert_eq!(read_name(&store, "a"), b"a");
    let what = |path: &str| {
        let of = |f: &&Finding| match f {
            Finding::Foreign { path: p, .. } | Finding::Unusable { path: p, .. } => p.ends_with(path),
            _ => false,
        };
        findings.iter().find(of).unwrap_or_else(|| panic!("{path} in {findings:?}"))
    };
    let foreign = |path: &str| match what(path) {
        Finding::Foreign { what, .. } => *what,
        other => panic!("{other:?}"),
    };
    assert_eq!(foreign("notes.txt"), ForeignKind::File);
    assert_eq!(foreign(&format!(".{}.Xa81bc", pack_name(9))), ForeignKind::File);
    assert_eq!(foreign(&pack_name(1)), ForeignKind::Directory);
    assert_eq!(foreign(&pack_name(2)), ForeignKind::Link);
    assert_eq!(foreign(&pack_name(3)), ForeignKind::Special);
    for n in 4..=6 {
        assert!(matches!(what(&pack_name(n)), Finding::Unusable { .. }));
        assert_eq!(what(&pack_name(n)).severity(), Severity::Error);
    }
    assert_eq!(findings.len(), 9);
    for finding in &findings {
        assert!(!finding.to_string().is_empty() && !finding.advice().is_empty());
        assert!(finding.severity() >= Severity::Warning);
    }
    // Opened directly, by someone who trusts the name alone, they are errors too, without blocking.
    for n in 1..=6 {
        let error = Pack::open_file(&dir.join(pack_name(n))).unwrap_err();
        assert!(matches!(error, Error::Unusable { .. }), "{n}: {error:?}");
    }
}

#[test]
fn a_pack_cut_short_anywhere_is_a_finding() {
    let home = Home::new();
    let bytes = noise(3, 600_000);
    let pack = commit(&home.open_clean(), &[("a", &bytes), ("b", b"small")]);
    let file = std::fs::read(pack.path()).unwrap();
    for step in 0..60 {
        let keep = file.len() * step / 60;
        rewrite(pack.path(), &file[..keep]);
        let findings = findings_of(&home);
        assert!(
            matches!(&findings[..], [Finding::Unusable { path, .. }] if path == pack.path()),
            "{keep}: {findings:?}"
        );
    }
    // A tail more than was sealed opens, and the hash tells.
    rewrite(pack.path(), &[&file[..], &[0; 4096]].concat());
    if let Ok(longer) = Pack::open_file(pack.path()) {
        assert!(check(&longer).iter().any(|f| matches!(f, Finding::FileChanged { .. })));
    }
}

#[test]
fn every_flipped_bit_is_found_and_none_is_served() {
    let home = Home::new();
    let store = home.open_clean();
    let small: Vec<_> = (0..40).map(|i| (format!("daily-{i}.cdiff"), noise(i, 700 * i as usize))).collect();
    let large = noise(99, 300_000);
    let mut files: Vec<_> = small.iter().map(|(n, b)| (n.as_str(), &b[..])).collect();
    files.push(("main-1.cvd", &large));
    let pack = commit(&store, &files);
    assert_eq!(check(&pack), []);
    let path = pack.path().to_owned();
    let file = std::fs::read(&path).unwrap();
    // Half of the flips anywhere, half where redb keeps its own: the header, and pages that hold none of the large object's bytes.
    let theirs: std::collections::HashSet<_> = large.windows(64).collect();
    let own: Vec<usize> = (0..file.len() / 4096)
        .filter(|page| !file[page * 4096..][..4096].chunks(64).any(|c| theirs.contains(c)))
        .collect();
    let mut rng = u64::from_le_bytes(noise(7, 8).try_into().unwrap());
    let mut next = |below: usize| {
        rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (rng >> 33) as usize % below
    };
    let (mut unopened, mut served) = (0, 0);
    let rounds = std::env::var("FLIPS").map_or(600, |n| n.parse().unwrap());
    for round in 0..rounds {
        let at = match round % 2 {
            0 => next(file.len()),
            _ => own[next(own.len())] * 4096 + next(4096),
        };
        let mut altered = file.clone();
        altered[at] ^= 1 << next(8);
        rewrite(&path, &altered);
        let scan = Store::scan(&home.store_dir()).unwrap();
        let Some(pack) = scan.packs.first() else {
            assert!(
                matches!(&scan.findings[..], [Finding::Unusable { path: p, .. }] if *p == path),
                "{at}: {:?}",
                scan.findings
            );
            unopened += 1;
            continue;
        };
        let findings = check(pack);
        assert!(findings.iter().any(|f| matches!(f, Finding::FileChanged { .. })), "{at}");
        assert_eq!(pack.names().len(), files.len());
        for (name, bytes) in &files {
            let (_, bound) = pack.names().find(|(n, _)| n == name).unwrap();
            assert_eq!(*bound, record(bytes), "{at}");
            let reader = pack.open(&bound.object).unwrap().unwrap();
            let mut offset = 0;
            while offset < bytes.len() {
                match reader.chunk_at(offset as u64) {
                    Ok(chunk) => {
                        assert_eq!(chunk, bytes[offset..offset + chunk.len()], "{at}");
                        offset += chunk.len();
                        served += 1;
                    }
                    Err(Error::Corrupt { object, .. }) => {
                        assert_eq!(object, bound.object);
                        assert!(findings.iter().any(|f| matches!(f, Finding::Corrupt { object: o, names, .. } if *o == object && names.contains(&(*name).to_owned()))), "{at}: {findings:?}");
                        break;
                    }

                    Err(other) => panic!("{at}: {other:?}"),
                }
            }
        }
    }
    println!("{rounds} flips: {unopened} packs did not open, {served} right chunks were served");
    assert!(served > 0 && unopened > 0);
}

#[test]
fn of_a_name_bound_to_two_contents_neither_is_shown_and_a_finding_names_both_in_any_order() {
    let (home, other) = (Home::new(), Home::new());
    let ours = commit(&home.open_clean(), &[("daily-5.cvd", b"ours"), ("both", b"same")]);
    let theirs =
        commit(&other.open_clean(), &[("daily-5.cvd", b"theirs"), ("both", b"same"), ("new", b"new")]);
    let copied = home.store_dir().join(theirs.id().file_name());
    std::fs::copy(theirs.path(), &copied).unwrap();
    let object = |bytes: &[u8]| ObjectId::of(bytes);
    let mut bindings = vec![(ours.id().clone(), object(b"ours")), (theirs.id().clone(), object(b"theirs"))];
    bindings.sort_by_key(|(_, object)| *object);
    for first in [ours.id(), theirs.id()] {
        let mut packs = Store::scan(&home.store_dir()).unwrap().packs;
        packs.sort_by_key(|p| p.id() != first);
        let (store, findings) = Store::assemble(&home.store_dir(), &home.tmp_dir(), packs).unwrap();
        let conflict = Finding::NameConflict { name: "daily-5.cvd".to_owned(), bindings: bindings.clone() };
        assert_eq!(findings, [conflict]);
        assert_eq!(store.view().lookup("daily-5.cvd"), None);
        assert_eq!(read_name(&store, "new"), b"new");
        let mut batch = store.batch().unwrap();
        let error = batch.bind("daily-5.cvd", record(b"another")).unwrap_err();
        assert!(matches!(error, Error::NameConflict { .. }));
        // Neither goes with a gc: that must be looked into.
        let sizes = store.view().sizes(&|_| true);
        assert!(sizes.iter().all(|size| size.troubled));
        // Once it is known which of them is wrong, the other one is the name's.
        let wrong = [("daily-5.cvd".to_owned(), [object(b"theirs")].into())];
        assert_eq!(store.withdraw(wrong.into()), []);
        assert_eq!(read_name(&store, "daily-5.cvd"), b"ours");
        assert!(store.view().is_withdrawn("daily-5.cvd", &object(b"theirs")));
        assert!(!store.view().sizes(&|_| true).iter().any(|size| size.troubled));
    }
}

#[test]
fn content_takes_the_place_of_an_empty_object_and_never_the_other_way() {
    let (home, other) = (Home::new(), Home::new());
    let store = home.open_clean();
    let empty = commit(&store, &[("daily-5.cdiff", b"")]);
    let content = commit(&store, &[("daily-5.cdiff", b"a patch")]);
    assert_eq!(read_name(&store, "daily-5.cdiff"), b"a patch");
    let error = store.batch().unwrap().bind("daily-5.cdiff", record(b"")).unwrap_err();
    assert!(matches!(error, Error::NameConflict { .. }));
    // The same from other packs, whatever their names say of their age.
    for pack in [&content, &empty] {
        let hash = pack.id().as_str().rsplit('-').next().unwrap();
        let older = if pack.id() == content.id() { 2001 } else { 2099 };
        let path = other.store_dir().join(format!("{older}0101T000000Z-{hash}.redb"));
        std::fs::copy(pack.path(), path).unwrap();
    }
    assert_eq!(read_name(&other.open_clean(), "daily-5.cdiff"), b"a patch");
    // A gc may have what gave way.
    let sizes = store.view().sizes(&|_| true);
    assert_eq!(
        sizes.iter().map(|size| (size.kept_names, size.troubled)).collect::<Vec<_>>(),
        [(0, false), (1, false)]
    );
}

#[test]
fn what_is_withdrawn_leaves_its_name_free_and_is_kept_until_something_takes_its_place() {
    let home = Home::new();
    let store = home.open_clean();
    commit(&store, &[("daily-5.cvd.sign", b"bad")]);
    let withdrawn = || [("daily-5.cvd.sign".to_owned(), [ObjectId::of(b"bad")].into())].into();
    assert_eq!(store.withdraw(withdrawn()), []);
    assert_eq!(store.view().lookup("daily-5.cvd.sign"), None);
    assert!(store.view().sizes(&|_| true)[0].troubled);
    commit(&store, &[("daily-5.cvd.sign", b"good")]);
    assert_eq!(read_name(&store, "daily-5.cvd.sign"), b"good");
    assert!(!store.view().sizes(&|_| true)[0].troubled);
    let (reopened, findings) = home.open();
    assert!(matches!(findings[..], [Finding::NameConflict { .. }]));
    assert_eq!(reopened.withdraw(withdrawn()), []);
    assert_eq!(read_name(&reopened, "daily-5.cvd.sign"), b"good");
}

#[test]
fn two_batches_begun_together_cannot_bind_a_name_twice() {
    let home = Home::new();
    let store = home.open_clean();
    let mut batches = [b"one", b"two"].map(|bytes| {
        let mut batch = store.batch().unwrap();
        batch.put(ObjectId::of(bytes), 3, &mut &bytes[..]).unwrap();
        batch.bind("name", record(bytes)).unwrap();
        Some(batch)
    });
    store.commit(batches[0].take().unwrap(), NOW_S).unwrap();
    let error = store.commit(batches[1].take().unwrap(), NOW_S).unwrap_err();
    assert!(matches!(error, Error::NameConflict { .. }));
    assert_eq!(read_name(&home.open_clean(), "name"), b"one");
}

#[test]
fn a_name_needs_its_object_and_a_plain_form() {
    let home = Home::new();
    let store = home.open_clean();
    let mut batch = store.batch().unwrap();
    let long = "x".repeat(256);
    for bad in ["", ".", "..", "a/b", "a\nb", "a\0", "\u{7f}", &long] {
        assert!(matches!(batch.bind(bad, record(b"x")), Err(Error::BadName { .. })), "{bad:?}");
    }
    let mut wordy = record(b"x");
    wordy.origin = "x".repeat(4097);
    assert!(matches!(batch.bind("ok", wordy), Err(Error::BadName { .. })));
    batch.bind("dangling", record(b"nowhere")).unwrap();
    let error = store.commit(batch, NOW_S).unwrap_err();
    assert!(
        matches!(error, Error::ObjectMissing { name, object } if name == "dangling" && object == ObjectId::of(b"nowhere"))
    );

    // From a subset of packs a name may be there without its object: it is left out, and said.
    let held = commit(&store, &[("a", b"shared")]);
    commit(&store, &[("b", b"shared"), ("c", b"c")]);
    std::fs::remove_file(held.path()).unwrap();
    let (store, findings) = home.open();
    assert!(matches!(&findings[..], [Finding::ObjectMissing { name, .. }] if name == "b"));
    let names: Vec<_> = store.view().names().map(|(n, _)| n.to_owned()).collect();
    assert_eq!(names, ["c"]);
}

/// Edits a sealed pack through redb, as a hostile builder would.
fn edit(path: &Path, key: (u8, u64), value: &[u8]) {
    let mut permissions = std::fs::metadata(path).unwrap().permissions();
    #[allow(clippy::permissions_set_readonly_false)]
    permissions.set_readonly(false);
    std::fs::set_permissions(path, permissions).unwrap();
    let db = redb::Database::open(path).unwrap();
    let txn = db.begin_write().unwrap();
    let table = redb::TableDefinition::<(u8, u64), &[u8]>::new("cvdmirror-store");
    txn.open_table(table).unwrap().insert(key, value).unwrap();
    txn.commit().unwrap();
}

#[test]
fn a_newer_format_is_refused_by_name() {
    let home = Home::new();
    let pack = commit(&home.open_clean(), &[("a", b"a")]);
    edit(pack.path(), (255, 255), &checked((255, 255), &7u64.to_le_bytes()));
    let error = Store::scan(&home.store_dir()).unwrap_err();
    assert!(matches!(&error, Error::NewerFormat { path, found: 7, supported: 1 } if path == pack.path()));
    assert!(error.to_string().contains("this build reads up to 1"), "{error}");
}

/// A row as the format has it: the value and the check over section, number and value.
fn checked(key: (u8, u64), value: &[u8]) -> Vec<u8> {
    let row = [&[key.0][..], &key.1.to_le_bytes(), value].concat();
    [value, &blake3::hash(&row).as_bytes()[..16]].concat()
}

#[test]
fn a_pack_of_ten_million_names_is_refused_before_they_are_read() {
    let home = Home::new();
    let pack = commit(&home.open_clean(), &[("a", b"a")]);
    let head = (NOW_S, 1u64, 1u64, 10_000_000u64);
    let head = bincode::encode_to_vec(head, bincode::config::standard()).unwrap();
    edit(pack.path(), (255, 0), &checked((255, 0), &head));
    let findings = findings_of(&home);
    assert!(
        matches!(&findings[..], [Finding::Unusable { reason, .. }] if reason.contains("names in a pack: 10000000")),
        "{findings:?}"
    );
}

#[test]
fn a_pack_that_lost_names_or_objects_is_refused() {
    for head in [(NOW_S, 1u64, 2u64, 1u64), (NOW_S, 1, 1, 2), (NOW_S, 0, 1, 1)] {
        let home = Home::new();
        let pack = commit(&home.open_clean(), &[("a", b"a")]);
        let head = bincode::encode_to_vec(head, bincode::config::standard()).unwrap();
        edit(pack.path(), (255, 0), &checked((255, 0), &head));
        assert!(matches!(&findings_of(&home)[..], [Finding::Unusable { .. }]), "{head:?}");
    }
}

/// A pack of two small objects whose list of objects is another: start and size of each.
fn with_objects(home: &Home, places: [(u64, u64); 2]) {
    let pack = commit(&home.open_clean(), &[("a", b"genuine"), ("b", b"other")]);
    let mut ids = [ObjectId::of(b"genuine"), ObjectId::of(b"other")];
    ids.sort();
    let rows =
        ids.iter().zip(places).map(|(id, (start, size))| (*id.as_bytes(), start, size, Vec::<u8>::new()));
    let block = rows.map(|row| bincode::encode_to_vec(row, bincode::config::standard()).unwrap());
    edit(pack.path(), (1, 0), &checked((1, 0), &block.collect::<Vec<_>>().concat()));
}

/// The failure: a quarter of a million objects that are all the same gigabyte. The consequence, were they believed: a check
/// that takes days.
#[test]
fn objects_that_share_bytes_are_refused() {
    for places in [[(0, 12), (0, 12)], [(0, 7), (6, 6)], [(0, 12), (12, 1)]] {
        let home = Home::new();
        with_objects(&home, places);
        assert!(
            matches!(&findings_of(&home)[..], [Finding::Unusable { reason, .. }] if reason.contains("list of objects")),
            "{places:?}"
        );
    }
    let home = Home::new();
    with_objects(&home, [(0, 6), (6, 6)]);
    assert!(!findings_of(&home).iter().any(|f| matches!(f, Finding::Unusable { .. })));
}

#[test]
fn a_stream_longer_than_its_file_is_refused() {
    let home = Home::new();
    let pack = commit(&home.open_clean(), &[("a", b"a")]);
    let head = bincode::encode_to_vec((NOW_S, u64::MAX, 1u64, 1u64), bincode::config::standard()).unwrap();
    edit(pack.path(), (255, 0), &checked((255, 0), &head));
    assert!(
        matches!(&findings_of(&home)[..], [Finding::Unusable { reason, .. }] if reason.contains("longer than the file"))
    );
}

/// The failure: a stream cut into rows of a byte each. The consequence, were they read: as many look-ups as bytes, for
/// every object of the stripe again.
#[test]
fn rows_of_another_cut_are_not_read() {
    let home = Home::new();
    let pack = commit(&home.open_clean(), &[("a", b"genuine")]);
    let object = ObjectId::of(b"genuine");
    let read = || Pack::open_file(pack.path()).unwrap().open(&object).unwrap().unwrap().chunk_at(0);
    assert_eq!(read().unwrap(), b"genuine"[..]);
    edit(pack.path(), (0, 0), b"gen");
    edit(pack.path(), (0, 3), b"uine");
    assert!(matches!(read(), Err(Error::Corrupt { object: o, offset: 0, .. }) if o == object));
}

#[test]
fn content_that_never_matched_its_id_is_found_though_the_files_hash_is_right() {
    let home = Home::new();
    let pack = commit(&home.open_clean(), &[("a", b"genuine"), ("b", b"other")]);
    // The rows of the byte stream carry no check of their own: a hostile pack can have any.
    edit(pack.path(), (0, 0), b"forgery!other"[1..].as_ref());
    let hash = blake3::hash(&std::fs::read(pack.path()).unwrap()).to_hex();
    let name = format!("20260101T000000Z-{}.redb", &hash[..16]);
    let path = home.store_dir().join(name);
    std::fs::rename(pack.path(), &path).unwrap();

    let pack = Pack::open_file(&path).unwrap();
    pack.check_file_hash(&mut |_| {}).unwrap();
    let findings = check(&pack);
    assert!(findings.iter().any(|f| matches!(f, Finding::Corrupt { .. })), "{findings:?}");
    let view = home.open().0.view();
    let served = view.open(&ObjectId::of(b"genuine")).unwrap().unwrap().chunk_at(0);
    assert!(matches!(served, Err(Error::Corrupt { offset: 0, .. })), "{served:?}");
}

#[test]
fn a_view_is_checked_with_the_names_that_use_what_is_corrupt() {
    let home = Home::new();
    let store = home.open_clean();
    let bytes = noise(5, 400_000);
    let pack = commit(&store, &[("first", &bytes)]);
    commit(&store, &[("second", &bytes)]);
    let mut unnamed = store.batch().unwrap();
    unnamed.put(ObjectId::of(b"unused"), 6, &mut &b"unused"[..]).unwrap();
    store.commit(unnamed, NOW_S).unwrap();
    drop(store);
    crate::support::flip_object_byte(pack.path(), &bytes, 350_000);
    let mut findings = Vec::new();
    check_view(&home.open_clean().view(), &|_| false, &|_| {}, &mut |f| findings.push(f));
    assert!(findings.iter().any(|f| matches!(f, Finding::Corrupt { offset, names, .. } if *offset > 0 && names == &["first", "second"])), "{findings:?}");
    assert!(findings.iter().any(|f| matches!(f, Finding::FileChanged { .. })));
    assert!(findings.iter().any(|f| matches!(f, Finding::Unused { objects: 1, bytes: 6, .. })));
}

#[test]
fn only_what_a_pack_is_called_parses_as_one() {
    let id = PackId::from_file_name("20261122T205800Z-3f2a91c04d5e6b77.redb").unwrap();
    assert_eq!(id.hash_start(), "3f2a91c04d5e6b77");
    assert_eq!(id.file_name(), "20261122T205800Z-3f2a91c04d5e6b77.redb");
    for bad in [
        "20261122T205800Z-3f2a91c04d5e6b77",
        "20261122T205800Z-3f2a91c04d5e6b7.redb",
        "20261122T205800Z-3F2A91C04D5E6B77.redb",
        "20261122-205800Z-3f2a91c04d5e6b77.redb",
        "20261122T205800Z-3f2a91c04d5e6b77.redb.tmp",
        "２0261122T205800Z-3f2a91c04d5e6b7.redb",
    ] {
        assert_eq!(PackId::from_file_name(bad), None, "{bad}");
    }
}

#[test]
fn emptying_tmp_takes_only_what_a_crash_may_leave() {
    let home = Home::new();
    let tmp = home.tmp_dir();
    std::fs::write(tmp.join("pack-1-1.tmp"), "x").unwrap();
    std::fs::write(tmp.join("keep.txt"), "x").unwrap();
    std::fs::create_dir(tmp.join("dir.tmp")).unwrap();
    symlink("/etc/passwd", tmp.join("link.tmp")).unwrap();
    assert_eq!(Store::empty_tmp(&tmp).unwrap(), 1);
    assert_eq!(crate::support::file_names(&tmp), ["dir.tmp", "keep.txt", "link.tmp"]);
}
