//! What a source may not do to the mirror: lead it elsewhere, pass off a part for the whole, or speak from the future.
use rustls::{ServerConfig, ServerConnection, crypto::ring};
use std::{
    fs::{self, File},
    net::TcpListener,
    sync::Arc,
    time::{Duration, SystemTime},
};
use support::{
    name_server::{NameServer, time_s},
    program::Program,
    talos,
    upstream::{Answer, Upstream},
};

/// A mirror that holds version 3 of an upstream that has version 5 and no CDIFFs.
fn behind() -> (Upstream, Program) {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("stall-timeout", "1s");
    program.sync().exits(0);
    upstream.set("/test.cvd", Answer::File(talos("test-5.cvd")));
    (upstream, program)
}

#[test]
fn a_redirect_to_another_host_is_followed_only_if_that_is_listed() {
    let elsewhere = Upstream::talos(5);
    let (upstream, program) = behind();
    let to = |host: &str| format!("http://{host}:{}/test.cvd", elsewhere.port);
    for host in ["127.0.0.1", "localhost", "[::1]", "2130706433"] {
        upstream.set("/test.cvd", Answer::Redirect(to(host)));
        let shown = host.replace("2130706433", "127.0.0.1");
        program.sync().exits(1).says([
            &format!(
                "{}/test.cvd: redirects to {shown}:{}, which is not followed",
                upstream.url(),
                elsewhere.port
            ),
            "not in redirect_hosts",
        ]);
    }
    upstream.set("/test.cvd", Answer::Redirect("http://169.254.169.254/latest/meta-data/".into()));
    program.sync().exits(1).says(["redirects to 169.254.169.254, which is not followed"]);
    upstream.set("/test.cvd", Answer::Redirect("file:///etc/passwd".into()));
    program.sync().exits(1).says(["redirects to file:, which is not followed"]);
    assert_eq!(elsewhere.targets(), Vec::<String>::new());
    assert_eq!(program.version(), Some(3));

    upstream.set("/test.cvd", Answer::Redirect(to("127.0.0.1")));
    let program = program.set("redirect-hosts", "cdn.example.net,127.0.0.1");
    program.sync().exits(0).says(["3 -> 5 published"]);
    assert!(elsewhere.targets().contains(&"/test.cvd".into()));
}

#[test]
fn a_redirect_on_the_source_itself_is_followed() {
    let upstream = Upstream::talos(5);
    upstream.set("/moved.cvd", Answer::File(talos("test-5.cvd")));
    upstream.set("/test.cvd", Answer::Redirect("/moved.cvd".into()));
    Program::new(&upstream.url()).sync().exits(0).says(["nothing -> 5 published"]);
}

/// An answer's bytes on the wire.
fn raw(head: &str, body: &[u8]) -> Answer {
    let head = head.replace('\n', "\r\n");
    Answer::Raw([head.as_bytes(), b"\r\n\r\n", body].concat())
}

#[test]
fn a_part_that_was_not_asked_for_is_refused() {
    let (upstream, program) = behind();
    let cvd = talos("test-5.cvd");
    let (half, len) = (cvd.len() / 2, cvd.len());
    let begun = raw(&format!("HTTP/1.1 200 .\nETag: \"a\"\nContent-Length: {len}"), &cvd[..half]);
    let rest = |fields: String, from: usize| raw(&format!("HTTP/1.1 206 .\n{fields}"), &cvd[from..]);
    let ranged = |etag: &str, range: String, from: usize| {
        rest(format!("ETag: {etag}\nContent-Range: {range}\nContent-Length: {}", len - from), from)
    };
    let right = format!("bytes {half}-{}/{len}", len - 1);
    for (answer, why) in [
        (ranged("\"b\"", right.clone(), half), "answered a part of another file than the one it began"),
        (ranged("W/\"a\"", right.clone(), half), "answered a part of another file than the one it began"),
        (
            rest(format!("Content-Length: {}", len - half), half),
            "other bytes than those asked for (Content-Range: none)",
        ),
        (ranged("\"a\"", format!("bytes 0-{}/{len}", len - 1), 0), "other bytes than those asked for"),
        (
            ranged("\"a\"", format!("bytes {}-{}/{len}", half + 1, len - 1), half + 1),
            "other bytes than those asked for",
        ),
        (
            ranged("\"a\"", format!("bytes {half}-{}/{}", len - 1, len - 1), half),
            "other bytes than those asked for",
        ),
        (
            ranged("\"a\"", format!("bytes {half}-{len}/{}", len + 1), half),
            "other bytes than those asked for",
        ),
        (ranged("\"a\"", "bytes nonsense".into(), half), "other bytes than those asked for"),
        (
            ranged("\"a\"", format!("items {half}-{}/{len}", len - 1), half),
            "other bytes than those asked for",
        ),
    ] {
        let header = Answer::File(cvd.clone());
        let full = Answer::Rest(answer.into(), Answer::Split(header.into(), begun.clone().into()).into());
        upstream.set("/test.cvd?version=5", full);
        program.sync().exits(1).says([why, "not taken"]);
        assert_eq!(program.version(), Some(3));
    }
    // A part of what was asked for as a whole.
    let header = Answer::File(cvd.clone());
    let whole = ranged("\"a\"", format!("bytes 0-{}/{len}", len - 1), 0);
    upstream.set("/test.cvd?version=5", Answer::Split(header.clone().into(), whole.into()));
    program.sync().exits(1).says(["answered a part (206), though the whole was asked for; not taken"]);
    // The right rest.
    let rest = ranged("\"a\"", right, half);
    let full = Answer::Rest(rest.into(), Answer::Split(header.into(), begun.into()).into());
    upstream.set("/test.cvd?version=5", full);
    program.sync().exits(0).says(["3 -> 5 published"]);
}

