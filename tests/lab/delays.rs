//! The Delays, one by one, as lists of mails describe them: a record ahead of the files, edges behind them, caches
//! that answer by name; and a content network that lies, limits, or breaks off. All of it on Talos' own files.
use cvdmirror::source::txt::TxtResolver;
use support::{
    cdn::{Asked, Cdn, Fault, Front},
    clients::Freshclam,
    name_server::{NameServer, time_s},
    namespace,
    program::Program,
    talos,
    upstream::{Answer, Upstream},
};

const HEADER: &str = "bytes=0-511";

/// A network, the record that speaks of it, and a mirror.
struct Lab {
    cdn: Cdn,
    front: Front,
    names: NameServer,
    program: Program,
}

impl Lab {
    /// Everything stands at `version`; the mirror has done no round.
    fn at(version: u32) -> Self {
        let cdn = Cdn::talos(version);
        let (front, names) = (cdn.front(), NameServer::start());
        let program = Program::new(&front.url())
            .set("txt-record", "current.cvd.example.net")
            .set("nameserver", &names.address.to_string());
        let lab = Self { cdn, front, names, program };
        lab.record(version, 60);
        lab
    }

    /// A mirror that holds 4; the record says 5, and the CDIFF is there, but no edge's full file is.
    fn behind() -> Self {
        let lab = Self::at(4);
        lab.program.sync().exits(0);
        lab.front.asked();
        lab.cdn.hold("test.cvd");
        lab.cdn.publish_talos(5);
        lab.record(5, 60);
        lab
    }

    fn record(&self, version: u32, ago_s: u64) {
        self.names.set("test.cvd.example.net", &format!("{version}:{}", time_s(ago_s)));
    }

    /// Published version and newest full CVD.
    fn holds(&self) -> (u64, u64) {
        let status = self.program.status();
        let of = |key: &str| status["databases"][0][key].as_u64().unwrap();
        (of("version"), of("cvd"))
    }

    /// Everything is in order again: the next round brings all of version 5 as Talos made it.
    fn heals(&self) {
        for name in ["test.cvd", "test-5.cdiff", "test-5.cdiff.sign", "test-5.cvd.sign"] {
            self.cdn.release(name);
        }
        self.record(5, 60);
        self.program.sync().exits(0);
        assert_eq!(self.holds(), (5, 5));
        for name in ["test-5.cvd", "test-5.cdiff", "test-5.cvd.sign", "test-5.cdiff.sign"] {
            assert!(self.program.cat(name) == talos(name), "{name}");
        }
        self.program.run(&["store", "verify"]).exits(0);
    }
}

fn targets(asked: &[Asked]) -> Vec<&str> {
    asked.iter().map(|asked| asked.target.as_str()).collect()
}

/// What `current.cvd.clamav.net` and its like say at the system's name server.
fn advertised() -> Option<u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let resolver = TxtResolver::new("current.cvd.clamav.net", Some("127.0.0.1:53".parse().unwrap()));
    runtime.block_on(resolver.lookup(&"test".parse().unwrap())).unwrap().version
}

