//! Packs of earlier builds: every later build reads them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use cvdmirror_store::{Finding, NameRecord, ObjectId, Pack, Store, check_pack};
use std::path::{Path, PathBuf};
use support::{Home, read_all};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What every fixture holds. The texts compress well, so that the fixtures weigh little in the repository.
fn content() -> Vec<(&'static str, Vec<u8>, NameRecord)> {
    let lines = |n: usize| (0..n).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    let files = [
        ("bytecode-339.cvd", lines(30_000)),
        ("daily-28110.cdiff", lines(400)),
        ("daily-28111.cdiff", Vec::new()),
        ("daily-28110.cdiff.sign", b"#clamsign-1.0\n".to_vec()),
        ("the same again", lines(400)),
    ];
    let record = |bytes: &[u8]| NameRecord {
        object: ObjectId::of(bytes),
        size: bytes.len() as u64,
        modified_s: bytes.len().is_multiple_of(2).then_some(1_781_708_400),
        stored_at_s: 1_795_381_080,
        origin: "https://database.clamav.net/…".to_owned(),
        proof: "legacy signature, \"quoted\"".to_owned(),
    };
    files.into_iter().map(|(name, bytes)| (name, bytes.clone(), record(&bytes))).collect()
}

#[test]
fn packs_of_earlier_builds_are_read_whole() {
    let mut read = 0;
    for entry in std::fs::read_dir(fixtures()).unwrap() {
        let path = entry.unwrap().path();
        let pack = Pack::open_file(&path).unwrap();
        let mut report = |f: Finding| panic!("{f}");
        check_pack(&pack, false, &|_| {}, &mut report);
        assert_eq!(pack.sealed_at_s(), 1_795_381_080);
        assert_eq!(pack.names().len(), content().len());
        for (name, bytes, record) in content() {
            let (_, found) = pack.names().find(|(n, _)| *n == name).unwrap();
            assert_eq!(*found, record);
            assert_eq!(read_all(&pack.open(&record.object).unwrap().unwrap()), bytes);
        }
        read += 1;
    }
    assert!(read >= 1);
}

/// With `WRITE_FIXTURE_TO` naming a directory the pack is left there: once for each new format it is committed, and
/// never replaced.
#[test]
fn this_build_seals_what_the_fixtures_hold() {
    let home = Home::new();
    let (store, _) = Store::assemble(&home.store_dir(), &home.tmp_dir(), Vec::new()).unwrap();
    let mut batch = store.batch().unwrap();
    for (name, bytes, record) in content() {
        batch.put(record.object, record.size, &mut &bytes[..]).unwrap();
        batch.bind(name, record).unwrap();
    }
    let pack = store.commit(batch, 1_795_381_080).unwrap();
    assert_eq!(pack.names().len(), content().len());
    if let Some(dir) = std::env::var_os("WRITE_FIXTURE_TO") {
        std::fs::copy(pack.path(), Path::new(&dir).join(pack.id().file_name())).unwrap();
    }
}
