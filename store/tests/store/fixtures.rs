//! Packs of earlier builds: every later build reads them.
use crate::support::{Home, read_all};
use cvdmirror_store::{Finding, NameRecord, ObjectId, Pack, Proof, Store, check_pack};
use std::path::{Path, PathBuf};

/// Formats 0 and 1. In format 0 the proofs are texts that this build does not know.
const FIXTURES: [&str; 2] =
    ["20261122T205800Z-3940ffe2859e32c1.redb", "20261122T205800Z-9c58fb78e7768e18.redb"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What every fixture holds. The texts compress well, so that the fixtures weigh little in the repository.
fn content() -> Vec<(&'static str, Vec<u8>, NameRecord)> {
    let lines = |n: usize| (0..n).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
    let files = [
        ("bytecode-339.cvd", lines(30_000), Proof::Signed),
        ("daily-28110.cdiff", lines(400), Proof::Rebuilt),
        ("daily-28111.cdiff", Vec::new(), Proof::Empty),
        ("daily-28110.cdiff.sign", b"#clamsign-1.0\n".to_vec(), Proof::Chained),
        ("the same again", lines(400), Proof::Form),
    ];
    let record = |bytes: &[u8], proof| NameRecord {
        object: ObjectId::of(bytes),
        size: bytes.len() as u64,
        modified_s: bytes.len().is_multiple_of(2).then_some(1_781_708_400),
        stored_at_s: 1_795_381_080,
        origin: "https://database.clamav.net/…".to_owned(),
        proof,
    };
    files.into_iter().map(|(name, bytes, proof)| (name, bytes.clone(), record(&bytes, proof))).collect()
}

#[test]
fn packs_of_earlier_builds_are_read_whole() {
    for (format, file) in FIXTURES.iter().enumerate() {
        let pack = Pack::open_file(&fixtures().join(file)).unwrap();
        let mut report = |f: Finding| panic!("{f}");
        check_pack(&pack, false, &|_| {}, &mut report);
        assert_eq!(pack.sealed_at_s(), 1_795_381_080);
        assert_eq!(pack.names().len(), content().len());
        for (name, bytes, mut record) in content() {
            if format == 0 {
                record.proof = Proof::Unknown;
            }
            assert_eq!(pack.lookup(name), Some(&record));
            assert_eq!(read_all(&pack.open(&record.object).unwrap().unwrap()), bytes);
        }
        assert_eq!(pack.lookup("the same"), None);
    }
    assert_eq!(std::fs::read_dir(fixtures()).unwrap().count(), FIXTURES.len());
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
    // Bytes that redb arranges: an update of it may change them, this crate alone may not without a new format.
    let newest = fixtures().join(FIXTURES[FIXTURES.len() - 1]);
    assert!(
        std::fs::read(pack.path()).unwrap() == std::fs::read(newest).unwrap(),
        "other bytes than the fixture's"
    );
}
