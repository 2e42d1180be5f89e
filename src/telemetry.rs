//! The metrics of the running mirror, except those that its HTTP server counts itself.
use crate::{
    clients::{Clients, Lags},
    clock::epoch_s,
    cvd::Database,
    dns,
    exposition::{Exposition, Sample},
    hot,
    http::AccessLog,
    mirror::{DataDir, Standing, memory::DatabaseState, report::Outcome},
    source::budget,
};
use std::sync::atomic::Ordering::Relaxed;

/// Adds the metrics of this program and its process.
pub(crate) fn process(out: &mut Exposition, started_at_s: u64) {
    let version = Sample::new(true).with("version", env!("CARGO_PKG_VERSION"));
    out.gauge("build_info", "1, of this version.", [version]);
    out.process(started_at_s);
}

/// Adds how the databases compare with the source, and the results of rounds.
pub(crate) fn mirror(out: &mut Exposition, standing: &Standing) {
    let Standing { snapshot, databases: remembered, counters, .. } = standing;
    let newest = remembered
        .iter()
        .filter_map(|(database, state)| Some(Sample::new(state.newest?).with("database", database)));
    out.gauge("database_newest_version", "The version that the source last spoke of.", newest);
    let skews = remembered.iter().flat_map(|(database, state)| {
        let held = state.newest.zip(snapshot.databases.get(database));
        let skews =
            held.map(|(newest, held)| [("published", held.version), ("cvd", held.cvd)].map(|h| (newest, h)));
        skews.into_iter().flatten().map(move |(newest, (what, held))| {
            Sample::new(newest.saturating_sub(held)).with("database", database).with("held", what)
        })
    });
    out.gauge(
        "database_skew_versions",
        "Versions between what the source speaks of and what is held: published, or as a full CVD.",
        skews,
    );
    type At<'a> = &'a dyn Fn(&DatabaseState) -> Option<u64>;
    let times: [(&str, &str, At<'_>); 3] = [
        ("sync_last_check_timestamp_seconds", "When the source was last asked.", &|s| s.checked_at_s),
        (
            "sync_last_success_timestamp_seconds",
            "When a round last ended with everything held that the source speaks of.",
            &|s| s.succeeded_at_s,
        ),
        ("sync_last_failure_timestamp_seconds", "When a round last ended otherwise.", &|s| s.failed_at_s),
    ];
    for (name, help, at_s) in times {
        let samples = remembered.iter().filter_map(|(d, s)| Some(Sample::new(at_s(s)?).with("database", d)));
        out.gauge(name, help, samples);
    }
    let failing = remembered.iter().map(|(d, s)| Sample::new(s.last_error.is_some()).with("database", d));
    out.gauge("sync_failing", "1 while the last round of a database failed.", failing);

    let of = |database: &Database| counters.databases.get(database).cloned().unwrap_or_default();
    let rounds = remembered.keys().flat_map(|d| {
        let of = of(d);
        [("complete", of.complete), ("failed", of.failed)]
            .map(|(result, count)| Sample::new(count).with("database", d).with("result", result))
    });
    out.counter("sync_rounds_total", "Rounds of a database, by how they ended.", rounds);
    let files = remembered.keys().flat_map(|d| {
        let of = of(d);
        Outcome::ALL.map(|outcome| {
            let count = of.files.get(&outcome).copied().unwrap_or_default();
            Sample::new(count).with("database", d).with("outcome", outcome.label())
        })
    });
    out.counter(
        "sync_files_total",
        "Files asked of the source, by what came of it; stale is an edge that answered with an older version.",
        files,
    );
    let took = counters.last_round_ms.map(|ms| Sample::new(ms as f64 / 1000.0));
    out.gauge("sync_last_round_duration_seconds", "How long the last round took.", took);
    for (name, help, value) in [
        (
            "store_retired_bytes",
            "Length of retired packs whose files wait for the end of the grace period.",
            counters.waiting_bytes,
        ),
        ("store_findings", "What is wrong with the store, in number.", standing.findings.len() as u64),
    ] {
        out.gauge(name, help, [Sample::new(value)]);
    }
    if let Some(book) = &standing.book {
        upstream(out, book);
    }
}

/// Adds what was asked of an upstream.
fn upstream(out: &mut Exposition, book: &budget::Book) {
    let count = |kind| book.total.get(&kind).copied().unwrap_or_default();
    let by_kind = |of: fn(budget::Count) -> u64| {
        budget::RequestKind::ALL.map(|kind| Sample::new(of(count(kind))).with("kind", kind.label()))
    };
    out.counter("upstream_requests_total", "Requests made of the upstream.", by_kind(|count| count.requests));
    out.counter(
        "upstream_received_bytes_total",
        "Body bytes received from the upstream.",
        by_kind(|count| count.bytes),
    );
    let until_s = book.cool_down.as_ref().map_or(0, |cool_down| cool_down.until_s);
    out.gauge(
        "upstream_cool_down_seconds",
        "How long the upstream is still left alone, because it said so.",
        [Sample::new(until_s.saturating_sub(epoch_s()))],
    );
}

/// Adds how much room the data directory's file system has.
pub(crate) fn disk(out: &mut Exposition, dir: &DataDir) {
    let available = rustix::fs::statvfs(dir.root()).ok();
    let bytes = available.map(|fs| Sample::new(fs.f_bavail.saturating_mul(fs.f_frsize)));
    out.gauge("data_dir_available_bytes", "Bytes that may still be written to the data directory.", bytes);
}

/// Adds what the TXT responder counts.
pub(crate) fn dns(out: &mut Exposition, dns: &dns::Metrics) {
    let answers = [("NOERROR", &dns.answered), ("REFUSED", &dns.refused), ("FORMERR", &dns.malformed)];
    let answers = answers.map(|(code, count)| Sample::new(count.load(Relaxed)).with("rcode", code));
    out.counter("dns_responses_total", "DNS queries answered, by code.", answers);
    for (name, help, count) in [
        ("dns_ignored_total", "DNS messages that deserve no answer.", &dns.ignored),
        ("dns_connections_total", "DNS connections accepted over TCP.", &dns.accepted),
        ("dns_errors_total", "Errors of the DNS sockets.", &dns.errors),
    ] {
        out.counter(name, help, [Sample::new(count.load(Relaxed))]);
    }
    out.gauge("dns_connections_open", "DNS connections open.", [Sample::new(dns.open.load(Relaxed))]);
}

/// Adds what is sent from memory.
pub(crate) fn hot(out: &mut Exposition, hot: hot::Figures) {
    let hot::Figures { bytes, budget, hits, loads, evictions } = hot;
    out.gauge("hot_bytes", "Length of the objects that are in sealed memory.", [Sample::new(bytes)]);
    out.gauge("hot_budget_bytes", "The most that this may be.", [Sample::new(budget)]);
    for (name, help, value) in [
        ("hot_hits_total", "Answers that came out of sealed memory.", hits),
        ("hot_loads_total", "Objects loaded into it.", loads),
        ("hot_evictions_total", "Objects that gave way to others there.", evictions),
    ] {
        out.counter(name, help, [Sample::new(value)]);
    }
}

/// Adds the lines that the access log lost.
pub(crate) fn access_log(out: &mut Exposition, log: &AccessLog) {
    out.counter(
        "access_log_lost_lines_total",
        "Lines of the access log that could not be written in time.",
        [Sample::new(log.lost())],
    );
}

/// Adds how far behind the installations are that asked lately.
pub(crate) fn clients(out: &mut Exposition, clients: &Clients, standing: &Standing) {
    let report = clients.report(&standing.snapshot.versions());
    let samples = report.databases.iter().flat_map(|(database, clients)| {
        clients
            .lags
            .labelled()
            .map(|(lag, count)| Sample::new(count).with("database", database).with("lag", lag))
    });
    out.gauge(
        "client_installations",
        "Installations that asked lately, by how many versions behind they are of what is published.",
        samples,
    );
    let loaded = report.databases.iter().flat_map(|(database, clients)| {
        let mut lags = Lags::default();
        clients
            .loaded
            .iter()
            .for_each(|(version, count)| lags.count(clients.published, Some(*version), *count));
        let told = !clients.loaded.is_empty();
        let known = lags.labelled().into_iter().filter(move |(lag, _)| told && *lag != "unknown");
        known.map(move |(lag, count)| Sample::new(count).with("database", database).with("lag", lag))
    });
    out.gauge(
        "client_loaded",
        "Hosts that tell what their clamd has loaded, by how many versions that is behind what is published.",
        loaded,
    );
    let lagging = report.lagging.iter().map(|lagging| {
        Sample::new(lagging.behind()).with("database", &lagging.database).with("host", &lagging.host)
    });
    out.gauge(
        "client_lagging_versions",
        "How many versions a host is behind that tells what it has, and is; a hundred of them at most.",
        lagging,
    );
    out.counter(
        "client_turned_away_requests_total",
        "Requests of installations beyond those that are kept.",
        [Sample::new(report.turned_away)],
    );
}
