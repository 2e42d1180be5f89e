//! The running server: without its source, at its end, and under requests meant to harm it.
use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::OnceLock,
    time::Duration,
};
use support::{
    mint::{Mint, Release},
    namespace, process,
    program::Program,
    talos,
    upstream::{Answer, Upstream},
    wait_for, wire,
};

/// A CVD that no socket buffers can swallow whole: about 20 MB.
fn big() -> &'static (Release, String) {
    static BIG: OnceLock<(Release, String)> = OnceLock::new();
    BIG.get_or_init(|| {
        let mint = Mint::new(9);
        (mint.database_of("test", 500_000, 0).publish(), mint.keys_toml())
    })
}

#[test]
fn without_its_source_it_says_so_and_serves_what_it_holds() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);

    let nowhere = "http://127.0.0.1:1";
    let program = program.set("source", nowhere);
    program.sync().exits(1).says(["3 published", &format!("{nowhere}/test.cvd: "), "Connection refused"]);
    let server = program.serve();
    server.says(&format!("{nowhere}/test.cvd: "));
    assert!(server.get("/test-3.cvd").body == talos("test-3.cvd"));
    let status = program.status();
    let error = status["databases"][0]["last_error"].as_str().unwrap();
    assert!(error.contains(nowhere), "{error}");
}

#[test]
fn a_name_that_does_not_resolve_is_named() {
    let program = Program::new("http://mirror.invalid");
    program.sync().exits(1).says(["http://mirror.invalid/test.cvd: "]);
}

#[test]
fn it_asks_again_until_the_source_is_back() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("check-interval", "100ms");
    program.sync().exits(0);
    upstream.set("/test.cvd", Answer::Hangup);
    let server = program.serve();
    server.says("connection closed before message completed");
    upstream.move_to(5);
    server.publishes(5);
    assert!(server.get("/test-5.cvd").body == talos("test-5.cvd"));
}

#[test]
fn an_empty_mirror_starts_and_has_nothing() {
    let upstream = Upstream::start();
    let program = Program::new(&upstream.url());
    let server = program.serve();
    server.says("/test.cvd: not there");
    for target in ["/test.cvd", "/test-1.cvd", "/test.cvd?version=1"] {
        assert_eq!(server.get(target).status, 404, "{target}");
    }
    assert_eq!(server.get("/health").status, 503);
    upstream.move_to(3);
    program.sync().exits(0);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn a_restart_keeps_everything() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    let mut server = program.serve();
    server.publishes(5);
    // The round's end, with its backfill.
    program.sync().exits(0);
    let index = server.get("/index.json");
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    assert!(!program.data().join("control").exists());

    let program = program.set("source", "http://127.0.0.1:1");
    let server = program.serve();
    assert_eq!(server.get("/index.json").text(), index.text());
    for name in program.names() {
        assert!(server.get(&format!("/{name}")).body == talos(&name), "{name}");
    }
}

#[test]
fn addresses_are_printed_and_a_taken_one_is_named() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("listen", "127.0.0.1:0,[::1]:0");
    let server = program.serve();
    let taken = server.address.to_string();
    let other = Program::new(&upstream.url()).set("listen", &taken);
    other.run(&["serve"]).exits(1).says([
        &format!("cannot listen on {taken}: "),
        "fix: see who holds it (as root: ss -lntup 'sport = :",
        "or write another port: listen = ",
    ]);
}

#[test]
fn a_running_download_may_finish() {
    let (release, keys) = big();
    let upstream = Upstream::start();
    upstream.release("test", release);
    let program = Program::new(&upstream.url()).trusting(keys);
    let mut server = program.serve();
    server.publishes(1);

    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    slow.write_all(b"GET /test-1.cvd HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n\r\n").unwrap();
    let mut bytes = vec![0; 1000];
    slow.read_exact(&mut bytes).unwrap();
    server.terminate();
    server.says("stopping");
    wait_for("the listener's end", || TcpStream::connect(server.address).is_err().then_some(()));
    slow.read_to_end(&mut bytes).unwrap();
    assert!(wire::reply(&bytes).body == release.cvd);
    assert_eq!(server.ends(), Some(0));
}

#[test]
fn a_second_signal_ends_at_once() {
    let (release, keys) = big();
    let upstream = Upstream::start();
    upstream.release("test", release);
    let program = Program::new(&upstream.url()).trusting(keys);
    let mut server = program.serve();
    server.publishes(1);
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.write_all(b"GET /test-1.cvd HTTP/1.1\r\nHost: mirror\r\n\r\n").unwrap();
    slow.read_exact(&mut [0; 1000]).unwrap();
    server.terminate();
    server.says("stopping");
    server.terminate();
    assert_eq!(server.ends(), Some(1));
}

#[test]
fn a_large_database_costs_little_memory() {
    let (release, keys) = big();
    let upstream = Upstream::start();
    let program = Program::new(&upstream.url()).trusting(keys);
    let server = program.serve();
    server.says("not there");
    let idle = server.peak_kib();
    upstream.release("test", release);
    program.sync().exits(0);
    let synced = server.peak_kib();
    assert!(server.get("/test-1.cvd").body == release.cvd);
    let served = server.peak_kib();
    eprintln!(
        "peak memory, KiB: idle {idle}, after the sync of {} KiB {synced}, after serving it {served}",
        release.cvd.len() >> 10
    );
    assert!(synced < idle + (48 << 10), "{idle} {synced}");
}

