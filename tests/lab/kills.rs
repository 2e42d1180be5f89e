//! A sync that is killed at any moment leaves what was published whole, adds only what is true and complete, and the
//! next sync brings the rest.
use cvdmirror_store::ObjectId;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Child, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};
use support::{
    cdn::{Cdn, Front},
    program::Program,
    talos,
};

/// Kills by each of the two workers; there are 200 at least in all.
const KILLS: usize = 102;
/// A kill that came too late is no kill; so many tries may be spent.
const TRIES: usize = 4 * KILLS;

/// Every name that there is to have, and its hash.
fn truth() -> BTreeMap<String, String> {
    let cdiffs = (2..=5).map(|version| format!("test-{version}.cdiff"));
    let cvds = (1..=5).map(|version| format!("test-{version}.cvd"));
    let names = cdiffs.chain(cvds).flat_map(|name| [format!("{name}.sign"), name]);
    names.map(|name| (name.clone(), ObjectId::of(&talos(&name)).to_string())).collect()
}

/// Where a sync starts from, and what one that nobody kills takes.
struct Course {
    /// A data directory to start from; none for an empty one.
    start: Option<Program>,
    held: Option<u64>,
    took: Duration,
    bytes: u64,
    packs: usize,
}

impl Course {
    fn from(held: Option<u32>) -> Self {
        let start = held.map(|version| {
            let program = Program::new(&Cdn::talos(version).front().url());
            program.sync().exits(0);
            program
        });
        let mut course = Self { start, held: held.map(u64::from), took: Duration::ZERO, bytes: 0, packs: 0 };
        let front = Cdn::talos(5).front();
        let program = course.program(&front);
        let (began, before) = (Instant::now(), program.packs().len());
        program.sync().exits(0);
        (course.took, course.bytes) = (began.elapsed(), front.bytes());
        course.packs = program.packs().len() - before;
        course
    }

    fn program(&self, front: &Front) -> Program {
        let program = Program::new(&front.url());
        if let Some(start) = &self.start {
            for dir in ["", "store"] {
                let (from, to) = (start.data().join(dir), program.data().join(dir));
                std::fs::create_dir_all(&to).unwrap();
                files_of(&from, &to);
            }
        }
        program
    }
}

/// Copies the plain files of a directory.
fn files_of(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

fn start(program: &Program) -> Child {
    let mut command = program.command(&["sync"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    // An error means that it has ended already.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
}

/// Kills a sync as soon as it has got so many bytes.
fn killed_at_byte(program: &Program, front: &Front, bytes: u64) -> bool {
    let (tell, told) = mpsc::channel();
    front.after_bytes(bytes, move || kill(told.recv().unwrap()));
    let mut child = start(program);
    tell.send(child.id()).unwrap();
    child.wait().unwrap().signal().is_some()
}

/// Kills a sync at a moment; the moment is what is varied, nothing is waited for.
fn killed_at_time(program: &Program, after: Duration) -> bool {
    let mut child = start(program);
    std::thread::sleep(after);
    kill(child.id());
    child.wait().unwrap().signal().is_some()
}

/// Kills a sync as soon as it has added so many packs.
fn killed_at_pack(program: &Program, added: usize) -> bool {
    let until = program.packs().len() + added;
    let mut child = start(program);
    while program.packs().len() < until {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
    }
    kill(child.id());
    child.wait().unwrap().signal().is_some()
}

/// Asserts that what is there is true and whole; says what is published.
fn sound(program: &Program, held: Option<u64>, truth: &BTreeMap<String, String>) -> Option<(u64, u64)> {
    if !program.data().join("store").exists() {
        assert_eq!(held, None);
        return None;
    }
    let ran = program.run(&["store", "ls", "--json"]).exits(0);
    let entries: Vec<serde_json::Value> = serde_json::from_str(&ran.stdout).unwrap();
    let mut names = Vec::new();
    for entry in &entries {
        let name = entry["name"].as_str().unwrap();
        assert_eq!(entry["object"].as_str(), truth.get(name).map(String::as_str), "{name}");
        names.push(name);
    }
    program.run(&["store", "verify"]).exits(0);
    let status = &program.status()["databases"][0];
    let published = status["version"].as_u64().zip(status["cvd"].as_u64());
    assert!(published.map(|(version, _)| version) >= held, "{status} after {held:?}");
    if let Some((version, cvd)) = published {
        assert!(version <= 5, "{status}");
        assert!(names.contains(&format!("test-{cvd}.cvd").as_str()), "{status} of {names:?}");
        for step in cvd + 1..=version {
            assert!(names.contains(&format!("test-{step}.cdiff").as_str()), "{status} of {names:?}");
        }
    }
    published
}

/// Kills syncs until enough have been killed; says how often each state was found afterwards.
fn work(seed: u64, course: &Course, truth: &BTreeMap<String, String>) -> BTreeMap<Option<(u64, u64)>, usize> {
    let mut rng = StdRng::seed_from_u64(seed);
    let front = Cdn::talos(5).front();
    let mut found = BTreeMap::new();
    for _ in 0..TRIES {
        if found.values().sum::<usize>() == KILLS {
            break;
        }
        let program = course.program(&front);
        let killed = match rng.random_range(0..3) {
            0 => killed_at_byte(&program, &front, rng.random_range(1..=course.bytes)),
            1 => killed_at_time(&program, course.took.mul_f64(rng.random())),
            _ => killed_at_pack(&program, rng.random_range(1..=course.packs)),
        };
        if killed {
            *found.entry(sound(&program, course.held, truth)).or_default() += 1;
        }
        // None that a later request could still meet.
        front.after_bytes(u64::MAX / 2, || {});
        program.sync().exits(0);
        assert_eq!(sound(&program, course.held, truth), Some((5, 5)));
        let names = program.names();
        assert!((4..=5).all(|step| names.contains(&format!("test-{step}.cdiff.sign"))), "{names:?}");
    }
    assert_eq!(
        found.values().sum::<usize>(),
        KILLS,
        "too many syncs ended before they were killed: {found:?}"
    );
    found
}

#[test]
fn a_sync_killed_at_any_moment_publishes_nothing_wrong_and_the_next_one_completes() {
    let truth = truth();
    let (fresh, behind) = (Course::from(None), Course::from(Some(3)));
    let (fresh, behind) = std::thread::scope(|scope| {
        let fresh = scope.spawn(|| work(1, &fresh, &truth));
        let behind = scope.spawn(|| work(2, &behind, &truth));
        (fresh.join().unwrap(), behind.join().unwrap())
    });
    println!(
        "published after a kill (version, full CVD), and how often: from nothing {fresh:?}, from 3 {behind:?}"
    );
    // The kills are worth something only if they hit before anything new is published, and before all of it is.
    assert!(fresh.len() >= 2 && behind.len() >= 2, "{fresh:?} {behind:?}");
}
