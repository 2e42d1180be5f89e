//! Memory does not grow with an object: 200 MB in, out and by range within 32 MB above idle.
//! The only test of its binary, so that what it measures is its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use cvdmirror_store::{Hasher, check_view};
use std::io::Read;
use support::{Home, NOW_S, noise, record};

const LEN: u64 = 200 << 20;

/// `LEN` bytes that are nowhere in memory at once.
struct Endless {
    left: u64,
    block: Vec<u8>,
}

impl Endless {
    fn new() -> Self {
        Self { left: LEN, block: noise(1, 64 << 10) }
    }
}

impl Read for Endless {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let at = (LEN - self.left) as usize % self.block.len();
        if at == 0 {
            self.block[..8].copy_from_slice(&self.left.to_le_bytes());
        }
        let n = out.len().min(self.block.len() - at).min(self.left as usize);
        out[..n].copy_from_slice(&self.block[at..at + n]);
        self.left -= n as u64;
        Ok(n)
    }
}

fn status_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Runs a step and gives by how much memory peaked above what it was before.
fn peak_kib(step: impl FnOnce()) -> u64 {
    // Resets the high-water mark: proc(5), clear_refs.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = status_kib("VmRSS:");
    step();
    status_kib("VmHWM:").saturating_sub(before)
}

#[test]
fn two_hundred_megabytes_pass_through_a_few() {
    let mut hasher = Hasher::new();
    let (mut source, mut buffer) = (Endless::new(), vec![0; 64 << 10]);
    loop {
        match source.read(&mut buffer).unwrap() {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let id = hasher.finish();
    let home = Home::new();
    let store = home.open_clean();

    let written = peak_kib(|| {
        let mut batch = store.batch().unwrap();
        batch.put(id, LEN, &mut Endless::new()).unwrap();
        let mut bound = record(b"");
        (bound.object, bound.size) = (id, LEN);
        batch.bind("main-63.cvd", bound).unwrap();
        let pack = store.commit(batch, NOW_S).unwrap();
        assert!(pack.file_len() < LEN + LEN / 100);
    });
    drop(store);
    let store = home.open_clean();
    let reader = store.view().open(&id).unwrap().unwrap();
    let read = peak_kib(|| {
        let mut again = Hasher::new();
        let mut at = 0;
        while at < LEN {
            let chunk = reader.chunk_at(at).unwrap();
            again.update(&chunk);
            at += chunk.len() as u64;
        }
        assert_eq!(again.finish(), id);
    });
    let ranges = peak_kib(|| {
        for i in 0..2_000u64 {
            let at = i.wrapping_mul(7_919_933) % LEN;
            assert!(!reader.chunk_at(at).unwrap().is_empty());
        }
    });
    let checked = peak_kib(|| {
        check_view(&store.view(), &|_| false, &|_| {}, &mut |f| panic!("{f}"));
    });
    let merged = peak_kib(|| {
        let ids = [store.view().packs()[0].id().clone()];
        store.merge(&ids, &|_| true, NOW_S + 1).unwrap();
    });
    println!("KiB above idle: in {written}, out {read}, by range {ranges}, check {checked}, merge {merged}");
    for peak in [written, read, ranges, checked, merged] {
        assert!(peak <= 32 << 10, "{peak} KiB");
    }
}
