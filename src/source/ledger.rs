//! Politeness: whether more may be asked of the upstream now.
//!
//! Within a process waits are measured on the monotonic clock, so that a step of the wall clock neither ends nor
//! prolongs one. The wall clock bridges restarts alone, and what it says then is held to what is plausible.
use super::{
    Wanted,
    budget::{Book, CoolDown, HOUR_S, LONGEST_WAIT_S, Policy},
};
use crate::{clock::Clock, cvd::Database};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

/// How long freshclam stays away after a 429 without `Retry-After`.
const DEFAULT_WAIT_S: u64 = 4 * HOUR_S;
/// A file is looked at once in so long, though its TXT record seems right.
const LOOK_EVERY_S: u64 = 4 * HOUR_S;
/// A cool-down that is sat out is written down again after so long, for its `left_s`.
const SAVE_EVERY: Duration = Duration::from_secs(60);

/// A request that may not be made yet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// For how long still, seconds.
    pub wait_s: u64,
    /// Why, in words.
    pub why: String,
    /// It was a 403 to this program's own name, which concerns nobody who asks by another one.
    pub own_name: bool,
}

/// A book that is saved at each change. Reading it never waits for the disk.
pub struct Ledger {
    live: ArcSwap<Live>,
    /// Held by whatever changes it.
    writing: Mutex<()>,
    clock: Clock,
    save: Box<dyn Fn(&Book) + Send + Sync>,
}

/// The book with its waits on the monotonic clock.
#[derive(Clone)]
struct Live {
    /// Its times stand in the fields below instead.
    book: Book,
    /// Until when, why, and whether by a 403.
    cool_down: Option<(Duration, String, bool)>,
    /// When each full CVD that was asked for stops counting, by file.
    full: BTreeMap<String, Vec<Duration>>,
    saved_at: Duration,
}

impl Live {
    fn new(book: Book, clock: &Clock) -> Self {
        let (now_s, now) = (clock.epoch_s(), clock.monotonic());
        let mut book = book.plausible(now_s);
        let until = |at_s: u64| {
            let left_s = at_s.checked_sub(now_s).filter(|left_s| *left_s > 0)?;
            Some(now + Duration::from_secs(left_s))
        };
        let cool_down = book.cool_down.take();
        let cool_down = cool_down
            .and_then(|cool_down| Some((until(cool_down.until_s)?, cool_down.why, cool_down.denied)));
        let full = std::mem::take(&mut book.full).into_iter();
        let full = full
            .map(|(file, asked)| (file, asked.into_iter().filter_map(|at_s| until(at_s + HOUR_S)).collect()));
        Self { book, cool_down, full: full.collect(), saved_at: now }
    }

    fn to_book(&self, clock: &Clock) -> Book {
        let (now_s, now) = (clock.epoch_s(), clock.monotonic());
        let left_s = |until: Duration| until.saturating_sub(now).as_secs();
        let cool_down =
            self.cool_down.as_ref().filter(|(until, ..)| *until > now).map(|(until, why, denied)| {
                let left_s = left_s(*until);
                CoolDown { until_s: now_s + left_s, why: why.clone(), left_s: Some(left_s), denied: *denied }
            });
        let asked_at = |until: &Duration| (now_s + left_s(*until)).saturating_sub(HOUR_S);
        let full = self.full.iter().map(|(file, at)| (file.clone(), at.iter().map(asked_at).collect()));
        Book { cool_down, full: full.collect(), ..self.book.clone() }
    }

    fn may_ask(&self, wanted: &Wanted, policy: Policy, now: Duration) -> Result<(), Refusal> {
        let refuse = |until: Duration, why: String, own_name| {
            // Rounded up: who comes back then may ask.
            let wait_s = until.saturating_sub(now).as_secs_f64().ceil() as u64;
            Err(Refusal { wait_s, why, own_name })
        };
        if let Some((until, why, denied)) = self.cool_down.as_ref().filter(|(until, ..)| *until > now) {
            return refuse(*until, why.clone(), *denied && !self.book.downloader);
        }
        let (Wanted::Cvd(database, _), Some(allowed)) = (wanted, policy.full_per_hour) else { return Ok(()) };
        let counting = self.full.get(database.as_str()).into_iter().flatten().filter(|until| **until > now);
        match counting.clone().min() {
            Some(first) if counting.count() >= allowed => refuse(
                *first,
                format!("{allowed} full files of {database} in an hour are the limit kept here"),
                false,
            ),
            _ => Ok(()),
        }
    }
}

