//! The mirror by a clock that tests move: what a month without news, and a clock that steps, make of it.
use cvdmirror::{
    clock::Clock,
    mirror::{
        DataDir, Handle, Mirror, RoundReport, Settings, Standing, Stopped, Verifier, retention::Retention,
    },
    source::{FetchLimits, Intake, Progress, Silent, Source, directory::DirectorySource},
    state::State,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use support::{talos, wait_for};
use tokio::{runtime::Runtime, sync::watch};

const DAY_S: u64 = 86_400;
const NOW_S: u64 = 1_795_381_080;

struct Fixture {
    clock: Clock,
    source: tempfile::TempDir,
    process: Option<Process>,
    data: tempfile::TempDir,
    runtime: Runtime,
    progress: Arc<dyn Progress>,
}

/// What ends with a process.
struct Process {
    mirror: Mirror,
    handle: Handle,
    stop: watch::Sender<bool>,
}

impl Fixture {
    /// A mirror of a directory that holds `test` 5.
    fn new() -> Self {
        let (data, source) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (runtime, clock) = (Runtime::new().unwrap(), Clock::simulated(NOW_S));
        let mut it = Self { clock, source, process: None, data, runtime, progress: Arc::new(Silent) };
        it.fill(true);
        it.start();
        it
    }

    /// A new process: its monotonic clock begins anew, its wall clock goes on.
    fn restart(&mut self) {
        self.process = None;
        self.clock = Clock::simulated(self.clock.epoch_s());
        self.start();
    }

    fn start(&mut self) {
        let (clock, dir) = (self.clock.clone(), DataDir::new(self.data.path()));
        // A program that another test starts meanwhile has the file open until it is that program.
        let lock = wait_for("the lock", || dir.lock().ok());
        let progress = self.progress.clone();
        let intake = Intake { limits: FetchLimits::default(), progress };
        let settings = Settings {
            databases: vec!["test".parse().unwrap()],
            backfill: 1,
            retention: Retention { cvds: 1, cvds_of: BTreeMap::new(), cdiffs_s: 20 * DAY_S, grace_s: DAY_S },
            publish_cld: false,
            site_ca: None,
            source: Source::Directory(DirectorySource::new(self.source.path().into(), intake, clock.clone())),
            verifier: Verifier {
                keys: support::talos::trust_keys(),
                limits: cvdmirror::cvd::Limits::default(),
                anchors: None,
                site: None,
                clock: clock.clone(),
            },
            certs_dir: None,
            max_age: Duration::from_secs(DAY_S),
            max_build_age_s: BTreeMap::new(),
            activity: Arc::default(),
            clock,
        };
        let state = Arc::new(State::open(&dir.state()).unwrap());
        let (stop, stopped) = watch::channel(false);
        let (mirror, handle) =
            Mirror::open(&dir, lock, state, settings, self.runtime.handle().clone(), stopped).unwrap();
        self.process = Some(Process { mirror, handle, stop });
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    fn standing(&self) -> Arc<Standing> {
        self.process.as_ref().unwrap().handle.standing()
    }

    fn round(&mut self) -> RoundReport {
        self.process().mirror.round().unwrap()
    }

    fn is_fresh(&self) -> bool {
        let standing = self.standing();
        standing.health(standing.now_s()).is_fresh()
    }

    /// Lets the source have its files, or not.
    fn fill(&self, there: bool) {
        for name in ["test-5.cvd", "test-5.cdiff"] {
            let path = self.source.path().join(name);
            match there {
                true => std::fs::write(path, talos(name)).unwrap(),
                false => drop(std::fs::remove_file(path)),
            }
        }
    }

    fn serves(&self, name: &str) -> bool {
        self.standing().snapshot.files.contains_key(&name.parse().unwrap())
    }
}

#[test]
fn a_month_with_a_source_is_fresh_and_a_month_without_is_not() {
    let mut it = Fixture::new();
    assert!(!it.is_fresh(), "nothing is held");
    for day in 0..30 {
        let round = it.round();
        assert!(round.is_complete() && round.started_at_s == NOW_S + day * DAY_S, "{round}");
        assert!(it.is_fresh() && it.serves("test-5.cvd"), "day {day}");
        it.clock.pass(DAY_S);
    }
    it.fill(false);
    for day in 1..30 {
        assert!(!it.round().is_complete());
        assert_eq!(it.is_fresh(), day < 2, "day {day}");
        assert!(it.serves("test-5.cvd"), "what is published stays");
        it.clock.pass(DAY_S);
    }
}

#[test]
fn a_clock_that_went_back_drops_nothing() {
    let mut it = Fixture::new();
    it.round();
    it.clock.step(-400 * DAY_S.cast_signed());
    it.round();
    assert!(it.serves("test-5.cvd") && it.serves("test-5.cdiff"));
}

#[test]
fn what_is_stopped_ends_where_it_waits() {
    let mut it = Fixture::new();
    it.process().stop.send(true).unwrap();
    assert_eq!(it.process().mirror.round(), Err(Stopped));
    assert!(!it.serves("test-5.cvd"));
}

/// Whatever is done to the clock: while nothing confirms it nothing stays fresh for longer than the limit, and each
/// confirmation makes it fresh again.
#[test]
fn a_month_of_a_clock_that_steps_is_never_fresh_without_a_confirmation() {
    for seed in 0..8 {
        let (mut it, mut chance) = (Fixture::new(), StdRng::seed_from_u64(seed));
        let (mut confirmed, mut there, mut was_fresh) = (None, true, 0);
        for hour in (0..30 * 24_u64).step_by(4) {
            // A source that is dead for days at a time.
            if chance.random_ratio(1, 20) {
                there = !there;
                it.fill(there);
            }
            match chance.random_range(0..24) {
                0 => it.clock.step(365 * DAY_S.cast_signed()),
                1 => it.clock.step(-365 * DAY_S.cast_signed()),
                2 => it.clock.step(chance.random_range(-20..20) * DAY_S.cast_signed()),
                _ => {}
            }
            if chance.random_ratio(1, 12) {
                it.restart();
            }
            let judge = |it: &Fixture, confirmed: Option<u64>| {
                let is_fresh = it.is_fresh();
                let age_s = confirmed.map(|at: u64| (hour - at) * 3600);
                let may_be = age_s.is_some_and(|age_s| age_s <= DAY_S);
                assert!(may_be || !is_fresh, "{seed}, hour {hour}: fresh {age_s:?} s after a confirmation");
                u32::from(is_fresh)
            };
            was_fresh += judge(&it, confirmed);
            if chance.random_ratio(1, 3) {
                if it.round().is_complete() {
                    confirmed = Some(hour);
                    assert!(it.is_fresh(), "{seed}, hour {hour}: confirmed just now");
                }
                let standing = it.standing();
                let state = &standing.databases[&"test".parse().unwrap()];
                assert!(state.confirmed_at_s <= Some(it.clock.epoch_s()), "{seed}, hour {hour}");
            }
            judge(&it, confirmed);
            it.clock.pass(4 * 3600);
        }
        assert!(was_fresh > 15, "{seed}: fresh {was_fresh} times only");
    }
}

/// Steps the clock in the middle of the first file that comes.
#[derive(Debug)]
struct Steps(Clock, i64, AtomicBool);

impl Progress for Steps {
    fn begin(&self, _: &str, _: Option<u64>) {
        if !self.2.swap(true, SeqCst) {
            self.0.step(self.1);
        }
    }

    fn advance(&self, _: u64) {}

    fn end(&self) {}
}

#[test]
fn a_clock_that_steps_during_a_round_confirms_nothing_in_the_future() {
    for step_s in [365 * DAY_S.cast_signed(), -365 * DAY_S.cast_signed()] {
        let mut it = Fixture::new();
        it.progress = Arc::new(Steps(it.clock.clone(), step_s, AtomicBool::new(false)));
        it.process = None;
        it.start();
        assert!(it.round().is_complete());
        assert_eq!(it.clock.epoch_s(), NOW_S.strict_add_signed(step_s), "it stepped in between");
        let database = "test".parse().unwrap();
        assert_eq!(it.standing().databases[&database].confirmed_at_s, Some(it.clock.epoch_s()));
        it.fill(false);
        it.clock.step(-step_s);
        it.clock.pass(DAY_S + 1);
        assert!(!it.is_fresh(), "{step_s}");
        it.round();
        assert!(!it.is_fresh() && it.serves("test-5.cvd"), "{step_s}");
    }
}
