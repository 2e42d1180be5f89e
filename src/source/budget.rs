//! Politeness: what was asked of the upstream, and whether more may be asked now.
//!
//! The book outlives the process, so that a restart is no way round a limit. Times are epoch seconds.
use super::Wanted;
use crate::cvd::FileKind;
use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

/// Days that are remembered.
const DAYS_KEPT: usize = 90;
const HOUR_S: u64 = 3600;
/// How long freshclam stays away after a 429 without `Retry-After`.
const DEFAULT_WAIT_S: u64 = 4 * HOUR_S;

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
        if host == "clamav.net" || host.ends_with(".clamav.net") {
            Self { full_per_hour: Some(6), denied_s: 24 * HOUR_S }
        } else {
            Self { full_per_hour: None, denied_s: HOUR_S / 6 }
        }
    }
}

/// What a request is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A full CVD.
    Cvd,
    /// The first 512 bytes of one.
    Header,
    /// A CDIFF.
    Cdiff,
    /// A sign file.
    Sign,
}

impl Kind {
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

    /// The kind of what is wanted.
    pub fn of(wanted: &Wanted) -> Self {
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

impl fmt::Display for Kind {
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
    /// Until when.
    pub until_s: u64,
    /// What the upstream said, in words.
    pub why: String,
}

/// Everything that is remembered.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Book {
    /// Set while the upstream wants to be left alone.
    pub cool_down: Option<CoolDown>,
    /// By day (`2026-11-22`, UTC) and kind.
    pub days: BTreeMap<String, BTreeMap<Kind, Count>>,
    /// By kind, since ever.
    #[serde(default)]
    pub total: BTreeMap<Kind, Count>,
    /// When each full CVD was asked for in the last hour, by file.
    full: BTreeMap<String, Vec<u64>>,
}

impl Book {
    /// Whether a request may be made now.
    ///
    /// # Errors
    /// The cool-down to sit out.
    pub fn may_ask(&self, wanted: &Wanted, policy: Policy, now_s: u64) -> Result<(), CoolDown> {
        if let Some(cool_down) = self.cool_down.as_ref().filter(|cool_down| cool_down.until_s > now_s) {
            return Err(cool_down.clone());
        }
        let (Wanted::Cvd(database, _), Some(allowed)) = (wanted, policy.full_per_hour) else { return Ok(()) };
        let recent = || {
            let asked = self.full.get(database.as_str()).into_iter().flatten().copied();
            asked.filter(|at_s| at_s + HOUR_S > now_s)
        };
        match recent().min() {
            Some(first_s) if recent().count() >= allowed => Err(CoolDown {
                until_s: first_s + HOUR_S,
                why: format!("{allowed} full files of {database} in an hour are the limit kept here"),
            }),
            _ => Ok(()),
        }
    }

    /// Notes a request that is made.
    pub fn asked(&mut self, wanted: &Wanted, now_s: u64) {
        self.count(wanted, now_s, |count| count.requests += 1);
        if let Wanted::Cvd(database, _) = wanted {
            let asked = self.full.entry(database.to_string()).or_default();
            asked.retain(|at_s| at_s + HOUR_S > now_s);
            asked.push(now_s);
        }
    }

    /// Notes bytes that came.
    pub fn received(&mut self, wanted: &Wanted, bytes: u64, now_s: u64) {
        self.count(wanted, now_s, |count| count.bytes += bytes);
    }

    /// Notes a 403.
    pub fn denied(&mut self, policy: Policy, now_s: u64) {
        self.cool(now_s, policy.denied_s, "the upstream refuses this client (403)");
    }

    /// Notes a 429.
    pub fn limited(&mut self, wait_s: Option<u64>, now_s: u64) {
        // A wait of weeks is a mistake of somebody's: a day is the longest ban there is.
        let wait_s = wait_s.unwrap_or(DEFAULT_WAIT_S).min(24 * HOUR_S);
        self.cool(now_s, wait_s, "the upstream limits this client (429)");
    }

    fn cool(&mut self, now_s: u64, wait_s: u64, why: &str) {
        self.cool_down = Some(CoolDown { until_s: now_s + wait_s, why: why.into() });
    }

