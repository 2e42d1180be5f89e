//! How fast a client reads.
//!
//! Its credit of time shrinks only while a write waits for it, so a slow disk does not count against it. What it reads adds the
//! time that this may take at the slowest pace. What the kernel accepts counts as read, which is early by what waits there;
//! when the credit is used up, what the client has acknowledged meanwhile decides.
use std::time::Duration;
use tokio::time::Instant;

/// How many of its windows a client that was fast may pause: a receiver with a full buffer, or a kernel with a full queue,
/// shows no progress until a good part is free again. At the slowest pace that takes 90 seconds.
const PATIENCE: u32 = 4;

pub(super) struct Pace {
    window: Duration,
    min_bytes_per_s: u64,
    credit: Duration,
    blocked: Option<Blocked>,
}

struct Blocked {
    since: Instant,
    /// What the kernel held for the client then, bytes; `None`: it does not tell.
    unacknowledged: Option<u64>,
}

impl Pace {
    /// `window`: how long a client may take nothing.
    pub(super) fn new(window: Duration, min_bytes_per_s: u64) -> Self {
        Self { window, min_bytes_per_s, credit: window, blocked: None }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.is_some()
    }

    /// Returns whether the write had to wait.
    pub(super) fn wrote(&mut self, bytes: u64) -> bool {
        let waited = self.blocked.take().map(|blocked| blocked.since.elapsed());
        let bought = Duration::from_micros(bytes.saturating_mul(1_000_000) / self.min_bytes_per_s.max(1));
        let left = self.credit.saturating_sub(waited.unwrap_or_default());
        self.credit = (left + bought).min(self.window * PATIENCE);
        waited.is_some()
    }

    /// Until when the waiting write may wait; `None` once that has passed and the client has taken nothing meanwhile.
    pub(super) fn deadline(&mut self, unacknowledged: impl Fn() -> Option<u64>) -> Option<Instant> {
        loop {
            let Blocked { since, unacknowledged: before } = *self
                .blocked
                .get_or_insert_with(|| Blocked { since: Instant::now(), unacknowledged: unacknowledged() });
            let deadline = since + self.credit;
            if Instant::now() < deadline {
                return Some(deadline);
            }
            let taken = before?.saturating_sub(unacknowledged()?);
            if taken == 0 {
                return None;
            }
            self.wrote(taken);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use tokio::time::sleep_until;

    /// How long a client that took two mebibytes at once may go on at `bytes_per_s`; `None`: until it has them.
    async fn cut_after(bytes_per_s: u64) -> Option<Duration> {
        let mut pace = Pace::new(Duration::from_secs(30), 1024);
        pace.wrote(2 << 20);
        let began = Instant::now();
        let left = || (2_u64 << 20).saturating_sub(began.elapsed().as_secs() * bytes_per_s);
        while left() > 0 {
            let Some(deadline) = pace.deadline(|| Some(left())) else { return Some(began.elapsed()) };
            sleep_until(deadline).await;
        }
        None
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_fast_may_be_as_slow_as_any_other() {
        assert_eq!(cut_after(1100).await, None);
        assert_eq!(cut_after(0).await, Some(Duration::from_secs(120)));
        // Slower than promised: what was taken buys ever less.
        let cut = cut_after(512).await.unwrap();
        assert!((230..=245).contains(&cut.as_secs()), "{cut:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_kernel_that_does_not_tell_gives_no_more_time() {
        let mut pace = Pace::new(Duration::from_secs(30), 1024);
        let deadline = pace.deadline(|| None).unwrap();
        sleep_until(deadline).await;
        assert_eq!(pace.deadline(|| None), None);
    }
}
