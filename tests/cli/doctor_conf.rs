//! What `doctor` finds in a freshclam.conf: each rule with its exact words, and freshclam itself as the witness.
use support::{
    clients::Freshclam,
    program::{Program, Serving},
    talos,
    upstream::Upstream,
    wait_for,
};

/// The findings of `doctor` in a freshclam.conf: what, why, fix.
fn findings(program: &Program, text: &str) -> Vec<[String; 3]> {
    let path = program.dir.path().join("freshclam.conf");
    std::fs::write(&path, text).unwrap();
    let ran = program.run(&["doctor", "--json", "--freshclam-conf", path.to_str().unwrap()]);
    let report: serde_json::Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran}"));
    let checks = report["checks"].as_array().unwrap();
    let any = checks.iter().any(|check| !check["findings"].as_array().unwrap().is_empty());
    assert_eq!(ran.code, Some(i32::from(any)), "{ran}");
    let check = checks.iter().find(|check| check["about"] == "freshclam.conf").unwrap();
    let word = |finding: &serde_json::Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let found = check["findings"].as_array().unwrap().iter();
    found.map(|finding| ["what", "why", "fix"].map(|key| word(finding, key))).collect()
}

/// A mirror whose source is a directory with the database `test` up to version 5.
fn mirror() -> (Program, tempfile::TempDir) {
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("test.cvd"), talos("test-5.cvd")).unwrap();
    (Program::new(&format!("dir:{}", source.path().display())).set("listen", "127.0.0.1:18080"), source)
}

const SPEAKS_HTTP: &str =
    "freshclam takes https:// then, and this mirror speaks plain HTTP: every update fails with an SSL error";
const NO_RECORD: &str =
    "this mirror answers no record (dns_listen): what that one says runs ahead of what can be had here";

#[test]
fn every_rule_says_what_why_and_the_line_to_write() {
    let (program, _source) = mirror();
    let right = "DatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no\n";
    assert_eq!(findings(&program, right), Vec::<[String; 3]>::new());
    let commented = format!("# Example\n#MaxAttempts 1\n\n{right}MaxAttempts 3\nScriptedUpdates yes\n");
    assert_eq!(findings(&program, &commented), Vec::<[String; 3]>::new());
    let cases: &[(&str, [&str; 3])] = &[
        (
            "Example\nDatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no",
            [
                "line 1: `Example` is still in the file",
                "freshclam refuses the whole file while it does",
                "#Example",
            ],
        ),
        (
            "DNSDatabaseInfo no\nDatabaseMirror mirror.lan:18080",
            [
                "line 2: DatabaseMirror mirror.lan:18080 names no scheme",
                SPEAKS_HTTP,
                "DatabaseMirror http://mirror.lan:18080",
            ],
        ),
        (
            "DNSDatabaseInfo no\nDatabaseMirror mirror.lan",
            [
                "line 2: DatabaseMirror mirror.lan names no scheme",
                SPEAKS_HTTP,
                "DatabaseMirror http://mirror.lan:18080",
            ],
        ),
        (
            "DNSDatabaseInfo no\nDatabaseMirror https://mirror.lan:18080",
            [
                "line 2: DatabaseMirror https://mirror.lan:18080 asks for TLS",
                "this mirror speaks plain HTTP on that port: every update fails with an SSL error",
                "DatabaseMirror http://mirror.lan:18080",
            ],
        ),
        (
            "DNSDatabaseInfo no\nDatabaseMirror http://mirror.lan:18080/",
            [
                "line 2: DatabaseMirror http://mirror.lan:18080/ ends with a slash",
                "freshclam asks for //daily.cvd then, which is nobody's name: 404",
                "DatabaseMirror http://mirror.lan:18080",
            ],
        ),
        (
            "PrivateMirror http://mirror.lan:18080\nDNSDatabaseInfo no",
            [
                "line 1: PrivateMirror http://mirror.lan:18080",
                "with it freshclam asks for no CDIFF and no DNS: each version costs the full file",
                "DatabaseMirror http://mirror.lan:18080",
            ],
        ),
        (
            "DatabaseMirror database.clamav.net\nDatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no",
            [
                "line 1: DatabaseMirror database.clamav.net stands before this mirror's (line 2)",
                "freshclam asks them in turn, and this one only when the CDN has failed",
                "DatabaseMirror http://mirror.lan:18080\nDatabaseMirror database.clamav.net",
            ],
        ),
        (
            "DatabaseMirror database.clamav.net",
            [
                "no DatabaseMirror names this mirror",
                "every update comes from the CDN",
                "DatabaseMirror http://127.0.0.1:18080",
            ],
        ),
        (
            "# DatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no",
            [
                "no line names a mirror",
                "freshclam refuses to start: No DatabaseMirror or PrivateMirror servers set",
                "DatabaseMirror http://127.0.0.1:18080\nDNSDatabaseInfo no",
            ],
        ),
        (
            "DatabaseMirror http://mirror.lan:18080",
            [
                "DNSDatabaseInfo is not set, which means current.cvd.clamav.net",
                NO_RECORD,
                "DNSDatabaseInfo no",
            ],
        ),
        (
            "DatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo current.cvd.example.net",
            ["line 2: DNSDatabaseInfo current.cvd.example.net", NO_RECORD, "DNSDatabaseInfo no"],
        ),
        (
            "DatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no\nScriptedUpdates No",
            [
                "line 3: ScriptedUpdates No",
                "without CDIFFs each version costs the full file",
                "ScriptedUpdates yes",
            ],
        ),
        (
            "DatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no\nMaxAttempts 1",
            [
                "line 3: MaxAttempts 1",
                "a full CVD that is older than what is advertised is brought up to date by the second attempt",
                "MaxAttempts 3",
            ],
        ),
        (
            "DatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no\nConnectTimeout 1",
            [
                "line 3: ConnectTimeout 1",
                "a busy line or a mirror that restarts takes longer, and the update fails",
                "ConnectTimeout 10",
            ],
        ),
        (
            "DatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no\nReceiveTimeout 30",
            [
                "line 3: ReceiveTimeout 30",
                "it bounds a whole download, and a full CVD has 155 MiB: over a slow line none ever arrives",
                "ReceiveTimeout 0",
            ],
        ),
    ];
    for (conf, expected) in cases {
        assert_eq!(findings(&program, conf), [expected.map(str::to_owned)], "{conf}");
    }
}