    fn count(&mut self, wanted: &Wanted, now_s: u64, change: impl Fn(&mut Count)) {
        let kind = Kind::of(wanted);
        change(self.total.entry(kind).or_default());
        change(on_day(&mut self.days, now_s).entry(kind).or_default());
    }

    /// What was asked on the day of `now_s`.
    pub fn today(&self, now_s: u64) -> BTreeMap<Kind, Count> {
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

/// A book that is saved at each change. Reading it never waits for the disk.
pub struct Ledger {
    book: ArcSwap<Book>,
    /// Held by whoever changes it.
    writing: Mutex<()>,
    save: Box<dyn Fn(&Book) + Send + Sync>,
}

impl Ledger {
    /// Goes on with `book`; `save` keeps it.
    pub fn new(book: Book, save: impl Fn(&Book) + Send + Sync + 'static) -> Self {
        Self { book: ArcSwap::from_pointee(book), writing: Mutex::new(()), save: Box::new(save) }
    }

    /// What is noted now.
    pub fn book(&self) -> Book {
        Book::clone(&self.book.load())
    }

    /// Changes and saves it.
    pub fn note(&self, change: impl FnOnce(&mut Book)) {
        let _one_at_a_time = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut book = self.book();
        change(&mut book);
        self.book.store(Arc::new(book));
        (self.save)(&self.book.load());
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.book.load().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const CDN: Policy = Policy { full_per_hour: Some(2), denied_s: 24 * HOUR_S };

    fn full() -> Wanted {
        Wanted::Cvd("daily".parse().unwrap(), 7)
    }

    #[test]
    fn full_files_are_limited_by_the_hour_and_cdiffs_are_not() {
        let mut book = Book::default();
        book.asked(&full(), 1000);
        assert_eq!(book.may_ask(&full(), CDN, 1001), Ok(()));
        book.asked(&full(), 1600);
        assert_eq!(book.may_ask(&full(), CDN, 1601).unwrap_err().until_s, 1000 + HOUR_S);
        assert_eq!(book.may_ask(&full(), Policy { full_per_hour: None, ..CDN }, 1601), Ok(()));
        let cdiff = Wanted::Named("daily-7.cdiff".parse().unwrap());
        assert_eq!(book.may_ask(&cdiff, CDN, 1601), Ok(()));
        assert_eq!(book.may_ask(&full(), CDN, 1000 + HOUR_S), Ok(()), "an hour later");
    }

    #[test]
    fn a_ban_is_sat_out_by_everything() {
        let header = Wanted::Header("daily".parse().unwrap(), None);
        let mut book = Book::default();
        book.limited(Some(60), 100);
        assert_eq!(book.may_ask(&header, CDN, 159).unwrap_err().until_s, 160);
        assert_eq!(book.may_ask(&header, CDN, 160), Ok(()));
        book.limited(None, 100);
        assert_eq!(book.may_ask(&header, CDN, 101).unwrap_err().until_s, 100 + DEFAULT_WAIT_S);
        book.limited(Some(u64::MAX), 100);
        assert_eq!(book.may_ask(&header, CDN, 101).unwrap_err().until_s, 100 + 24 * HOUR_S);
        book.denied(CDN, 200);
        assert_eq!(book.may_ask(&header, CDN, 201).unwrap_err().until_s, 200 + 24 * HOUR_S);
    }

    #[test]
    fn bytes_are_counted_by_day_and_kind_and_old_days_go() {
        let mut book = Book::default();
        for day in 0..200 {
            book.asked(&full(), day * 86_400);
            book.received(&full(), 10, day * 86_400);
        }
        assert_eq!(book.today(199 * 86_400)[&Kind::Cvd], Count { requests: 1, bytes: 10 });
        assert_eq!(book.days.len(), DAYS_KEPT);
        assert_eq!(book.total[&Kind::Cvd], Count { requests: 200, bytes: 2000 });
    }

    #[test]
    fn only_the_cdn_has_published_limits() {
        assert!(Policy::towards("database.clamav.net").full_per_hour.is_some());
        assert!(Policy::towards("clamav.net.example.org").full_per_hour.is_none());
        assert!(Policy::towards("notclamav.net").full_per_hour.is_none());
    }
}
