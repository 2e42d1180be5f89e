//! The log and the access log: how they read, that they can be rotated and not forged, and that no secret is in them
//! nor in anything else the program says.
use serde_json::Value;
use std::path::Path;
use support::{
    clients::Freshclam,
    program::Program,
    upstream::{Answer, Upstream},
    wait_for, wire,
};

const PASSWORD: &str = "S3cret";
const USER: &str = "ada_lovelace";

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Whether a line is one of the combined format: seven fields, three of them quoted, and nothing more.
fn is_combined(line: &str) -> bool {
    let Some((head, rest)) = line.split_once(" [") else { return false };
    let Some((time, mut rest)) = rest.split_once("] ") else { return false };
    let time = time.parse_with("%d/%b/%Y:%H:%M:%S %z");
    let host = head.split(' ').collect::<Vec<_>>();
    let mut quoted = || {
        rest = rest.strip_prefix('"')?;
        let mut escaped = false;
        let end = rest.find(|c| {
            let ends = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            ends
        })?;
        let text = &rest[..end];
        rest = rest[end + 1..].trim_start_matches(' ');
        // Where the status and the size follow, they are passed over.
        if let Some(quote) = rest.find('"') {
            let between = rest[..quote].trim();
            between
                .split(' ')
                .filter(|w| !w.is_empty())
                .all(|w| w == "-" || w.parse::<u64>().is_ok())
                .then_some(())?;
            rest = &rest[quote..];
        }
        Some(text.to_owned())
    };
    let fields = [quoted(), quoted(), quoted()];
    let plain = line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    plain
        && time
        && host.len() == 3
        && host[1..] == ["-", "-"]
        && fields.iter().all(Option::is_some)
        && rest.is_empty()
}

trait ParseWith {
    fn parse_with(&self, format: &str) -> bool;
}
impl ParseWith for str {
    fn parse_with(&self, format: &str) -> bool {
        jiff::fmt::strtime::parse(format, self).is_ok()
    }
}

#[test]
fn the_access_log_has_a_line_a_request_in_the_combined_format() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("access-log", path.to_str().unwrap());
    let server = program.serve();
    server.publishes(3);
    let fields = "Referer: http://site/page\r\nRange: bytes=0-511\r\n";
    wire::get(server.address, "/test-3.cvd", fields);
    wire::get(server.address, "/test.cvd?version=9", "");
    let log = wait_for("both lines", || {
        let log = read(&path);
        log.contains("version=9").then_some(log)
    });
    let lines: Vec<&str> = log.lines().filter(|line| !line.contains("/index.json")).collect();
    let [part, none] = &lines[..] else { panic!("{log}") };
    let end = "] \"GET /test-3.cvd HTTP/1.1\" 206 512 \"http://site/page\" \"harness\"";
    assert!(part.starts_with("127.0.0.1 - - [") && part.ends_with(end), "{part}");
    let end = "] \"GET /test.cvd?version=9 HTTP/1.1\" 404 9 \"-\" \"harness\"";
    assert!(none.ends_with(end), "{none}");
    assert!(lines.iter().all(|line| is_combined(line)), "{log}");
    // Nothing of it is in the log of events, nor on standard output.
    assert!(server.log.find("test-3.cvd HTTP").is_none() && server.stdout.find("GET").is_none());

    let Some(client) = Freshclam::of(&server.url()) else { return };
    client.update(&["--no-dns"]).exits(0);
    let line = wait_for("freshclam's line", || {
        let log = read(&path);
        log.lines().find(|line| line.contains("\"GET /test-3.cvd HTTP/1.1\" 200 ")).map(str::to_owned)
    });
    assert!(is_combined(&line) && line.contains("\"ClamAV/") && !line.contains("UUID"), "{line}");
}

