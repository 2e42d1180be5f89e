//! Copies of a store in every usual way, begun at any moment of ingest, merging, dropping and removing: each opens, is whole, and
//! has all that was held when it began. And that the same test fails where a redb file is written in place.
//!
//! For the full number, with objects up to 60 MB: `COPIES=200 LARGEST=60000000 cargo test --release --test cli care_copies`.
use cvdmirror_store::{Finding, NameRecord, ObjectId, PackId, Severity, Store, check_view, merges};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use redb::ReadableDatabase;
use std::{
    collections::{BTreeSet, VecDeque},
    fs::{self, File},
    io::{Read, Write},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use support::peer;

const NOW_S: u64 = 1_795_381_080;
/// Names held at a time, and how many of them may be large.
const KEPT: u64 = 60;
const KEPT_LARGE: u64 = 2 * LARGE_EVERY;
const LARGE_EVERY: u64 = 25;
/// Most that retired packs may take on the disk before no more large objects come: a slow copier has to read them.
const RETIRED_BYTES: u64 = 256 << 20;
/// Most retired packs before nothing more comes until a copy ends: a store has a bound on its files.
const RETIRED_PACKS: usize = 1000;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| n.parse().unwrap())
}

/// When copies began that have not ended yet, in the order of a common clock.
#[derive(Default)]
struct Clock {
    now: AtomicU64,
    commits: AtomicU64,
    running: Mutex<BTreeSet<u64>>,
    ended: Condvar,
}

impl Clock {
    fn begin(&self) -> u64 {
        let mut running = self.running.lock().unwrap();
        let now = self.now.fetch_add(1, SeqCst);
        running.insert(now);
        now
    }

    fn end(&self, began: u64) {
        self.running.lock().unwrap().remove(&began);
        self.ended.notify_all();
    }

    /// Waits until no copy runs that began before `then`.
    fn outlast(&self, then: u64) {
        let running = self.running.lock().unwrap();
        let before = |running: &mut BTreeSet<u64>| running.first().is_some_and(|began| *began < then);
        drop(self.ended.wait_while(running, before).unwrap());
    }

    /// Whether a copy runs that began before `then`: the grace period is longer than the slowest copy.
    fn runs_since_before(&self, then: u64) -> bool {
        self.running.lock().unwrap().first().is_some_and(|began| *began < then)
    }
}

/// Fills, merges, drops and removes until it is told to end; how many commits that were.
fn ingest(store: &Store, clock: &Clock, done: &AtomicBool) -> u64 {
    let largest = setting("LARGEST", 500_000);
    let mut rng = StdRng::seed_from_u64(7);
    let mut retired = VecDeque::new();
    let mut waiting = 0;
    for n in 1_u64.. {
        let large = n.is_multiple_of(LARGE_EVERY) && waiting < RETIRED_BYTES;
        let size =
            if large { rng.random_range(largest / 2..=largest) } else { rng.random_range(1000..40_000) };
        let mut bytes = vec![0; size as usize];
        rng.fill_bytes(&mut bytes);
        let object = ObjectId::of(&bytes);
        let mut batch = store.batch().unwrap();
        batch.put(object, size, &mut &bytes[..]).unwrap();
        let record = NameRecord {
            object,
            size,
            modified_s: None,
            stored_at_s: NOW_S,
            origin: "here".into(),
            proof: cvdmirror_store::Proof::Unknown,
        };
        batch.bind(&format!("{n:08}"), record).unwrap();
        store.commit(batch, NOW_S + n).unwrap();
        clock.commits.store(n, SeqCst);
        let keep = |name: &str| {
            let number: u64 = name.parse().unwrap();
            number + if number.is_multiple_of(LARGE_EVERY) { KEPT_LARGE } else { KEPT } > n
        };
        for group in merges(&store.view().sizes(&keep)) {
            let merged = store.merge(&group, &keep, NOW_S + n).unwrap();
            let files = merged.retired.iter().map(|id| store.dir().join(id.file_name()));
            let bytes: u64 = files.map(|file| file.metadata().unwrap().len()).sum();
            waiting += bytes;
            retired.push_back((clock.now.fetch_add(1, SeqCst), merged.retired, bytes));
        }
        while let Some((at, ..)) = retired.front() {
            if clock.runs_since_before(*at) {
                let packs: usize =
                    retired.iter().map(|(_, ids, _): &(u64, Vec<PackId>, u64)| ids.len()).sum();
                if packs < RETIRED_PACKS {
                    break;
                }
                clock.outlast(*at);
            }
            let (_, ids, bytes) = retired.pop_front().unwrap();
            store.remove_retired(&ids).unwrap();
            waiting -= bytes;
        }
        if done.load(SeqCst) {
            return n;
        }
    }
    0
}

/// Copies `from` to `to`, which is not there yet. A pack that was retired before may be gone when its turn comes: of that the
/// programs complain, and nothing is lost by it.
fn copy(way: &str, from: &Path, to: &Path) {
    let (program, options): (_, &[&str]) = match way {
        "slow" => return copy_slowly(from, to),
        "cp -r" => ("cp", &["-r"]),
        "hard links" => ("cp", &["-rl"]),
        _ => ("rsync", &["-r"]),
    };
    let mut command = Command::new(program);
    command.args(options).arg(format!("{}/", from.display())).arg(to).stdout(Stdio::null());
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let harmless = |line: &str| line.contains("No such file") || line.contains("vanished");
    assert!(output.status.success() || complaint.lines().all(harmless), "{way}: {complaint}");
}

