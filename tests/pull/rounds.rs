//! From nothing, from a CVD, from a CLD: always to the newest version, by the cheapest way.
use super::client::{Client, flipped, say, talos_mirror, talos_up_to};
use std::process::Command;
use support::{
    clients::Freshclam,
    peer, process, talos,
    upstream::{Answer, Upstream},
};

#[test]
fn the_first_round_takes_the_full_file_and_the_next_ones_cdiffs() {
    let mirror = talos_mirror(3);
    let client = Client::of(&mirror.url());
    client.pull(&[]).exits(0).says(["test: 3 installed as CVD, from the full CVD"]);
    assert_eq!(client.read("test.cvd"), talos("test-3.cvd"));
    assert_eq!(mirror.targets(), ["/dns.txt", "/test-3.cvd", "/test-3.cvd"]);

    talos_up_to(&mirror, 5);
    client.pull(&["--once"]).exits(0).says(["test: 3 -> 5 installed as CVD, by 2 CDIFFs"]);
    assert_eq!(client.read("test.cvd"), talos("test-5.cvd"), "not bit for bit");
    assert_eq!(client.names(), ["test.cvd"]);
    let asked = mirror.asked();
    let targets: Vec<&str> = asked.iter().map(|asked| asked.target.as_str()).collect();
    assert_eq!(targets, ["/dns.txt", "/test-5.cvd", "/test-4.cdiff", "/test-5.cdiff"]);
    assert_eq!(asked[1].range.as_deref(), Some("bytes=0-511"));
    assert!(asked[0].agent.starts_with("cvdmirror/"), "{}", asked[0].agent);

    client.pull(&[]).exits(0).says(["test: 5 is the newest"]);
    assert_eq!(mirror.targets(), ["/dns.txt"]);
}

#[test]
fn a_cld_is_made_of_a_cvd_and_one_version_has_one_cld_whatever_way_led_to_it() {
    let mirror = talos_mirror(5);
    let from_3 = Client::of(&mirror.url()).set("as", "cld").holding("test.cvd", &talos("test-3.cvd"));
    from_3.pull(&[]).exits(0).says(["test: 3 -> 5 installed as CLD, by 2 CDIFFs"]);
    assert_eq!(from_3.names(), ["test.cld"]);
    from_3.verifies("test.cld");
    let fresh = Client::of(&mirror.url()).set("as", "cld");
    fresh.pull(&[]).exits(0).says(["test: 5 installed as CLD, from the full CVD"]);
    assert!(fresh.read("test.cld") == from_3.read("test.cld"));
    // clamscan takes Talos' key only.
    if let Some(clamscan) = peer("clamscan").filter(|_| support::talos::is_own()) {
        let file = from_3.dir.path().join("clean");
        std::fs::write(&file, "nothing").unwrap();
        let mut scan = Command::new(clamscan);
        process::run(scan.arg("-d").arg(from_3.db()).arg(file)).exits(0).says(["Known viruses: 9"]);
    }
}

#[test]
fn a_cld_that_freshclam_wrote_becomes_the_signed_cvd_bit_for_bit() {
    let upstream = Upstream::talos(4);
    let Some(freshclam) = Freshclam::of(&upstream.url()) else { return };
    freshclam.put("test.cvd", &talos("test-3.cvd"));
    freshclam.update(&["--no-dns"]).exits(0).says(["test.cld updated (version: 4,"]);
    let cld = std::fs::read(freshclam.dir.path().join("db/test.cld")).unwrap();

    let mirror = talos_mirror(5);
    let kept = Client::of(&mirror.url()).holding("test.cld", &cld);
    kept.pull(&[]).exits(0).says(["test: 4 -> 5 installed as CLD, by 1 CDIFF"]);
    assert_eq!(kept.names(), ["test.cld"]);
    let client = Client::of(&mirror.url()).holding("test.cld", &cld).set("as", "cvd");
    client.pull(&[]).exits(0).says(["test: 4 -> 5 installed as CVD, by 1 CDIFF"]);
    assert_eq!(client.names(), ["test.cvd"]);
    assert_eq!(client.read("test.cvd"), talos("test-5.cvd"));
}

#[test]
fn the_full_file_is_taken_where_patches_are_missing_empty_false_or_dearer() {
    let dear = vec![b'x'; 20_000];
    let ways = [
        (Answer::Status(404, String::new(), Vec::new()), "test-4.cdiff is not there"),
        (Answer::File(Vec::new()), "the CDIFF to version 4 is needed, and there is none"),
        (Answer::File(flipped(talos("test-4.cdiff"))), "test-4.cdiff: "),
        (Answer::File(talos("test-3.cdiff")), "test-4.cdiff: named version 4"),
        (Answer::File(dear), "the patches cost more than the full CVD"),
    ];
    for (answer, why) in ways {
        let mirror = talos_mirror(5);
        mirror.set("/test-4.cdiff", answer);
        let client = Client::of(&mirror.url()).holding("test.cvd", &talos("test-3.cvd"));
        client.pull(&[]).exits(0).says(["3 -> 5 installed as CVD, from the full CVD", why]);
        assert_eq!(client.read("test.cvd"), talos("test-5.cvd"));
    }
}

