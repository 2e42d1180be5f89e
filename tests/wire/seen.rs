//! `POST /seen`, with everything that may come there.
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};
use support::{
    program::{Program, Serving},
    upstream::Upstream,
    wire::{self, Reply},
};

fn hearing(upstream: &Upstream) -> Program {
    Program::new(&upstream.url()).set("remember-clients", "14d").set("client-reports", "true")
}

/// Posts content, with further fields, each ending in CRLF.
fn post(server: &Serving, target: &str, fields: &str, content: &[u8]) -> Reply {
    let head = format!(
        "POST {target} HTTP/1.1\r\nHost: mirror\r\nUser-Agent: harness\r\nConnection: close\r\n\
         Content-Length: {}\r\n{fields}\r\n",
        content.len()
    );
    wire::raw(server.address, &[head.as_bytes(), content].concat())
}

const JSON: &str = "Content-Type: application/json\r\n";

fn tell(server: &Serving, content: &Value) -> u16 {
    post(server, "/seen", JSON, content.to_string().as_bytes()).status
}

fn report(program: &Program) -> Value {
    let ran = program.run(&["status", "--clients", "--json"]).exits(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn where_it_is_off_it_is_a_method_like_any_other() {
    let upstream = Upstream::talos(3);
    for program in
        [Program::new(&upstream.url()), Program::new(&upstream.url()).set("remember-clients", "14d")]
    {
        program.sync().exits(0);
        let server = program.serve();
        let (seen, other) = (post(&server, "/seen", JSON, b"{}"), post(&server, "/other", JSON, b"{}"));
        assert_eq!((seen.status, seen.field("allow"), &seen.body), (405, Some("GET, HEAD"), &other.body));
        assert_eq!(other.status, 405);
    }
    let program = hearing(&upstream);
    let server = program.serve();
    for (method, status) in [("GET", 404), ("HEAD", 404), ("PUT", 405), ("OPTIONS", 405)] {
        let request = format!("{method} /seen HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n");
        assert_eq!(wire::raw(server.address, request.as_bytes()).status, status, "{method}");
    }
    assert_eq!(post(&server, "/seen/", JSON, b"{}").status, 405);
    // For how long it is kept must be said.
    Program::new(&upstream.url())
        .set("client-reports", "true")
        .run(&["config", "check"])
        .exits(2)
        .says(["remember_clients", "14d"]);
}

#[test]
fn what_is_no_report_is_refused_and_nothing_of_it_kept() {
    let upstream = Upstream::talos(3);
    let program = hearing(&upstream);
    program.sync().exits(0);
    let server = program.serve();
    let large = format!("{{\"host\":\"a\",\"more\":\"{}\"}}", "x".repeat(5000));
    let labels = ["", "a b", "a\nb", "\u{1b}[2J", "<script>alert(1)</script>", "a\"b", "é", &"x".repeat(65)];
    for label in labels {
        assert_eq!(tell(&server, &json!({ "host": label })), 400, "{label:?}");
    }
    for (fields, content, status) in [
        (JSON, "", 400),
        (JSON, "not JSON", 400),
        (JSON, "[]", 400),
        (JSON, "{\"host\":\"a\",\"installed\":{\"test\":\"3\"}}", 400),
        (JSON, &large, 413),
        ("", "{\"host\":\"a\"}", 400),
        ("Content-Type: text/plain\r\n", "{\"host\":\"a\"}", 400),
    ] {
        let reply = post(&server, "/seen", fields, content.as_bytes());
        assert_eq!(reply.status, status, "{fields}{content} {}", reply.text());
        assert_eq!(reply.field("cache-control"), Some("no-store"));
        assert!(reply.body.len() < 100, "{}", reply.text());
    }
    // Without a length, it is counted as it comes; one that claims much is not waited for.
    let chunk = format!("{:x}\r\n{}\r\n", 3000, "x".repeat(3000));
    let head = format!("POST /seen HTTP/1.1\r\nHost: m\r\n{JSON}");
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunk}{chunk}{chunk}0\r\n\r\n");
    assert_eq!(wire::raw(server.address, chunked.as_bytes()).status, 413);
    let huge = format!("{head}Content-Length: 99999999999\r\n\r\n{{");
    assert_eq!(wire::raw(server.address, huge.as_bytes()).status, 413);
    assert_eq!(report(&program)["installations"], 0);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_content_that_drips_is_not_waited_for() {
    let upstream = Upstream::talos(3);
    let program = hearing(&upstream);
    let server = program.serve();
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let began = Instant::now();
    let head = format!("POST /seen HTTP/1.1\r\nHost: m\r\n{JSON}Content-Length: 100\r\n\r\n{{");
    stream.write_all(head.as_bytes()).unwrap();
    let mut dripping = stream.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        while began.elapsed() < Duration::from_secs(60) && dripping.write_all(b" ").is_ok() {
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    drop(stream);
    drip.join().unwrap();
    assert_eq!(report(&program)["installations"], 0);
}

#[test]
fn many_labels_and_versions_that_cannot_be_stay_small() {
    let upstream = Upstream::talos(3);
    let program = hearing(&upstream);
    program.sync().exits(0);
    let server = program.serve();
    let all: serde_json::Map<String, Value> = (0..100).map(|i| (format!("d{i}"), 1.into())).collect();
    assert_eq!(tell(&server, &json!({ "host": "many", "installed": all, "engine": "<b>" })), 200);
    let future = json!({ "host": "future", "installed": { "test": u32::MAX }, "loaded": { "test": 4 } });
    assert_eq!(tell(&server, &future), 200);
    for number in 0..150 {
        let behind = json!({ "host": format!("h-{number}"), "installed": { "test": 1 }, "loaded": {} });
        assert_eq!(tell(&server, &behind), 200);
    }
    let report = report(&program);
    assert_eq!((&report["installations"], &report["engines"]["unknown"]), (&152.into(), &152.into()));
    assert_eq!(report["databases"].as_object().unwrap().len(), 1, "{report:#}");
    assert_eq!(report["databases"]["test"]["versions"], json!({ "1": 150, "4294967295": 1 }));
    assert_eq!(report["databases"]["test"]["lags"]["unknown"], 1);
    let lagging = report["lagging"].as_array().unwrap();
    assert_eq!((lagging.len(), &report["lagging_more"]), (100, &50.into()));
    assert!(lagging.iter().all(|lagging| lagging["host"] != "future"));
    let metrics = server.get("/metrics").text();
    assert_eq!(metrics.matches("cvdmirror_client_lagging_versions{").count(), 100);
    assert!(server.get("/").text().contains("50 more are"));
}
