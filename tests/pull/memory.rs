//! What a round costs in memory: no more for a large database than for a small one.
use super::client::{Client, offer};
use std::process::Stdio;
use support::{mint::Mint, upstream::Upstream};

const MIB: u64 = 1 << 20;

/// Lines of the database: 1,500,000 make a CVD of daily's size, which takes minutes to mint.
fn lines() -> usize {
    std::env::var("PULL_LINES").map_or(300_000, |text| text.parse().unwrap())
}

/// Runs a round; says the most memory it had at once.
fn peak(client: &Client, options: &[&str]) -> u64 {
    let mut child = client.command(options).stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    loop {
        let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib: Option<u64> =
            line.and_then(|kib| kib.trim_matches(|c: char| !c.is_ascii_digit()).parse().ok());
        peak = peak.max(kib.unwrap_or_default() * 1024);
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return peak;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_round_stays_within_96_mb_whatever_the_size() {
    let mint = Mint::new(71);
    let mut lineage = mint.database_of("test", lines(), 200);
    let mirror = Upstream::start();
    let first = lineage.publish();
    offer(&mirror, &first);
    let client = |form: &str| Client::of(&mirror.url()).trusting(&mint.keys_toml()).set("as", form);
    let [cvd, cld] = [client("cvd"), client("cld")];
    let mut peaks = vec![peak(&cvd, &[]), peak(&cld, &[])];
    for _ in 0..2 {
        offer(&mirror, &lineage.publish());
    }
    peaks.extend([peak(&cvd, &[]), peak(&cld, &[])]);
    assert_eq!([cvd.names(), cld.names()], [["test.cvd"], ["test.cld"]]);
    let mib: Vec<u64> = peaks.iter().map(|peak| peak / MIB).collect();
    println!(
        "a CVD of {} MiB; MiB at the most: full as CVD, as CLD, by CDIFFs as CVD, as CLD: {mib:?}",
        first.cvd.len() as u64 / MIB
    );
    assert!(peaks.iter().all(|peak| *peak < 96 * MIB), "{mib:?}");
}
