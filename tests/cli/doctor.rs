//! What `doctor` finds beside freshclam.conf: each rule with its exact words, against a site that breaks it.
use serde_json::json;
use std::path::Path;
use support::{
    name_server::{NameServer, time_s},
    namespace, process,
    program::Program,
    talos,
    upstream::{Answer, Upstream},
    wait_for,
};

/// Everything that `doctor` finds: about, what, why, fix.
fn findings(program: &Program) -> Vec<[String; 4]> {
    let ran = program.run(&["doctor", "--json"]);
    let report: serde_json::Value =
        serde_json::from_str(&ran.stdout).unwrap_or_else(|e| panic!("{e}: {ran}"));
    let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let mut found = Vec::new();
    for check in report["checks"].as_array().unwrap() {
        for finding in check["findings"].as_array().unwrap() {
            assert!(finding["severity"].is_string() && finding["kind"].is_string(), "{finding}");
            found.push([&check["about"], &finding["what"], &finding["why"], &finding["fix"]].map(word));
        }
    }
    assert_eq!(ran.code, Some(i32::from(!found.is_empty())), "{ran}");
    found
}

#[track_caller]
fn assert_finds(program: &Program, expected: &[[&str; 4]]) {
    let expected: Vec<[String; 4]> = expected.iter().map(|finding| finding.map(str::to_owned)).collect();
    assert_eq!(findings(program), expected);
}

const NOTHING_NEWER: &str = "nothing newer can be had; what is held stays served, and turns stale";
const FRESHCLAM: &str = "apt install clamav-freshclam\nsource = \"freshclam\"";

#[test]
fn a_site_where_all_is_well_has_no_findings_and_nothing_is_changed() {
    let (upstream, names) = (Upstream::talos(5), NameServer::start());
    upstream.tells_time(0);
    names.set("test.cvd.example.net", &format!("5:{}", time_s(60)));
    let program = Program::new(&upstream.url())
        .set("txt-record", "current.cvd.example.net")
        .set("nameserver", &names.address.to_string());
    program.run(&["doctor"]).exits(0).says([
        "source: test is at version 5\n",
        "TXT record: current.cvd.example.net says test 5\n",
        "clock: agrees with the source\n",
        "data directory: ",
        "is made at the first start\n",
        "no findings\n",
    ]);
    assert!(!program.data().exists());
    assert_eq!(upstream.targets(), ["/test.cvd"]);
}

/// The sources of a site: another mirror, and a directory. Neither has a TXT record, nor need it have one.
#[test]
fn a_healthy_mirror_of_a_source_of_the_sites_own_is_well_everywhere() {
    let upstream = Upstream::talos(5);
    let first = Program::new(&upstream.url());
    let first = first.serve();
    first.publishes(5);
    let files = tempfile::tempdir().unwrap();
    for name in ["test-5.cvd", "test-5.cdiff"] {
        std::fs::write(files.path().join(name), talos(name)).unwrap();
    }
    for source in [first.url(), format!("dir:{}", files.path().display())] {
        // With the record that is the default for such a source.
        let program = Program::new(&source).set("txt-record", "");
        let server = program.serve();
        server.publishes(5);
        program.run(&["doctor"]).exits(0).says(["no findings\n"]);
        let fresh = |ran: &process::Ran| ran.stdout.contains("\nfresh\n") && !ran.stdout.contains("trouble");
        wait_for("a fresh status", || fresh(&program.run(&["status"]).exits(0)).then_some(()));
        assert_eq!(server.get("/health").text(), "fresh\n");
        let status = program.status();
        assert_eq!((&status["troubles"], &status["remarks"]), (&json!([]), &json!([])), "{source}");
        assert!(status["next_check_in_s"].as_u64().is_some_and(|next_s| next_s <= 3960), "{status}");
    }
}

