//! Pull-through: what a client asks for and is not held is fetched once, verified, and published before anybody gets it.
use std::{
    io::Write as _,
    net::TcpStream,
    sync::{Arc, Mutex},
    thread,
};
use support::{
    cdn::Cdn,
    clients::Freshclam,
    program::{Program, Serving},
    talos,
    upstream::{Answer, Upstream},
    wait_for, wire,
};

/// A mirror that holds version 3 alone, of an upstream that has moved on to 5.
fn behind() -> (Upstream, Program, Serving) {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("pull-through", "true").set("backfill", "0");
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(3);
    wait_for("the first round's end", || program.status()["next_check_in_s"].as_u64());
    upstream.move_to(5);
    upstream.asked();
    (upstream, program, server)
}

fn count(targets: &[String], target: &str) -> usize {
    targets.iter().filter(|asked| *asked == target).count()
}

#[test]
fn a_cdiff_is_fetched_once_for_all_who_ask_and_passed_on_as_a_proxy_does() {
    let (upstream, _program, server) = behind();
    let gate = Arc::new(Mutex::new(()));
    let held = gate.lock().unwrap();
    let answer = Box::new(Answer::File(talos("test-4.cdiff")));
    upstream.set("/test-4.cdiff", Answer::After(gate.clone(), answer));
    let fields = "Via: 1.0 other\r\nKeep-Alive: 5\r\nX-Hop: 1\r\nConnection: X-Hop\r\nIf-Modified-Since: Mon, 01 Jan 2035 00:00:00 GMT\r\n";
    let replies: Vec<wire::Reply> = thread::scope(|scope| {
        let asking: Vec<_> =
            (0..20).map(|_| scope.spawn(|| wire::get(server.address, "/test-4.cdiff", fields))).collect();
        // One that leaves meanwhile.
        let mut leaver = TcpStream::connect(server.address).unwrap();
        leaver.write_all(b"GET /test-4.cdiff HTTP/1.1\r\nHost: m\r\nUser-Agent: harness\r\n\r\n").unwrap();
        wait_for("the upstream", || upstream.peek().contains(&"/test-4.cdiff".into()).then_some(()));
        drop(leaver);
        drop(held);
        asking.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    for reply in replies {
        assert_eq!((reply.status, &reply.body), (200, &talos("test-4.cdiff")));
    }
    let asked = upstream.asked();
    let of_it: Vec<_> = asked.iter().filter(|asked| asked.target == "/test-4.cdiff").collect();
    assert_eq!(of_it.len(), 1, "{asked:?}");
    assert!(of_it[0].range.is_none() && of_it[0].agent == wire::AGENT, "{asked:?}");
    assert!(of_it[0].via.ends_with("1.1 cvdmirror"), "{asked:?}");
    assert_eq!(server.get("/test-4.cdiff").status, 200);
    assert!(upstream.asked().is_empty());
}

#[test]
fn a_full_cvd_that_is_newer_is_rebuilt_on_demand() {
    let (upstream, _program, server) = behind();
    let reply = server.get("/test-5.cvd");
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.body, talos("test-5.cvd"));
    let targets = upstream.targets();
    assert_eq!((count(&targets, "/test-4.cdiff"), count(&targets, "/test-5.cdiff")), (1, 1), "{targets:?}");
}

#[test]
fn freshclam_moves_on_before_the_mirror_has_looked() {
    let (_upstream, _program, server) = behind();
    // The file tells the version, so that the first client's demand for it is a newer one's.
    assert_eq!(server.get("/test-5.cvd").status, 200);
    let Some(client) = Freshclam::of(&server.url()) else { return };
    client.put("test.cvd", &talos("test-3.cvd"));
    client.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 5,"]);
}

#[test]
fn what_does_not_verify_is_502_and_nothing_of_it_is_kept() {
    let (upstream, program, server) = behind();
    let mut broken = talos("test-4.cdiff");
    let middle = broken.len() / 2;
    broken[middle] ^= 1;
    upstream.file("test-4.cdiff", broken);
    for _ in 0..3 {
        assert_eq!(server.get("/test-4.cdiff").status, 502);
    }
    assert!(!program.names().contains(&"test-4.cdiff".into()));
    assert_eq!(count(&upstream.targets(), "/test-4.cdiff"), 1);
    // The version that is known moves, and with it what did not come is asked for again.
    upstream.move_to(5);
    program.sync().exits(0);
    assert_eq!(server.get("/test-4.cdiff").status, 200);
}

/// A CDN that answers 403 to any but freshclam and cvdupdate means whoever asks: neither this mirror, nor another client.
#[test]
fn a_403_to_a_client_concerns_that_client_alone() {
    const AGENT: &str = "ClamAV/1.4.6 (OS: Linux, ARCH: x86_64, CPU: x86_64, UUID: 0)";
    let cdn = Cdn::talos(3);
    let front = cdn.front();
    let program = Program::new(&front.url()).set("pull-through", "true").set("backfill", "0");
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(3);
    wait_for("the first round's end", || program.status()["next_check_in_s"].as_u64());
    (4..=5).for_each(|version| cdn.publish_talos(version));
    front.is_strict(4);
    front.asked();
    let get = |target: &str, agent: &str| wire::get_as(server.address, target, agent, "").status;
    for _ in 0..3 {
        assert_eq!(get("/test-4.cdiff", "curl/8"), 502);
        assert_eq!(get("/test-5.cvd", "curl/8"), 502);
    }
    // Each was passed on once, and what came of it is not said of the source.
    let asked = front.asked();
    assert!(asked.iter().all(|it| it.agent == "curl/8" && it.status == 403), "{asked:?}");
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(!program.run(&["status"]).to_string().contains("403"));
    assert_eq!(get("/test-4.cdiff", AGENT), 200);
    // The mirror asks by its own name, which is turned away, and what its clients ask for is still passed on by theirs.
    program.sync().exits(1).says(["refuses this client (403)"]);
    assert_eq!(get("/test-5.cdiff", AGENT), 200);
    let passed = front.asked();
    let by_clients = passed.iter().filter(|it| it.via.as_deref() == Some("1.1 cvdmirror"));
    let by_clients: Vec<_> = by_clients.map(|it| (it.target.as_str(), it.agent.as_str())).collect();
    let files = ["/test-4.cdiff", "/test-4.cdiff.sign", "/test-5.cdiff", "/test-5.cdiff.sign"];
    assert_eq!(by_clients, files.map(|file| (file, AGENT)));
    program.sync().exits(1).says(["the source is not asked for another"]);
}

#[test]
fn a_source_that_stalls_is_504() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url())
        .set("pull-through", "true")
        .set("backfill", "0")
        .set("stall-timeout", "1s");
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(3);
    upstream.set("/test-4.cdiff", Answer::Stalling(talos("test-4.cdiff")[..50].to_vec()));
    assert_eq!(server.get("/test-4.cdiff").status, 504);
    assert_eq!(server.get("/test-3.cvd").status, 200);
}

#[test]
fn ten_thousand_made_up_names_cause_few_requests_upstream() {
    let (upstream, _program, server) = behind();
    upstream.move_to(3);
    for made_up in ["test-4.cdiff", "test-5.cdiff"] {
        upstream.remove(&format!("/{made_up}"));
    }
    upstream.asked();
    let mut requests = String::new();
    for n in 0..2500 {
        for name in [
            format!("test-{n}.cdiff"),
            format!("test-{n}.cvd"),
            format!("other{n}-1.cvd"),
            format!("test-{n}.cdiff.sign"),
        ] {
            requests.push_str(&format!("GET /{name} HTTP/1.1\r\nHost: m\r\nUser-Agent: harness\r\n\r\n"));
        }
    }
    let answers = wire::pour(server.address, requests.as_bytes());
    let answers = String::from_utf8_lossy(&answers).matches("HTTP/1.1 ").count();
    assert!(answers >= 10_000, "{answers}");
    let targets = upstream.targets();
    assert!(targets.len() < 20, "{targets:?}");
}