#[test]
fn whoever_sends_quotes_and_control_characters_forges_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.log");
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("access-log", path.to_str().unwrap());
    let server = program.serve();
    let forged = "1.2.3.4 - - [01/Jan/2026:00:00:00 +0000] \"GET /forged HTTP/1.1\" 200 1 \"-\" \"-\"";
    let requests: [&[u8]; 9] = [
        b"GET /a\"b HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n",
        b"GET /a\\ HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n",
        b"GET /%0a%0dx HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: m\r\nConnection: close\r\nUser-Agent: a\" 200 1 \"-\" \"b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: m\r\nConnection: close\r\nUser-Agent: a\\\"\tb\\\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: m\r\nConnection: close\r\nUser-Agent: \xff\xfe\xc3\xa9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: m\r\nConnection: close\r\nReferer: \"\\\"\r\n\r\n",
        b"B\"REW / HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n",
        b"GET http://ada_lovelace:S3cret@m/daily.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n",
    ];
    for request in requests {
        wire::raw(server.address, request);
    }
    // A line's end inside a field is the end of the field, and what follows is another one, if it is one at all.
    let agent = format!("GET / HTTP/1.1\r\nHost: m\r\nConnection: close\r\nUser-Agent: a\n{forged}\r\n\r\n");
    wire::raw(server.address, agent.as_bytes());
    server.get("/last");
    let log = wait_for("the last line", || {
        let log = read(&path);
        log.contains("GET /last ").then_some(log)
    });
    assert!(log.lines().count() >= 8, "{log}");
    for line in log.lines() {
        assert!(is_combined(line), "{line}");
        assert!(!line.starts_with("1.2.3.4") && !line.contains(PASSWORD) && !line.contains(USER), "{line}");
    }
    assert!(log.contains("\"GET /a\\\"b HTTP/1.1\" 404 "), "{log}");
    assert!(log.contains("\"a\\\" 200 1 \\\"-\\\" \\\"b\""), "{log}");
    assert!(log.contains("\"\\xef\\xbf\\xbd"), "{log}");
}

#[test]
fn a_rotated_access_log_goes_on_in_a_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("access-log", path.to_str().unwrap());
    let mut server = program.serve();
    server.get("/one");
    wait_for("the first line", || read(&path).contains("GET /one ").then_some(()));
    std::fs::rename(&path, &old).unwrap();
    server.get("/two");
    wait_for("the second line, in the file that is open", || read(&old).contains("GET /two ").then_some(()));
    server.hang_up();
    server.says("the access log is opened anew");
    server.get("/three");
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    // At its end everything is written.
    assert!(read(&path).contains("GET /three ") && !read(&path).contains("GET /two "), "{}", read(&path));
    assert!(!read(&old).contains("GET /three "));
    // A restart goes on behind what is there.
    let server = program.serve();
    server.get("/four");
    wait_for("the fourth line", || read(&path).contains("GET /four ").then_some(()));
    assert!(read(&path).contains("GET /three "));
}

#[test]
fn without_an_access_log_no_request_is_logged_and_a_hangup_ends_nothing() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("access-log", "off");
    let mut server = program.serve();
    server.publishes(3);
    server.hang_up();
    server.get("/test-3.cvd");
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    let said = [server.stdout.so_far(), server.log.so_far()].concat().join("\n");
    assert!(!said.contains("test-3.cvd") && !said.contains("harness"), "{said}");
    Program::new(&upstream.url())
        .set("access-log", "/nonexistent/access.log")
        .run(&["serve"])
        .exits(1)
        .says(["access_log /nonexistent/access.log: ", "give a file that can be written, or -"]);
}

/// The lines of a round that works, one that does not, and an end.
fn told(format: &str) -> Vec<String> {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("log-format", format);
    let mut server = program.serve();
    server.publishes(3);
    program.sync().exits(0);
    upstream.set("/test.cvd", Answer::Hangup);
    program.sync().exits(1);
    server.says("checked and failed");
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    server.log.so_far()
}

