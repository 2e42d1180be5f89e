//! Storing an object of 160 MB, side by side with `dd conv=fsync` on the same file system.
//!
//! `cargo bench --bench ingest [-- megabytes]`. The object is read from a file, as it would come from a socket, and is hashed,
//! durable, read back and in the view when the time stops; dd copies the same file and syncs it. They take turns. Set TMPDIR to
//! choose the disk.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
use cvdmirror_store::{NameRecord, Proof, Store};
use std::{
    fs::{self, File},
    io::{Read, Write},
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
    let mut batch = store.batch().unwrap();
    let mut object = batch.object().unwrap();
    let (mut file, mut buffer) = (File::open(source).unwrap(), vec![0; 256 << 10]);
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => break,
            n => object.write_all(&buffer[..n]).unwrap(),
        }
    }
    let (id, size) = object.finish().unwrap();
    assert_eq!(size, len);
    let record = NameRecord {
        object: id,
        size,
        modified_s: None,
        stored_at_s: 0,
        origin: String::new(),
        proof: Proof::Signed,
    };
    batch.bind("main-1.cvd", record).unwrap();
    let pack = store.commit(batch, 0).unwrap();
    let took = began.elapsed();
    let file_len = pack.file_len();
    drop((pack, store));
    fs::remove_dir_all(dir).unwrap();
    (took, file_len)
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
