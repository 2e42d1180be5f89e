//! What is being fetched or rebuilt now: written by the fetching thread, read by everybody who asks.
use super::{Progress, Silent};
use crate::{clock::ago, units::size};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A rate means something once a file has been under way for so long.
const JUDGED: Duration = Duration::from_secs(1);

/// The file under way, if there is one; passes everything on to another [`Progress`].
#[derive(Debug)]
pub struct Activity {
    /// What, its announced length in bytes, and when it began.
    current: Mutex<Option<(String, Option<u64>, Instant)>>,
    done_bytes: AtomicU64,
    then: Arc<dyn Progress>,
}

/// A file under way at one moment. `Display` is one line for people.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Underway {
    /// Which file, or what is done to it.
    pub what: String,
    /// Bytes so far.
    pub done_bytes: u64,
    /// Its announced length, bytes.
    pub total_bytes: Option<u64>,
    /// Since when, milliseconds.
    pub elapsed_ms: u64,
}

impl Activity {
    /// Keeps what is under way, and passes it on to `then`.
    pub fn new(then: Arc<dyn Progress>) -> Self {
        Self { current: Mutex::default(), done_bytes: AtomicU64::new(0), then }
    }

    /// What is under way now.
    pub fn now(&self) -> Option<Underway> {
        let (what, total_bytes, began) = self.current.lock().clone()?;
        let elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        Some(Underway { what, done_bytes: self.done_bytes.load(Relaxed), total_bytes, elapsed_ms })
    }
}

impl Default for Activity {
    fn default() -> Self {
        Self::new(Arc::new(Silent))
    }
}

impl Progress for Activity {
    fn begin(&self, what: &str, total: Option<u64>) {
        self.done_bytes.store(0, Relaxed);
        *self.current.lock() = Some((what.to_owned(), total, Instant::now()));
        self.then.begin(what, total);
    }

    fn advance(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Relaxed);
        self.then.advance(bytes);
    }

    fn end(&self) {
        *self.current.lock() = None;
        self.then.end();
    }
}

impl Underway {
    /// Bytes a second; `None` before that means anything.
    pub fn bytes_per_s(&self) -> Option<u64> {
        (u128::from(self.elapsed_ms) >= JUDGED.as_millis())
            .then(|| self.done_bytes.saturating_mul(1000) / self.elapsed_ms)
    }

    /// How long it still takes at this rate, seconds.
    pub fn left_s(&self) -> Option<u64> {
        let left_bytes = self.total_bytes?.checked_sub(self.done_bytes)?;
        left_bytes.checked_div(self.bytes_per_s()?)
    }
}

impl fmt::Display for Underway {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, size(self.done_bytes))?;
        if let Some(total) = self.total_bytes {
            write!(f, " of {}", size(total))?;
        }
        if let Some(rate) = self.bytes_per_s() {
            write!(f, ", {}/s", size(rate))?;
        }
        if let Some(left_s) = self.left_s() {
            write!(f, ", {} left", ago(left_s))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn it_is_one_line_as_soon_as_there_is_something_to_say() {
        let activity = Activity::default();
        assert_eq!(activity.now(), None);
        activity.begin("daily-7.cvd", Some(4096));
        activity.advance(1024);
        let began = activity.now().unwrap();
        assert_eq!((began.done_bytes, began.total_bytes), (1024, Some(4096)));
        let after = |elapsed_ms| Underway { elapsed_ms, ..began.clone() }.to_string();
        assert_eq!(after(10), "daily-7.cvd: 1.00 KiB of 4.00 KiB");
        assert_eq!(after(2000), "daily-7.cvd: 1.00 KiB of 4.00 KiB, 512 B/s, 6 s left");
        let stuck = Underway { done_bytes: 0, elapsed_ms: 2000, ..began };
        assert_eq!(stuck.to_string(), "daily-7.cvd: 0 B of 4.00 KiB, 0 B/s");
        activity.end();
        assert_eq!(activity.now(), None);
    }
}