#[test]
fn a_line_of_the_log_is_a_sentence_that_says_what_to_do() {
    let lines = told("text");
    for line in &lines {
        let (time, rest) = line.split_once(' ').unwrap();
        assert!(time.parse_with("%Y-%m-%dT%H:%M:%SZ"), "{line}");
        let level = rest.trim_start().split(' ').next().unwrap();
        assert!(["INFO", "WARN", "ERROR"].contains(&level), "{line}");
        assert!(!line.contains('\u{1b}') && !line.contains("database="), "{line}");
    }
    assert!(lines.iter().any(|l| l.contains("  INFO test: checked, 3 is served")), "{lines:#?}");
    let failed: Vec<&String> = lines.iter().filter(|line| line.contains("checked and failed")).collect();
    assert_eq!(failed.len(), 1, "{lines:#?}");
    let warned: String =
        lines.iter().filter_map(|line| line.split_once("  WARN ")).map(|(_, said)| said).collect();
    for part in ["test: checked", "; 3 is served; tried again in ", "  http://", "/test.cvd", "  fix: "] {
        assert!(warned.contains(part), "no {part:?} in {warned}");
    }
}

#[test]
fn a_line_of_the_log_is_an_object_for_programs() {
    let lines = told("json");
    let events: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    for event in &events {
        for key in ["timestamp", "level", "message", "target"] {
            assert!(event[key].is_string(), "no {key} in {event}");
        }
    }
    let failed: Vec<&Value> = events.iter().filter(|event| event["level"] == "WARN").collect();
    let [failed] = &failed[..] else { panic!("{events:#?}") };
    assert_eq!((&failed["database"], &failed["published"]), (&"test".into(), &3.into()), "{failed}");
    assert!(failed["error"].as_str().unwrap().contains("/test.cvd"), "{failed}");
}

#[test]
fn no_name_can_break_a_line_of_the_log() {
    let upstream = Upstream::talos(3);
    for format in ["text", "json"] {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("a\n2026-01-01T00:00:00Z ERROR forged\u{1b}[31m");
        std::fs::create_dir(&logs).unwrap();
        let log = logs.join("access.log");
        let program =
            Program::new(&upstream.url()).set("log-format", format).set("access-log", log.to_str().unwrap());
        let server = program.serve();
        std::fs::remove_dir_all(&logs).unwrap();
        server.hang_up();
        let line = server.says("goes on in the old file");
        assert!(line.contains("forged") && !line.contains('\u{1b}'), "{line:?}");
        server.says("opened anew");
        assert!(server.log.so_far().iter().all(|line| !line.starts_with("2026-01-01")), "{line}");
    }
}

/// Everything that the program says of a source, beside what `more` gives.
fn everything_said(program: &Program, proxy: Option<&str>, more: &mut Vec<String>) {
    let with = |command: &mut std::process::Command| {
        for name in ["http_proxy", "HTTP_PROXY"] {
            command.envs(proxy.map(|proxy| (name, proxy)));
        }
        // The proxy is for the source, not for the client of the control socket, which is none of HTTP's.
        command.env("RUST_LOG", "trace");
    };
    for command in [
        &["config", "show"][..],
        &["config", "check"],
        &["sync"],
        &["status"],
        &["status", "--json"],
        &["store", "ls", "--json"],
        &["store", "stat", "--json"],
        &["store", "verify"],
    ] {
        let mut line = program.command(command);
        with(&mut line);
        let ran = support::process::run(&mut line);
        more.extend([ran.stdout, ran.stderr]);
    }
    for format in ["text", "json"] {
        let mut line = program.command(&["serve"]);
        line.env("CVDMIRROR_LOG_FORMAT", format);
        with(&mut line);
        let server = program.serve_as(line);
        // With the server's round.
        let ran = program.run(&["sync"]);
        more.extend([ran.stdout, ran.stderr]);
        more.extend(
            ["/", "/health", "/metrics", "/index.json", "/dns.txt"].map(|page| server.get(page).text()),
        );
        more.extend(server.log.so_far());
        more.extend(server.stdout.so_far());
    }
}

#[track_caller]
fn assert_silent(said: &[String]) {
    assert!(said.len() > 20 && said.iter().any(|text| text.contains("127.0.0.1")));
    // As it stands in the URL, as it is meant, and as it is sent.
    for secret in [PASSWORD, USER, "YWRhX2xvdmVsYWNlOlMzY3JldA"] {
        let told = said.iter().find(|text| text.contains(secret));
        assert!(told.is_none(), "{secret} in {}", told.unwrap());
    }
}

