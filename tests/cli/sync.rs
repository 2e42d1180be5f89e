//! What a round takes from an upstream, what it leaves, and what it says.
use cvdmirror::{
    clock::Clock,
    source::{
        Doubt, FetchLimits, Intake, Silent,
        budget::{Book, RequestKind},
        http::{HttpSource, Upstream as SourceUpstream},
        ledger::Ledger,
        txt::TxtResolver,
    },
};
use std::sync::Arc;
use support::{
    mint::Mint,
    name_server::{NameServer, time_s},
    program::Program,
    talos,
    upstream::{Answer, Upstream},
    wait_for,
};

/// The names of versions of `test`, each with its sign file, as `store ls` has them.
fn names(files: &[&str]) -> Vec<String> {
    let mut names: Vec<String> =
        files.iter().flat_map(|name| [format!("test-{name}"), format!("test-{name}.sign")]).collect();
    names.sort();
    names
}

/// Everything that leads to `version` from version 1.
fn all_to(version: u32) -> Vec<String> {
    let cdiffs = (2..=version).map(|step| format!("{step}.cdiff"));
    let files: Vec<String> = cdiffs.chain([format!("{version}.cvd")]).collect();
    names(&files.iter().map(String::as_str).collect::<Vec<_>>())
}

#[test]
fn a_fresh_mirror_takes_the_newest_cvd_and_the_cdiffs_that_led_to_it() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0).says(["nothing -> 5 published"]);
    assert_eq!(program.names(), all_to(5));
    for name in program.names() {
        assert!(program.cat(&name) == talos(&name), "{name}");
    }
}

#[test]
fn an_absent_cdiff_ends_the_backfill() {
    let upstream = Upstream::talos(5);
    upstream.remove("/test-3.cdiff");
    let program = Program::new(&upstream.url());
    program.sync().exits(0).says(["test-3.cdiff                 absent"]);
    assert_eq!(program.names(), names(&["4.cdiff", "5.cdiff", "5.cvd"]));
    assert!(!upstream.targets().contains(&"/test-2.cdiff".into()));
}

#[test]
fn the_backfill_is_bounded() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url()).set("backfill", "1");
    program.sync().exits(0);
    assert_eq!(program.names(), names(&["5.cdiff", "5.cvd"]));
    let program = Program::new(&upstream.url()).set("backfill", "0");
    program.sync().exits(0);
    assert_eq!(program.names(), names(&["5.cvd"]));
}

#[test]
fn a_second_round_fetches_nothing_again() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    upstream.asked();
    program.sync().exits(0).says(["5 published"]);
    let asked = upstream.asked();
    let [probe] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!((probe.target.as_str(), probe.range.as_deref()), ("/test.cvd", Some("bytes=0-511")));
    assert!(probe.agent.starts_with("cvdmirror/"), "{}", probe.agent);
}

#[test]
fn after_the_cdiffs_the_full_cvd_is_rebuilt_from_its_header() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    upstream.asked();
    upstream.move_to(5);
    let rebuilt = ["test-5.cvd                   rebuilt", "iB  rebuilt from version 3"];
    program.sync().exits(0).says(["3 -> 5 published", rebuilt[0], rebuilt[1]]);
    assert!(program.cat("test-5.cvd") == talos("test-5.cvd"));
    let asked = upstream.asked();
    let (cvds, others): (Vec<_>, Vec<_>) = asked.iter().partition(|a| a.target.starts_with("/test.cvd"));
    assert!(!cvds.is_empty() && cvds.iter().all(|a| a.range.as_deref() == Some("bytes=0-511")), "{cvds:?}");
    let others: Vec<&str> = others.iter().map(|a| a.target.as_str()).collect();
    let fetched =
        ["/test-4.cdiff", "/test-4.cdiff.sign", "/test-5.cdiff", "/test-5.cdiff.sign", "/test-5.cvd.sign"];
    assert_eq!(others, fetched);
}

#[test]
fn an_upstream_that_ignores_ranges_will_do() {
    let upstream = Upstream::talos(3);
    upstream.set("/test.cvd", Answer::Whole(talos("test-3.cvd")));
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    upstream.move_to(5);
    upstream.set("/test.cvd", Answer::Whole(talos("test-5.cvd")));
    program.sync().exits(0).says(["rebuilt"]);
    assert_eq!(program.version(), Some(5));
}