/// Lists first, then reads at 1 MB/s.
fn copy_slowly(from: &Path, to: &Path) {
    let listed: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()).collect();
    fs::create_dir(to).unwrap();
    let (from, mut copied) = (Instant::now(), 0);
    for path in listed {
        let Ok(mut file) = File::open(&path) else { continue };
        let mut copy = File::create(to.join(path.file_name().unwrap())).unwrap();
        let mut step = vec![0; 64 << 10];
        loop {
            let n = file.read(&mut step).unwrap();
            if n == 0 {
                break;
            }
            copy.write_all(&step[..n]).unwrap();
            copied += n as u64;
            std::thread::sleep(Duration::from_micros(copied).saturating_sub(from.elapsed()));
        }
    }
}

#[test]
fn every_copy_has_what_was_held_when_it_began() {
    let rsync = peer("rsync").is_some();
    let home = tempfile::tempdir().unwrap();
    let (store_dir, tmp_dir) = (home.path().join("store"), home.path().join("tmp"));
    fs::create_dir(&store_dir).unwrap();
    fs::create_dir(&tmp_dir).unwrap();
    let (store, _) = Store::assemble(&store_dir, &tmp_dir, Vec::new()).unwrap();
    let (clock, done, next) = (Clock::default(), AtomicBool::new(false), AtomicU64::new(0));
    let copies = setting("COPIES", 20);
    let bytes = AtomicU64::new(0);
    let copy_one = |number: u64| {
        let way = match number % 4 {
            _ if number % 20 == 3 => "slow",
            0 => "cp -r",
            1 if rsync => "rsync",
            2 => "hard links",
            _ => "cp -r",
        };
        let to = home.path().join(format!("copy-{number}"));
        // Not all into the same calm: some commits apart, at whatever moment of the next.
        while clock.commits.load(SeqCst) < 2 * number {
            std::thread::yield_now();
        }
        let began = clock.begin();
        let held = store.view();
        copy(way, &store_dir, &to);
        clock.end(began);

        let scan = Store::scan(&to).unwrap();
        assert_eq!(scan.findings, [], "{way}");
        let (copied, findings) = Store::assemble(&to, &tmp_dir, scan.packs).unwrap();
        assert_eq!(findings, [], "{way}");
        let view = copied.view();
        for (name, record) in held.names() {
            assert_eq!(view.lookup(name), Some(record), "{way}: {name}");
        }
        let mut report =
            |finding: Finding| assert_eq!(finding.severity(), Severity::Note, "{way}: {finding}");
        check_view(&view, &|_| false, &|_| {}, &mut report);
        bytes.fetch_add(view.packs().iter().map(|pack| pack.file_len()).sum(), SeqCst);
        fs::remove_dir_all(&to).unwrap();
    };
    let commits = std::thread::scope(|scope| {
        let writer = scope.spawn(|| ingest(&store, &clock, &done));
        let work = || {
            while let Some(number) = Some(next.fetch_add(1, SeqCst)).filter(|number| *number < copies) {
                copy_one(number);
            }
        };
        let workers: Vec<_> = (0..4).map(|_| scope.spawn(work)).collect();
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, SeqCst);
        for result in ended {
            result.unwrap();
        }
        writer.join().unwrap()
    });
    eprintln!("{copies} copies of {bytes:?} bytes in all, beside {commits} commits: all whole");
    assert!(commits > 20);
    assert!(Store::scan(&store_dir).unwrap().findings.is_empty());
}

/// What the test above is worth: one redb file that is written in place does not pass it. A copier that has read as far
/// as `cut` waits for a few commits and reads on, as a slow one does; no chance decides which moment it met.
#[test]
fn a_file_written_in_place_cannot_be_copied_so() {
    const COMMITS_MEANWHILE: u64 = 8;
    let table = redb::TableDefinition::<u64, &[u8]>::new("objects");
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("in-place.redb");
    let database = redb::Database::create(&path).unwrap();
    let commit = |n: u64| {
        let mut bytes = vec![0; 100_000];
        StdRng::seed_from_u64(n).fill_bytes(&mut bytes);
        let txn = database.begin_write().unwrap();
        {
            let mut objects = txn.open_table(table).unwrap();
            objects.insert(n, &bytes[..]).unwrap();
            objects.remove(n.saturating_sub(KEPT)).unwrap();
        }
        txn.commit().unwrap();
    };
    let whole = |copy: &Path, held: u64| -> Result<bool, redb::Error> {
        let mut copied = redb::Database::open(copy)?;
        let last = copied.begin_read()?.open_table(table)?.get(held)?.is_some();
        Ok(copied.check_integrity()? && last)
    };
    let mut acknowledged = 2 * KEPT;
    (1..=acknowledged).for_each(commit);
    let (mut copies, mut bad) = (0, 0);
    for cut in [4096, 65_536, 1_048_576, 4_194_304] {
        let (held, to) = (acknowledged, home.path().join(format!("copy-{cut}")));
        let mut from = File::open(&path).unwrap();
        let mut copy = File::create(&to).unwrap();
        std::io::copy(&mut (&mut from).take(cut), &mut copy).unwrap();
        (1..=COMMITS_MEANWHILE).for_each(|n| commit(held + n));
        acknowledged += COMMITS_MEANWHILE;
        std::io::copy(&mut from, &mut copy).unwrap();
        copies += 1;
        bad += u64::from(!whole(&to, held).unwrap_or(false));
    }
    eprintln!(
        "of {copies} copies of a file written in place {bad} were broken or lacked what was acknowledged"
    );
    assert!(bad > 0);
}
