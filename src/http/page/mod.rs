//! The status page for people: one HTML document, complete without its script, which only loads it again, and without
//! anything fetched beside it.
//!
//! Guarantees: made from memory alone; every text from outside is escaped by the template; bounded, however much is
//! held. It judges nothing itself: the verdict is that of /health.
mod clients;
mod timeline;
mod visit;
mod words;

use super::Site;
use crate::{
    clients::Report,
    clock::ago,
    cvd::{Database, FileName},
    mirror::{
        Health, History, Snapshot, Standing,
        history::Event,
        status::{DatabaseStatus, Status},
    },
    source::budget::{Book, Count, RequestKind},
    trouble::TroubleKind,
    units::{count, grouped, size},
};
use askama::Template;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use clients::Clients;
use cvdmirror_store::NameRecord;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    sync::{LazyLock, atomic::Ordering::Relaxed},
};
use timeline::{Timeline, Window};
use words::{Told, When};

pub(super) use visit::Visit;

/// Files of a database that are listed; index.json has them all.
const FILES: usize = 100;
/// Events that are shown at once; the others are folded.
const EVENTS: usize = 12;
const STYLE: &str = include_str!("status.css");
const SCRIPT: &str = include_str!("refresh.js");

/// What a browser may do with the page: show it with this very style, load it again by this very script, and send its
/// form back here. Nothing is fetched for it; the icon is within the page.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let [style, script] = [STYLE, SCRIPT].map(|text| BASE64_STANDARD.encode(Sha256::digest(text)));
    format!(
        "default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src data:; \
         base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
});

#[derive(Template)]
#[template(path = "status.html", config = "src/http/page/askama.toml")]
struct Page<'a> {
    style: &'static str,
    script: &'static str,
    program: &'static str,
    source: &'a str,
    /// Until the source is asked again.
    next: Option<String>,
    /// What is fetched or rebuilt now.
    underway: Option<String>,
    /// Since how long without a confirmation something is stale.
    max_age: String,
    /// Lines for a client's freshclam.conf.
    client_lines: String,
    search: &'a str,
    /// What the search found, and how many there are; none without a search.
    found: Option<(Vec<FilePart>, usize)>,
    now: When,
    verdict: Verdict,
    databases: Vec<DatabasePart<'a>>,
    /// The newest, and those before them.
    events: [Vec<EventPart<'a>>; 2],
    upstream: Option<Upstream>,
    sent: String,
    hot: String,
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
    /// Nothing is held yet, and something is being fetched.
    Filling,
    Empty,
}

