//! What must be proved before it is advertised: that CDIFFs lead to their version, that one is empty, that a header tells
//! the truth about its version, and that a first sync has its chain.
use cvdmirror_store::{NameRecord, Proof, Store};
use std::sync::{Arc, Mutex};
use support::{
    mint::{Mint, Release},
    mint_sign::signer,
    program::Program,
    talos,
    upstream::{Answer, Upstream},
    wait_for,
};

/// A mirror of the minted database `test` that holds version 1, and a CDIFF of another one to version 2.
struct Case {
    upstream: Upstream,
    program: Program,
    second: Release,
    others: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let mint = Mint::new(5);
        let (mut lineage, mut other) = (mint.database("test"), mint.database("other"));
        let upstream = Upstream::start();
        upstream.release("test", &lineage.publish());
        let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
        program.sync().exits(0);
        other.publish();
        let (second, others) = (lineage.publish(), other.publish().cdiff.unwrap());
        Self { upstream, program, second, others }
    }
}

#[test]
fn another_databases_cdiff_is_neither_advertised_nor_bound() {
    let Case { upstream, program, second, others } = Case::new();
    upstream.file("test-2.cdiff", others);
    let header = Answer::File(second.cvd.clone());
    upstream.set("/test.cvd", Answer::Split(header.clone().into(), Answer::Hangup.into()));
    program.sync().exits(1).says([
        "test-2.cdiff                 REFUSED",
        "CDIFF to version 2: script line 13: there is no member other.info",
    ]);
    assert_eq!((program.version(), program.names()), (Some(1), vec!["test-1.cvd".into()]));

    // The full file comes another way; the CDIFF is not taken as one that led to it either.
    upstream.set("/test.cvd", header);
    program
        .sync()
        .exits(0)
        .says(["1 -> 2 published", "it was applied before, and does not lead to its version"]);
    program.sync().exits(0);
    assert_eq!(program.names(), ["test-1.cvd", "test-2.cvd"]);
    upstream.file("test-2.cdiff", second.cdiff.unwrap());
    program.sync().exits(0).says(["test-2.cdiff                 stored"]);
}

/// As a build bound it that believed its signature.
#[test]
fn a_cdiff_that_is_held_is_proved_before_it_is_advertised() {
    let Case { upstream, program, second, others } = Case::new();
    upstream.set("/test.cvd", Answer::Hangup);
    let held = |cdiff: &[u8]| {
        let (store, tmp) = (program.data().join("store"), program.data().join("tmp"));
        let (store, _) = Store::assemble(&store, &tmp, Store::scan(&store).unwrap().packs).unwrap();
        let mut batch = store.batch().unwrap();
        let mut object = batch.object().unwrap();
        object.append(cdiff).unwrap();
        let (object, size) = object.finish().unwrap();
        let (modified_s, stored_at_s, origin, proof) = (None, 1_795_381_080, String::new(), Proof::Signed);
        let record = NameRecord { object, size, modified_s, stored_at_s, origin, proof };
        batch.bind("test-2.cdiff", record).unwrap();
        store.commit(batch, stored_at_s).unwrap().path().to_owned()
    };
    let pack = held(&others);
    program.sync().says(["test-2.cdiff does not lead to its version; not advertised"]);
    assert_eq!(program.version(), Some(1));
    let server = program.serve();
    server.publishes(1);
    assert_eq!(server.get("/test-2.cdiff").status, 404);
    drop(server);
    std::fs::remove_file(pack).unwrap();
    held(&second.cdiff.unwrap());
    program.sync();
    assert_eq!(program.version(), Some(2));
}

#[test]
fn what_was_proved_stays_published_when_the_state_file_is_lost() {
    let upstream = Upstream::talos(4);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    upstream.move_to(5);
    let header = Answer::Whole(talos("test-5.cvd"));
    upstream.set("/test.cvd", Answer::Split(header.into(), Answer::Hangup.into()));
    upstream.set("/test.cvd?version=5", Answer::Hangup);
    program.sync();
    assert_eq!(program.status()["databases"][0]["cvd"], 4);
    assert_eq!(program.version(), Some(5));
    std::fs::remove_file(program.data().join("state.redb")).unwrap();
    let server = program.serve();
    let index: serde_json::Value = serde_json::from_slice(&server.get("/index.json").body).unwrap();
    assert_eq!(index["databases"]["test"]["version"], 5);
}

