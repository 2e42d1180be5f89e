//! Broken set-ups: `doctor`, /health, the page and the log each say it in words that name the fix.
//!
//! Where a server cannot start there is no /health and no page: then its last words and the exit code say it, and
//! `doctor` does. Where it can start it does, and serves what it holds.
use support::{
    namespace,
    process::{self, Ran},
    program::{Program, Serving, bare},
    talos,
    upstream::Upstream,
    wait_for,
};

/// What one broken set-up is to be called.
struct Words<'a> {
    /// What `doctor` finds: what is so, and the line to write.
    doctor: [&'a str; 2],
    /// What the running server says, everywhere: what is so, and what to do.
    server: [&'a str; 2],
}

/// Asserts that every surface has its words.
#[track_caller]
fn assert_said(program: &Program, server: &Serving, words: &Words<'_>) {
    doctor(program, words.doctor);
    let surfaces: [(&str, &dyn Fn() -> String); 3] = [
        ("/health", &|| server.get("/health").text()),
        ("/", &|| unescaped(&server.get("/").text())),
        ("the log", &|| server.log.so_far().join("\n").replace("\\\"", "\"")),
    ];
    for (surface, text) in surfaces {
        for word in words.server {
            // The log's line comes a moment after what it is about.
            wait_for(&format!("{word:?} in {surface}"), || text().contains(word).then_some(()));
        }
    }
}

/// Asserts that `doctor` finds it, and that its text and JSON agree.
#[track_caller]
fn doctor(program: &Program, [what, fix]: [&str; 2]) -> Ran {
    let ran = program.run(&["doctor"]).exits(1);
    let text = process::joined(&ran.stdout);
    let lines: Vec<&str> = text.lines().collect();
    let at = lines.iter().position(|line| line.starts_with("FINDING ") && line.contains(what));
    let at = at.unwrap_or_else(|| panic!("no finding {what:?} in {ran}"));
    let parts = [what, " why: ", " fix: ", fix].map(|part| lines[at].find(part));
    assert!(parts.is_sorted() && parts[0].is_some(), "no {fix:?} in {ran}");
    let json: serde_json::Value =
        serde_json::from_str(&program.run(&["doctor", "--json"]).exits(1).stdout).unwrap();
    let findings =
        json["checks"].as_array().unwrap().iter().flat_map(|check| check["findings"].as_array().unwrap());
    let said =
        |finding: &serde_json::Value, key: &str, word: &str| finding[key].as_str().unwrap().contains(word);
    assert!(findings.into_iter().any(|f| said(f, "what", what) && said(f, "fix", fix)), "{json}");
    ran
}

fn unescaped(html: &str) -> String {
    let marks =
        [("&quot;", "\""), ("&#34;", "\""), ("&#x22;", "\""), ("&#39;", "'"), ("&#x27;", "'"), ("&lt;", "<")];
    let text = marks.iter().fold(html.to_owned(), |text, (from, to)| text.replace(from, to));
    text.replace("&gt;", ">").replace("&amp;", "&")
}

/// A server that has tried once.
fn tried(program: &Program) -> Serving {
    let server = program.serve();
    server.says("checked");
    server
}

#[test]
fn a_source_of_the_wrong_scheme() {
    // Another mirror is the source: it speaks plain HTTP, and is asked for TLS.
    let origin = Upstream::talos(5);
    let upper = Program::new(&origin.url());
    upper.sync().exits(0);
    let source = upper.serve();
    source.publishes(5);
    let program = Program::new(&format!("https://{}", source.address));
    let server = tried(&program);
    let line = format!("source = \"http://{}/\"", source.address);
    let words = Words {
        doctor: ["what answers there speaks no https", &line],
        server: ["what answers there speaks no https", &line],
    };
    assert_said(&program, &server, &words);
    drop(server);
    // The other way round: what answers speaks TLS.
    let tls = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tls.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in tls.incoming().flatten() {
            use std::io::{Read, Write};
            let _ = stream.read(&mut [0; 1024]);
            // An alert, as of a server that takes the request for a broken handshake.
            let _ = stream.write_all(&[0x15, 3, 3, 0, 2, 2, 0x46]);
        }
    });
    let other = Program::new(&format!("http://{address}"));
    doctor(&other, ["what answers there speaks no http (", &format!("source = \"https://{address}/\"")]);
    // The line mends it.
    let program = program.set("source", &format!("http://{}/", source.address));
    program.sync().exits(0).says(["5 published"]);
    program.run(&["doctor"]).exits(0).says(["source: test is at version 5", "no findings"]);
}

/// Nothing runs with settings that do not read: the line that is to be written is said instead.
#[test]
fn a_source_of_no_scheme_or_a_foreign_one() {
    for (source, line) in [
        ("mirror.lan:8080", "has no scheme; write http://mirror.lan:8080 or https://mirror.lan:8080"),
        (
            "database.clamav.net",
            "has no scheme; write http://database.clamav.net or https://database.clamav.net",
        ),
        ("/var/lib/cvdupdate", "has no scheme; write dir:/var/lib/cvdupdate"),
        ("ftp://mirror.lan", "is no source; write http://…, https://… or dir:PATH"),
    ] {
        for command in ["serve", "doctor", "sync"] {
            let ran = process::run(bare().arg(command).arg(format!("--source={source}")));
            ran.exits(2).says([&format!("command line: --source: {source:?} {line}")]);
        }
    }
}