impl VerdictKind {
    fn class(self) -> &'static str {
        match self {
            Self::Fresh => "ok",
            Self::Look | Self::Filling => "look",
            Self::Stale | Self::Empty => "bad",
        }
    }

    fn headline(self) -> &'static str {
        match self {
            Self::Fresh => "Fresh",
            Self::Look => "Fresh, but not all is well",
            Self::Stale => "Stale",
            Self::Filling => "The first fill is under way",
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

impl FilePart {
    fn new((name, record): (&FileName, &NameRecord)) -> Self {
        Self {
            name: name.to_string(),
            size: grouped(record.size),
            object: record.object.to_string(),
            stored: When::lately(record.stored_at_s),
        }
    }
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
    /// What is left of the disk.
    free: Option<String>,
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
    standing: &Standing,
    site: &Site,
    visit: Visit<'_>,
    clients: Option<&Report>,
    now_s: u64,
) -> Result<String, askama::Error> {
    let Standing { snapshot, history, .. } = standing;
    let (status, health) = (Status::new(standing, now_s), standing.health(now_s));
    let of = |name: &str| history.versions.get(name);
    let shown = status.databases.iter().filter_map(|database| of(&database.database));
    let window = Window::over(shown.flat_map(BTreeMap::values), now_s);
    let databases = status.databases.iter();
    // What several databases fail for is said once, in the verdict.
    let shared = |name: &str| {
        let mut shared = health.troubles.iter().filter(|told| told.failed && told.databases.len() > 1);
        shared.any(|told| told.databases.iter().any(|database| database == name))
    };
    let mut events = history.events.iter().rev().map(EventPart::new);
    let latest = events.by_ref().take(EVENTS).collect();
    let underway = standing.activity.now().map(|now| now.to_string());
    let verdict = Verdict::new(snapshot, &health, underway.is_some(), now_s);
    let filling = verdict.kind == VerdictKind::Filling;
    let page = Page {
        style: STYLE,
        script: SCRIPT,
        source: &site.source,
        next: health.next_s.map(ago),
        underway,
        max_age: ago(standing.max_age_s),
        client_lines: visit.client_lines(&site.url),
        search: visit.search.as_deref().unwrap_or_default(),
        found: visit.found(snapshot),
        program: concat!("cvdmirror ", env!("CARGO_PKG_VERSION")),
        now: When::exactly(now_s),
        verdict,
        databases: databases
            .map(|d| DatabasePart::new(d, snapshot, history, window, now_s))
            .map(|part| if shared(part.name) { DatabasePart { error: None, ..part } } else { part })
            .map(|part| if filling { DatabasePart { state: ("look", part.state.1), ..part } } else { part })
            .collect(),
        events: [latest, events.collect()],
        upstream: status.ledger.as_ref().map(|book| Upstream::new(book, history, now_s)),
        sent: size(site.metrics.body_bytes()),
        hot: site.hot.figures().to_string(),
        connections: site.metrics.open.load(Relaxed),
        store: StorePart {
            size: size(status.store_bytes),
            free: standing.disk_free_bytes.map(size),
            packs: count(status.packs, "pack"),
            files: count(snapshot.files.len() as u64, "file"),
            quarantined: snapshot.view.quarantined().iter().count(),
            findings: status.findings.len(),
        },
        clients: clients.map(|report| Clients::new(report, now_s)),
    };
    page.render()
}

impl Verdict {
    fn new(snapshot: &Snapshot, health: &Health, underway: bool, now_s: u64) -> Self {
        let kind = match (health.is_fresh(), snapshot.databases.is_empty()) {
            (true, _) if health.troubles.is_empty() => VerdictKind::Fresh,
            (true, _) => VerdictKind::Look,
            (false, true) if underway && health.troubles.is_empty() => VerdictKind::Filling,
            (false, true) => VerdictKind::Empty,
            (false, false) => VerdictKind::Stale,
        };
        // That nothing is held of any of them is in the headline.
        let empty = matches!(kind, VerdictKind::Empty | VerdictKind::Filling);
        let in_headline = |kind_of: TroubleKind| empty && kind_of == TroubleKind::Empty;
        let stale = health.stale.iter().filter(|told| !in_headline(told.trouble.kind));
        let mut lines: Vec<String> = stale.map(ToString::to_string).collect();
        lines.extend(health.troubles.iter().map(|told| match told.failed && told.databases.len() == 1 {
            // What it failed with is in the database's part.
            true => format!("{}: the last check failed", told.databases.join(", ")),
            false => told.to_string(),
        }));
        Self { kind, confirmed: snapshot.confirmed_at_s.map(|at_s| When::past(at_s, now_s)), lines }
    }
}

impl<'a> DatabasePart<'a> {
    fn new(
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
        let files: Vec<_> = database.iter().flat_map(|database| snapshot.files_of(database)).collect();
        let listed = files.iter().rev().take(FILES).map(|file| FilePart::new(*file));
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
            timeline: Timeline::new(&status.database, versions, window),
            files: listed.collect(),
            files_total: format!("{}, {}", count(status.files, "file"), size(status.bytes)),
            files_left: files.len().saturating_sub(FILES),
        }
    }
}

impl<'a> EventPart<'a> {
    fn new(event: &'a Event) -> Self {
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
    fn new(book: &Book, history: &History, now_s: u64) -> Self {
        let mut all: BTreeMap<RequestKind, Count> = BTreeMap::new();
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
        let of = |counts: &BTreeMap<RequestKind, Count>, kind| counts.get(kind).copied().unwrap_or_default();
        let fetched = sum(all.values());
        // Of the same days; a day's name sorts as the day does.
        let first = book.days.keys().next().cloned().unwrap_or_default();
        let rebuilt = sum(history.rebuilt.range(first..).map(|(_, count)| count));
        let without = fetched.bytes.saturating_add(rebuilt.bytes);
        Self {
            rows: all.iter().map(|(kind, all)| row(kind.to_string(), of(&today, kind), *all)).collect(),
            total: row("together".into(), sum(today.values()), fetched),
            days: count(book.days.len() as u64, "day"),
            cool_down: book
                .cool_down
                .as_ref()
                .filter(|cool_down| cool_down.until_s > now_s)
                .map(|cool_down| (When::exactly(cool_down.until_s), cool_down.why.clone())),
            rebuilt: count(rebuilt.requests, "full CVD"),
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