#[test]
fn a_login_of_the_source_is_sent_and_never_said() {
    let upstream = Upstream::talos(3);
    let host = format!("127.0.0.1:{}", upstream.port);
    let program = Program::new(&format!("http://{USER}:{PASSWORD}@{host}"));
    program.sync().exits(0);
    let asked = upstream.asked();
    assert!(asked.iter().all(|asked| asked.logins == ["Basic YWRhX2xvdmVsYWNlOlMzY3JldA=="]), "{asked:?}");
    let mut said = Vec::new();
    everything_said(&program, None, &mut said);
    // What goes wrong is said with the URL.
    upstream.move_to(5);
    upstream.set("/html", Answer::File(b"<html>".to_vec()));
    for answer in [
        Answer::Hangup,
        Answer::Status(500, String::new(), Vec::new()),
        Answer::File(b"<html>".to_vec()),
        Answer::Redirect(format!("http://{USER}:{PASSWORD}@127.0.0.1:1/x")),
        Answer::Redirect(format!("http://{USER}:{PASSWORD}@{host}/nowhere")),
        Answer::Redirect(format!("http://{USER}:{PASSWORD}@{host}/html")),
        Answer::Redirect("/test.cvd".into()),
        // The last: it ends the asking.
        Answer::Status(403, String::new(), Vec::new()),
    ] {
        upstream.set("/test.cvd", answer);
        everything_said(&program, None, &mut said);
    }
    assert_silent(&said);
    assert!(said.iter().any(|text| text.contains(&format!("source = \"http://***@{host}\""))));
}

#[test]
fn a_source_that_is_written_wrongly_does_not_give_its_password_away() {
    let upstream = Upstream::start();
    for source in [
        format!("ftp://{USER}:{PASSWORD}@host"),
        format!("{USER}:{PASSWORD}@host"),
        format!("//{USER}:{PASSWORD}@host"),
        format!("http://{USER}:{PASSWORD}/x@host"),
        format!("http://{USER}:{PASSWORD}#x@host"),
        format!("http:{USER}:{PASSWORD}@host:99999999"),
        format!("http:\\\\{USER}:{PASSWORD}@host"),
        format!("http://{USER}:{PASSWORD}@ho st"),
        format!("http://{USER}:{PASSWORD}@"),
    ] {
        for command in [&["config", "check"][..], &["config", "show"], &["sync"]] {
            let ran = Program::new(&upstream.url()).set("source", &source).run(command);
            ran.exits(2).says(["--source"]).never_says(PASSWORD).never_says(USER);
        }
    }
}

#[test]
fn a_password_for_a_proxy_is_sent_and_never_said() {
    let proxy = Upstream::talos(3);
    let host = format!("127.0.0.1:{}", proxy.port);
    // Found only by asking the proxy.
    let program = Program::new("http://upstream.invalid");
    let mut said = Vec::new();
    let url = format!("http://{USER}:{PASSWORD}@{host}");
    everything_said(&program, Some(&url), &mut said);
    let asked = proxy.asked();
    assert!(asked.iter().any(|asked| asked.logins == ["Basic YWRhX2xvdmVsYWNlOlMzY3JldA=="]), "{asked:?}");
    assert_eq!(program.version(), Some(3));
    proxy.set("/test.cvd", Answer::Status(407, "Proxy-Authenticate: Basic realm=x\r\n".into(), Vec::new()));
    everything_said(&program, Some(&url), &mut said);
    proxy.set("/test.cvd", Answer::Hangup);
    everything_said(&program, Some(&url), &mut said);
    everything_said(&program, Some(&format!("http://{USER}:{PASSWORD}@127.0.0.1:1")), &mut said);
    // A tunnel, which is what an https source gets; the proxy knows no CONNECT.
    let program = Program::new("https://upstream.invalid");
    for name in ["https_proxy", "HTTPS_PROXY"] {
        let mut line = program.command(&["sync"]);
        line.env(name, &url).env("RUST_LOG", "trace");
        let ran = support::process::run(&mut line).exits(1);
        said.extend([ran.stdout, ran.stderr]);
    }
    assert_silent(&said);
}
