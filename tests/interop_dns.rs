//! The TXT record of the mirror itself leads stock freshclam: no probes, and CDIFFs as soon as they are there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use support::{
    clients::Freshclam,
    name_server::{NameServer, time_s},
    namespace,
    program::Program,
    talos,
    upstream::{Answer, Upstream},
};

/// freshclam asks the system's resolver on port 53, and `test.cvd.clamav.net` for the database `test`.
#[test]
fn freshclam_follows_the_mirrors_own_record() {
    if !namespace::inside("freshclam_follows_the_mirrors_own_record") {
        return;
    }
    // What the upstream's own name server says is asked elsewhere.
    let names = NameServer::start();
    names.set("test.cvd.example.net", &format!("3:{}", time_s(60)));
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url())
        .set("txt-record", "current.cvd.example.net")
        .set("nameserver", &names.address.to_string())
        .set("dns-listen", "127.0.0.1:53")
        .set("dns-zone", "clamav.net");
    let server = program.serve();
    server.publishes(3);
    program.sync().exits(0);
    let lines = format!("DatabaseMirror {}\nDNSDatabaseInfo current.cvd.clamav.net\n", server.url());
    let Some(client) = Freshclam::with(&lines) else { return };
    client
        .update(&[])
        .exits(0)
        .says(["test.cvd updated (version: 3,"])
        .never_says("Falling back to HTTP mode");

    // The record and the CDIFFs move on, the edge's file does not: clients get the new version all the same.
    upstream.move_to(5);
    upstream.set("/test.cvd", Answer::File(talos("test-3.cvd")));
    names.set("test.cvd.example.net", &format!("5:{}", time_s(60)));
    program.sync().exits(0).says(["3 -> 5 published (full CVD 3, patches to 5)"]);
    client.update(&[]).exits(0).says(["test.cld updated (version: 5,"]);
    client.update(&[]).exits(0).says(["up-to-date (version: 5,"]);
    let requests: Vec<String> = server.requests().into_iter().map(|(path, _)| path).collect();
    assert_eq!(requests, ["/test.cvd", "/test-3.cvd", "/test-4.cdiff", "/test-5.cdiff"]);

    // A client that comes now starts from the full file and patches.
    let Some(client) = Freshclam::with(&lines) else { return };
    let ran = client.update(&[]);
    assert_eq!(client.version(), Some(5), "{ran}");
}