#[test]
fn an_edge_stuck_behind_the_record_delays_nobody() {
    if !namespace::inside("an_edge_stuck_behind_the_record_delays_nobody") {
        return;
    }
    let mut lab = Lab::behind();
    lab.program = lab.program.set("dns-listen", "127.0.0.1:53").set("dns-zone", "clamav.net");
    let server = lab.program.serve();
    // What it does at its start is the round in question; this waits for it, and finds nothing left to do.
    lab.program.sync().exits(0);
    let asked = lab.front.asked();
    let rounds: Vec<&[Asked]> = asked.split(|asked| asked.target == "/test-5.cdiff").collect();
    let [before, round] = rounds[..] else { panic!("{asked:?}") };
    assert!(before.is_empty(), "{asked:?}");
    assert_eq!(targets(&round[..2]), ["/test-5.cdiff.sign", "/test.cvd?version=5"]);
    assert!(asked.iter().all(|asked| !asked.is_full()), "{asked:?}");
    assert!(round[1..].iter().all(|asked| asked.range.as_deref() == Some(HEADER)), "{asked:?}");

    // Everything that advertises says 5, and the step to it is there.
    assert!(server.get("/dns.txt").text().contains("\ntest.cvd 5:"), "{}", server.get("/dns.txt").text());
    assert_eq!(advertised(), Some(5));
    assert!(server.get("/test-5.cdiff").body == talos("test-5.cdiff"));
    assert_eq!(lab.holds(), (5, 4));

    let lines = format!("DatabaseMirror {}\nDNSDatabaseInfo current.cvd.clamav.net\n", server.url());
    let (Some(client), Some(fresh)) = (Freshclam::with(&lines), Freshclam::with(&lines)) else { return };
    client.put("test.cvd", &talos("test-4.cvd"));
    client.update(&[]).exits(0).says(["test.cld updated (version: 5,"]);
    fresh.update(&[]).exits(0).says(["test.cvd updated (version: 4,", "test.cld updated (version: 5,"]);
    assert_eq!((client.version(), fresh.version()), (Some(5), Some(5)));

    // The header of 5 appears: its CVD is made here.
    lab.cdn.release("test.cvd");
    lab.program.sync().exits(0).says(["test-5.cvd                   rebuilt"]);
    let asked = lab.front.asked();
    assert_eq!(targets(&asked), ["/test.cvd?version=5", "/test-5.cvd.sign"]);
    assert_eq!((asked[0].range.as_deref(), asked[0].bytes), (Some(HEADER), 512));
    assert!(server.get("/test-5.cvd").body == talos("test-5.cvd"));
    assert!(server.get("/test-5.cvd.sign").body == talos("test-5.cvd.sign"));
    let Some(latest) = Freshclam::with(&lines) else { return };
    latest.update(&[]).exits(0).says(["test.cvd updated (version: 5,"]);
}

#[test]
fn a_mirror_that_starts_behind_a_stuck_edge_patches_what_it_got() {
    let lab = Lab::at(4);
    lab.cdn.hold("test.cvd");
    lab.cdn.publish_talos(5);
    lab.record(5, 60);
    lab.program.sync().exits(0).says(["asked for 5, got 4", "cf-ray: 8e60-EDGE0"]);
    assert_eq!(lab.holds(), (5, 4));
    assert_eq!(lab.front.asked().iter().filter(|asked| asked.is_full()).count(), 1);
    lab.heals();
    assert!(lab.front.asked().iter().all(|asked| !asked.is_full()));
}

/// Asked in turn, one edge says 5 and the other 4.
#[test]
fn edges_that_disagree_cost_a_round_at_most() {
    let lab = Lab::at(4);
    lab.program.sync().exits(0);
    lab.front.only(0);
    lab.cdn.hold_at(0, "test.cvd");
    lab.cdn.publish_talos(5);
    lab.record(5, 60);
    lab.program.sync().exits(0).says(["asked for 5, got 4", "4 -> 5 published (full CVD 4"]);
    lab.front.only(1);
    lab.program.sync().exits(0).says(["rebuilt"]);
    // The stale one again, and a record that has moved on: what is held stays.
    lab.front.only(0);
    lab.record(6, 60);
    lab.program.sync().exits(1).says(["asked for 6, got 4", "5 stays published"]);
    assert_eq!(lab.holds(), (5, 5));
    lab.heals();
}

/// The header comes from the edge that has 5, and the full file, since there is no CDIFF, from the one that has 4.
#[test]
fn a_header_of_one_edge_and_a_file_of_the_other_lead_nowhere_wrong() {
    let lab = Lab::at(4);
    lab.program.sync().exits(0);
    lab.cdn.hold_at(0, "test.cvd");
    lab.cdn.publish_talos(5);
    lab.record(5, 60);
    for name in ["test-5.cdiff", "test-5.cdiff"] {
        lab.front.fault(name, Fault::Status(404, ""));
    }
    let mut rounds = 0;
    while lab.holds() != (5, 5) {
        lab.program.sync();
        rounds += 1;
        assert!(rounds < 5 && matches!(lab.holds(), (4, 4) | (5, 4) | (5, 5)), "{:?}", lab.holds());
    }
    lab.heals();
}

/// The first 512 bytes of Talos' version 5, changed in one field.
fn lie(change: impl Fn(&mut Vec<String>)) -> Vec<u8> {
    let mut cvd = talos("test-5.cvd");
    let mut fields: Vec<String> =
        String::from_utf8(cvd[..512].to_vec()).unwrap().split(':').map(str::to_owned).collect();
    change(&mut fields);
    let header = format!("{:<512}", fields.join(":").trim_end());
    cvd[..512].copy_from_slice(header.as_bytes());
    cvd
}

