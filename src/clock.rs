//! The clocks that decisions are made by, and how people say lengths of time.
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Now by the system's clock, in seconds since the epoch.
pub fn epoch_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// A wall clock, which can be wrong and can step, and a monotonic one, which cannot. Clones are the same clock.
#[derive(Clone, Debug)]
pub struct Clock(Kind);

#[derive(Clone, Debug)]
enum Kind {
    System { began: Instant },
    Simulated(Arc<Simulated>),
}

#[derive(Debug)]
struct Simulated {
    elapsed_s: AtomicU64,
    /// What the wall clock shows beyond `elapsed_s`.
    offset_s: AtomicI64,
}

impl Clock {
    /// The system's clocks.
    pub fn system() -> Self {
        Self(Kind::System { began: Instant::now() })
    }

    /// A clock for tests that moves only when it is told to.
    pub fn simulated(epoch_s: u64) -> Self {
        let offset_s = AtomicI64::new(i64::try_from(epoch_s).unwrap_or(i64::MAX));
        Self(Kind::Simulated(Arc::new(Simulated { elapsed_s: AtomicU64::new(0), offset_s })))
    }

    /// The wall clock, seconds since the epoch.
    pub fn epoch_s(&self) -> u64 {
        match &self.0 {
            Kind::System { .. } => epoch_s(),
            Kind::Simulated(clock) => {
                clock.elapsed_s.load(SeqCst).saturating_add_signed(clock.offset_s.load(SeqCst))
            }
        }
    }

    /// Time since this clock was made; no step of the wall clock changes it.
    pub fn monotonic(&self) -> Duration {
        match &self.0 {
            Kind::System { began } => began.elapsed(),
            Kind::Simulated(clock) => Duration::from_secs(clock.elapsed_s.load(SeqCst)),
        }
    }

    /// Lets simulated time pass on both clocks. A system's clock goes by itself.
    pub fn pass(&self, seconds: u64) {
        if let Kind::Simulated(clock) = &self.0 {
            clock.elapsed_s.fetch_add(seconds, SeqCst);
        }
    }

    /// Steps the simulated wall clock alone, as an admin or NTP does.
    pub fn step(&self, seconds: i64) {
        if let Kind::Simulated(clock) = &self.0 {
            clock.offset_s.fetch_add(seconds, SeqCst);
        }
    }
}

/// A length of time as people say it.
pub fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// Clocks that are this far apart still agree: half of what makes a TXT record too old would already show.
const AGREE_S: u64 = 3600;

/// How far our clock is ahead of another, seconds (behind: negative); nothing while they agree.
pub fn off_by(ours_s: u64, theirs_s: u64) -> Option<i64> {
    let off = i64::try_from(ours_s).ok()?.saturating_sub(i64::try_from(theirs_s).unwrap_or(i64::MAX));
    (off.unsigned_abs() > AGREE_S).then_some(off)
}

/// What mends a clock.
pub const SET_IT: &str = "timedatectl set-ntp true";

/// Says how far our clock is off by another's.
pub fn words(off_s: i64, whose: &str) -> String {
    let side = if off_s > 0 { "ahead of" } else { "behind" };
    format!("this machine's clock is {} {side} {whose}", ago(off_s.unsigned_abs()))
}
