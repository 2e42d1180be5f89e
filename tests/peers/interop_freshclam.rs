//! Stock freshclam against the real binary, on Talos' own files.
use support::{
    clients::Freshclam,
    name_server::{NameServer, time_s},
    namespace,
    program::{Program, Serving},
    talos,
    upstream::{Answer, Upstream},
    wait_for,
};

/// A server that has published version `version` of `test`.
fn serving(program: &Program, version: u64) -> Serving {
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(version);
    server
}

/// The requests, once there are as many as expected; the log is written a moment after an answer is sent.
#[track_caller]
fn assert_requests(server: &Serving, expected: &[(&str, u16)]) {
    let expected: Vec<(String, u16)> =
        expected.iter().map(|(path, status)| (path.to_string(), *status)).collect();
    wait_for("the last request in the log", || (server.requests().len() >= expected.len()).then_some(()));
    assert_eq!(server.requests(), expected);
}

#[test]
fn installs_through_the_redirect_and_moves_on_by_cdiffs() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("check-interval", "200ms");
    let server = serving(&program, 3);
    let Some(client) = Freshclam::of(&server.url()) else { return };

    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 3,"]);
    assert_eq!(client.version(), Some(3));
    let fresh = [("/test.cvd", 302), ("/test-3.cvd", 206), ("/test.cvd", 302), ("/test-3.cvd", 200)];
    assert_requests(&server, &fresh);

    // Nobody asks for a round: the server finds the new version by itself.
    upstream.move_to(5);
    server.publishes(5);
    client.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 5,"]);
    let by_cdiffs =
        [("/test.cvd", 302), ("/test-5.cvd", 206), ("/test-4.cdiff", 200), ("/test-5.cdiff", 200)];
    assert_requests(&server, &[&fresh[..], &by_cdiffs[..]].concat());
    // The page for people quotes this run, under the names that everybody knows.
    for (target, status) in &server.requests()[fresh.len()..] {
        let known = target.replace("test-4", "daily-28109").replace("test-5", "daily-28110");
        let line = format!("GET {:<20} {status}", known.replace("test", "daily"));
        println!("{line}");
        assert!(include_str!("../../packaging/doc/how-it-works.md").contains(&line), "{line}");
    }

    client.update(&["--no-dns"]).exits(0).says(["test.cld database is up-to-date (version: 5,"]);
    let up_to_date = [("/test.cvd", 302), ("/test-5.cvd", 304)];
    assert_requests(&server, &[&fresh[..], &by_cdiffs[..], &up_to_date[..]].concat());
}

#[test]
fn direct_aliases_serve_the_same_without_a_redirect() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("aliases", "direct");
    let server = serving(&program, 3);
    let Some(client) = Freshclam::of(&server.url()) else { return };
    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 3,"]);
    upstream.move_to(5);
    program.sync().exits(0);
    client.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 5,"]);
    client.update(&["--no-dns"]).exits(0).says(["up-to-date (version: 5,"]);
    assert_requests(
        &server,
        &[
            ("/test.cvd", 206),
            ("/test.cvd", 200),
            ("/test.cvd", 206),
            ("/test-4.cdiff", 200),
            ("/test-5.cdiff", 200),
            ("/test.cvd", 304),
        ],
    );
}

#[test]
fn a_private_mirror_gets_the_full_file_each_time() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    let server = serving(&program, 3);
    let Some(client) = Freshclam::with(&format!("PrivateMirror {}\n", server.url())) else { return };
    client.update(&[]).exits(0).says(["test.cvd updated (version: 3,"]);
    upstream.move_to(5);
    program.sync().exits(0);
    client.update(&[]).exits(0).says(["test.cvd updated (version: 5,"]);
    assert_eq!(client.version(), Some(5));
    client.update(&[]).exits(0).says(["up-to-date"]);
    for (path, status) in server.requests() {
        match path.as_str() {
            "/test.cld" => assert_eq!(status, 404),
            "/test.cvd" => assert_eq!(status, 302),
            "/test-3.cvd" | "/test-5.cvd" => assert!(matches!(status, 200 | 206 | 304), "{path} {status}"),
            _ => panic!("{path}"),
        }
    }
}

