//! What an upstream bears, and the book of what was asked of it. The book outlives the process, so that a restart is no
//! way round a limit; its times are epoch seconds, which [`super::ledger`] does not trust blindly.
use super::Wanted;
use crate::cvd::FileKind;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Days that are remembered.
const DAYS_KEPT: usize = 90;
pub(super) const HOUR_S: u64 = 3600;
/// The longest wait: one of weeks is somebody's mistake, and a day the longest ban there is.
pub(super) const LONGEST_WAIT_S: u64 = 24 * HOUR_S;

/// Whether a host is of Talos' content network.
pub fn is_talos(host: &str) -> bool {
    host == "clamav.net" || host.ends_with(".clamav.net")
}

/// What an upstream bears.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Full CVDs of one name an hour; `None` for as many as needed.
    pub full_per_hour: Option<usize>,
    /// How long to stay away after a 403, seconds.
    pub denied_s: u64,
}

impl Policy {
    /// The policy towards a host: Talos' CDN has published limits (about ten full files an hour for an address;
    /// a 403 is a ban that repeated requests prolong); another host is the site's own.
    pub fn towards(host: &str) -> Self {
        if is_talos(host) {
            Self { full_per_hour: Some(6), denied_s: 24 * HOUR_S }
        } else {
            Self { full_per_hour: None, denied_s: HOUR_S / 6 }
        }
    }
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// A full CVD.
    Cvd,
    /// The first 512 bytes of one.
    Header,
    /// A CDIFF.
    Cdiff,
    /// A sign file.
    Sign,
}

impl RequestKind {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Cvd, Self::Header, Self::Cdiff, Self::Sign];

    /// Its name as a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Cvd => "cvd",
            Self::Header => "header",
            Self::Cdiff => "cdiff",
            Self::Sign => "sign",
        }
    }
}

impl From<&Wanted> for RequestKind {
    fn from(wanted: &Wanted) -> Self {
        match wanted {
            Wanted::Cvd(..) => Self::Cvd,
            Wanted::Header(..) => Self::Header,
            Wanted::Named(name) => match name.kind {
                FileKind::Cvd => Self::Cvd,
                FileKind::Cdiff => Self::Cdiff,
                FileKind::CvdSign | FileKind::CdiffSign => Self::Sign,
            },
        }
    }
}

impl fmt::Display for RequestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cvd => "full CVDs",
            Self::Header => "headers",
            Self::Cdiff => "CDIFFs",
            Self::Sign => "sign files",
        })
    }
}

/// Requests and the bytes of their bodies.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Count {
    /// Requests.
    pub requests: u64,
    /// Bytes received.
    pub bytes: u64,
}

/// Until when, and why, nothing is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CoolDown {
    /// Until when, by the wall clock.
    pub until_s: u64,
    /// What the upstream said, in words.
    pub why: String,
    /// How long that was away when this was written: what still counts if the wall clock was wrong then, or is now.
    #[serde(default)]
    pub left_s: Option<u64>,
    /// Whether it was a 403, which concerns one client; a 429 concerns the address.
    #[serde(default)]
    pub denied: bool,
}

/// Everything that is remembered.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Book {
    /// Set while the upstream wants to be left alone.
    pub cool_down: Option<CoolDown>,
    /// By day (`2026-11-22`, UTC) and kind.
    pub days: BTreeMap<String, BTreeMap<RequestKind, Count>>,
    /// By kind, since ever.
    #[serde(default)]
    pub total: BTreeMap<RequestKind, Count>,
    /// When a header or full CVD of each database was asked for last.
    #[serde(default)]
    pub(super) looked: BTreeMap<String, u64>,
    /// Whether a downloader asked last, instead of this program itself.
    #[serde(default)]
    pub(super) downloader: bool,
    /// When each full CVD was asked for in the last hour, by file.
    pub(super) full: BTreeMap<String, Vec<u64>>,
}

impl Book {
    /// The book of who asks from now on: what one client was refused, another may be given.
    pub fn asked_by(mut self, downloader: bool) -> Self {
        if self.downloader != downloader {
            self.cool_down = self.cool_down.filter(|cool_down| !cool_down.denied);
        }
        Self { downloader, ..self }
    }

    /// Its times for what they can be at `now_s`: nothing was asked in the future, and no wait is longer than it was
    /// when it was written down, nor than [`LONGEST_WAIT_S`].
    pub fn plausible(mut self, now_s: u64) -> Self {
        if let Some(CoolDown { until_s, left_s, .. }) = &mut self.cool_down {
            *until_s = (*until_s).min(now_s + left_s.unwrap_or(LONGEST_WAIT_S).min(LONGEST_WAIT_S));
        }
        self.full.values_mut().flatten().for_each(|at_s| *at_s = (*at_s).min(now_s));
        self
    }

    pub(super) fn count(&mut self, wanted: &Wanted, now_s: u64, change: impl Fn(&mut Count)) {
        let kind = RequestKind::from(wanted);
        change(self.total.entry(kind).or_default());
        change(on_day(&mut self.days, now_s).entry(kind).or_default());
    }

    /// What was asked on the day of `now_s`.
    pub fn today(&self, now_s: u64) -> BTreeMap<RequestKind, Count> {
        self.days.get(&day(now_s)).cloned().unwrap_or_default()
    }
}

/// What is counted on the day of `now_s`; the oldest days go.
pub fn on_day<T: Default>(days: &mut BTreeMap<String, T>, now_s: u64) -> &mut T {
    let today = day(now_s);
    days.entry(today.clone()).or_default();
    while days.len() > DAYS_KEPT {
        days.pop_first();
    }
    days.entry(today).or_default()
}

fn day(now_s: u64) -> String {
    let at = i64::try_from(now_s).ok().and_then(|s| jiff::Timestamp::from_second(s).ok());
    at.unwrap_or_default().strftime("%Y-%m-%d").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_cdn_has_published_limits() {
        assert!(Policy::towards("database.clamav.net").full_per_hour.is_some());
        assert!(Policy::towards("clamav.net.example.org").full_per_hour.is_none());
        assert!(Policy::towards("notclamav.net").full_per_hour.is_none());
    }
}