#[test]
fn what_a_source_answers_instead_of_a_database() {
    let url = |upstream: &Upstream| format!("{}/test.cvd", upstream.url());
    let upstream = Upstream::start();
    let program = Program::new(&upstream.url());
    let told = url(&upstream);
    assert_finds(
        &program,
        &[[
            "source",
            &format!("{told}: not there"),
            "this database is configured and cannot be had",
            "a source that has test.cvd, or database = [...] without test",
        ]],
    );
    upstream.set("/test.cvd", Answer::File(b"<html>Please log in</html>".repeat(40)));
    let found = findings(&program);
    let [about, what, why, fix] = &found[0];
    assert_eq!((found.len(), about.as_str()), (1, "source"));
    assert!(what.starts_with(&told), "{what}");
    assert_eq!(why, "what answers is no mirror, or a proxy's page in its place");
    assert_eq!(fix, "source = \"URL\" of the directory that holds the CVDs, or an exception in the proxy");
    upstream.set("/test.cvd", Answer::Status(403, String::new(), Vec::new()));
    let left_alone = "asking on would prolong it, so the source is left alone";
    let refused = format!("{told}: the source refuses this client (403)");
    assert_finds(&program, &[["source", &refused, left_alone, FRESHCLAM]]);
    upstream.set("/test.cvd", Answer::Status(503, String::new(), Vec::new()));
    let reach =
        format!("open the way (firewall, https_proxy=URL), or start the source:\ncurl -I {told} must answer");
    assert_finds(
        &program,
        &[["source", &format!("{told}: answered HTTP status 503"), NOTHING_NEWER, &reach]],
    );
    upstream.set("/test.cvd", Answer::Redirect("http://cdn.example.net/test.cvd".into()));
    let elsewhere = "redirects to cdn.example.net, which is not followed: it is not the source, and not in redirect_hosts";
    assert_finds(
        &program,
        &[[
            "source",
            &format!("{told}: {elsewhere}"),
            "a redirect decides whom this machine asks, so only hosts that are known are followed to",
            "source = \"URL\" of where it leads, or redirect_hosts = [\"HOST\"] if that host is trusted",
        ]],
    );
}

#[test]
fn a_ban_that_the_server_sits_out_is_not_prolonged() {
    let upstream = Upstream::start();
    upstream.set("/test.cvd", Answer::Status(429, "Retry-After: 3600\r\n".into(), Vec::new()));
    let program = Program::new(&upstream.url());
    let server = program.serve();
    server.says("checked");
    upstream.asked();
    let found = findings(&program);
    let what = &found[0][1];
    assert!(what.contains("not asked for another") && what.contains("limits this client (429)"), "{what}");
    assert_eq!((found.len(), found[0][3].as_str()), (1, FRESHCLAM));
    assert_eq!(upstream.targets(), Vec::<String>::new());
}

#[test]
fn a_directory_that_is_no_source() {
    let source = tempfile::tempdir().unwrap();
    let at = |name: &str| source.path().join(name).display().to_string();
    let program = Program::new(&format!("dir:{}", at("none")));
    let missing = format!("{}: No such file or directory", at("none"));
    assert_finds(
        &program,
        &[["source", &missing, NOTHING_NEWER, "source = \"dir:PATH\" of a directory that is there"]],
    );
    let program = program.set("source", &format!("dir:{}", source.path().display()));
    std::fs::write(at("test.cld"), talos("test-5.cvd")).unwrap();
    assert_finds(
        &program,
        &[[
            "source",
            &format!("{}: not there, but test.cld is", at("test.cvd")),
            "freshclam patched its CVD into a CLD, which carries no signature and is not taken",
            "ScriptedUpdates no, in the freshclam.conf that fills this directory",
        ]],
    );
    std::fs::write(at("test.cvd"), talos("test-5.cvd")).unwrap();
    std::fs::write(at("dns.txt"), format!("1.4.6:63:28034:{}:1:90:49192:339", time_s(259_300))).unwrap();
    assert_finds(
        &program,
        &[[
            "source",
            &format!("{}: written 3 days ago", at("dns.txt")),
            "what fills this directory has not run since: nothing newer comes",
            "0 * * * * cvdupdate update, in its user's crontab",
        ]],
    );
    std::fs::write(at("dns.txt"), format!("1.4.6:63:28034:{}:1:90:49192:339", time_s(60))).unwrap();
    assert_finds(&program, &[]);
}