#[test]
fn an_empty_cdiff_counts_when_it_is_seen_again() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    upstream.move_to(4);
    upstream.file("test-4.cdiff", Vec::new());
    upstream.remove("/test-4.cdiff.sign");
    program.sync().exits(0).says([
        "3 -> 4 published",
        "test-4.cdiff                 absent",
        "test-4.cdiff came empty; not known until a later check sees that again",
        "test-4.cvd                   stored",
    ]);
    assert!(!program.names().contains(&"test-4.cdiff".into()));
    program.sync().exits(0).says(["test-4.cdiff                 stored"]);
    assert!(program.cat("test-4.cdiff").is_empty());
    assert!(program.cat("test-4.cvd") == talos("test-4.cvd"));
}

#[test]
fn an_empty_cdiff_that_was_seen_once_may_still_have_content() {
    let upstream = Upstream::talos(4);
    upstream.file("test-4.cdiff", Vec::new());
    upstream.remove("/test-4.cdiff.sign");
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    upstream.move_to(4);
    program.sync().exits(0).says(["test-4.cdiff                 stored"]);
    assert!(program.cat("test-4.cdiff") == talos("test-4.cdiff"));
}

#[test]
fn a_sign_file_that_leads_to_a_certificate_proves_that_a_cdiff_is_empty() {
    let mint = Mint::new(5);
    let mut lineage = mint.database("test");
    let upstream = Upstream::start();
    upstream.release("test", &lineage.publish());
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    let certs = program.dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    std::fs::write(certs.join("ca.crt"), mint.certs_pem()).unwrap();
    let program = program.set("certs-dir", certs.to_str().unwrap());
    program.sync().exits(0);
    upstream.file("test.cvd", lineage.publish().cvd);
    upstream.file("test-2.cdiff", Vec::new());
    upstream.file("test-2.cdiff.sign", signer().sign(b""));
    program.sync().exits(0).says(["test-2.cdiff                 stored", "1 -> 2 published"]);
    assert!(program.names().contains(&"test-2.cdiff.sign".into()));
}

/// The version in a header is under no signature: only `.info`, which costs the whole file, tells the truth.
#[test]
fn a_forged_version_costs_one_full_file() {
    let mint = Mint::new(5);
    let genuine = mint.database("test").publish().cvd;
    for (held, version) in [(true, "2"), (true, "900"), (true, "4294967295"), (false, "2")] {
        let upstream = Upstream::start();
        upstream.file("test.cvd", genuine.clone());
        let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
        if held {
            program.sync().exits(0);
        }
        let header = std::str::from_utf8(&genuine[..512]).unwrap();
        let forged = format!("{:512}", header.trim_end().replacen(":1:", &format!(":{version}:"), 1));
        upstream.file("test.cvd", [forged.as_bytes(), &genuine[512..]].concat());
        upstream.asked();
        let why = format!("header says version {version}, its signed .info says 1");
        for _ in 0..3 {
            program.sync().exits(1).says([&why]);
        }
        let asked = upstream.asked();
        let full = |asked: &&support::upstream::Asked| {
            asked.target.starts_with("/test.cvd") && asked.range.is_none()
        };
        assert_eq!(asked.iter().filter(full).count(), 1, "{held} {version}: {asked:?}");
        assert_eq!(program.version(), held.then_some(1));
    }
}

#[test]
fn a_first_sync_publishes_once_when_its_chain_is_there() {
    let upstream = Upstream::talos(5);
    let gate = Arc::new(Mutex::new(()));
    let waits = gate.lock().unwrap();
    let cdiff = Answer::File(talos("test-3.cdiff"));
    upstream.set("/test-3.cdiff", Answer::After(gate.clone(), cdiff.into()));
    let program = Program::new(&upstream.url());
    let reached = || upstream.targets().contains(&"/test-3.cdiff".to_owned()).then_some(());
    let server = program.serve();
    wait_for("the back-fill", reached);
    for name in ["/test.cvd", "/test-5.cvd", "/test-5.cdiff"] {
        assert_eq!(server.get(name).status, 404, "{name}");
    }
    // What was sealed before a crash is not fetched again.
    drop(server);
    let server = program.serve();
    let mut asked = Vec::new();
    wait_for("the back-fill", || {
        asked.extend(upstream.asked());
        asked.iter().any(|asked| asked.target == "/test-3.cdiff").then_some(())
    });
    assert!(asked.iter().all(|asked| asked.target != "/test.cvd" || asked.range.is_some()), "{asked:?}");
    drop(server);

    let program = Program::new(&upstream.url());
    let server = program.serve();
    wait_for("the back-fill", reached);
    assert_eq!(server.get("/test.cvd").status, 404);
    drop(waits);
    server.publishes(5);
    let index: serde_json::Value = serde_json::from_slice(&server.get("/index.json").body).unwrap();
    assert_eq!(index["databases"]["test"]["chain"], serde_json::json!({"from": 2, "to": 5}));
}
