//! Storing an object of 160 MB, side by side with `dd conv=fsync` on the same file system.
//!
//! `cargo bench --bench ingest [-- megabytes]`. The object is read from a file, hashed, cut into chunks, and durable
//! when the time stops; dd copies the same file and syncs it. They take turns. Set TMPDIR to choose the disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
use cvdmirror_store::{Hasher, NameRecord, ObjectId, Store};
use std::{
    fs::{self, File},
    io::Read,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

const ROUNDS: u32 = 5;

fn main() {
    let megabytes = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(160);
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    let len = megabytes * 1_000_000;
    fs::write(&source, noise(len)).unwrap();
    let (mut ours, mut dd, mut packed) = (Duration::ZERO, Duration::ZERO, 0);
    for round in 0..ROUNDS {
        let (took, pack_len) = ingest(&dir.path().join(format!("store{round}")), &source, len as u64);
        ours += took;
        packed = pack_len;
        dd += copy(&source, &dir.path().join(format!("copy{round}")));
    }
    let rate = |took: Duration| (len as f64 * f64::from(ROUNDS)) / took.as_secs_f64() / 1e6;
    println!("{ROUNDS} rounds of {megabytes} MB, in turn");
    println!("store: {:.0} MB/s, the pack is {:.3} times the object", rate(ours), packed as f64 / len as f64);
    println!("dd conv=fsync: {:.0} MB/s", rate(dd));
    println!("ratio of times, store to dd: {:.2}", ours.as_secs_f64() / dd.as_secs_f64());
}

fn ingest(dir: &Path, source: &Path, len: u64) -> (Duration, u64) {
    let (packs, tmp) = (dir.join("store"), dir.join("tmp"));
    fs::create_dir_all(&packs).unwrap();
    fs::create_dir_all(&tmp).unwrap();
    let (store, _) = Store::assemble(&packs, &tmp, Vec::new()).unwrap();
    let began = Instant::now();
    // A download is hashed while it arrives; here the hash is part of the price.
    let id = hash(source);
    let mut batch = store.batch().unwrap();
    batch.put(id, len, &mut File::open(source).unwrap()).unwrap();
    let record = NameRecord {
        object: id,
        size: len,
        modified_s: None,
        stored_at_s: 0,
        origin: String::new(),
        proof: String::new(),
    };
    batch.bind("main-1.cvd", record).unwrap();
    let pack = store.commit(batch, 0).unwrap();
    let took = began.elapsed();
    let file_len = pack.file_len();
    drop((pack, store));
    fs::remove_dir_all(dir).unwrap();
    (took, file_len)
}

fn hash(source: &Path) -> ObjectId {
    let mut file = File::open(source).unwrap();
    let (mut hasher, mut buf) = (Hasher::new(), vec![0; 1 << 20]);
    loop {
        match file.read(&mut buf).unwrap() {
            0 => return hasher.finish(),
            n => hasher.update(&buf[..n]),
        }
    }
}

fn copy(source: &Path, to: &Path) -> Duration {
    let began = Instant::now();
    let (from, into) = (format!("if={}", source.display()), format!("of={}", to.display()));
    let done =
        Command::new("dd").args([&from, &into, "bs=1M", "conv=fsync", "status=none"]).status().unwrap();
    assert!(done.success());
    let took = began.elapsed();
    fs::remove_file(to).unwrap();
    took
}

/// Bytes that no compressing file system makes smaller.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}
