//! The real cvdupdate leaves its files in a directory, the mirror takes them from there, and freshclam from it.
use support::{
    clients::{Cvdupdate, Freshclam},
    mint::Mint,
    name_server::{NameServer, time_s},
    namespace,
    program::Program,
    talos,
    upstream::Upstream,
};

/// cvdupdate takes the versions from this record alone; `test` is told to stand where daily does.
fn record(version: u32) -> String {
    format!("1.4.6:63:{version}:{}:1:90:49192:339", time_s(60))
}

#[test]
fn a_directory_that_cvdupdate_fills_is_a_source() {
    if !namespace::inside("a_directory_that_cvdupdate_fills_is_a_source") {
        return;
    }
    let upstream = Upstream::talos(3);
    let names = NameServer::at("127.0.0.1:53");
    names.set("current.cvd.clamav.net", &record(3));
    let Some(filler) = Cvdupdate::of(&upstream.url(), "test", 2) else { return };
    filler.update().exits(0).says(["Downloaded test.cvd. Version: 3"]);

    let program = Program::new(&format!("dir:{}", filler.db().display()));
    let server = program.serve();
    server.publishes(3);
    assert_eq!(program.cat("test-3.cvd"), talos("test-3.cvd"));
    let Some(client) = Freshclam::of(&server.url()) else { return };
    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 3,"]);

    upstream.move_to(5);
    names.set("current.cvd.clamav.net", &record(5));
    filler.update().exits(0).says(["Downloaded test.cvd. Version: 5"]);
    program.sync().exits(0).says(["3 -> 5 published"]);
    client.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 5,"]);
    assert_eq!(program.cat("test-5.cvd"), talos("test-5.cvd"));
}

/// cvdupdate writes the version into dns.txt that the record spoke of, whatever file it got.
#[test]
fn a_directory_that_promises_more_than_it_holds_is_not_followed() {
    if !namespace::inside("a_directory_that_promises_more_than_it_holds_is_not_followed") {
        return;
    }
    let mint = Mint::new(2);
    let mut lineage = mint.database("daily");
    let first = lineage.publish();
    let second = lineage.publish();
    let upstream = Upstream::start();
    upstream.release("daily", &second);
    let names = NameServer::at("127.0.0.1:53");
    names.set("current.cvd.clamav.net", &record(3));
    let Some(filler) = Cvdupdate::of(&upstream.url(), "daily", 2) else { return };
    filler.update().exits(0);
    let promise = std::fs::read_to_string(filler.db().join("dns.txt")).unwrap();
    assert!(promise.contains(":63:3:"), "{promise}");

    let source = format!("dir:{}", filler.db().display());
    let program = Program::new(&source).set("database", "daily").trusting(&mint.keys_toml());
    program.sync().exits(1).says(["asked for 3, got 2", "2 stays published"]);
    assert!(program.cat("daily-2.cvd") == second.cvd);
    assert!(first.version == 1 && !program.names().contains(&"daily-3.cvd".into()));
}