#[test]
fn a_record_that_the_mirror_answers_is_the_one_to_ask_for() {
    let (program, _source) = mirror();
    let program = program.set("dns-listen", "127.0.0.1:15353").set("dns-zone", "mirror.lan");
    let conf = |line: &str| format!("DatabaseMirror http://mirror.lan:18080\n{line}\n");
    let right = Vec::<[String; 3]>::new();
    assert_eq!(findings(&program, &conf("DNSDatabaseInfo current.cvd.mirror.lan")), right);
    assert_eq!(findings(&program, &conf("DNSDatabaseInfo no")), right);
    let past = [
        "DNSDatabaseInfo is not set, which means current.cvd.clamav.net",
        "this mirror answers another record: what that one says runs ahead of what can be had here",
        "DNSDatabaseInfo current.cvd.mirror.lan",
    ];
    assert_eq!(findings(&program, &conf("")), [past.map(str::to_owned)]);
    let program = program.set("dns-zone", "clamav.net");
    assert_eq!(findings(&program, &conf("")), right);
}

#[test]
fn a_client_in_fips_mode_needs_sign_files_here() {
    let (program, source) = mirror();
    let conf = "DatabaseMirror http://mirror.lan:18080\nDNSDatabaseInfo no\nFIPSCryptoHashLimits yes\n";
    program.sync().exits(0);
    let expected = [
        "line 3: FIPSCryptoHashLimits yes",
        "such a client takes signed files alone, and no sign file is held of test-5.cvd",
        "FIPSCryptoHashLimits no, or a source with sign files (cvdupdate from 1.2 on fetches them)",
    ];
    assert_eq!(findings(&program, conf), [expected.map(str::to_owned)]);
    let off = conf.replace("Limits yes", "Limits no");
    assert_eq!(findings(&program, &off), Vec::<[String; 3]>::new());
    drop(source);
    let upstream = Upstream::talos(5);
    let (program, _source) = mirror();
    let program = program.set("source", &upstream.url());
    program.sync().exits(0);
    assert_eq!(findings(&program, conf), Vec::<[String; 3]>::new());
}