#[test]
fn requests_that_try_to_escape_find_nothing() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    let server = program.serve();
    server.publishes(5);
    let get = |target: &[u8], fields: &str| {
        let request = [
            b"GET ",
            target,
            b" HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n",
            fields.as_bytes(),
            b"\r\n",
        ];
        wire::raw(server.address, &request.concat())
    };
    let idle = server.peak_kib();
    let long = [b"/", &vec![b'a'; 64 << 10][..]].concat();
    let ranges = |n: usize| format!("Range: bytes={}\r\n", vec!["0-1"; n].join(","));
    let targets: [&[u8]; 17] = [
        b"/../../../etc/passwd",
        b"/../state.redb",
        b"/state.redb",
        b"/store/",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"/..%2f..%2fetc%2fpasswd",
        b"/test-5.cvd/../lock",
        b"/test-5.cvd%2f..%2flock",
        b"/test-5.cvd%00",
        b"/test-5.cvd%00.html",
        b"/test-5.cvd\0",
        b"/test%2d5.cvd",
        b"//etc/passwd",
        b"/\\..\\lock",
        b"/objects/../lock",
        b"/objects/%2e%2e%2flock",
        &long,
    ];
    for _ in 0..20 {
        for target in targets {
            let reply = get(target, "");
            let shown = String::from_utf8_lossy(&target[..target.len().min(60)]).into_owned();
            assert!(matches!(reply.status, 400 | 404 | 431), "{shown}: {}", reply.status);
            assert!(reply.body.len() < 1000, "{shown}");
        }
        for fields in [ranges(1000), ranges(100_000), format!("X: {}\r\n", "x".repeat(1 << 20))] {
            let status = get(b"/test-5.cvd", &fields).status;
            assert!(matches!(status, 400 | 404 | 431), "{}: {status}", &fields[..40]);
        }
    }
    let after = server.peak_kib();
    eprintln!("peak memory, KiB: idle {idle}, after the requests {after}");
    assert!(after < idle + (16 << 10), "{idle} {after}");
    assert!(server.get("/test-5.cvd").body == talos("test-5.cvd"));
}

#[test]
fn an_endless_body_costs_no_memory() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    let server = program.serve();
    server.publishes(3);
    let idle = server.peak_kib();
    upstream.set("/test.cvd", Answer::File(talos("test-5.cvd")));
    upstream.set("/test-4.cdiff", Answer::Endless(vec![b'x'; 1 << 20]));
    program.sync().exits(0).says(["it does not start with \"ClamAV-Diff:\"", "3 -> 5 published"]);
    let after = server.peak_kib();
    eprintln!("peak memory, KiB: idle {idle}, after an endless body {after}");
    assert!(after < idle + (16 << 10), "{idle} {after}");
}

#[test]
fn status_and_store_look_in_beside_the_server() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.run(&["status"]).exits(1);
    let server = program.serve();
    server.publishes(5);
    program.sync().exits(0);
    let status = program.status();
    assert_eq!((status["serving"].as_bool(), status["fresh"].as_bool()), (Some(true), Some(true)));
    assert_eq!(program.run(&["store", "stat"]).exits(0).says(["CDIFFs 2 to 5"]).code, Some(0));
    assert!(program.cat("test-5.cvd") == talos("test-5.cvd"));
    program.run(&["store", "verify"]).exits(0);
    program.run(&["store", "cat", "test-6.cvd"]).exits(1).says(["test-6.cvd: no such name or object"]);
    drop(server);
    let status = program.status();
    assert_eq!((status["serving"].as_bool(), status["fresh"].as_bool()), (Some(false), Some(true)));
}

#[test]
fn status_shows_what_is_held_and_no_longer_mirrored() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let program = program.set("database", "other");
    let ran = program.run(&["status"]).exits(0);
    ran.says(["test: version 3 published", "left from earlier: not in the setting `database`"]);
    let status = program.status();
    let left =
        |at: usize| (status["databases"][at]["database"].as_str(), status["databases"][at]["left"].as_bool());
    assert_eq!((left(0), left(1)), ((Some("other"), Some(false)), (Some("test"), Some(true))));
}

#[test]
fn status_without_a_store_says_how_to_get_one() {
    let program = Program::new("dir:/nonexistent");
    program.run(&["status"]).exits(1).says([&format!(
        "{}: nothing is held there yet\n  fix: start `cvdmirror serve` or `cvdmirror sync` with it, or give another --data-dir",
        program.data().display()
    )]);
}

/// A user who may not write cannot serve, and is told which user may.
#[test]
fn a_read_only_data_directory_names_the_fix() {
    if !namespace::inside("a_read_only_data_directory_names_the_fix") {
        return;
    }
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let data = program.data();
    for args in [&["--bind", data.to_str().unwrap()][..], &["-o", "remount,bind,ro"]] {
        process::run(std::process::Command::new("mount").args(args).arg(&data)).exits(0);
    }
    let fix = "remount the file system of ";
    program.run(&["serve"]).exits(1).says(["Read-only file system", fix]);
    program.run(&["status"]).exits(0).says(["test: version 3 published"]);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let inside = file.path().join("data");
    let mut command = support::program::bare();
    let ran = process::run(command.arg("sync").arg("--data-dir").arg(&inside));
    ran.exits(1).says([inside.to_str().unwrap()]);
}