#[test]
fn where_a_rebuild_gives_other_bytes_the_full_cvd_is_fetched() {
    let mint = Mint::new(5);
    let mut lineage = mint.database("test");
    let upstream = Upstream::start();
    upstream.release("test", &lineage.publish());
    let program = Program::new(&upstream.url()).trusting(&mint.keys_toml());
    program.sync().exits(0);
    let second = lineage.publish();
    upstream.release("test", &second);
    // Signed all right, but for a body that another zlib made.
    let header = Answer::File(lineage.repacked_header());
    upstream.set("/test.cvd", Answer::Split(header.into(), Answer::File(second.cvd.clone()).into()));
    program.sync().exits(0).says([
        "1 -> 2 published",
        "not rebuilt: ",
        "test-2.cvd                   stored",
    ]);
    assert!(program.cat("test-2.cvd") == second.cvd);
}

/// Asks the TXT record, as with the CDN.
fn with_record(upstream: &Upstream, names: &NameServer) -> Program {
    Program::new(&upstream.url())
        .set("txt-record", "current.cvd.example.net")
        .set("nameserver", &names.address.to_string())
}

#[test]
fn the_txt_record_names_the_newest_version() {
    let upstream = Upstream::talos(5);
    let names = NameServer::start();
    names.set("test.cvd.example.net", &format!("5:{}", time_s(60)));
    let program = with_record(&upstream, &names);
    program.sync().exits(0).says(["the source says 5 (TXT record)"]);
    assert_eq!(program.names(), all_to(5));
    // While the record does not move, the file is not asked at all.
    upstream.asked();
    program.sync().exits(0);
    assert_eq!(upstream.targets(), Vec::<String>::new());
}

#[test]
fn a_file_behind_its_record_is_bound_to_what_it_is() {
    let upstream = Upstream::talos(4);
    let names = NameServer::start();
    names.set("test.cvd.example.net", &format!("5:{}", time_s(60)));
    let program = with_record(&upstream, &names);
    program.sync().exits(1).says([
        "test-4.cvd                   stored ",
        "asked for 5, got 4",
        "version 5 cannot be had yet; 4 stays published",
    ]);
    assert_eq!(program.names(), all_to(4));
    assert_eq!(program.version(), Some(4));
    assert!(upstream.targets().contains(&"/test.cvd?version=5".into()));

    // The CDIFF is there before the file: clients can follow it at once.
    upstream.file("test-5.cdiff", talos("test-5.cdiff"));
    program.sync().exits(0).says(["4 -> 5 published (full CVD 4, patches to 5)"]);
    let of_it = |key: &str| program.status()["databases"][0][key].clone();
    assert_eq!((of_it("cvd"), of_it("without_dns")), (4.into(), 4.into()));
    program.run(&["status"]).exits(0).says(["clients without DNS stay at 4 until", "TXT record get 5\n"]);

    upstream.move_to(5);
    program.sync().exits(0).says(["test-5.cvd                   rebuilt"]);
    assert_eq!((of_it("cvd"), of_it("without_dns")), (5.into(), serde_json::Value::Null));
    assert!(!program.run(&["status"]).exits(0).stdout.contains("without DNS"));
}

/// Who holds back both record and files freezes the mirror: what is confirmed grows old all the same.
#[test]
fn a_build_that_is_too_old_is_said_everywhere_though_it_is_confirmed() {
    let upstream = Upstream::talos(5);
    for (limit, frozen) in [("test:1h", true), ("test:off", false), ("", false)] {
        let program = Program::new(&upstream.url()).set("max-build-age", limit);
        let server = program.serve();
        server.publishes(5);
        let health = wait_for("a confirmation", || {
            let health = server.get("/health");
            health.text().starts_with("fresh").then_some(health)
        });
        // It serves the newest there is: no other mirror would do better.
        assert_eq!(health.status, 200);
        assert_eq!(
            health.text().contains("\ntest: the newest version was built "),
            frozen,
            "{}",
            health.text()
        );
        assert_eq!(server.get("/").text().contains("the newest version was built "), frozen);
        let metric = format!("cvdmirror_database_frozen{{database=\"test\"}} {}\n", u8::from(frozen));
        assert!(server.get("/metrics").text().contains(&metric), "{metric}");
        let status = program.status();
        assert_eq!(status["databases"][0]["frozen_s"].as_u64().is_some(), frozen, "{status}");
        assert_eq!(status["troubles"][0]["trouble"]["kind"] == "frozen", frozen, "{status}");
        program.run(&["status", "--check", "fresh"]).exits(0);
    }
}

