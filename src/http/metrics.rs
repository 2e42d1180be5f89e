//! What the HTTP server counts, and everything that `/metrics` says.
use super::target::{NoTarget, Target};
use crate::{
    clock::epoch_s,
    cvd::{Database, FileKind},
    exposition::{Exposition, Sample},
    mirror::{Standing, plan::Held},
};
use cvdmirror_store::Pack;
use hyper::StatusCode;
use std::{
    fmt,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// Every status the handler gives; hyper's own 400 for a malformed head is counted in `malformed`.
const STATUSES: [u16; 16] = [200, 206, 302, 304, 400, 404, 405, 408, 412, 413, 416, 421, 500, 502, 503, 504];

/// What a request is for, as it is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A full CVD, or its header alone (206).
    Cvd,
    Cdiff,
    Sign,
    Cld,
    /// `/<db>.cvd`, `/<db>.cld`.
    Alias,
    /// By its hash.
    Object,
    /// A page for people or programs.
    Page,
    Metrics,
    /// Nothing that is here.
    Other,
}

const KINDS: [(Kind, &str); 9] = [
    (Kind::Cvd, "cvd"),
    (Kind::Cdiff, "cdiff"),
    (Kind::Sign, "sign"),
    (Kind::Cld, "cld"),
    (Kind::Alias, "alias"),
    (Kind::Object, "object"),
    (Kind::Page, "page"),
    (Kind::Metrics, "metrics"),
    (Kind::Other, "other"),
];

impl Kind {
    pub(super) fn of(target: &Result<Target, NoTarget>) -> Self {
        let Ok(target) = target else { return Self::Other };
        match target {
            Target::File(name) => match name.kind {
                FileKind::Cvd => Self::Cvd,
                FileKind::Cdiff => Self::Cdiff,
                FileKind::CvdSign | FileKind::CdiffSign => Self::Sign,
            },
            Target::Cld(_) => Self::Cld,
            Target::CldSign(_) => Self::Sign,
            Target::Alias(_) | Target::AliasAt(_) | Target::CldAlias(_) => Self::Alias,
            Target::Object(_) => Self::Object,
            Target::Metrics => Self::Metrics,
            // Every page there is or will be, so that a new one need not be named here.
            _ => Self::Page,
        }
    }
}

/// Answers to requests of one kind.
#[derive(Default, Debug)]
struct Answers {
    by_status: [AtomicU64; STATUSES.len()],
    body_bytes: AtomicU64,
}

/// What others count and want to be read with it.
type More = Box<dyn Fn(&mut Exposition) + Send + Sync>;

/// What the HTTP server counts. All but `open` only grow.
#[derive(Default)]
pub struct Metrics {
    answers: [Answers; KINDS.len()],
    /// Objects that could not be read for a request.
    pub(super) unreadable: AtomicU64,
    /// Connections accepted.
    pub(super) accepted: AtomicU64,
    /// Connections open now.
    pub(super) open: AtomicU64,
    /// Errors of accept(2).
    pub(super) accept_errors: AtomicU64,
    /// Times the cap on connections was met.
    pub(super) full: AtomicU64,
    /// Request heads answered 400 before the handler saw them.
    pub(super) malformed: AtomicU64,
    /// When a client last spoke TLS, epoch seconds.
    tls_at_s: AtomicU64,
    /// Connections ended because a head was not complete in time.
    pub(super) head_timeouts: AtomicU64,
    /// Connections ended because no request came in time.
    pub(super) idle_timeouts: AtomicU64,
    /// Connections ended because the client took an answer too slowly.
    pub(super) write_timeouts: AtomicU64,
    more: Vec<More>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("answers", &self.answers).finish_non_exhaustive()
    }
}

impl Metrics {
    /// Shows what `more` adds beside what is counted here. Called by requests: it must not block.
    pub(crate) fn with(mut self, more: impl Fn(&mut Exposition) + Send + Sync + 'static) -> Self {
        self.more.push(Box::new(more));
        self
    }

    /// Says who spoke TLS to a port of plain HTTP: a freshclam takes https for granted. Once an hour, since a browser
    /// may try as well.
    pub(super) fn spoke_tls(&self, peer: Option<IpAddr>) {
        const PAUSE_S: u64 = 3600;
        let now_s = epoch_s();
        let last_s = self.tls_at_s.load(Relaxed);
        if now_s.saturating_sub(last_s) >= PAUSE_S
            && self.tls_at_s.compare_exchange(last_s, now_s, Relaxed, Relaxed).is_ok()
        {
            let who = peer.map_or("a client".into(), |peer| peer.to_canonical().to_string());
            tracing::warn!(
                "{who} speaks TLS to a port of plain HTTP: if it is a freshclam, write http:// before this mirror's \
                 name in its freshclam.conf"
            );
        }
    }

