//! A store in a temporary directory, and bytes to put into it.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic, unreachable_pub)]
use cvdmirror_store::{Finding, NameRecord, ObjectId, ObjectReader, Pack, Proof, Store};
use std::path::{Path, PathBuf};

/// 22 November 2026, 20:58:00 UTC.
pub const NOW_S: u64 = 1_795_381_080;

pub struct Home {
    root: tempfile::TempDir,
}

impl Home {
    pub fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("store")).unwrap();
        std::fs::create_dir(root.path().join("tmp")).unwrap();
        Self { root }
    }

    pub fn store_dir(&self) -> PathBuf {
        self.root.path().join("store")
    }

    pub fn tmp_dir(&self) -> PathBuf {
        self.root.path().join("tmp")
    }

    /// Scans and assembles, oldest first.
    pub fn open(&self) -> (Store, Vec<Finding>) {
        let mut scan = Store::scan(&self.store_dir()).unwrap();
        let (store, findings) = Store::assemble(&self.store_dir(), &self.tmp_dir(), scan.packs).unwrap();
        scan.findings.extend(findings);
        (store, scan.findings)
    }

    /// Opens a store that must be without a finding.
    pub fn open_clean(&self) -> Store {
        let (store, findings) = self.open();
        assert_eq!(findings, []);
        store
    }
}

/// `len` bytes that neither compress nor repeat, different for each seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

pub fn record(bytes: &[u8]) -> NameRecord {
    NameRecord {
        object: ObjectId::of(bytes),
        size: bytes.len() as u64,
        modified_s: Some(NOW_S - 3600),
        stored_at_s: NOW_S,
        origin: "https://database.clamav.net/daily.cvd".to_owned(),
        proof: Proof::Signed,
    }
}

/// Commits one batch of named objects.
pub fn commit(store: &Store, files: &[(&str, &[u8])]) -> Pack {
    let mut batch = store.batch().unwrap();
    for (name, bytes) in files {
        batch.put(ObjectId::of(bytes), bytes.len() as u64, &mut &bytes[..]).unwrap();
        batch.bind(name, record(bytes)).unwrap();
    }
    store.commit(batch, NOW_S).unwrap()
}

pub fn read_all(reader: &ObjectReader) -> Vec<u8> {
    let mut out = Vec::new();
    while (out.len() as u64) < reader.size() {
        let chunk = reader.chunk_at(out.len() as u64).unwrap();
        assert!(!chunk.is_empty() && chunk.len() <= 256 << 10);
        out.extend_from_slice(&chunk);
    }
    assert!(reader.chunk_at(reader.size()).unwrap().is_empty());
    out
}

pub fn read_name(store: &Store, name: &str) -> Vec<u8> {
    let view = store.view();
    let record = view.lookup(name).unwrap();
    read_all(&view.open(&record.object).unwrap().unwrap())
}

pub fn file_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Flips a bit of a sealed pack: of the byte at `at` of an object's bytes, found in the file by what is around it.
pub fn flip_object_byte(path: &Path, object: &[u8], at: usize) {
    let mut file = std::fs::read(path).unwrap();
    let around = &object[at..at + 64];
    let found = file.windows(64).position(|w| w == around).unwrap();
    file[found] ^= 1;
    rewrite(path, &file);
}

/// Replaces a sealed file's content, as no build ever does.
pub fn rewrite(path: &Path, bytes: &[u8]) {
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}