#[test]
fn a_record_that_does_not_agree_with_the_source() {
    const OTHERS: &str = "nameserver = \"9.9.9.9\", or txt_record = \"none\"";
    let (upstream, names) = (Upstream::talos(3), NameServer::start());
    let program = Program::new(&upstream.url())
        .set("txt-record", "current.cvd.example.net")
        .set("nameserver", &names.address.to_string());
    // A database without a field in the main record need not have one of its own.
    assert_finds(&program, &[]);
    names.set("test.cvd.example.net", "v=spf1 -all");
    let found = findings(&program);
    assert_eq!((found.len(), found[0][0].as_str()), (1, "TXT record"));
    assert!(found[0][1].starts_with("TXT record test.cvd.example.net: "), "{found:?}");
    assert_eq!(found[0][2], "each round asks the files' headers instead, and waits for the answer first");
    assert_eq!(found[0][3], "nameserver = \"IP\" of one that answers, or txt_record = \"none\"");
    let cases: &[(u32, u64, Option<[&str; 3]>)] = &[
        (3, 60, None),
        // Ahead of the file by a few versions it may be.
        (5, 60, None),
        (
            2,
            60,
            Some([
                "current.cvd.example.net says test 2, the source has 3",
                "the record is another source's, or kept by a resolver on the way: new versions are noticed late",
                OTHERS,
            ]),
        ),
        (
            90,
            60,
            Some([
                "current.cvd.example.net says test 90, the source has 3",
                "the record speaks of versions that this source does not have",
                "txt_record = \"none\", or the record that belongs to the source",
            ]),
        ),
        (
            3,
            260_000,
            Some([
                "current.cvd.example.net is 3 days old",
                "a resolver on the way keeps an old record, or this clock is wrong: it is not believed",
                OTHERS,
            ]),
        ),
    ];
    for (version, age_s, expected) in cases {
        names.set("test.cvd.example.net", &format!("{version}:{}", time_s(*age_s)));
        let expected: Vec<[&str; 4]> = expected.iter().map(|[a, b, c]| ["TXT record", *a, *b, *c]).collect();
        assert_finds(&program, &expected);
    }
    // A record from the future is a clock that is wrong, this one or the record's.
    names.set("test.cvd.example.net", &format!("3:{}", time_s(0) + 91_800));
    let what = "this machine's clock is 25 h behind the TXT record's time";
    let why = "the age of records and the validity of certificates are judged by it";
    assert_finds(&program, &[["clock", what, why, "timedatectl set-ntp true"]]);
    program.sync().exits(0).says([what]);
}

#[test]
fn an_address_that_is_not_this_hosts() {
    let upstream = Upstream::talos(5);
    // TEST-NET-1 (RFC 5737) is nobody's.
    let program = Program::new(&upstream.url()).set("listen", "192.0.2.1:8080");
    assert_finds(
        &program,
        &[[
            "ports",
            "listen 192.0.2.1:8080: this host has no such address",
            "serve does not start while one of its addresses cannot be bound",
            "listen = [\"0.0.0.0:8080\"]",
        ]],
    );
    let program =
        program.set("listen", "127.0.0.1:0").set("dns-listen", "192.0.2.1:53").set("dns-zone", "a.b");
    let found = findings(&program);
    assert_eq!(found[0][1], "dns_listen 192.0.2.1:53: this host has no such address");
    assert_eq!(found[0][3], "dns_listen = \"0.0.0.0:53\"");
}

#[test]
fn certificates_that_do_not_do() {
    let upstream = Upstream::talos(5);
    let certs = tempfile::tempdir().unwrap();
    let dir = certs.path().display().to_string();
    let program = Program::new(&upstream.url()).set("certs-dir", &dir);
    let why = "no new sign file is taken, so clients in FIPS mode refuse what they are offered; others take every \
               file without one";
    let none = format!("{dir}: no certificate in any *.pem or *.crt; ClamAV's own are in /etc/clamav/certs");
    assert_finds(&program, &[["certs", &none, why, "certs_dir = \"/etc/clamav/certs\""]]);

    let path = certs.path().join("old.pem");
    let mut expired = rcgen::CertificateParams::new(Vec::new()).unwrap();
    expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
    expired.not_before = rcgen::date_time_ymd(2000, 1, 1);
    expired.distinguished_name.push(rcgen::DnType::CommonName, "Old Root");
    let key = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&path, expired.self_signed(&key).unwrap().pem()).unwrap();
    assert_finds(
        &program,
        &[[
            "certs",
            &format!("{dir}: certificate CN=Old Root: expired"),
            "sign files that lead to it are refused, here and by ClamAV itself",
            "bring ClamAV's certificates up to date (its packages bring them), or set the clock right",
        ]],
    );
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let found = findings(&program);
    assert!(found[0][1].contains("old.pem: certificate 1 cannot be read"), "{found:?}");
    assert_eq!(found[0][3], format!("put a certificate in PEM into {}, or move it away", path.display()));
}

