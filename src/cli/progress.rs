//! How far a fetch is: bars on a terminal, a line a file otherwise.
use super::Ui;
use crate::{
    source::{Progress, Silent, Underway},
    units::size,
};
use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{IsTerminal, stderr},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A file that is announced with this length or more is worth lines in the log, bytes.
const WORTH_LINES: u64 = 1 << 20;
/// How long the log is silent about a file under way at most.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Logs when a big file begins, and how far it is at each tenth of it and every ten seconds.
pub(super) fn to_log() -> Arc<dyn Progress> {
    let logged = Arc::new(Logged::default());
    let beside = logged.clone();
    std::thread::spawn(move || beside.keep_saying());
    logged
}

/// A chunk takes no lock unless a line is due.
#[derive(Debug, Default)]
struct Logged {
    /// The file under way, if it is worth lines.
    current: Mutex<Option<Logging>>,
    begun: Condvar,
    done_bytes: AtomicU64,
    /// At how many bytes the next line is due.
    next_bytes: AtomicU64,
}

#[derive(Debug)]
struct Logging {
    what: String,
    total: Option<u64>,
    began: Instant,
    /// When the last line was written.
    said: Instant,
}

impl Logged {
    fn current(&self) -> MutexGuard<'_, Option<Logging>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, logging: &mut Logging) {
        let done_bytes = self.done_bytes.load(Relaxed);
        let Logging { what, total, began, said } = logging;
        *said = Instant::now();
        self.next_bytes.store(total.map_or(u64::MAX, |total| next_tenth(done_bytes, total)), Relaxed);
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let now = Underway { what: what.clone(), done_bytes, total_bytes: *total, elapsed_ms };
        tracing::info!(done = done_bytes, "{now}");
    }

    /// Says how far it is every ten seconds, also while nothing comes. Ends with the process.
    fn keep_saying(&self) {
        let mut current = self.current();
        loop {
            let wait = current.as_ref().map(|logging| LINE_EVERY.saturating_sub(logging.said.elapsed()));
            match (current.as_mut(), wait) {
                (Some(logging), Some(Duration::ZERO)) => self.say(logging),
                (_, Some(wait)) => {
                    current =
                        self.begun.wait_timeout(current, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
                (_, None) => current = self.begun.wait(current).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// How many bytes the next tenth ends at.
fn next_tenth(done: u64, total: u64) -> u64 {
    let tenth = (total / 10).max(1);
    (done / tenth + 1) * tenth
}

impl Progress for Logged {
    fn begin(&self, what: &str, total: Option<u64>) {
        let mut current = self.current();
        self.done_bytes.store(0, Relaxed);
        self.next_bytes.store(u64::MAX, Relaxed);
        let now = Instant::now();
        *current = total.is_none_or(|total| total >= WORTH_LINES).then(|| {
            match total {
                Some(total) => {
                    self.next_bytes.store(next_tenth(0, total), Relaxed);
                    tracing::info!(total, "{what}: {}", size(total));
                }
                None => tracing::info!("{what}: begun"),
            }
            Logging { what: what.to_owned(), total, began: now, said: now }
        });
        self.begun.notify_one();
    }

    fn advance(&self, bytes: u64) {
        let done = self.done_bytes.fetch_add(bytes, Relaxed) + bytes;
        if done >= self.next_bytes.load(Relaxed)
            && let Some(logging) = self.current().as_mut()
        {
            self.say(logging);
        }
    }

    fn end(&self) {
        *self.current() = None;
    }
}

/// Shows on `bar` what another process has under way, as it tells.
#[derive(Debug)]
pub(super) struct Relay {
    bar: Arc<dyn Progress>,
    shown: Option<Underway>,
}

impl Relay {
    pub(super) fn new(bar: Arc<dyn Progress>) -> Self {
        Self { bar, shown: None }
    }

    /// Shows what is under way there now.
    pub(super) fn show(&mut self, now: Option<Underway>) {
        let same = |before: &Underway, now: &Underway| {
            before.what == now.what && before.done_bytes <= now.done_bytes
        };
        match (&self.shown, &now) {
            (Some(before), Some(now)) if same(before, now) => {
                self.bar.advance(now.done_bytes - before.done_bytes)
            }
            (before, now) => {
                if before.is_some() {
                    self.bar.end();
                }
                if let Some(now) = now {
                    self.bar.begin(&now.what, now.total_bytes);
                    self.bar.advance(now.done_bytes);
                }
            }
        }
        self.shown = now;
    }
}

/// Shows progress on standard error.
pub(super) fn to_stderr(ui: Ui) -> Arc<dyn Progress> {
    match ui.quiet {
        true => Arc::new(Silent),
        false if stderr().is_terminal() => Arc::new(Bar(Mutex::new(ProgressBar::hidden()))),
        false => Arc::new(Lines),
    }
}

#[derive(Debug)]
struct Bar(Mutex<ProgressBar>);

impl Bar {
    fn bar(&self) -> std::sync::MutexGuard<'_, ProgressBar> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bar {
    fn begin(&self, what: &str, total: Option<u64>) {
        let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
        let style = "{msg:28} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(style) {
            bar.set_style(style);
        }
        bar.set_message(what.to_owned());
        *self.bar() = bar;
    }

    fn advance(&self, bytes: u64) {
        self.bar().inc(bytes);
    }

    fn end(&self) {
        self.bar().finish_and_clear();
    }
}

#[derive(Debug)]
struct Lines;

impl Progress for Lines {
    fn begin(&self, what: &str, total: Option<u64>) {
        match total {
            Some(total) => eprintln!("{what} ({})", size(total)),
            None => eprintln!("{what}"),
        }
    }

    fn advance(&self, _bytes: u64) {}

    fn end(&self) {}
}
