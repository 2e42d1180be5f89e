//! TUF's attacks on the real program that no other module tests under their name.
use support::{
    mint::Mint,
    program::Program,
    talos,
    upstream::{Answer, Upstream},
};

/// Each file is signed, but they do not belong together: the CDIFF is of another history of the same name.
#[test]
fn mix_and_match_of_signed_files_leads_to_the_signed_whole_alone() {
    let mint = Mint::new(5);
    let (mut lineage, mut other) = (mint.database("test"), Mint::new(6).database("test"));
    let upstream = Upstream::start();
    upstream.release("test", &lineage.publish());
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    program.sync().exits(0);
    other.publish();
    let second = lineage.publish();
    upstream.file("test.cvd", second.cvd.clone());
    upstream.file("test-2.cdiff", other.publish().cdiff.unwrap());
    program.sync().exits(0).says(["test-2.cdiff                 REFUSED", "1 -> 2 published"]);
    let server = program.serve();
    server.publishes(2);
    assert!(server.get("/test-2.cvd").body == second.cvd);
    assert_eq!(server.get("/test-2.cdiff").status, 404);
}

/// A source that withholds everything costs nothing that is held, and is named.
#[test]
fn a_source_that_prevents_updates_is_named_and_what_is_held_is_served() {
    let refused = Answer::Status(403, String::new(), Vec::new());
    for (answer, named) in [(Answer::Hangup, "connection closed"), (refused, "refuses this client (403)")] {
        let upstream = Upstream::talos(3);
        let program = Program::new(&upstream.url()).set("stall-timeout", "1s");
        let server = program.serve();
        server.publishes(3);
        upstream.set("/test.cvd", answer);
        program.sync().exits(1).says([&upstream.url(), named]);
        assert!(server.get("/test-3.cvd").body == talos("test-3.cvd"));
    }
}
