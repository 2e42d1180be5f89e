//! The status page for people: one HTML document, complete without scripts or anything fetched beside it.
//!
//! Guarantees: made from memory alone; every text from outside is escaped by the template; bounded, however much is
//! held. It judges nothing itself: the verdict is that of /health.
mod clients;
mod timeline;
mod words;

use super::{Freshness, Health, Metrics, Overview};
use crate::{
    cvd::{Database, FileKind, FileName},
    mirror::{History, Snapshot, history::Event, status::DatabaseStatus},
    source::budget::{Book, Count, Kind},
};
use askama::Template;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clients::Clients;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{LazyLock, atomic::Ordering::Relaxed},
};
use timeline::{Timeline, Window};
use words::{Told, When, count, grouped, size};

/// Files of a database that are listed; index.json has them all.
const FILES: usize = 100;
/// Events that are shown at once; the others are folded.
const EVENTS: usize = 12;
const STYLE: &str = include_str!("status.css");

/// What a browser may do with the page: show it, with this very style. Nothing of it runs, and nothing is fetched
/// for it; the icon is within the page.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash = BASE64_STANDARD.encode(Sha256::digest(STYLE));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    )
});

#[derive(Template)]
#[template(path = "status.html", config = "src/http/page/askama.toml")]
struct Page<'a> {
    style: &'static str,
    program: &'static str,
    now: When,
    verdict: Verdict,
    databases: Vec<DatabasePart<'a>>,
    /// The newest, and those before them.
    events: [Vec<EventPart<'a>>; 2],
    upstream: Option<Upstream>,
    sent: String,
    connections: u64,
    store: StorePart,
    /// None where nobody is remembered.
    clients: Option<Clients>,
}

/// What is said first.
struct Verdict {
    kind: VerdictKind,
    /// When the oldest of what is published was confirmed.
    confirmed: Option<When>,
    /// Why it is so, a line each. An error that a database's part says in full is not said twice.
    lines: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum VerdictKind {
    Fresh,
    /// Fresh, and something goes wrong.
    Look,
    Stale,
    Empty,
}

impl VerdictKind {
    fn class(self) -> &'static str {
        match self {
            Self::Fresh => "ok",
            Self::Look => "look",
            Self::Stale | Self::Empty => "bad",
        }
    }

    fn headline(self) -> &'static str {
        match self {
            Self::Fresh => "Fresh",
            Self::Look => "Fresh, but not all is well",
            Self::Stale => "Stale",
            Self::Empty => "Nothing is held yet",
        }
    }
}

/// One database.
struct DatabasePart<'a> {
    name: &'a str,
    version: Option<u32>,
    state: (&'static str, String),
    built: Option<(When, When)>,
    confirmed: Option<(When, When)>,
    checked: Option<When>,
    newest: Option<u32>,
    cvd: Option<u32>,
    chain: Option<(u32, u32)>,
    signatures: Option<String>,
    error: Option<&'a str>,
    timeline: Timeline,
    files: Vec<FilePart>,
    files_total: String,
    files_left: usize,
}

struct FilePart {
    name: String,
    size: String,
    object: String,
    stored: When,
}

struct EventPart<'a> {
    at: When,
    database: &'a str,
    class: &'static str,
    text: String,
    since: Option<(u32, When)>,
}

/// What was asked of the upstream, and what rebuilding spared it.
struct Upstream {
    rows: Vec<UpstreamRow>,
    total: UpstreamRow,
    days: String,
    cool_down: Option<(When, String)>,
    rebuilt: String,
    rebuilt_bytes: String,
    fetched_bytes: String,
    without_bytes: String,
    /// Percent.
    saved: Option<u64>,
}

struct UpstreamRow {
    kind: String,
    today: (String, String),
    all: (String, String),
}

struct StorePart {
    size: String,
    packs: String,
    files: String,
    quarantined: usize,
    findings: usize,
}