#[test]
fn a_clock_that_is_off_by_a_day() {
    for (ahead_s, said) in [(-91_800, "25 h ahead of the source's"), (91_800, "25 h behind the source's")] {
        let upstream = Upstream::talos(5);
        upstream.tells_time(ahead_s);
        let program = Program::new(&upstream.url());
        let server = tried(&program);
        let what = format!("this machine's clock is {said}");
        let words = Words {
            doctor: [&what, "timedatectl set-ntp true"],
            server: [&what, "timedatectl set-ntp true"],
        };
        assert_said(&program, &server, &words);
        // It is served all the same, and all is well once the clocks agree.
        server.publishes(5);
        upstream.tells_time(0);
        program.sync().exits(0).never_says("clock");
        assert_eq!(server.get("/health").text(), "fresh\n");
        program.run(&["doctor"]).exits(0).says(["clock: agrees with the source"]);
    }
}

/// No /health and no page: another program answers at their address.
#[test]
fn a_port_that_is_taken() {
    let (upstream, taken) = (Upstream::talos(5), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let address = taken.local_addr().unwrap();
    let program = Program::new(&upstream.url()).set("listen", &address.to_string());
    let holder = format!("see who holds it (as root: ss -lntup 'sport = :{}')", address.port());
    program.run(&["serve"]).exits(1).says([
        &format!("cannot listen on {address}: Address already in use"),
        &holder,
        "or write another port: listen = [\"ADDR:PORT\"]",
    ]);
    let other = format!("127.0.0.1:{}", address.port().checked_add(1).unwrap_or(8081));
    let line = format!("or write another port: listen = [\"{other}\"]");
    doctor(&program, [&format!("listen {address} is taken by another program"), &line]).says([&holder]);
    // Held by this mirror's own server it is no finding.
    let program = program.set("listen", "127.0.0.1:0");
    let server = tried(&program);
    server.publishes(5);
    let program = program.set("listen", &server.address.to_string());
    program
        .run(&["doctor"])
        .exits(0)
        .says([&format!("listen {} is held by the running server", server.address)]);
}

#[test]
fn an_upstream_that_is_down() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    // A port that is never given to anybody who asks for a free one.
    let nobody = "http://127.0.0.1:1";
    let program = program.set("source", nobody);
    let server = tried(&program);
    let what = format!("{nobody}/test.cvd: Connection refused");
    let fix = format!("curl -I {nobody}/test.cvd must answer");
    assert_said(&program, &server, &Words { doctor: [&what, &fix], server: [&what, &fix] });
    assert!(server.get("/test-5.cvd").body == talos("test-5.cvd"));
}

/// It starts and serves: clients take a file without a sign file as before. What it does not do is let pass a sign file
/// that it cannot verify.
#[test]
fn certificates_that_are_missing() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    let certs = program.dir.path().join("certs");
    let program = program.set("certs-dir", certs.to_str().unwrap());
    let server = tried(&program);
    server.publishes(5);
    assert_eq!(server.get("/test-5.cvd.sign").status, 404);
    let what = format!("{}: No such file or directory", certs.display());
    let words = Words {
        doctor: [&what, "certs_dir = \"/etc/clamav/certs\""],
        server: [
            &what,
            "put ClamAV's certificates there (its packages bring them in /etc/clamav/certs), or take certs_dir out",
        ],
    };
    assert_said(&program, &server, &words);
    // They are read again at each round.
    std::fs::create_dir(&certs).unwrap();
    std::fs::write(certs.join("test-ca.crt"), talos("test-ca.crt")).unwrap();
    program.sync().exits(0).never_says("certs_dir");
    assert_eq!(server.get("/health").text(), "fresh\n");
    program.run(&["doctor"]).exits(0).says(["certs: 1 certificate in"]);
}

#[test]
fn a_disk_that_is_full() {
    if !namespace::inside("a_disk_that_is_full") {
        return;
    }
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    std::fs::create_dir(program.data()).unwrap();
    let data = program.data();
    let mounted = process::run(
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(&data),
    );
    mounted.exits(0);
    program.sync().exits(0);
    let stat = rustix::fs::statvfs(&data).unwrap();
    let ballast = data.join("ballast");
    std::fs::write(&ballast, vec![1; (stat.f_bavail * stat.f_frsize) as usize]).unwrap();
    upstream.move_to(5);
    let server = tried(&program);
    let words = Words {
        doctor: ["No space left on device", "or move everything to a larger one: data_dir = \"DIR\""],
        server: ["No space left on device", "free space on the disk of"],
    };
    assert_said(&program, &server, &words);
    doctor(
        &program,
        [&format!("0 B are free at {}, 64.0 MiB are needed", data.display()), "free space on the disk of"],
    );
    assert!(server.get("/test-3.cvd").body == talos("test-3.cvd"));
    std::fs::remove_file(ballast).unwrap();
    program.sync().exits(0).says(["5 published"]);
    assert_eq!(server.get("/health").text(), "fresh\n");
}
