//! `client-config`: lines that can be piped into a client's freshclam.conf, and none that could not work.
use support::{
    clients::Freshclam,
    process::{self, Ran},
    program::{Program, bare},
    upstream::Upstream,
};

fn run(options: &[&str]) -> Ran {
    process::run(bare().arg("client-config").args(options).env("HOME", "/nonexistent"))
}

/// Both streams: the lines, and nothing to remark.
#[track_caller]
fn prints(options: &[&str], lines: &str) {
    let ran = run(options).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), (lines, ""), "{options:?}");
}

#[test]
fn the_lines_have_the_mirrors_address_and_its_record() {
    prints(&["--listen=192.0.2.7:8080"], "DatabaseMirror http://192.0.2.7:8080\nDNSDatabaseInfo no\n");
    prints(&["--listen=[2001:db8::7]:80"], "DatabaseMirror http://[2001:db8::7]\nDNSDatabaseInfo no\n");
    // What other hosts can reach comes before what they cannot.
    prints(
        &["--listen=127.0.0.1:0,192.0.2.7:80", "--for=direct"],
        "DatabaseMirror http://192.0.2.7\nDNSDatabaseInfo no\n",
    );
    let dns = ["--for=dns", "--dns-listen=192.0.2.7:53", "--dns-zone=clamav.net", "--url=https://m.example/"];
    prints(&dns, "DatabaseMirror https://m.example\nDNSDatabaseInfo current.cvd.clamav.net\n");
    prints(
        &["--for=proxy", "--proxy", "--listen=192.0.2.7:8080"],
        "HTTPProxyServer 192.0.2.7\nHTTPProxyPort 8080\nDatabaseMirror http://database.clamav.net\nDNSDatabaseInfo no\n",
    );
    // The host's own, where every address is listened on.
    let ran = run(&[]).exits(0);
    let url = ran.stdout.strip_prefix("DatabaseMirror http://").unwrap();
    let host = url.strip_suffix(":8080\nDNSDatabaseInfo no\n").unwrap();
    assert!(!host.is_empty() && host != "0.0.0.0" && !host.contains(['/', ' ', '\n']), "{ran}");
}

#[test]
fn the_doctor_agrees_with_the_lines_for_a_proxy() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url()).set("proxy", "true").set("listen", "127.0.0.1:8080");
    let file = program.dir.path().join("freshclam.conf");
    let lines = program.run(&["client-config", "--for=proxy"]).exits(0).stdout;
    for (lines, said) in [
        (lines.clone(), "leads to this mirror"),
        (lines.replace("http://database", "https://database"), "asks for TLS"),
        (lines.replace("DNSDatabaseInfo no", ""), "DNSDatabaseInfo is not set"),
    ] {
        std::fs::write(&file, &lines).unwrap();
        program.run(&["doctor", "--freshclam-conf", file.to_str().unwrap()]).says([said]);
    }
}

#[test]
fn lines_that_could_not_work_are_not_printed() {
    for (options, why) in [
        (&["--for=dns"][..], "dns_listen and dns_zone are not set, so this mirror answers no TXT record"),
        (&["--for=proxy"], "proxy is not set, so this mirror is no proxy for clients; set proxy = true"),
        (&["--listen=0.0.0.0:0"], "listen 0.0.0.0:0 takes another port at every start"),
        (&["--url=mirror.lan:8080"], "\"mirror.lan:8080\" is no address of a mirror; write http://HOST"),
        (&["--for=carrier-pigeon"], "invalid value"),
    ] {
        let ran = run(options).exits(2).says([why]);
        assert_eq!(ran.stdout, "", "{options:?}");
    }
    // What works on this host alone is remarked beside the lines.
    let ran = run(&["--listen=127.0.0.1:8080"]).exits(0).says(["which no other host can reach"]);
    assert_eq!(ran.stdout, "DatabaseMirror http://127.0.0.1:8080\nDNSDatabaseInfo no\n");
}

#[test]
fn freshclam_updates_by_the_lines_beside_the_running_server() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    let server = program.serve();
    server.publishes(5);
    let lines = program.set("listen", &server.address.to_string()).run(&["client-config"]).exits(0).stdout;
    let Some(client) = Freshclam::with(&lines) else { return };
    client.update(&[]).exits(0).says(["test.cvd updated (version: 5,"]);
}