/// Writes the page.
///
/// # Errors
/// When the template fails, which it does for nothing that is known.
pub(super) fn render(
    snapshot: &Snapshot,
    health: &Health,
    overview: &Overview,
    metrics: &Metrics,
    now_s: u64,
) -> Result<String, askama::Error> {
    let Overview { status, history, clients } = overview;
    let of = |name: &str| history.versions.get(name);
    let shown = status.databases.iter().filter_map(|database| of(&database.database));
    let window = Window::over(shown.flat_map(BTreeMap::values), now_s);
    let databases = status.databases.iter();
    let mut events = history.events.iter().rev().map(EventPart::of);
    let latest = events.by_ref().take(EVENTS).collect();
    let page = Page {
        style: STYLE,
        program: concat!("cvdmirror ", env!("CARGO_PKG_VERSION")),
        now: When::exactly(now_s),
        verdict: Verdict::of(snapshot, health, &status.databases, now_s),
        databases: databases.map(|d| DatabasePart::of(d, snapshot, history, window, now_s)).collect(),
        events: [latest, events.collect()],
        upstream: status.ledger.as_ref().map(|book| Upstream::of(book, history, now_s)),
        sent: size(metrics.body_bytes()),
        connections: metrics.open.load(Relaxed),
        store: StorePart {
            size: size(status.store_bytes),
            packs: count(status.packs, "pack", "packs"),
            files: count(snapshot.files.len() as u64, "file", "files"),
            quarantined: snapshot.view.quarantined().iter().count(),
            findings: status.findings.len(),
        },
        clients: clients.as_ref().map(Clients::of),
    };
    page.render()
}

impl Verdict {
    fn of(snapshot: &Snapshot, health: &Health, databases: &[DatabaseStatus], now_s: u64) -> Self {
        let kind = match &health.freshness {
            Freshness::Fresh if health.remarks.is_empty() => VerdictKind::Fresh,
            Freshness::Fresh => VerdictKind::Look,
            Freshness::Stale { .. } if snapshot.databases.is_empty() => VerdictKind::Empty,
            Freshness::Stale { .. } => VerdictKind::Stale,
        };
        let wrong = databases.iter().filter_map(|d| match (&d.stale, &d.last_error) {
            // That nothing is held of any of them is in the headline.
            (Some(_), _) if kind == VerdictKind::Empty => None,
            (Some(stale), _) => Some(format!("{}: {stale}", d.database)),
            (None, Some(_)) => Some(format!("{}: the last check failed", d.database)),
            (None, None) => None,
        });
        let mut lines: Vec<String> = wrong.collect();
        if let Freshness::Stale { why } = &health.freshness
            && databases.iter().all(|d| d.stale.is_none())
        {
            lines.push(why.clone());
        }
        let shown = |remark: &&String| {
            let errors = databases.iter().filter_map(|d| d.last_error.as_ref());
            errors.into_iter().any(|error| remark.ends_with(error.as_str()))
        };
        lines.extend(health.remarks.iter().filter(|remark| !shown(remark)).cloned());
        Self { kind, confirmed: snapshot.confirmed_at_s.map(|at_s| When::past(at_s, now_s)), lines }
    }
}