    pub(super) fn answered(&self, kind: Kind, status: StatusCode) {
        let by_status = &self.answers[kind as usize].by_status;
        let count = STATUSES.iter().zip(by_status).find(|(known, _)| **known == status.as_u16());
        if let Some((_, count)) = count {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Body bytes handed to connections so far.
    pub(super) fn body_bytes(&self) -> u64 {
        self.answers.iter().map(|answers| answers.body_bytes.load(Relaxed)).sum()
    }

    pub(super) fn sent(&self, kind: Kind, bytes: u64) {
        self.answers[kind as usize].body_bytes.fetch_add(bytes, Relaxed);
    }

    /// Writes everything: what is counted, and where the mirror stands now.
    pub(super) fn render(&self, standing: &Standing, now_s: u64) -> String {
        let mut out = Exposition::default();
        self.served(&mut out);
        published(&mut out, standing, now_s);
        // Without the file's name: each version would be a series of its own.
        let underway = standing.activity.now();
        let done = underway.as_ref().map(|now| Sample::new(now.done_bytes));
        out.gauge("fetch_done_bytes", "Bytes of the file that is fetched or rebuilt now.", done);
        let total = underway.and_then(|now| now.total_bytes).map(Sample::new);
        out.gauge("fetch_size_bytes", "Announced length of that file.", total);
        for more in &self.more {
            more(&mut out);
        }
        out.text()
    }

    fn served(&self, out: &mut Exposition) {
        let kinds = || KINDS.iter().zip(&self.answers);
        // A status is shown once it was given, and 200 always, so that every kind has a beginning to count from.
        let answers = kinds().flat_map(|((_, kind), answers)| {
            let counts = STATUSES.iter().zip(&answers.by_status);
            let counts = counts.map(|(status, count)| (status, count.load(Relaxed)));
            counts
                .filter(|(status, count)| *count > 0 || **status == 200)
                .map(move |(status, count)| Sample::new(count).with("kind", kind).with("code", status))
        });
        out.counter(
            "http_requests_total",
            "Requests answered, by what was asked for and by status; 304 is a cache that was right.",
            answers,
        );
        let bytes =
            kinds().map(|((_, kind), now)| Sample::new(now.body_bytes.load(Relaxed)).with("kind", kind));
        out.counter("http_response_bytes_total", "Body bytes handed to connections.", bytes);
        for (name, help, count) in [
            (
                "http_unreadable_objects_total",
                "Objects that could not be read for a request.",
                &self.unreadable,
            ),
            ("http_connections_total", "Connections accepted.", &self.accepted),
            ("http_accept_errors_total", "Errors of accept.", &self.accept_errors),
            ("http_connections_full_total", "Times the cap on connections was met.", &self.full),
            ("http_malformed_heads_total", "Request heads that were malformed or too long.", &self.malformed),
        ] {
            out.counter(name, help, [Sample::new(count.load(Relaxed))]);
        }
        let timeouts =
            [("head", &self.head_timeouts), ("idle", &self.idle_timeouts), ("slow", &self.write_timeouts)];
        let timeouts = timeouts.map(|(kind, count)| Sample::new(count.load(Relaxed)).with("kind", kind));
        out.counter("http_timeouts_total", "Connections ended by a time limit.", timeouts);
        out.gauge("http_connections_open", "Connections open now.", [Sample::new(self.open.load(Relaxed))]);
    }
}

/// Where the mirror stands.
fn published(out: &mut Exposition, standing: &Standing, now_s: u64) {
    let (snapshot, health) = (&standing.snapshot, standing.health(now_s));
    out.gauge(
        "fresh",
        "1 while what is published is fresh, as /health says.",
        [Sample::new(health.is_fresh())],
    );
    out.gauge("remarks", "What /health remarks on, in number.", [Sample::new(health.troubles.len())]);
    let view = &snapshot.view;
    let packs = view.packs();
    let corrupt = view.quarantined().iter().filter(|(id, _)| packs.iter().any(|pack| pack.id() == id));
    let file_bytes: u64 = packs.iter().map(Pack::file_len).sum();
    let held_bytes: u64 = snapshot.files.values().map(|record| record.size).sum();
    for (name, help, value) in [
        ("store_packs", "Packs in the store, without retired ones.", packs.len() as u64),
        ("store_file_bytes", "Length of the packs' files, without retired ones.", file_bytes),
        ("store_held_bytes", "Length of every file that is served, each on its own.", held_bytes),
        ("store_quarantined_objects", "Copies of objects that were found corrupt.", corrupt.count() as u64),
    ] {
        out.gauge(name, help, [Sample::new(value)]);
    }
    type Of<'a> = &'a dyn Fn(&Database, &crate::mirror::Published) -> Option<u64>;
    let files = |database: &Database| -> Vec<u64> {
        snapshot.files_of(database).map(|(_, record)| record.size).collect()
    };
    let each: [(&str, &str, Of<'_>); 10] = [
        ("version", "The version that a client can reach from what is held.", &|_, p| Some(p.version.into())),
        ("cvd_version", "The newest full CVD held.", &|_, p| Some(p.cvd.into())),
        ("signatures", "Signatures in the newest full CVD.", &|_, p| Some(p.signatures.into())),
        ("built_timestamp_seconds", "When the newest full CVD was built.", &|_, p| Some(p.stime_s)),
        ("frozen", "1 while the newest build there is is older than max_build_age allows.", &|db, _| {
            Some(standing.frozen_s(db, now_s).is_some().into())
        }),
        (
            "confirmed_timestamp_seconds",
            "When what is published was last confirmed as the newest at the source.",
            &|_, p| p.confirmed_at_s,
        ),
        (
            "chain_length",
            "CDIFFs without a gap that end at the version: so many versions a client may be behind.",
            &|_, p| Some(p.chain.map_or(0, |(first, last)| u64::from(last - first) + 1)),
        ),
        ("chain_gaps", "CDIFFs that are missing between the oldest and the newest held.", &|db, _| {
            Some(Held::new(&snapshot.files, db).missing())
        }),
        ("files", "Files that are served.", &|db, _| Some(files(db).len() as u64)),
        ("bytes", "Their length.", &|db, _| Some(files(db).iter().sum())),
    ];
    for (name, help, value) in each {
        let samples = snapshot.databases.iter().filter_map(|(database, published)| {
            Some(Sample::new(value(database, published)?).with("database", database))
        });
        out.gauge(&format!("database_{name}"), help, samples);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_place() {
        for (place, (kind, _)) in KINDS.iter().enumerate() {
            assert_eq!(*kind as usize, place);
        }
    }
}
