//! Copies taken at any moment of ingest, merging and removing: each opens and has all that was acknowledged before it began.
use crate::support::{Home, NOW_S, noise, read_name, record};
use cvdmirror_store::{Finding, ObjectId, Store, check_view, merges};
use std::{
    collections::VecDeque,
    io::{Read, Write},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};

fn content(n: u64) -> Vec<u8> {
    noise(n, if n.is_multiple_of(9) { 1_200_000 } else { 3_000 * (n % 20) as usize })
}

/// Lists first, then reads each file in small steps.
fn copy(from: &Path, to: &Path) {
    let listed: Vec<_> = std::fs::read_dir(from).unwrap().map(|e| e.unwrap().path()).collect();
    for path in listed {
        let mut file = match std::fs::File::open(&path) {
            Ok(file) => file,
            // Removed since it was listed: what replaced it was listed too.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            Err(e) => panic!("{e}"),
        };
        let mut copy = std::fs::File::create(to.join(path.file_name().unwrap())).unwrap();
        let mut step = [0; 4096];
        loop {
            match file.read(&mut step).unwrap() {
                0 => break,
                n => copy.write_all(&step[..n]).unwrap(),
            }
            std::thread::yield_now();
        }
    }
}

struct Ends<'a>(&'a AtomicBool);
impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn copies_taken_beside_ingest_and_merging_are_whole() {
    let home = Home::new();
    let store = home.open_clean();
    let (acknowledged, copies) = (AtomicU64::new(0), AtomicU64::new(0));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (store, acknowledged, copies, done) = (&store, &acknowledged, &copies, &done);
        scope.spawn(move || {
            // The grace period: every copy that began before a pack was retired ends before it is removed.
            let mut retired = VecDeque::new();
            for n in 1.. {
                let mut batch = store.batch().unwrap();
                let bytes = content(n);
                batch.put(ObjectId::of(&bytes), bytes.len() as u64, &mut &bytes[..]).unwrap();
                batch.bind(&format!("n{n}"), record(&bytes)).unwrap();
                store.commit(batch, NOW_S + n).unwrap();
                acknowledged.store(n, SeqCst);
                for group in merges(&store.view().sizes(&|_| true)) {
                    let merged = store.merge(&group, &|_| true, NOW_S + n).unwrap();
                    retired.push_back((copies.load(SeqCst), merged.retired));
                }
                while retired.front().is_some_and(|(at, _)| copies.load(SeqCst) > *at) {
                    store.remove_retired(&retired.pop_front().unwrap().1).unwrap();
                }
                if done.load(SeqCst) {
                    break;
                }
            }
        });
        // Also where an assertion fails: the ingest must end.
        let _ends = Ends(done);
        for _ in 0..12 {
            let held = acknowledged.load(SeqCst);
            let there = Home::new();
            copy(&home.store_dir(), &there.store_dir());
            copies.fetch_add(1, SeqCst);
            let copied = there.open_clean();
            for n in 1..=held {
                assert_eq!(read_name(&copied, &format!("n{n}")), content(n));
            }
            let mut report = |f: Finding| assert!(matches!(f, Finding::Unused { .. }), "{f}");
            check_view(&copied.view(), &|_| false, &|_| {}, &mut report);
        }
    });
    println!("{acknowledged:?} commits, {copies:?} copies");
    assert!(Store::scan(&home.store_dir()).unwrap().findings.is_empty());
}