#[test]
fn a_file_that_cannot_be_read_is_wrong_usage() {
    let (program, _source) = mirror();
    program
        .run(&["doctor", "--freshclam-conf", "/nonexistent/freshclam.conf"])
        .exits(2)
        .says(["--freshclam-conf: /nonexistent/freshclam.conf: No such file"]);
}

/// A mirror that serves version 5, and what its doctor says of these lines with `MIRROR` as its address.
fn serving() -> (Program, tempfile::TempDir, Serving) {
    let (program, source) = mirror();
    let program = program.set("listen", "127.0.0.1:0");
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(5);
    (program, source, server)
}

/// The lines with those replaced that `doctor` proposes.
fn mended(program: &Program, lines: &str) -> String {
    let mut text = lines.to_owned();
    for [what, _, fix] in findings(program, lines) {
        let number: usize = what.strip_prefix("line ").unwrap().split(':').next().unwrap().parse().unwrap();
        let old = lines.lines().nth(number - 1).unwrap();
        text = text.replace(old, &fix);
    }
    text
}

/// freshclam fails on the lines as they are, or does what the finding says; with the fix it updates as it should.
#[test]
fn freshclam_itself_fails_by_each_and_is_mended_by_the_line() {
    let (program, _source, server) = serving();
    let host = server.address.to_string();
    let program = program.set("listen", &host);
    let of = |lines: &str| Freshclam::with(lines);

    let no_scheme = format!("DatabaseMirror {host}\nDNSDatabaseInfo no\n");
    let Some(client) = of(&no_scheme) else { return };
    let ran = client.update(&["--no-dns"]).says(["SSL connect error"]);
    assert_ne!(ran.code, Some(0), "{ran}");
    // The mirror sees it come, too.
    server.says(
        "127.0.0.1 speaks TLS to a port of plain HTTP: if it is a freshclam, write http:// before this",
    );
    of(&mended(&program, &no_scheme)).unwrap().update(&["--no-dns"]).exits(0).says(["updated (version: 5,"]);

    let example = format!("Example\nDatabaseMirror http://{host}\nDNSDatabaseInfo no\n");
    of(&example).unwrap().update(&["--no-dns"]).exits(2).says(["Please edit the example config file"]);
    of(&mended(&program, &example)).unwrap().update(&["--no-dns"]).exits(0).says(["updated (version: 5,"]);

    // As its own message has it, and mended by the lines alone.
    let none = "DNSDatabaseInfo no\n";
    let why = "No DatabaseMirror or PrivateMirror servers set";
    let ran = of(none).unwrap().update(&["--no-dns"]).says([why]);
    assert_ne!(ran.code, Some(0), "{ran}");
    let [[_, said, fix]] = &findings(&program, none)[..] else { panic!() };
    assert!(said.contains(why), "{said}");
    of(fix).unwrap().update(&["--no-dns"]).exits(0).says(["updated (version: 5,"]);

    let slash = format!("DatabaseMirror http://{host}/\nDNSDatabaseInfo no\n");
    let ran = of(&slash).unwrap().update(&["--no-dns"]);
    assert_ne!(ran.code, Some(0), "{ran}");
    of(&mended(&program, &slash)).unwrap().update(&["--no-dns"]).exits(0).says(["updated (version: 5,"]);
}

#[test]
fn a_private_mirror_costs_the_full_file_where_the_proposed_line_costs_patches() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let server = program.serve();
    server.publishes(3);
    let program = program.set("listen", &server.address.to_string());
    let private = format!("PrivateMirror http://{}\nDNSDatabaseInfo no\n", server.address);
    let [broken, right] = [private.clone(), mended(&program, &private)].map(|lines| {
        let client = Freshclam::with(&lines)?;
        client.put("test.cvd", &talos("test-3.cvd"));
        Some(client)
    });
    let (Some(broken), Some(right)) = (broken, right) else { return };
    upstream.move_to(5);
    program.sync().exits(0);
    broken.update(&[]).exits(0).says(["test.cvd updated (version: 5,"]);
    right.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 5,"]);
    let asked = || server.requests().into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    wait_for("the last CDIFF in the log", || asked().contains(&"/test-5.cdiff".into()).then_some(()));
    let asked = asked();
    let first_cdiff = asked.iter().position(|path| path.ends_with(".cdiff")).unwrap();
    assert!(asked[..first_cdiff].contains(&"/test-5.cvd".into()), "{asked:?}");
}
