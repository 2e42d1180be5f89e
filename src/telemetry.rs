//! The numbers of the running mirror, beside those that its HTTP server counts itself.
use crate::{
    clients::Clients,
    clock::epoch_s,
    dns,
    exposition::{Exposition, Sample},
    http::AccessLog,
    mirror::{DataDir, Mirror, report::Outcome},
    source::budget,
};
use std::sync::atomic::Ordering::Relaxed;

/// Adds what is true of this program and its process.
pub fn process(out: &mut Exposition, started_at_s: u64) {
    let version = Sample::of(true).with("version", env!("CARGO_PKG_VERSION"));
    out.gauge("build_info", "1, of this version.", [version]);
    out.process(started_at_s);
}

/// Adds how the mirror's databases stand towards their source, and what its rounds came to.
pub fn mirror(out: &mut Exposition, mirror: &Mirror) {
    let (remembered, published) = (mirror.remembered(), mirror.published());
    let snapshot = published.load();
    let newest = remembered
        .iter()
        .filter_map(|(database, state)| Some(Sample::of(state.newest?).with("database", database)));
    out.gauge("database_newest_version", "The version that the source last spoke of.", newest);
    let skews = remembered.iter().flat_map(|(database, state)| {
        let held = state.newest.zip(snapshot.databases.get(database));
        let skews =
            held.map(|(newest, held)| [("published", held.version), ("cvd", held.cvd)].map(|h| (newest, h)));
        skews.into_iter().flatten().map(move |(newest, (what, held))| {
            Sample::of(newest.saturating_sub(held)).with("database", database).with("held", what)
        })
    });
    out.gauge(
        "database_skew_versions",
        "Versions between what the source speaks of and what is held: published, or as a full CVD.",
        skews,
    );
    type At<'a> = &'a dyn Fn(&crate::mirror::state::DatabaseState) -> Option<u64>;
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
        let samples = remembered.iter().filter_map(|(d, s)| Some(Sample::of(at_s(s)?).with("database", d)));
        out.gauge(name, help, samples);
    }
    let failing = remembered.iter().map(|(d, s)| Sample::of(s.last_error.is_some()).with("database", d));
    out.gauge("sync_failing", "1 while the last round of a database failed.", failing);

    let tally = mirror.tally();
    let of =
        |database: &crate::cvd::Database| tally.databases.get(database.as_str()).cloned().unwrap_or_default();
    let rounds = remembered.keys().flat_map(|d| {
        let of = of(d);
        [("complete", of.complete), ("failed", of.failed)]
            .map(|(result, count)| Sample::of(count).with("database", d).with("result", result))
    });
    out.counter("sync_rounds_total", "Rounds of a database, by how they ended.", rounds);
    let files = remembered.keys().flat_map(|d| {
        let of = of(d);
        Outcome::ALL.map(|outcome| {
            let count = of.files.get(&outcome).copied().unwrap_or_default();
            Sample::of(count).with("database", d).with("outcome", outcome.label())
        })
    });
    out.counter(
        "sync_files_total",
        "Files asked of the source, by what came of it; stale is an edge that answered with an older version.",
        files,
    );
    let took = tally.last_round_ms.map(|ms| Sample::of(ms as f64 / 1000.0));
    out.gauge("sync_last_round_duration_seconds", "How long the last round took.", took);
    for (name, help, value) in [
        (
            "store_retired_bytes",
            "Length of retired packs whose files wait for the end of the grace period.",
            tally.waiting_bytes,
        ),
        ("store_findings", "What is wrong with the store, in number.", mirror.findings().len() as u64),
    ] {
        out.gauge(name, help, [Sample::of(value)]);
    }
    if let Some(book) = mirror.book() {
        upstream(out, &book);
    }
}

/// Adds what was asked of an upstream.
fn upstream(out: &mut Exposition, book: &budget::Book) {
    let count = |kind| book.total.get(&kind).copied().unwrap_or_default();
    let by_kind = |of: fn(budget::Count) -> u64| {
        budget::Kind::ALL.map(|kind| Sample::of(of(count(kind))).with("kind", kind.label()))
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
        [Sample::of(until_s.saturating_sub(epoch_s()))],
    );
}

/// Adds how much room the data directory's file system has.
pub fn disk(out: &mut Exposition, dir: &DataDir) {
    let available = rustix::fs::statvfs(dir.root()).ok();
    let bytes = available.map(|fs| Sample::of(fs.f_bavail.saturating_mul(fs.f_frsize)));
    out.gauge("data_dir_available_bytes", "Bytes that may still be written to the data directory.", bytes);
}

/// Adds what the TXT responder counts.
pub fn dns(out: &mut Exposition, dns: &dns::Metrics) {
    let answers = [("NOERROR", &dns.answered), ("REFUSED", &dns.refused), ("FORMERR", &dns.malformed)];
    let answers = answers.map(|(code, count)| Sample::of(count.load(Relaxed)).with("rcode", code));
    out.counter("dns_responses_total", "DNS queries answered, by code.", answers);
    for (name, help, count) in [
        ("dns_ignored_total", "DNS messages that deserve no answer.", &dns.ignored),
        ("dns_connections_total", "DNS connections accepted over TCP.", &dns.accepted),
        ("dns_errors_total", "Errors of the DNS sockets.", &dns.errors),
    ] {
        out.counter(name, help, [Sample::of(count.load(Relaxed))]);
    }
    out.gauge("dns_connections_open", "DNS connections open.", [Sample::of(dns.open.load(Relaxed))]);
}

/// Adds what was not written to the access log.
pub fn access_log(out: &mut Exposition, log: &AccessLog) {
    out.counter(
        "access_log_lost_lines_total",
        "Lines of the access log that could not be written in time.",
        [Sample::of(log.lost())],
    );
}

/// Adds how far behind the installations are that asked lately.
pub fn clients(out: &mut Exposition, clients: &Clients, mirror: &Mirror) {
    let report = clients.report(&mirror.published().load().versions());
    let samples = report.databases.iter().flat_map(|(database, clients)| {
        clients
            .lags
            .labelled()
            .map(|(lag, count)| Sample::of(count).with("database", database).with("lag", lag))
    });
    out.gauge(
        "client_installations",
        "Installations that asked lately, by how many versions behind they are of what is published.",
        samples,
    );
    out.counter(
        "client_turned_away_requests_total",
        "Requests of installations beyond those that are kept.",
        [Sample::of(report.turned_away)],
    );
}