/// An upstream that knows no ranges sends the whole again: the beginning is there already.
#[test]
fn the_whole_of_the_same_file_goes_on_where_it_broke_off() {
    let (upstream, program) = behind();
    let cvd = talos("test-5.cvd");
    let head = format!("HTTP/1.1 200 .\nETag: \"a\"\nContent-Length: {}", cvd.len());
    let begun = Answer::Split(Answer::File(cvd.clone()).into(), raw(&head, &cvd[..3000]).into());
    upstream.set("/test.cvd?version=5", Answer::Rest(raw(&head, &cvd).into(), begun.into()));
    upstream.asked();
    program.sync().exits(0).says(["3 -> 5 published"]);
    let full = upstream.asked().into_iter().filter(|asked| asked.target == "/test.cvd?version=5");
    let ranges: Vec<_> = full.map(|asked| asked.range).collect();
    assert_eq!(ranges, [Some("bytes=0-511".into()), None, Some("bytes=3000-".into())]);
}

#[test]
fn an_empty_cdiff_that_was_not_announced_is_cut_short() {
    let (upstream, program) = behind();
    let held = program.names();
    upstream.set("/test.cvd?version=5", Answer::Hangup);
    for head in [
        "HTTP/1.0 200 OK\nServer: proxy",
        "HTTP/1.1 200 OK\nConnection: close",
        "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0",
    ] {
        upstream.set("/test-4.cdiff", raw(head, b""));
        program.sync().exits(1).says(["/test-4.cdiff: the body ended after 0 B, before its announced end"]);
        assert_eq!(program.names(), held, "{head}");
    }
}

#[test]
fn what_never_left_this_host_was_not_asked() {
    let program = Program::new("http://127.0.0.1:1");
    program.sync().exits(1).says(["http://127.0.0.1:1/test.cvd: Connection refused"]);
    assert_eq!(program.status()["ledger"]["total"], serde_json::json!({}));
    let program = program.set("source", "http://mirror.invalid");
    program.sync().exits(1);
    assert_eq!(program.status()["ledger"]["total"], serde_json::json!({}));
    // One that was sent and not answered was.
    let upstream = Upstream::start();
    upstream.set("/test.cvd", Answer::Hangup);
    let program = program.set("source", &upstream.url());
    program.sync().exits(1);
    assert_eq!(program.status()["ledger"]["total"]["header"]["requests"], 1);
}

#[test]
fn a_record_from_the_future_confirms_nothing() {
    let (upstream, names) = (Upstream::talos(5), NameServer::start());
    let program = Program::new(&upstream.url())
        .set("txt-record", "current.cvd.example.net")
        .set("nameserver", &names.address.to_string());
    let record = |ago_s| names.set("test.cvd.example.net", &format!("5:{}", time_s(ago_s)));
    let confirmed_at_s = || program.status()["databases"][0]["confirmed_at_s"].as_u64().unwrap();
    record(3 * 3600);
    program.sync().exits(0).says(["TXT record"]);
    let at_s = confirmed_at_s();
    assert!(at_s <= time_s(3 * 3600));

    // Neither it nor the file, which is out of reach.
    names.set("test.cvd.example.net", &format!("5:{}", time_s(0) + 86_400));
    upstream.set("/test.cvd", Answer::Hangup);
    program.sync().exits(1).says(["/test.cvd: connection closed before message completed"]);
    assert_eq!(confirmed_at_s(), at_s);
    upstream.move_to(5);
    program.sync().exits(0).says(["header of the file", "behind the TXT record's time"]);
    assert!(confirmed_at_s() > at_s, "the file itself says so now");
}

/// As if its writer's clock were ahead: a directory that nobody fills any more shows as old all the same.
#[test]
fn a_dns_txt_from_the_future_counts_from_when_it_was_written() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("test.cvd"), talos("test-5.cvd")).unwrap();
    let record = dir.path().join("dns.txt");
    let future_s = time_s(0) + 365 * 86_400;
    fs::write(&record, format!("0.0.0:63:28034:{future_s}:0:90:0:339\ntest.cvd 5:{future_s}\n")).unwrap();
    let written = SystemTime::now() - Duration::from_secs(2 * 86_400);
    File::options().write(true).open(&record).unwrap().set_modified(written).unwrap();
    let program = Program::new(&format!("dir:{}", dir.path().display()));
    program.sync().exits(0).says(["behind the time in dns.txt"]);
    let database = &program.status()["databases"][0];
    let confirmed_at_s = database["confirmed_at_s"].as_u64().unwrap();
    assert!(confirmed_at_s.abs_diff(time_s(2 * 86_400)) < 600, "{database}");
    assert_eq!(program.status()["fresh"], false);
}

#[test]
fn what_is_wrong_with_a_certificate_is_said_in_plain_words() {
    let own = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
    let key = own.signing_key.serialize_der().try_into().unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let config = Arc::new(config.with_single_cert(vec![own.cert.der().clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut tls = ServerConnection::new(config.clone()).unwrap();
            while tls.is_handshaking() && tls.complete_io(&mut stream).is_ok() {}
        }
    });
    let fault = "its certificate is of no authority that this machine trusts";
    Program::new(&url).sync().exits(1).says([&format!("{url}/test.cvd: {fault}")]);
}