impl Ledger {
    /// Goes on with `book`; `save` keeps it.
    pub fn new(book: Book, clock: Clock, save: impl Fn(&Book) + Send + Sync + 'static) -> Self {
        let live = ArcSwap::from_pointee(Live::new(book, &clock));
        Self { live, writing: Mutex::new(()), clock, save: Box::new(save) }
    }

    /// The clock that it goes by.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// What is noted now.
    pub fn book(&self) -> Book {
        self.live.load().to_book(&self.clock)
    }

    /// Whether a request may be made now.
    ///
    /// # Errors
    /// How long not, and why.
    pub fn may_ask(&self, wanted: &Wanted, policy: Policy) -> Result<(), Refusal> {
        let (live, now) = (self.live.load(), self.clock.monotonic());
        let answer = live.may_ask(wanted, policy, now);
        if answer.is_err() && now.saturating_sub(live.saved_at) >= SAVE_EVERY {
            self.note(|_| {});
        }
        answer
    }

    /// Whether a database's file was not looked at for so long that it should be, whatever a record says. A step of the
    /// clock brings that forward, and nothing puts it off; the pause begins when this is first asked.
    pub fn header_due(&self, database: &Database) -> bool {
        let now_s = self.clock.epoch_s();
        let looked_s = self.live.load().book.looked.get(database.as_str()).copied();
        if looked_s.is_none() {
            self.note(|live| {
                live.book.looked.insert(database.to_string(), now_s);
            });
        }
        looked_s.is_some_and(|at_s| now_s.abs_diff(at_s) >= LOOK_EVERY_S)
    }

    /// Notes a request that was sent.
    pub fn asked(&self, wanted: &Wanted) {
        let (now_s, now) = (self.clock.epoch_s(), self.clock.monotonic());
        self.note(|live| {
            live.book.count(wanted, now_s, |count| count.requests += 1);
            if let Wanted::Header(database, _) | Wanted::Cvd(database, _) = wanted {
                live.book.looked.insert(database.to_string(), now_s);
            }
            if let Wanted::Cvd(database, _) = wanted {
                let asked = live.full.entry(database.to_string()).or_default();
                asked.retain(|until| *until > now);
                asked.push(now + Duration::from_secs(HOUR_S));
            }
        });
    }

    /// Notes bytes that came.
    pub fn received(&self, wanted: &Wanted, bytes: u64) {
        let now_s = self.clock.epoch_s();
        self.note(|live| live.book.count(wanted, now_s, |count| count.bytes += bytes));
    }

    /// Notes a 403.
    pub fn denied(&self, policy: Policy) {
        self.cool(policy.denied_s, "the upstream refuses this client (403)", true);
    }

    /// Notes a 429.
    pub fn limited(&self, wait_s: Option<u64>) {
        self.cool(wait_s.unwrap_or(DEFAULT_WAIT_S), "the upstream limits this client (429)", false);
    }

    fn cool(&self, wait_s: u64, why: &str, denied: bool) {
        let until = self.clock.monotonic() + Duration::from_secs(wait_s.min(LONGEST_WAIT_S));
        self.note(|live| live.cool_down = Some((until, why.into(), denied)));
    }