#[test]
fn a_header_that_lies_is_found_out_before_anything_is_done_with_it() {
    let lab = Lab::behind();
    lab.cdn.stick("test.cvd", lie(|fields| fields[5] = "00112233445566778899aabbccddeeff".into()));
    lab.program.sync().exits(0).says(["header of test-5.cvd         REFUSED", "signature"]);
    assert!(lab.front.asked().iter().all(|asked| !asked.is_full()));
    assert_eq!(lab.holds(), (5, 4), "the CDIFF is true all the same");
    lab.heals();
}

/// Version 5 in front of the MD5 and the signature of 4, which belong together.
#[test]
fn a_header_put_together_from_two_leads_to_no_cvd() {
    let lab = Lab::behind();
    let four = String::from_utf8(talos("test-4.cvd")[..512].to_vec()).unwrap();
    let four: Vec<&str> = four.split(':').collect();
    lab.cdn.stick(
        "test.cvd",
        lie(|fields| {
            fields[5] = four[5].into();
            fields[6] = four[6].into();
        }),
    );
    lab.program.sync().says(["not rebuilt: ", "test-5.cvd                   REFUSED"]);
    assert_eq!(lab.holds(), (5, 4));
    assert!(!lab.program.names().contains(&"test-5.cvd".into()));
    lab.heals();
}

#[test]
fn a_cdiff_under_another_ones_name_is_refused() {
    let lab = Lab::behind();
    lab.cdn.stick("test-5.cdiff", talos("test-4.cdiff"));
    lab.program
        .sync()
        .exits(1)
        .says(["test-5.cdiff                 REFUSED", "cannot be had yet; 4 stays published"]);
    assert_eq!(lab.holds(), (4, 4));
    assert!(lab.front.asked().iter().all(|asked| !asked.is_full()));
    lab.heals();
}

#[test]
fn a_record_that_jumps_goes_back_or_is_old_moves_nothing() {
    let lab = Lab::at(4);
    lab.program.sync().exits(0);
    lab.front.asked();
    for (version, ago_s, remark) in [
        (1 << 31, 60, "says 2147483648, absurdly far ahead; the file itself is asked"),
        (2, 60, "2 is older than 4 that is held"),
        (3, 40 * 3600, "says 3 but is 40 h old; the file itself is asked"),
    ] {
        lab.record(version, ago_s);
        lab.program.sync().exits(0).says([remark]);
        assert_eq!(lab.holds(), (4, 4), "{remark}");
        let asked = lab.front.asked();
        assert!(asked.len() <= 1, "{asked:?}");
        assert!(asked.iter().all(|asked| asked.range.as_deref() == Some(HEADER)), "{asked:?}");
    }
    lab.cdn.publish_talos(5);
    lab.heals();
}

/// A mirror that holds nothing cannot know what is absurd; it believes the file.
#[test]
fn a_first_round_with_an_absurd_record_takes_what_is_there() {
    let lab = Lab::at(5);
    lab.record(1 << 31, 60);
    lab.program.sync().exits(1).says(["asked for 2147483648, got 5", "5 stays published"]);
    assert_eq!(lab.holds(), (5, 5));
    assert_eq!(lab.front.asked().iter().filter(|asked| asked.is_full()).count(), 1);
    lab.heals();
}

/// A cache on the way keeps the edge's old file under the very name that asks for the new one.
#[test]
fn a_cache_that_keeps_a_stale_full_cvd_is_got_round() {
    let upstream = Upstream::talos(5);
    let four = || Box::new(Answer::File(talos("test-4.cvd")));
    let five = || Box::new(Answer::File(talos("test-5.cvd")));
    // Two edges: the header comes from the one, and from then on everything from what the cache got of the other.
    upstream.set("/test.cvd?version=5", Answer::Split(five(), four()));
    upstream.remove("/test-5.cdiff");
    let names = NameServer::start();
    names.set("test.cvd.example.net", &format!("4:{}", time_s(60)));
    upstream.set("/test.cvd?version=4", *four());
    let program = Program::new(&upstream.url())
        .set("txt-record", "current.cvd.example.net")
        .set("nameserver", &names.address.to_string());
    let server = program.serve();
    server.publishes(4);
    names.set("test.cvd.example.net", &format!("5:{}", time_s(60)));
    program.sync().exits(1).says(["asked for 5, got 4"]);
    upstream.set("/test.cvd?version=5", *four());
    program.sync().exits(0).says(["4 -> 5 published"]);
    assert!(program.cat("test-5.cvd") == talos("test-5.cvd"));
    assert!(upstream.targets().contains(&"/test.cvd?version=5&again=1".into()));
}

