//! Installations are counted, and nothing that identifies one is kept or printed.
use serde_json::{Value, json};
use support::{
    clients::Freshclam,
    program::{Program, Serving},
    talos,
    upstream::Upstream,
    wait_for, wire,
};

const UUID: &str = "6f1c2f0e-8a44-4c1a-9b1e-0123456789ab";

fn remembering(upstream: &Upstream) -> Program {
    Program::new(&upstream.url()).set("remember-clients", "14d")
}

fn report(program: &Program) -> Value {
    let ran = program.run(&["status", "--clients", "--json"]).exits(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// Asks for a file as freshclam of an installation does.
fn ask(server: &Serving, target: &str, uuid: &str) -> wire::Reply {
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\
         User-Agent: ClamAV/1.4.6 (OS: Linux, ARCH: x86_64, CPU: x86_64, UUID: {uuid})\r\n\r\n"
    );
    wire::raw(server.address, request.as_bytes())
}

fn uuid(number: u32) -> String {
    format!("6f1c2f0e-8a44-4c1a-9b1e-{number:012x}")
}

/// The report, once so many installations are in it: a request is noted a moment after its answer is read.
fn report_of(program: &Program, installations: u64) -> Value {
    wait_for("the installations", || {
        let report = report(program);
        (report["installations"].as_u64()? >= installations).then_some(report)
    })
}

#[test]
fn two_real_installations_are_two_clients() {
    let upstream = Upstream::talos(3);
    let program = remembering(&upstream);
    let server = program.serve();
    server.publishes(3);
    let clients = [Freshclam::of(&server.url()), Freshclam::of(&server.url())];
    let [Some(one), Some(two)] = clients else { return };
    for client in [&one, &two] {
        client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 3,"]);
    }
    upstream.move_to(5);
    program.sync().exits(0);
    one.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 5,"]);
    let report = wait_for("the update in the report", || {
        let report = report(&program);
        (report["databases"]["test"]["lags"]["current"] == 1).then_some(report)
    });
    assert_eq!(report["installations"], 2, "{report:#}");
    let engines = report["engines"].as_object().unwrap();
    let (engine, count) = engines.iter().next().unwrap();
    assert!(engines.len() == 1 && engine.starts_with("ClamAV/") && *count == 2, "{report:#}");
    let test = &report["databases"]["test"];
    assert_eq!(test["versions"], json!({ "3": 1, "5": 1 }));
    assert_eq!(test["published"], 5);
    assert_eq!(test["lags"]["up_to_seven_behind"], 1);
    assert_eq!(report["nameless"], json!({}));

    // Nothing new: the same two, and the one that was behind has caught up.
    for client in [&one, &two] {
        client.update(&["--no-dns"]).exits(0);
    }
    let report = wait_for("both in the report", || {
        let report = report_of(&program, 2);
        (report["databases"]["test"]["lags"]["current"] == 2).then_some(report)
    });
    assert_eq!(report["installations"], 2, "{report:#}");
}

#[test]
fn the_table_and_the_gauge_say_who_is_stale() {
    let upstream = Upstream::talos(5);
    let program = remembering(&upstream);
    let server = program.serve();
    program.sync().exits(0);
    ask(&server, "/test-5.cvd", &uuid(1));
    ask(&server, "/test-5.cdiff", &uuid(2));
    ask(&server, "/test-4.cdiff", &uuid(3));
    ask(&server, "/test-2.cdiff", &uuid(4));
    ask(&server, "/test.cvd", &uuid(5));
    // Not a client of databases: neither a page nor a request by somebody without a UUID.
    ask(&server, "/health", &uuid(6));
    server.get("/test-5.cvd");
    let report = report_of(&program, 5);
    assert_eq!(report["installations"], 5);
    assert!(report["nameless"].as_object().unwrap().contains_key(wire::AGENT), "{report:#}");
    program.run(&["status", "--clients"]).exits(0).says([
        "5 installations asked in the last 14 days",
        "ClamAV/1.4.6                   5",
        "test, published 5: 2 current, 1 1 behind, 1 2 to 7 behind, 1 never fetched here",
        "harness asked without naming its installation",
    ]);
    let page = server.get("/").text();
    assert!(page.contains("<strong>5 installations</strong> asked in the last 14 days"), "{page}");
    assert!(page.contains("Not counted, since they name no installation: harness."), "{page}");
    let text = server.get("/metrics").text();
    for (lag, count) in [("0", 2), ("1", 1), ("2-7", 1), ("older", 0), ("unknown", 1)] {
        let line = format!("cvdmirror_client_installations{{database=\"test\",lag=\"{lag}\"}} {count}\n");
        assert!(text.contains(&line), "no {line} in {text}");
    }
}

#[test]
fn a_part_or_a_broken_download_is_not_a_version() {
    let upstream = Upstream::talos(5);
    let program = remembering(&upstream);
    let server = program.serve();
    server.publishes(5);
    let probe = format!(
        "GET /test-5.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\nRange: bytes=0-511\r\nUser-Agent: ClamAV/1 \
         (UUID: {UUID})\r\n\r\n"
    );
    assert_eq!(wire::raw(server.address, probe.as_bytes()).status, 206);
    assert_eq!(wire::raw(server.address, probe.replace("GET", "HEAD").as_bytes()).status, 200);
    assert_eq!(ask(&server, "/test-9.cvd", &uuid(2)).status, 404);
    let report = report_of(&program, 2);
    assert_eq!(report["databases"]["test"]["lags"]["unknown"], 2, "{report:#}");
    // A client that is told that nothing is newer has it.
    let since = probe.replace("Range: bytes=0-511", "If-Modified-Since: Sun, 22 Nov 2026 00:00:00 GMT");
    assert_eq!(wire::raw(server.address, since.as_bytes()).status, 304);
    wait_for("the client that has it", || {
        (self::report(&program)["databases"]["test"]["lags"]["current"] == 1).then_some(())
    });
}

#[test]
fn a_restart_remembers_them_and_switching_it_off_forgets_them() {
    let upstream = Upstream::talos(5);
    let program = remembering(&upstream);
    let mut server = program.serve();
    server.publishes(5);
    ask(&server, "/test-5.cvd", UUID);
    let before = report_of(&program, 1);
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    // Without a server, from the file.
    assert_eq!(report(&program), before);
    let server = program.serve();
    assert_eq!(report(&program), before);
    drop(server);

    let program = program.set("remember-clients", "off");
    let server = program.serve();
    assert_eq!(report(&program), Value::Null);
    program
        .run(&["status", "--clients"])
        .exits(0)
        .says(["no installation is remembered", "--remember-clients=14d"]);
    assert!(!server.get("/metrics").text().contains("client_installations"));
    drop(server);
    let program = program.set("remember-clients", "14d");
    assert_eq!(report(&program)["installations"], 0);
}

/// Everything that the program writes or says, searched for what names an installation.
#[test]
fn no_uuid_is_kept_or_said() {
    let upstream = Upstream::talos(5);
    let log = tempfile::NamedTempFile::new().unwrap();
    let program = remembering(&upstream).set("access-log", log.path().to_str().unwrap());
    let mut command = program.command(&["serve"]);
    command.env("RUST_LOG", "trace");
    let mut server = program.serve_as(command);
    server.publishes(5);
    for target in ["/test-5.cvd", &format!("/{UUID}"), &format!("/test.cvd?uuid={UUID}")] {
        ask(&server, target, UUID);
        wire::get(server.address, target, &format!("Referer: http://x/{UUID}\r\n"));
    }
    let bare = format!("GET /test-5.cvd HTTP/1.0\r\nUser-Agent: CVDUPDATE/1.1 ({UUID})\r\n\r\n");
    wire::raw(server.address, bare.as_bytes());
    report_of(&program, 1);
    let mut said = ["/", "/metrics", "/health", "/index.json"].map(|page| server.get(page).text()).to_vec();
    said.push(program.run(&["status", "--clients", "--json"]).exits(0).stdout);
    said.push(program.run(&["status", "--json"]).exits(0).stdout);
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    said.extend(server.log.so_far());
    let logged = std::fs::read_to_string(log.path()).unwrap();
    assert!(logged.lines().filter(|line| !line.ends_with("\"harness\"")).count() >= 4, "{logged}");
    said.push(logged);
    said.push(
        String::from_utf8_lossy(&std::fs::read(program.data().join("state.redb")).unwrap()).into_owned(),
    );
    for text in said {
        let text = text.to_ascii_lowercase();
        assert!(!text.contains(UUID) && !text.contains(&UUID.replace('-', "")), "{text}");
    }
    assert!(program.cat("test-5.cvd") == talos("test-5.cvd"));
}

#[test]
fn many_installations_cost_little_memory() {
    let upstream = Upstream::talos(5);
    let program = remembering(&upstream);
    let server = program.serve();
    server.publishes(5);
    let idle = server.peak_kib();
    // Many on one connection; each with a UUID and an engine of its own.
    let mut requests = String::new();
    for number in 0..20_000_u32 {
        let uuid = uuid(number);
        requests.push_str(&format!(
            "GET /test.cvd HTTP/1.1\r\nHost: m\r\nUser-Agent: e/{number} (UUID: {uuid})\r\n\r\n"
        ));
    }
    wire::pour(server.address, requests.as_bytes());
    let report = report_of(&program, 20_000);
    assert!(report["engines"].as_object().unwrap().len() <= 65);
    let after = server.peak_kib();
    eprintln!("peak memory, KiB: idle {idle}, after 20,000 installations {after}");
    assert!(after < idle + (48 << 10), "{idle} {after}");
}

#[test]
fn a_time_that_is_none_is_refused() {
    let upstream = Upstream::start();
    for wrong in ["yes", "0d", "91d", "1mo", "-1d"] {
        Program::new(&upstream.url())
            .set("remember-clients", wrong)
            .run(&["config", "check"])
            .exits(2)
            .says(["--remember-clients", "is neither off nor a length of time up to 90d; write 14d"]);
    }
    for right in ["off", "14d", "1h", "90d"] {
        let program = Program::new(&upstream.url()).set("remember-clients", right);
        program.run(&["config", "check"]).exits(0);
    }
}