#[test]
fn a_private_mirror_takes_the_published_cld_and_a_database_mirror_does_not_ask_for_it() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("publish-cld", "true");
    let server = serving(&program, 3);
    wait_for("the CLD", || (server.get("/test.cld").status == 302).then_some(()));
    let Some(client) = Freshclam::with(&format!("PrivateMirror {}\n", server.url())) else { return };
    client.update(&[]).exits(0).says(["test.cld updated (version: 3,"]);
    upstream.move_to(5);
    program.sync().exits(0);
    client.update(&[]).exits(0).says(["test.cld updated (version: 5,"]);
    client.update(&[]).exits(0).says(["up-to-date"]);
    let cld = server.get("/test-5.cld").body;
    assert!(std::fs::read(client.dir.path().join("db/test.cld")).unwrap() == cld);
    let requests = server.requests();
    for (path, status) in &requests {
        match path.as_str() {
            "/test.cld" => assert_eq!(*status, 302),
            "/test-3.cld" | "/test-5.cld" => assert!(matches!(status, 200 | 206 | 304), "{path} {status}"),
            _ => panic!("{path} {status}"),
        }
    }
    let Some(client) = Freshclam::of(&server.url()) else { return };
    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 5,"]);
    let since = server.requests().split_off(requests.len());
    assert!(since.iter().all(|(path, _)| !path.contains(".cld")), "{since:?}");
}

#[test]
fn a_client_two_versions_behind_patches_through_the_backfill() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    let server = serving(&program, 5);
    let Some(client) = Freshclam::of(&server.url()) else { return };
    client.put("test.cvd", &talos("test-3.cvd"));
    client.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 5,"]);
    assert_requests(
        &server,
        &[("/test.cvd", 302), ("/test-5.cvd", 206), ("/test-4.cdiff", 200), ("/test-5.cdiff", 200)],
    );
}

#[test]
fn a_client_whose_cdiff_is_absent_takes_the_full_file() {
    let upstream = Upstream::talos(5);
    upstream.remove("/test-4.cdiff");
    let program = Program::new(&upstream.url());
    let server = serving(&program, 5);
    let Some(client) = Freshclam::of(&server.url()) else { return };
    client.put("test.cvd", &talos("test-3.cvd"));
    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 5,"]);
    assert_eq!(client.version(), Some(5));
    let requests = server.requests();
    assert!(requests.contains(&("/test-4.cdiff".into(), 404)), "{requests:?}");
    assert!(requests.contains(&("/test-5.cvd".into(), 200)), "{requests:?}");
    assert!(!requests.iter().any(|(path, _)| path == "/test-5.cdiff"), "{requests:?}");
}

/// freshclam asks the system's resolver on port 53, and `test.cvd.clamav.net` for the database `test`.
#[test]
fn freshclam_follows_the_mirrors_own_record() {
    if !namespace::inside("freshclam_follows_the_mirrors_own_record") {
        return;
    }
    // What the upstream's own name server says is asked elsewhere.
    let names = NameServer::start();
    names.set("test.cvd.example.net", &format!("3:{}", time_s(60)));
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url())
        .set("txt-record", "current.cvd.example.net")
        .set("nameserver", &names.address.to_string())
        .set("dns-listen", "127.0.0.1:53")
        .set("dns-zone", "clamav.net");
    let server = program.serve();
    server.publishes(3);
    program.sync().exits(0);
    let lines = format!("DatabaseMirror {}\nDNSDatabaseInfo current.cvd.clamav.net\n", server.url());
    let Some(client) = Freshclam::with(&lines) else { return };
    client
        .update(&[])
        .exits(0)
        .says(["test.cvd updated (version: 3,"])
        .never_says("Falling back to HTTP mode");

    // The record and the CDIFFs move on, the edge's file does not: clients get the new version all the same.
    upstream.move_to(5);
    upstream.set("/test.cvd", Answer::File(talos("test-3.cvd")));
    names.set("test.cvd.example.net", &format!("5:{}", time_s(60)));
    program.sync().exits(0).says(["3 -> 5 published (full CVD 3, patches to 5)"]);
    client.update(&[]).exits(0).says(["test.cld updated (version: 5,"]);
    client.update(&[]).exits(0).says(["up-to-date (version: 5,"]);
    let requests: Vec<String> = server.requests().into_iter().map(|(path, _)| path).collect();
    assert_eq!(requests, ["/test.cvd", "/test-3.cvd", "/test-4.cdiff", "/test-5.cdiff"]);

    // A client that comes now starts from the full file and patches.
    let Some(client) = Freshclam::with(&lines) else { return };
    let ran = client.update(&[]);
    assert_eq!(client.version(), Some(5), "{ran}");
}