#[test]
fn a_limit_is_kept_through_a_restart_and_ends_when_it_said() {
    let lab = Lab::behind();
    lab.front.fault("test-5.cdiff", Fault::Status(429, "Retry-After: 2\r\n"));
    lab.program.sync().exits(1).says(["(429); it says to wait 2 s", "not asked for another"]);
    assert_eq!(targets(&lab.front.asked()), ["/test-5.cdiff"], "nothing more in that round");
    // Each of these is another process with the same ledger.
    let mut barred = 0;
    loop {
        let ran = lab.program.sync();
        let asked = lab.front.asked();
        if ran.code == Some(0) {
            assert!(!asked.is_empty());
            break;
        }
        assert_eq!(asked, [], "{ran}");
        barred += 1;
    }
    assert!(barred > 0);
    lab.heals();
}

#[test]
fn a_refusal_of_this_client_is_not_argued_with() {
    let lab = Lab::behind();
    lab.front.refuse("cvdmirror/");
    lab.program.sync().exits(1).says(["refuses this client (403)", "not asked for another"]);
    assert_eq!(targets(&lab.front.asked()), ["/test-5.cdiff"]);
    lab.program.sync().exits(1).says(["not asked for another"]);
    assert_eq!(lab.front.asked(), []);
    assert_eq!(lab.holds(), (4, 4));
    lab.program.run(&["status"]).exits(0).says(["left alone for another", "(403)"]);
}

#[test]
fn a_failing_server_is_asked_again_in_the_next_round() {
    let lab = Lab::behind();
    lab.front.fault("test-5.cdiff", Fault::Status(503, ""));
    lab.front.fault("test.cvd", Fault::Status(502, ""));
    lab.program.sync().exits(1).says(["answered HTTP status 503", "answered HTTP status 502"]);
    assert_eq!(lab.holds(), (4, 4));
    lab.front.fault("test-5.cdiff", Fault::Truncate(100));
    lab.program.sync().exits(1).says(["the body ended after 100 B"]);
    assert_eq!(lab.holds(), (4, 4));
    lab.heals();
}

#[test]
fn a_full_cvd_that_breaks_off_is_taken_up_again() {
    let lab = Lab::at(5);
    lab.front.fault("test.cvd", Fault::Truncate(3000));
    lab.front.fault("test.cvd", Fault::Truncate(1000));
    lab.program.sync().exits(0);
    let asked = lab.front.asked();
    let cvds: Vec<_> = asked.iter().filter(|asked| asked.target == "/test.cvd?version=5").collect();
    let ranges: Vec<_> = cvds.iter().map(|asked| asked.range.as_deref()).collect();
    assert_eq!(ranges, [None, Some("bytes=3000-"), Some("bytes=4000-")]);
    assert!(cvds[1..].iter().all(|asked| asked.if_range.is_some() && asked.status == 206), "{cvds:?}");
    assert_eq!(cvds.iter().map(|asked| asked.bytes).sum::<u64>(), talos("test-5.cvd").len() as u64);
    lab.heals();
}

/// The edge gets the new version between the two halves: If-Range makes the second one whole.
#[test]
fn a_full_cvd_that_changes_while_it_is_fetched_is_not_patched_together() {
    let lab = Lab::at(4);
    lab.front.fault("test.cvd", Fault::Truncate(3000));
    let cdn = lab.cdn.clone();
    lab.front.after_bytes(1, move || cdn.publish_talos(5));
    lab.program.sync().exits(0);
    let asked = lab.front.asked();
    assert_eq!((asked[1].range.as_deref(), asked[1].status), (Some("bytes=3000-"), 200), "{asked:?}");
    assert!(lab.program.cat("test-5.cvd") == talos("test-5.cvd"));
}
