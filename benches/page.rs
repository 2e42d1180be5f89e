//! The status page and /metrics while 32 connections download: how long an answer takes, and what it costs.
//!
//! `cargo bench --bench page [-- seconds]`; needs wrk. The real binary mirrors a database of daily's size and one with
//! sixty versions behind it, so that the page is as long as it gets. With and without requests for it, in turn.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use support::{mint::Mint, peers::peer, program::Program, program::Serving, wait_for};

/// Lines of the large database; gives a CVD of about 60 MB.
const LINES: usize = 1_950_000;
const VERSIONS: usize = 60;
const ROUNDS: usize = 3;
/// Requests from which the cost of one is taken, on a server without other work.
const REQUESTS: u32 = 1000;
const PAGES: [&str; 2] = ["/", "/metrics"];

fn main() {
    let Some(wrk) = peer("wrk") else { return };
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(10);
    let (_files, _program, server) = mirror();

    println!("| | bytes | median ms | slowest ms | server CPU ms a request |\n|---|---|---|---|---|");
    for page in PAGES {
        let before = cpu_s(&server);
        let mut took: Vec<_> = (0..REQUESTS).map(|_| ask(&server, page)).collect();
        let cpu_ms = (cpu_s(&server) - before) * 1000.0 / f64::from(REQUESTS);
        let bytes = server.get(page).body.len();
        println!("| {page}, alone | {bytes} | {} | {cpu_ms:.2} |", median_and_slowest(&mut took));
    }
    let mut loads = [Load::default(), Load::default()];
    let mut took = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (asking, load) in [false, true].into_iter().zip(&mut loads) {
            let before = cpu_s(&server);
            let downloads = download(&wrk, &server, seconds);
            let began = Instant::now();
            while asking && began.elapsed() + Duration::from_secs(1) < Duration::from_secs(seconds) {
                for (page, took) in PAGES.iter().zip(&mut took) {
                    took.push(ask(&server, page));
                }
                std::thread::sleep(Duration::from_secs(1));
            }
            load.bytes += bytes_of(downloads);
            load.cpu_s += cpu_s(&server) - before;
        }
    }
    for (page, took) in PAGES.iter().zip(&mut took) {
        println!("| {page}, 32 downloads | | {} | |", median_and_slowest(took));
    }
    let wall_s = (ROUNDS as u64 * seconds) as f64;
    println!("\n| 32 downloads | MB/s | server CPU ms/MB |\n|---|---|---|");
    for (what, load) in ["alone", "and both pages once a second"].iter().zip(&loads) {
        println!(
            "| {what} | {:.0} | {:.3} |",
            load.bytes / wall_s / 1e6,
            load.cpu_s * 1000.0 / (load.bytes / 1e6)
        );
    }
}

#[derive(Default)]
struct Load {
    bytes: f64,
    cpu_s: f64,
}

/// A running mirror of both databases, whose history was lived, one round a version.
fn mirror() -> (tempfile::TempDir, Program, Serving) {
    let files = tempfile::tempdir().unwrap();
    let mint = Mint::new(7);
    let write = |name: String, bytes: &[u8]| fs::write(files.path().join(name), bytes).unwrap();
    let large = mint.database_of("bench", LINES, 0).publish();
    write("bench.cvd".into(), &large.cvd);
    let program = Program::new(&format!("dir:{}", files.path().display()))
        .set("database", "bench,daily")
        .trusting(&mint.keys_toml());
    let mut lineage = mint.database_of("daily", 100, 3);
    for _ in 0..VERSIONS {
        let release = lineage.publish();
        write("daily.cvd".into(), &release.cvd);
        if let Some(cdiff) = &release.cdiff {
            write(release.cdiff_name().to_string(), cdiff);
        }
        program.sync().exits(0);
    }
    let server = program.serve();
    program.sync().exits(0);
    let page = server.get("/").text();
    assert!(page.contains(&format!("version {VERSIONS} ")), "{page}");
    (files, program, server)
}

/// Asks once, on a connection of its own, and returns how long the whole answer took.
fn ask(server: &Serving, page: &str) -> Duration {
    let began = Instant::now();
    assert_eq!(server.get(page).status, 200);
    began.elapsed()
}

fn median_and_slowest(took: &mut [Duration]) -> String {
    took.sort();
    let ms = |took: Duration| took.as_secs_f64() * 1000.0;
    format!("{:.2} | {:.2}", ms(took[took.len() / 2]), ms(took[took.len() - 1]))
}

/// Starts wrk with 32 connections.
fn download(wrk: &Path, server: &Serving, seconds: u64) -> Child {
    let mut command = Command::new(wrk);
    command.args(["-t1", "-c32", "-d", &format!("{seconds}s"), "--timeout", "60s"]);
    command.arg(format!("{}/bench-1.cvd", server.url())).stdout(Stdio::piped());
    let child = command.spawn().unwrap();
    wait_for("the downloads", || {
        let metrics = server.get("/metrics").text();
        let open = metrics.lines().find_map(|line| line.strip_prefix("cvdmirror_http_connections_open "))?;
        (open.parse::<u64>().ok()? > 32).then_some(())
    });
    child
}

/// Waits for wrk's end and returns the bytes it read.
fn bytes_of(wrk: Child) -> f64 {
    let output = wrk.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
    // `  N requests in 10.00s, 12.34GB read`
    let read = text
        .lines()
        .find_map(|line| line.trim().strip_suffix(" read")?.rsplit(' ').next().map(str::to_owned));
    let read = read.unwrap_or_else(|| panic!("{text}"));
    let at = read.find(|c: char| c.is_ascii_alphabetic()).unwrap();
    let unit = match &read[at..] {
        "GB" => 1_073_741_824.0,
        "MB" => 1_048_576.0,
        other => panic!("{other}: {text}"),
    };
    read[..at].parse::<f64>().unwrap() * unit
}

/// CPU time of the server, user and system, from /proc/PID/stat; a clock tick is 10 ms.
fn cpu_s(server: &Serving) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let ticks = rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap());
    ticks.sum::<u64>() as f64 / 100.0
}
