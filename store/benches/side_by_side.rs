//! The store beside plain files on the same disk: seconds, and ratios that carry over to other machines.
//! `cargo bench -p cvdmirror-store`; needs about 2 GB in the temporary directory (TMPDIR).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "../tests/support/mod.rs"]
mod support;
use cvdmirror_store::{ObjectId, check_view};
use std::{fs::File, io::Write, path::Path, time::Instant};
use support::{Home, NOW_S, noise, read_all, record};

fn seconds(step: impl FnOnce()) -> f64 {
    let from = Instant::now();
    step();
    from.elapsed().as_secs_f64()
}

/// The median of some runs, each in a directory of its own.
fn median(runs: usize, mut run: impl FnMut(&Home) -> f64) -> f64 {
    let mut times: Vec<_> = (0..runs).map(|_| run(&Home::new())).collect();
    times.sort_by(f64::total_cmp);
    times[runs / 2]
}

fn plain(dir: &Path, files: &[Vec<u8>]) {
    for (i, bytes) in files.iter().enumerate() {
        let mut file = File::create(dir.join(i.to_string())).unwrap();
        file.write_all(bytes).unwrap();
        file.sync_all().unwrap();
    }
    File::open(dir).unwrap().sync_all().unwrap();
}

/// A batch for every `per_batch` objects.
fn store(home: &Home, files: &[Vec<u8>], per_batch: usize) {
    let store = home.open_clean();
    for (n, batch_files) in files.chunks(per_batch).enumerate() {
        let mut batch = store.batch().unwrap();
        for (i, bytes) in batch_files.iter().enumerate() {
            let record = record(bytes);
            batch.put(record.object, record.size, &mut &bytes[..]).unwrap();
            batch.bind(&format!("daily-{:05}.cvd", n * per_batch + i), record).unwrap();
        }
        store.commit(batch, NOW_S + n as u64).unwrap();
    }
}

fn disk_bytes(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap();
    entries.map(|e| e.unwrap().metadata().unwrap().len()).sum()
}

fn compare(what: &str, count: usize, size: usize, per_batch: usize, runs: usize) {
    let files: Vec<_> = (0..count).map(|i| noise(i as u64, size)).collect();
    let data = (count * size) as f64;
    let files_s = median(runs, |home| seconds(|| plain(&home.tmp_dir(), &files)));
    let store_s = median(runs, |home| seconds(|| store(home, &files, per_batch)));
    println!(
        "{what}: insert {store_s:.3} s, plain files with fsync {files_s:.3} s: ratio {:.2} ({:.0} MB/s)",
        store_s / files_s,
        data / store_s / 1e6
    );

    let home = Home::new();
    plain(&home.tmp_dir(), &files);
    store(&home, &files, per_batch);
    println!("{what}: {:.4} bytes on disk a byte of data", disk_bytes(&home.store_dir()) as f64 / data);
    let read_plain = seconds(|| {
        for i in 0..count {
            let bytes = std::fs::read(home.tmp_dir().join(i.to_string())).unwrap();
            assert_eq!(bytes.len(), size);
        }
    });
    let view = home.open_clean().view();
    let read_store = seconds(|| {
        for (_, record) in view.names() {
            let reader = view.open(&record.object).unwrap().unwrap();
            let mut at = 0;
            while at < reader.size() {
                at += reader.chunk_at(at).unwrap().len() as u64;
            }
        }
    });
    println!(
        "{what}: read and verified {read_store:.3} s ({:.0} MB/s), plain files {read_plain:.3} s: ratio {:.2}",
        data / read_store / 1e6,
        read_store / read_plain
    );
    let hash = seconds(|| {
        for pack in view.packs() {
            pack.check_file_hash(&mut |_| {}).unwrap();
        }
    });
    let verify = seconds(|| drop(check_view(&view, &|_| false, &|_| {}, &mut |f| panic!("{f}"))));
    println!(
        "{what}: check {verify:.3} s ({:.0} MB/s); one BLAKE3 of the files on one core {hash:.3} s: ratio {:.2}",
        data / verify / 1e6,
        verify / hash
    );
    if count <= 4 {
        let (_, first) = view.names().next().unwrap();
        let reader = view.open(&first.object).unwrap().unwrap();
        assert_eq!(ObjectId::of(&read_all(&reader)), first.object);
    }
}

fn list(names: usize) {
    let home = Home::new();
    let store = home.open_clean();
    let mut batch = store.batch().unwrap();
    let bytes = noise(1, 10);
    batch.put(ObjectId::of(&bytes), 10, &mut &bytes[..]).unwrap();
    for i in 0..names {
        batch.bind(&format!("daily-{i}.cdiff"), record(&bytes)).unwrap();
    }
    let commit = seconds(|| drop(store.commit(batch, NOW_S).unwrap()));
    let open = seconds(|| assert_eq!(home.open_clean().view().names().len(), names));
    println!("{names} names: commit {commit:.3} s, open and list {open:.3} s");
}

fn many_packs(packs: usize) {
    let home = Home::new();
    let files: Vec<_> = (0..packs).map(|i| noise(i as u64, 30_000)).collect();
    store(&home, &files, 1);
    let open = seconds(|| assert_eq!(home.open_clean().view().names().len(), packs));
    println!("{packs} packs: open and list {open:.3} s");
}

fn main() {
    compare("1 x 160 MB", 1, 160_000_000, 1, 3);
    compare("4 x 160 MB", 4, 160_000_000, 1, 1);
    compare("1,000 x 30 KB in one batch", 1000, 30_000, 1000, 3);
    compare("100 x 30 KB in a batch each", 100, 30_000, 1, 1);
    list(100_000);
    many_packs(500);
}