impl<'a> DatabasePart<'a> {
    fn of(
        status: &'a DatabaseStatus,
        snapshot: &Snapshot,
        history: &History,
        window: Window,
        now_s: u64,
    ) -> Self {
        let none = BTreeMap::new();
        let versions = history.versions.get(&status.database).unwrap_or(&none);
        let database = status.database.parse::<Database>().ok();
        let published = database.as_ref().and_then(|d| snapshot.databases.get(d));
        let behind = status.newest.filter(|newest| status.version.is_some_and(|held| held < *newest));
        let state = match (&status.stale, &status.last_error, behind) {
            (Some(why), ..) => ("bad", why.clone()),
            (None, _, Some(newest)) => ("look", format!("upstream has {newest}")),
            (None, Some(_), None) => ("look", "the last check failed".into()),
            (None, None, None) => ("ok", "newest".into()),
        };
        let both = |at_s| (When::past(at_s, now_s), When::exactly(at_s));
        let first = database.as_ref().map(|d| FileName::new(d, 0, FileKind::Cvd));
        let of_it = |(name, _): &(&FileName, _)| Some(&name.database) == database.as_ref();
        let files = first.map(|first| snapshot.files.range(first..).take_while(of_it).collect::<Vec<_>>());
        let files = files.unwrap_or_default();
        let listed = files.iter().rev().take(FILES).map(|(name, record)| FilePart {
            name: name.to_string(),
            size: grouped(record.size),
            object: record.object.to_string(),
            stored: When::lately(record.stored_at_s),
        });
        Self {
            name: &status.database,
            version: status.version,
            state,
            built: published.map(|p| both(p.stime_s)),
            confirmed: status.confirmed_at_s.map(both),
            checked: status.checked_at_s.map(|at_s| When::past(at_s, now_s)),
            newest: status.newest,
            cvd: status.cvd,
            chain: status.chain,
            signatures: published.map(|p| grouped(p.signatures.into())),
            error: status.last_error.as_deref(),
            timeline: Timeline::of(&status.database, versions, window),
            files: listed.collect(),
            files_total: format!("{}, {}", count(status.files, "file", "files"), size(status.bytes)),
            files_left: files.len().saturating_sub(FILES),
        }
    }
}

impl<'a> EventPart<'a> {
    fn of(event: &'a Event) -> Self {
        Self {
            at: When::lately(event.at_s),
            database: event.database.as_deref().unwrap_or("store"),
            class: if event.what.is_good() { "ok" } else { "look" },
            text: Told(&event.what).to_string(),
            since: (event.times > 1).then(|| (event.times, When::lately(event.first_at_s))),
        }
    }
}

impl Upstream {
    fn of(book: &Book, history: &History, now_s: u64) -> Self {
        let mut all: BTreeMap<Kind, Count> = BTreeMap::new();
        for (kind, count) in book.days.values().flatten() {
            let sum = all.entry(*kind).or_default();
            sum.requests += count.requests;
            sum.bytes += count.bytes;
        }
        let today = book.today(now_s);
        let row = |kind: String, today: Count, all: Count| UpstreamRow {
            kind,
            today: (grouped(today.requests), size(today.bytes)),
            all: (grouped(all.requests), size(all.bytes)),
        };
        let of = |counts: &BTreeMap<Kind, Count>, kind| counts.get(kind).copied().unwrap_or_default();
        let fetched = sum(all.values());
        // Of the same days; a day's name sorts as the day does.
        let first = book.days.keys().next().cloned().unwrap_or_default();
        let rebuilt = sum(history.rebuilt.range(first..).map(|(_, count)| count));
        let without = fetched.bytes.saturating_add(rebuilt.bytes);
        Self {
            rows: all.iter().map(|(kind, all)| row(kind.to_string(), of(&today, kind), *all)).collect(),
            total: row("together".into(), sum(today.values()), fetched),
            days: count(book.days.len() as u64, "day", "days"),
            cool_down: book
                .cool_down
                .as_ref()
                .filter(|cool_down| cool_down.until_s > now_s)
                .map(|cool_down| (When::exactly(cool_down.until_s), cool_down.why.clone())),
            rebuilt: count(rebuilt.requests, "full CVD", "full CVDs"),
            rebuilt_bytes: size(rebuilt.bytes),
            fetched_bytes: size(fetched.bytes),
            without_bytes: size(without),
            saved: (rebuilt.bytes > 0)
                .then(|| u64::try_from(u128::from(rebuilt.bytes) * 100 / u128::from(without)).unwrap_or(100)),
        }
    }
}

fn sum<'a>(counts: impl Iterator<Item = &'a Count>) -> Count {
    counts.fold(Count::default(), |sum, count| Count {
        requests: sum.requests.saturating_add(count.requests),
        bytes: sum.bytes.saturating_add(count.bytes),
    })
}