#[test]
fn a_data_directory_that_is_a_file() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    std::fs::write(program.data(), "x").unwrap();
    assert_finds(
        &program,
        &[[
            "data directory",
            &format!("{} is no directory", program.data().display()),
            "nothing new can be stored; what is held stays served",
            "data_dir = \"/var/lib/cvdmirror\"",
        ]],
    );
}

/// As when root did a round before the service first started. Only root can make it so.
#[test]
fn a_file_that_is_anothers_in_the_data_directory() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let (data, state) = (program.data(), program.data().join("state.redb"));
    if !rustix::process::geteuid().is_root() {
        return;
    }
    std::os::unix::fs::chown(&state, Some(65_534), None).unwrap();
    assert_finds(
        &program,
        &[[
            "data directory",
            &format!("{} belongs to another user than {}", state.display(), data.display()),
            "a server that runs as the directory's owner cannot open it, and does not start",
            &format!("chown -R --reference={0} {0} (as root)", data.display()),
        ]],
    );
}

/// A lock whose holder does not answer on its socket is somebody's sync, or hangs.
#[test]
fn who_holds_the_data_directory_is_said() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let lock = std::fs::File::options().read(true).write(true).open(program.data().join("lock")).unwrap();
    lock.lock().unwrap();
    std::fs::write(program.data().join("lock"), "4711\n").unwrap();
    program.run(&["doctor"]).exits(0).says(["in use by process 4711: a sync is at work"]);
    // A socket that nobody may speak through, or that answers nonsense.
    let socket = std::os::unix::net::UnixListener::bind(program.data().join("control")).unwrap();
    std::thread::spawn(move || socket.incoming().for_each(drop));
    let found = findings(&program);
    assert!(found[0][1].starts_with("in use by process 4711, which does not answer: "), "{found:?}");
    assert_eq!(found[0][2], "status, sync and gc cannot ask it");
    assert_eq!(found[0][3], "run this as the user of process 4711, or restart it if it hangs");
}

fn mount(args: &[&str], at: &Path) {
    process::run(std::process::Command::new("mount").args(args).arg(at)).exits(0);
}

#[test]
fn a_data_directory_on_file_systems_that_do_not_do() {
    if !namespace::inside("a_data_directory_on_file_systems_that_do_not_do") {
        return;
    }
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let (store, tmp) = (program.data().join("store"), program.data().join("tmp"));
    mount(&["-t", "tmpfs", "none"], &tmp);
    assert_finds(
        &program,
        &[[
            "data directory",
            &format!("{} and {} are on two file systems", store.display(), tmp.display()),
            "a pack is built in the one and renamed into the other, which cannot be done across file systems",
            &format!("mount at {} instead, so that it holds both", program.data().display()),
        ]],
    );
    // A sync says so too, when it comes to it.
    let fresh = Program::new(&upstream.url());
    std::fs::create_dir_all(fresh.data().join("store")).unwrap();
    mount(&["-t", "tmpfs", "none"], &fresh.data().join("store"));
    fresh
        .sync()
        .exits(1)
        .says(["store/ and tmp/ must be on one file system: mount it at the data directory, not inside it"]);
    mount(&["-o", "remount,ro"], &tmp);
    let found = findings(&program);
    assert_eq!(found[0][1], format!("{}: Read-only file system", tmp.display()));
    assert_eq!(
        found[0][3],
        format!("remount the file system of {} to be writable, or give another --data-dir", tmp.display())
    );
}