#[test]
fn a_cld_goes_past_the_newest_cvd_and_a_cvd_waits_for_it() {
    let mirror = talos_mirror(3);
    for name in ["test-4.cdiff", "test-5.cdiff"] {
        mirror.file(name, talos(name));
    }
    say(&mirror, 4);
    let at_3 = || Client::of(&mirror.url()).holding("test.cvd", &talos("test-3.cvd"));
    at_3().pull(&[]).exits(0).says(["test: 3; 4 is advertised, and nothing leads there yet"]);
    let client = at_3().set("as", "cld");
    client.pull(&[]).exits(0).says(["3 -> 4 installed as CLD, by 1 CDIFF"]);
    let fresh = Client::of(&mirror.url()).set("as", "cld");
    fresh.pull(&[]).exits(0).says(["4 installed as CLD, from the full CVD and 1 CDIFF"]);
    assert!(fresh.read("test.cld") == client.read("test.cld"));
    // As a CVD, once there is a newer one: no file is ever replaced by a lower version.
    let client = client.set("as", "cvd");
    say(&mirror, 5);
    client.pull(&[]).exits(0).says(["4 -> 5 installed as CLD"]);
    talos_up_to(&mirror, 5);
    client.pull(&[]).exits(0).says(["5 is the newest"]);
    let fresh = fresh.set("as", "cvd");
    fresh.pull(&[]).exits(0).says(["4 -> 5 installed as CVD"]);
    assert_eq!(fresh.names(), ["test.cvd"]);
    assert_eq!(fresh.read("test.cvd"), talos("test-5.cvd"));
}

/// What a mirror of cvdupdate's looks like whose record runs ahead of its files.
#[test]
fn a_version_that_nothing_leads_to_is_waited_for() {
    let mirror = talos_mirror(3);
    say(&mirror, 5);
    let client = Client::of(&mirror.url()).holding("test.cvd", &talos("test-3.cvd"));
    client.pull(&[]).exits(0).says(["test: 3; 5 is advertised, and nothing leads there yet"]);
    assert!(!mirror.asked().iter().any(|asked| asked.range.is_none() && asked.target.ends_with("cvd")));
    let fresh = Client::of(&mirror.url());
    fresh.pull(&[]).exits(0).says(["test: 3 installed as CVD, from the full CVD"]);
}

#[test]
fn versions_are_told_by_index_json_or_by_the_file_itself_where_there_is_no_dns_txt() {
    let mirror = talos_mirror(5);
    mirror.remove("/dns.txt");
    mirror.file("index.json", br#"{"databases": {"test": {"version": 4, "new": 1}}, "x": []}"#.to_vec());
    let client = Client::of(&mirror.url());
    client.pull(&[]).exits(0).says(["test: 4 installed as CVD"]);
    mirror.remove("/index.json");
    client.pull(&[]).exits(0).says(["test: 4 -> 5 installed as CVD"]);
}

#[test]
fn a_sign_file_is_installed_with_its_cvd_and_goes_with_it() {
    let mirror = talos_mirror(3);
    let client = Client::of(&mirror.url());
    let certs = client.dir.path().join("certs");
    std::fs::create_dir(&certs).unwrap();
    std::fs::write(certs.join("clamav.crt"), talos("test-ca.crt")).unwrap();
    let client = client.set("certs-dir", certs.to_str().unwrap());
    client.pull(&[]).exits(0);
    assert_eq!(client.names(), ["test-3.cvd.sign", "test.cvd"]);
    talos_up_to(&mirror, 4);
    client.pull(&[]).exits(0);
    // A reader that has just opened the old file still finds its sign file.
    assert_eq!(client.names(), ["test-3.cvd.sign", "test-4.cvd.sign", "test.cvd"]);
    client.pull(&[]).exits(0);
    assert_eq!(client.names(), ["test-4.cvd.sign", "test.cvd"]);
    assert_eq!(client.read("test-4.cvd.sign"), talos("test-4.cvd.sign"));

    // One that vouches for another file would have an engine refuse the whole database.
    talos_up_to(&mirror, 5);
    mirror.file("test-5.cvd.sign", talos("test-4.cvd.sign"));
    client.pull(&[]).exits(0).says(["test-5.cvd.sign is left out: "]);
    client.pull(&[]).exits(0);
    assert_eq!(client.names(), ["test.cvd"]);
}

#[test]
fn settings_come_from_the_environment_and_a_file_too() {
    let mirror = talos_mirror(5);
    let client = Client::of(&mirror.url());
    let file = client.dir.path().join("pull.toml");
    std::fs::write(&file, format!("from = \"{}\"\nas = \"cld\"\ndatabase = [\"test\"]\n", mirror.url()))
        .unwrap();
    let mut command = support::program::bare();
    command.args(["pull", "--config"]).arg(&file).env("CVDMIRROR_INTO", client.db());
    support::talos::trusting(&mut command, client.dir.path());
    process::run(command.env("CVDMIRROR_ALLOW_OLDER", "true")).exits(0).says(["test: 5 installed as CLD"]);

    for (options, why) in [
        (&["--as=zip"][..], "is neither cvd nor cld"),
        (&["--clamd=run/clamd"], "is no socket"),
        (&["--allow-older=perhaps"], "is neither true nor false"),
        (&["--interval=soon"], "is no length of time"),
    ] {
        client.pull(options).exits(2).says([why]);
    }
    Client::of("mirror").pull(&[]).exits(2).says(["is no URL of a mirror"]);
    process::run(support::program::bare().arg("pull")).exits(2).says(["from is not set", "--from http://"]);
}