#[tokio::test]
async fn the_file_is_looked_at_now_and_then_though_its_record_agrees() {
    let (upstream, names) = (Upstream::talos(3), NameServer::start());
    let clock = Clock::simulated(1_800_000_000);
    let intake = Intake { limits: FetchLimits::default(), progress: Arc::new(Silent) };
    let txt = TxtResolver::new("current.cvd.example.net", Some(names.address));
    let (base, redirect_hosts, login) = (upstream.url().parse().unwrap(), Vec::new(), None);
    let to = SourceUpstream { base, redirect_hosts, login, user_agent: "test".into() };
    let ledger = Ledger::new(Book::default(), clock.clone(), |_| {});
    let source = HttpSource::new(to, Some(txt), intake, ledger).unwrap();
    let test = "test".parse().unwrap();
    let mut seen = Vec::new();
    for hour in 0..9 {
        if hour == 8 {
            upstream.move_to(4);
        }
        names.set("test.cvd.example.net", &format!("3:{}", clock.epoch_s() - 60));
        let newest = source.newest(&test).await.unwrap();
        seen.push((newest.version, upstream.targets().len()));
        let doubts = if hour == 8 { vec![Doubt::Ahead { recorded: 3, found: 4 }] } else { Vec::new() };
        assert_eq!(newest.doubts, doubts, "hour {hour}");
        clock.pass(3600);
    }
    let (no, looked) = ((3, 0), (3, 1));
    assert_eq!(seen, [no, no, no, no, looked, no, no, no, (4, 1)]);
    let asked = source.ledger().book().total[&RequestKind::Header];
    assert_eq!((asked.requests, asked.bytes), (2, 1024));
}

#[test]
fn what_is_older_than_held_is_kept_out() {
    let upstream = Upstream::talos(5);
    let names = NameServer::start();
    names.set("test.cvd.example.net", &format!("5:{}", time_s(60)));
    let program = with_record(&upstream, &names);
    program.sync().exits(0);

    // The file goes back while the record moves on.
    upstream.set("/test.cvd", Answer::File(talos("test-3.cvd")));
    names.set("test.cvd.example.net", &format!("6:{}", time_s(60)));
    program.sync().exits(1).says(["asked for 6, got 3", "5 stays published"]);
    assert_eq!((program.version(), program.names()), (Some(5), all_to(5)));

    // Record and file go back.
    names.set("test.cvd.example.net", &format!("3:{}", time_s(60)));
    program.sync().says(["3 is older than 5 that is held"]);
    assert_eq!((program.version(), program.names()), (Some(5), all_to(5)));

    // Without a record, too.
    let program = program.set("txt-record", "none");
    program.sync().says(["3 is older than 5 that is held"]);
    assert_eq!((program.version(), program.names()), (Some(5), all_to(5)));
}

#[test]
fn without_a_usable_record_the_header_is_asked() {
    let upstream = Upstream::talos(5);
    let names = NameServer::start();
    for (text, remark) in [
        // A record of its own is no database's duty.
        (None, "header of the file"),
        (Some("v=spf1 -all".to_owned()), "TXT record test.cvd.example.net: "),
        (Some(String::new()), "TXT record test.cvd.example.net: "),
        (Some(format!("5:{}", time_s(40 * 3600))), "is 40 h old; the file itself is asked"),
        (Some(format!("99999:{}", time_s(40 * 3600))), "is 40 h old; the file itself is asked"),
    ] {
        match &text {
            Some(text) => names.set("test.cvd.example.net", text),
            None => names.remove("test.cvd.example.net"),
        }
        let program = with_record(&upstream, &names);
        let ran = program.sync().says([remark, "5 published"]);
        assert!(text.is_some() || !ran.stdout.contains("TXT record"), "{ran}");
        if text.is_none_or(|text| !text.starts_with("99999")) {
            ran.exits(0).says(["header of the file"]);
        }
        assert_eq!(program.names(), all_to(5));
    }
}

