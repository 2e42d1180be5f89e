//! Looking into a store and checking it: `store ls` of 100,000 names beside a busy server, and `store verify` side by side
//! with `b3sum` (`cargo install b3sum`) on the same files.
//!
//! `cargo bench --bench store_care`. Needs about 2 GB in the temporary directory (TMPDIR).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
use cvdmirror_store::{NameRecord, ObjectId, Pack, Store, View, check_view};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::{
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Instant,
};
use support::{mint::Mint, peer, program::Program, upstream::Upstream};

const NAMES: usize = 100_000;
const ROUNDS: usize = 7;

fn main() {
    objects();
    let mint = Mint::new(1);
    let upstream = Upstream::start();
    for name in ["one", "two"] {
        upstream.release(name, &mint.database_of(name, 1_200_000, 0).publish());
    }
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml()).set("database", "one,two");
    let program = program.set("grace", "1ms");
    program.sync().exits(0);
    everything(&program);
    list(&program);
}

fn seconds(step: impl FnOnce()) -> f64 {
    let began = Instant::now();
    step();
    began.elapsed().as_secs_f64()
}

fn median(mut step: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS).map(|_| seconds(&mut step)).collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn b3sum(packs: &[Pack]) -> Option<f64> {
    let program = peer("b3sum")?;
    let run = || {
        let done = Command::new(&program).args(packs.iter().map(Pack::path)).stdout(Stdio::null()).status();
        assert!(done.unwrap().success());
    };
    Some(median(run))
}

/// Commits a pack of these names, each bound to an object of its own.
fn fill(dir: &Path, seed: u64, names: impl Iterator<Item = String>, len: usize) {
    let (mut bytes, mut random) = (vec![0; len], StdRng::seed_from_u64(seed));
    let tmp = tempfile::tempdir_in(dir.parent().unwrap()).unwrap();
    let (store, _) = Store::assemble(dir, tmp.path(), Vec::new()).unwrap();
    let mut batch = store.batch().unwrap();
    for name in names {
        random.fill_bytes(&mut bytes);
        let object = ObjectId::of(&bytes);
        batch.put(object, len as u64, &mut &bytes[..]).unwrap();
        let record = NameRecord {
            object,
            size: len as u64,
            modified_s: None,
            stored_at_s: 1_795_381_080,
            origin: format!("https://database.clamav.net/{name}"),
            proof: cvdmirror_store::Proof::Signed,
        };
        batch.bind(&name, record).unwrap();
    }
    store.commit(batch, 1_795_381_080 + seed).unwrap();
}

fn view(dir: &Path) -> std::sync::Arc<View> {
    let packs = Store::scan(dir).unwrap().packs;
    Store::assemble(dir, dir, packs).unwrap().0.view()
}

/// Packs and objects alone, without the names' content.
fn objects() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("store");
    std::fs::create_dir(&dir).unwrap();
    for n in 0..4 {
        fill(&dir, n, std::iter::once(format!("main-{n}.cvd")), 160_000_000);
    }
    let view = view(&dir);
    let bytes: u64 = view.packs().iter().map(Pack::file_len).sum();
    let b3sum = b3sum(view.packs());
    for (what, proven) in [("that were verified before", true), ("met for the first time", false)] {
        let verify = || drop(check_view(&view, &|_| proven, &|_| {}, &mut |finding| panic!("{finding}")));
        compare(&format!("4 packs of 160 MB {what}"), bytes, median(verify), b3sum);
    }
}

fn compare(what: &str, bytes: u64, ours: f64, b3sum: Option<f64>) {
    let speed = |seconds: f64| bytes as f64 / seconds / 1e6;
    println!("{what}: {:.0} MB/s", speed(ours));
    if let Some(b3sum) = b3sum {
        println!(
            "    b3sum on the same files: {:.0} MB/s; our speed is {:.2} of it",
            speed(b3sum),
            b3sum / ours
        );
    }
}

/// All of `store verify` on two CVDs; `--deep` is with MD5, inflating and SHA-256 of each member.
fn everything(program: &Program) {
    let view = view(&program.data().join("store"));
    let bytes: u64 = view.packs().iter().map(Pack::file_len).sum();
    let b3sum = b3sum(view.packs());
    for options in [&["store", "verify"][..], &["store", "verify", "--deep"]] {
        let ours = median(|| drop(program.run(options).exits(0)));
        compare(&format!("{} of {} MB of CVDs", options.join(" "), bytes / 1_000_000), bytes, ours, b3sum);
    }
}

fn list(program: &Program) {
    let server = program.serve();
    server.says("checked");
    // After its rounds, so that it is not verified: what is listed need not be published.
    fill(&program.data().join("store"), 9, (0..NAMES).map(|n| format!("daily-{n}.cdiff")), 10);
    let ls = |options: &[&str]| {
        let mut command = program.command(&[&["store", "ls"], options].concat());
        assert!(command.stdout(Stdio::null()).status().unwrap().success());
    };
    assert!(program.names().len() >= NAMES);
    println!("store ls of {NAMES} names beside an idle server: {:.3} s", median(|| ls(&[])));
    // Clients are other machines, which take nothing of the cores that the server and `ls` share; and then at the worst.
    for (clients, nice) in [("that give way", 19), ("that do not", 0)] {
        let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    rustix::process::nice(nice).unwrap();
                    while !stop.load(Relaxed) {
                        sent.fetch_add(server.get("/one-1.cvd").body.len() as u64, Relaxed);
                    }
                });
            }
            let began = Instant::now();
            let times = [&[][..], &["--json"], &["--kind", "cvd"]].map(|options| median(|| ls(options)));
            stop.store(true, Relaxed);
            let sent = sent.load(Relaxed) as f64 / began.elapsed().as_secs_f64() / 1e6;
            println!(
                "beside one that sends {sent:.0} MB/s to four clients on the same cores {clients}: {:.3} s",
                times[0]
            );
            println!("    as JSON {:.3} s, only --kind cvd {:.3} s", times[1], times[2]);
        });
    }
}