    fn note(&self, change: impl FnOnce(&mut Live)) {
        let _one_at_a_time = self.writing.lock();
        let mut live = Live::clone(&self.live.load());
        change(&mut live);
        live.saved_at = self.clock.monotonic();
        let book = live.to_book(&self.clock);
        self.live.store(Arc::new(live));
        (self.save)(&book);
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.book().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::source::budget::{Count, RequestKind};
    use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

    const CDN: Policy = Policy { full_per_hour: Some(2), denied_s: 24 * HOUR_S };
    const NOW_S: u64 = 1_800_000_000;
    const YEAR_S: i64 = 365 * 86_400;

    /// A ledger whose book survives it, on a clock that the test moves.
    struct Bench {
        clock: Clock,
        saved: Arc<Mutex<Book>>,
        ledger: Ledger,
    }

    impl Bench {
        fn new() -> Self {
            let (clock, saved) = (Clock::simulated(NOW_S), Arc::<Mutex<Book>>::default());
            let ledger = Self::open(&clock, &saved);
            Self { clock, saved, ledger }
        }

        fn open(clock: &Clock, saved: &Arc<Mutex<Book>>) -> Ledger {
            let (book, saved) = (saved.lock().clone(), saved.clone());
            // As state.redb does: through JSON.
            Ledger::new(book, clock.clone(), move |book| {
                *saved.lock() = serde_json::from_str(&serde_json::to_string(book).unwrap()).unwrap();
            })
        }

        /// A new process: its monotonic clock begins anew, its wall clock goes on.
        fn restart(&mut self) {
            self.clock = Clock::simulated(self.clock.epoch_s());
            self.ledger = Self::open(&self.clock, &self.saved);
        }

        fn wait_s(&self, wanted: &Wanted) -> u64 {
            self.ledger.may_ask(wanted, CDN).map_or_else(|refusal| refusal.wait_s, |()| 0)
        }
    }

    fn full() -> Wanted {
        Wanted::Cvd("daily".parse().unwrap(), 7)
    }

    fn header() -> Wanted {
        Wanted::Header("daily".parse().unwrap(), None)
    }

    #[test]
    fn full_files_are_limited_by_the_hour_and_cdiffs_are_not() {
        let bench = Bench::new();
        bench.ledger.asked(&full());
        assert_eq!(bench.wait_s(&full()), 0);
        bench.clock.pass(600);
        bench.ledger.asked(&full());
        assert_eq!(bench.wait_s(&full()), HOUR_S - 600);
        assert_eq!(bench.ledger.may_ask(&full(), Policy { full_per_hour: None, ..CDN }), Ok(()));
        assert_eq!(bench.wait_s(&Wanted::Named("daily-7.cdiff".parse().unwrap())), 0);
        bench.clock.pass(HOUR_S - 600);
        assert_eq!(bench.wait_s(&full()), 0, "an hour later");
    }

    #[test]
    fn a_ban_is_sat_out_by_everything() {
        let bench = Bench::new();
        for (retry_after, wait_s) in
            [(Some(60), 60), (None, DEFAULT_WAIT_S), (Some(u64::MAX), LONGEST_WAIT_S)]
        {
            bench.ledger.limited(retry_after);
            assert_eq!(bench.wait_s(&header()), wait_s);
        }
        bench.ledger.limited(Some(60));
        bench.clock.pass(59);
        assert_eq!(bench.wait_s(&full()), 1);
        bench.clock.pass(1);
        assert_eq!(bench.wait_s(&full()), 0);
        bench.ledger.denied(CDN);
        assert_eq!(bench.wait_s(&header()), 24 * HOUR_S);
    }

    #[test]
    fn a_file_is_looked_at_every_few_hours_whatever_the_clock_does() {
        let mut bench = Bench::new();
        let daily: Database = "daily".parse().unwrap();
        assert!(!bench.ledger.header_due(&daily), "the pause begins");
        bench.clock.pass(LOOK_EVERY_S - 1);
        bench.restart();
        assert!(!bench.ledger.header_due(&daily));
        bench.clock.pass(1);
        assert!(bench.ledger.header_due(&daily));
        for step_s in [0, YEAR_S, -YEAR_S] {
            bench.clock.step(step_s);
            assert!(bench.ledger.header_due(&daily), "{step_s}");
            bench.ledger.asked(&header());
            assert!(!bench.ledger.header_due(&daily), "{step_s}");
            bench.clock.pass(LOOK_EVERY_S);
        }
    }

    #[test]
    fn bytes_are_counted_by_day_and_kind_and_old_days_go() {
        let bench = Bench::new();
        for _ in 0..200 {
            bench.clock.pass(86_400);
            bench.ledger.asked(&full());
            bench.ledger.received(&full(), 10);
        }
        let book = bench.ledger.book();
        assert_eq!(book.today(bench.clock.epoch_s())[&RequestKind::Cvd], Count { requests: 1, bytes: 10 });
        assert_eq!(book.days.len(), 90);
        assert_eq!(book.total[&RequestKind::Cvd], Count { requests: 200, bytes: 2000 });
    }

    #[test]
    fn a_step_of_the_clock_neither_ends_nor_prolongs_a_wait() {
        for step_s in [YEAR_S, -YEAR_S, 7200, -7200] {
            let bench = Bench::new();
            bench.ledger.limited(Some(3600));
            bench.ledger.asked(&full());
            bench.ledger.asked(&full());
            bench.clock.step(step_s);
            assert_eq!(bench.wait_s(&header()), 3600, "{step_s}");
            let shown = bench.ledger.book().cool_down.unwrap();
            assert_eq!(shown.until_s, bench.clock.epoch_s() + 3600, "{step_s}");
            bench.clock.pass(3599);
            assert_eq!(bench.wait_s(&full()), 1, "{step_s}");
            bench.clock.pass(1);
            assert_eq!((bench.wait_s(&header()), bench.wait_s(&full())), (0, 0), "{step_s}");
        }
    }

    #[test]
    fn a_restart_goes_on_with_what_was_left() {
        let mut bench = Bench::new();
        bench.ledger.limited(Some(3600));
        bench.clock.pass(600);
        bench.restart();
        assert_eq!(bench.wait_s(&header()), 3000);
        bench.clock.pass(3000);
        assert_eq!(bench.wait_s(&header()), 0);
    }

    /// The ban came while the clock was a year ahead; it is set right, and the process starts anew.
    #[test]
    fn a_ban_from_the_future_lasts_as_long_as_it_was_to() {
        let mut bench = Bench::new();
        bench.clock.step(YEAR_S);
        bench.ledger.limited(Some(3600));
        bench.ledger.asked(&full());
        bench.ledger.asked(&full());
        bench.clock.step(-YEAR_S);
        bench.restart();
        assert_eq!(bench.wait_s(&header()), 3600);
        // A book of an earlier build does not say what was left.
        bench.saved.lock().cool_down.as_mut().unwrap().left_s = None;
        bench.restart();
        assert_eq!(bench.wait_s(&header()), LONGEST_WAIT_S);
        bench.saved.lock().cool_down = None;
        bench.restart();
        assert_eq!(bench.wait_s(&full()), HOUR_S, "asked in the future: asked now");
    }

    #[test]
    fn it_is_never_silent_for_longer_than_a_day() {
        for seed in 0..20 {
            let (mut bench, mut chance) = (Bench::new(), StdRng::seed_from_u64(seed));
            let (mut silent_s, mut longest_s, mut asked) = (0, 0, 0);
            for _ in 0..30 * 24 * 4 {
                if bench.wait_s(&header()) == 0 {
                    (silent_s, asked) = (0, asked + 1);
                    match chance.random_range(0..3) {
                        0 => bench.ledger.denied(CDN),
                        1 => bench.ledger.limited(Some(u64::MAX)),
                        _ => bench.ledger.limited(None),
                    }
                }
                match chance.random_range(0..20) {
                    0 => bench.clock.step(YEAR_S),
                    1 => bench.clock.step(-YEAR_S),
                    _ => {}
                }
                if chance.random_ratio(1, 10) {
                    bench.restart();
                }
                bench.clock.pass(900);
                silent_s += 900;
                longest_s = longest_s.max(silent_s);
            }
            assert!(longest_s <= LONGEST_WAIT_S + 900, "{seed}: {longest_s} s");
            // And a ban is not forgotten at each step.
            assert!(asked < 30 * 24, "{seed}: asked {asked} times");
        }
    }
}
