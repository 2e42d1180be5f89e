//! The wall clock, and how people say lengths of time.
use std::time::{SystemTime, UNIX_EPOCH};

/// Now, in seconds since the epoch.
pub fn epoch_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
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

/// The same with what to do.
pub fn remark(off_s: i64, whose: &str) -> String {
    format!(
        "{}; the age of records and the validity of certificates are judged by it: set it right with {SET_IT}",
        words(off_s, whose)
    )
}
