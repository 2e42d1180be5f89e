//! Counters of the HTTP server, and their text for Prometheus (text exposition format 0.0.4).
use super::{Freshness, Health};
use crate::{dns, mirror::Snapshot};
use cvdmirror_store::Pack;
use hyper::StatusCode;
use std::{
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

/// Every status the handler gives; hyper's own 400 for a malformed head is counted in `malformed`.
const STATUSES: [u16; 11] = [200, 206, 302, 304, 400, 404, 405, 412, 416, 500, 503];

/// What the HTTP server counts. All but `open` only grow.
#[derive(Default, Debug)]
pub struct Metrics {
    answers: [AtomicU64; STATUSES.len()],
    /// Body bytes handed to connections.
    pub(super) body_bytes: AtomicU64,
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
    /// Connections ended because a head was not complete in time.
    pub(super) head_timeouts: AtomicU64,
    /// Connections ended because no request came in time.
    pub(super) idle_timeouts: AtomicU64,
    /// Connections ended because the client took an answer too slowly.
    pub(super) write_timeouts: AtomicU64,
    /// What the TXT responder counts; none where there is none.
    dns: Option<Arc<dns::Metrics>>,
}

impl Metrics {
    /// Starts at zero, and shows what the TXT responder counts beside it.
    pub fn new(dns: Option<Arc<dns::Metrics>>) -> Self {
        Self { dns, ..Self::default() }
    }

    pub(super) fn answered(&self, status: StatusCode) {
        let answers = STATUSES.iter().zip(&self.answers).find(|(known, _)| **known == status.as_u16());
        if let Some((_, count)) = answers {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Writes every counter, and what the snapshot and the health say as gauges.
    pub(super) fn render(&self, snapshot: &Snapshot, health: &Health) -> String {
        let mut out = String::new();
        let mut family =
            |name: &str, kind: &str, help: &str, samples: &mut dyn Iterator<Item = (String, u64)>| {
                let mut samples = samples.peekable();
                if samples.peek().is_some() {
                    let _ = writeln!(out, "# HELP cvdmirror_{name} {help}\n# TYPE cvdmirror_{name} {kind}");
                }
                for (labels, value) in samples {
                    let _ = writeln!(out, "cvdmirror_{name}{labels} {value}");
                }
            };
        let mut answers = STATUSES
            .iter()
            .zip(&self.answers)
            .map(|(status, count)| (format!("{{code=\"{status}\"}}"), count.load(Relaxed)));
        family("http_responses_total", "counter", "Requests answered, by status.", &mut answers);
        for (name, help, count) in [
            ("http_body_bytes_total", "Body bytes handed to connections.", &self.body_bytes),
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
            family(name, "counter", help, &mut std::iter::once((String::new(), count.load(Relaxed))));
        }
        let mut timeouts =
            [("head", &self.head_timeouts), ("idle", &self.idle_timeouts), ("slow", &self.write_timeouts)]
                .into_iter()
                .map(|(kind, count)| (format!("{{kind=\"{kind}\"}}"), count.load(Relaxed)));
        family("http_timeouts_total", "counter", "Connections ended by a time limit.", &mut timeouts);
        let one = |value| std::iter::once((String::new(), value));
        family("http_connections_open", "gauge", "Connections open now.", &mut one(self.open.load(Relaxed)));

        if let Some(dns) = &self.dns {
            let mut answers =
                [("NOERROR", &dns.answered), ("REFUSED", &dns.refused), ("FORMERR", &dns.malformed)]
                    .into_iter()
                    .map(|(code, count)| (format!("{{rcode=\"{code}\"}}"), count.load(Relaxed)));
            family("dns_responses_total", "counter", "DNS queries answered, by code.", &mut answers);
            for (name, help, count) in [
                ("dns_ignored_total", "DNS messages that deserve no answer.", &dns.ignored),
                ("dns_connections_total", "DNS connections accepted over TCP.", &dns.accepted),
                ("dns_errors_total", "Errors of the DNS sockets.", &dns.errors),
            ] {
                family(name, "counter", help, &mut one(count.load(Relaxed)));
            }
            family(
                "dns_connections_open",
                "gauge",
                "DNS connections open.",
                &mut one(dns.open.load(Relaxed)),
            );
        }
        let fresh = matches!(health.freshness, Freshness::Fresh);
        family("fresh", "gauge", "1 while what is published is fresh.", &mut one(u64::from(fresh)));
        let confirmed = snapshot.confirmed_at_s.map(|s| (String::new(), s));
        family(
            "confirmed_timestamp_seconds",
            "gauge",
            "When everything published was last confirmed at the source.",
            &mut confirmed.into_iter(),
        );
        let view = &snapshot.view;
        let packs = view.packs();
        let rotten = view.quarantined().iter().filter(|(id, _)| packs.iter().any(|pack| pack.id() == id));
        for (name, help, value) in [
            ("store_packs", "Packs in the store.", packs.len() as u64),
            ("store_bytes", "Length of the packs' files.", packs.iter().map(Pack::file_len).sum()),
            ("store_quarantined_objects", "Copies of objects that were found rotten.", rotten.count() as u64),
            ("remarks", "What /health remarks on, in number.", health.remarks.len() as u64),
        ] {
            family(name, "gauge", help, &mut one(value));
        }
        // A database's name is letters, digits and `_`: nothing in it needs escaping.
        let label = |database: &crate::cvd::Database| format!("{{database=\"{database}\"}}");
        let published = || snapshot.databases.iter();
        family(
            "database_version",
            "gauge",
            "The version advertised.",
            &mut published().map(|(db, p)| (label(db), p.version.into())),
        );
        family(
            "database_cvd_version",
            "gauge",
            "The newest full CVD held.",
            &mut published().map(|(db, p)| (label(db), p.cvd.into())),
        );
        family(
            "database_confirmed_timestamp_seconds",
            "gauge",
            "When a database was last confirmed to be the newest at the source.",
            &mut published().filter_map(|(db, p)| Some((label(db), p.confirmed_at_s?))),
        );
        out
    }
}
