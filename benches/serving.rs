//! Serving, side by side with nginx: the same files, the same load, taking turns, printed as ratios.
//!
//! `cargo bench --bench serving [-- seconds]`; needs nginx and wrk. The real binary serves a database minted for
//! the occasion; nginx serves the same files with sendfile and two workers. Both write an access log to a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod beside;

use beside::{CDIFF, CVD, Server, Site};
use std::{fs, path::Path, process::Command};
use support::peers::peer;

const ROUNDS: usize = 3;

struct Case {
    what: &'static str,
    file: &'static str,
    range: bool,
}
const CASES: [Case; 3] = [
    Case { what: "CVD", file: CVD, range: false },
    Case { what: "CDIFF", file: CDIFF, range: false },
    Case { what: "512 bytes of the CVD", file: CVD, range: true },
];
const CONNECTIONS: [u32; 3] = [4, 32, 500];

fn main() {
    let (Some(nginx), Some(wrk)) = (peer("nginx"), peer("wrk")) else { return };
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(3);
    let site = Site::new();
    let script = site.dir.path().join("count.lua");
    fs::write(&script, SCRIPT).unwrap();
    let mut servers = [site.nginx(&nginx), site.ours(&[])];

    // Neither's first reading from the disk counts.
    for (server, case) in servers.iter().flat_map(|server| CASES.iter().map(move |case| (server, case))) {
        assert_eq!(server.get(case.file), server.length_of(case.file), "{} of {}", case.file, server.name);
    }
    println!("{ROUNDS} rounds of {seconds} s each, in turn; ratios are cvdmirror to nginx\n");
    println!("| | requests/s | MB/s | server CPU ms/request | p99 ms | requests | CPU/request |");
    println!("|---|---|---|---|---|---|---|");
    for (case, connections) in
        CASES.iter().flat_map(|case| CONNECTIONS.map(|connections| (case, connections)))
    {
        let what = format!("{}, {connections} connections", case.what);
        let mut sums = [Load::default(), Load::default()];
        for _ in 0..ROUNDS {
            for (server, sum) in servers.iter_mut().zip(&mut sums) {
                let before = server.cpu_s();
                let Load { requests, bytes, p99_ms, .. } =
                    load(&wrk, &script, server, case, connections, seconds);
                sum.requests += requests;
                sum.bytes += bytes;
                sum.p99_ms = sum.p99_ms.max(p99_ms);
                sum.cpu_s += server.cpu_s() - before;
            }
        }
        let wall_s = (ROUNDS as u64 * seconds) as f64;
        let cpu_ms = |load: &Load| load.cpu_s * 1000.0 / load.requests;
        for (server, sum) in servers.iter().zip(&sums) {
            println!(
                "| {what}: {} | {:.0} | {:.0} | {:.3} | {:.1} | | |",
                server.name,
                sum.requests / wall_s,
                sum.bytes / wall_s / 1e6,
                cpu_ms(sum),
                sum.p99_ms
            );
        }
        let [nginx, ours] = &sums;
        println!(
            "| {what} | | | | | **{:.2}** | **{:.2}** |",
            ours.requests / nginx.requests,
            cpu_ms(ours) / cpu_ms(nginx)
        );
    }
    for server in &servers {
        println!("\n{}: {} MiB of memory at most", server.name, server.peak_bytes() >> 20);
    }
}

#[derive(Default)]
struct Load {
    requests: f64,
    bytes: f64,
    cpu_s: f64,
    /// Of the requests that ended in the run, the worst round's.
    p99_ms: f64,
}

/// Runs wrk; a file taken in part counts as that part.
fn load(wrk: &Path, script: &Path, server: &Server, case: &Case, connections: u32, seconds: u64) -> Load {
    let mut command = Command::new(wrk);
    command.args(["-t1", "-c", &connections.to_string(), "-d", &format!("{seconds}s")]);
    // More than one file takes at the slowest.
    command.args(["--timeout", "30s", "-s"]).arg(script);
    if case.range {
        command.args(["-H", "Range: bytes=0-511"]);
    }
    let out = command.arg(format!("http://127.0.0.1:{}/{}", server.port, case.file)).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let figure = |key: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.unwrap_or_else(|| panic!("no {key} in {text}")).trim().parse().unwrap()
    };
    assert_eq!(figure("errors "), 0.0, "{text}");
    let (requests, bytes) = (figure("requests "), figure("bytes "));
    let whole = case.range || case.file.ends_with(".cdiff");
    let requests = if whole { requests } else { bytes / server.length_of(case.file) as f64 };
    Load { requests, bytes, cpu_s: 0.0, p99_ms: figure("p99 ") }
}

/// Prints exact numbers at the end of wrk's run.
const SCRIPT: &str = "done = function(summary, latency)\n\
    io.write(string.format('requests %d\\nbytes %d\\nerrors %d\\np99 %f\\n', summary.requests, summary.bytes,\n\
    summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status,\n\
    latency:percentile(99) / 1000))\nend\n";