#[test]
fn an_absurd_record_is_not_followed() {
    let upstream = Upstream::talos(3);
    let names = NameServer::start();
    names.set("test.cvd.example.net", &format!("3:{}", time_s(60)));
    let program = with_record(&upstream, &names);
    program.sync().exits(0);
    upstream.asked();
    names.set("test.cvd.example.net", &format!("4294967295:{}", time_s(60)));
    program.sync().exits(0).says(["says 4294967295, absurdly far ahead; the file itself is asked"]);
    assert_eq!((program.version(), upstream.targets().len()), (Some(3), 1));
}

#[test]
fn a_bad_sign_file_is_left_out_and_its_file_is_not() {
    let upstream = Upstream::talos(5);
    for (version, sign) in [
        // A client process aborts on this one.
        (2, "#clamsign\n".into()),
        (3, "<html>not here</html>".into()),
        (4, String::new()),
    ] {
        upstream.file(&format!("test-{version}.cdiff.sign"), sign.into_bytes());
    }
    let program = Program::new(&upstream.url());
    program.sync().exits(0).says(["test-2.cdiff.sign            REFUSED"]);
    let mut expected = all_to(5);
    expected.retain(|name| {
        !["test-2.cdiff.sign", "test-3.cdiff.sign", "test-4.cdiff.sign"].contains(&name.as_str())
    });
    assert_eq!(program.names(), expected);
}

#[test]
fn a_sign_file_that_comes_later_is_looked_for_again() {
    let upstream = Upstream::talos(5);
    for late in ["/test-5.cvd.sign", "/test-5.cdiff.sign", "/test-4.cdiff.sign"] {
        upstream.remove(late);
    }
    let program = Program::new(&upstream.url());
    program.sync().exits(0).says(["test-5.cvd.sign              absent"]);
    upstream.move_to(5);
    upstream.asked();
    program
        .sync()
        .exits(0)
        .says(["test-5.cvd.sign              stored", "test-5.cdiff.sign            stored"]);
    // Only of what is newest, and once it is there no more.
    assert_eq!(upstream.targets(), ["/test.cvd", "/test-5.cvd.sign", "/test-5.cdiff.sign"]);
    assert!(program.cat("test-5.cvd.sign") == talos("test-5.cvd.sign"));
    program.sync().exits(0);
    assert_eq!(upstream.targets(), ["/test.cvd"]);
    // It must sign the very file that is held.
    let other = Program::new(&upstream.url());
    upstream.remove("/test-5.cvd.sign");
    let certs = other.dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    std::fs::write(certs.join("ca.crt"), talos("test-ca.crt")).unwrap();
    let other = other.set("certs-dir", certs.to_str().unwrap());
    other.sync().exits(0);
    upstream.file("test-5.cvd.sign", talos("test-4.cvd.sign"));
    other.sync().exits(0).says(["test-5.cvd.sign              REFUSED"]);
    upstream.file("test-5.cvd.sign", talos("test-5.cvd.sign"));
    other.sync().exits(0).says(["test-5.cvd.sign              stored"]);
}

/// A running server asks for one that is absent once an hour, not at each round.
#[test]
fn an_absent_sign_file_is_not_asked_for_at_each_round() {
    let upstream = Upstream::talos(5);
    upstream.remove("/test-5.cvd.sign");
    let program = Program::new(&upstream.url());
    let server = program.serve();
    server.publishes(5);
    program.sync().exits(0);
    upstream.asked();
    program.sync().exits(0);
    assert_eq!(upstream.targets(), ["/test.cvd"]);
}

#[test]
fn an_upstream_that_wants_to_be_left_alone_is() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let limited = Answer::Status(429, "Retry-After: 3600\r\n".into(), b"slow down".to_vec());
    upstream.set("/test.cvd", limited);
    program.sync().exits(1).says(["429", &upstream.url()]);
    // Another process, and the upstream would be willing again.
    upstream.move_to(5);
    upstream.asked();
    program.sync().exits(1).says(["not asked for another", "429"]);
    assert_eq!(upstream.targets(), Vec::<String>::new());
    assert_eq!(program.version(), Some(3));
}

#[test]
fn several_databases_do_not_hinder_each_other() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url()).set("database", "nowhere,test");
    program.sync().exits(1).says([
        "nowhere: nothing published",
        "nothing -> 5 published",
        "/nowhere.cvd: not there",
    ]);
    assert_eq!(program.names(), all_to(5));
}
