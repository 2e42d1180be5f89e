//! Serving, side by side with nginx: the same files, the same load, taking turns, printed as ratios.
//!
//! `cargo bench --bench serving [-- seconds]`; needs nginx and wrk. The real binary serves a database minted for
//! the occasion; nginx serves the same files with sendfile and two workers. Both write an access log to a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use support::{mint::Mint, peers::peer};

/// Lines of the database; gives a CVD of about 60 MB.
const LINES: usize = 1_950_000;
/// Edits from version 1 to 2; gives a CDIFF of about 30 KB.
const EDITS: usize = 750;
const ROUNDS: usize = 3;

struct Case {
    what: &'static str,
    file: &'static str,
    range: bool,
}
const CASES: [Case; 3] = [
    Case { what: "CVD", file: "bench-2.cvd", range: false },
    Case { what: "CDIFF", file: "bench-2.cdiff", range: false },
    Case { what: "512 bytes of the CVD", file: "bench-2.cvd", range: true },
];
const CONNECTIONS: [u32; 3] = [4, 32, 500];

fn main() {
    let (Some(nginx), Some(wrk)) = (peer("nginx"), peer("wrk")) else { return };
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(3);
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    fs::create_dir(&files).unwrap();
    let mint = Mint::new(7);
    let mut lineage = mint.database_of("bench", LINES, EDITS);
    for release in [lineage.publish(), lineage.publish()] {
        fs::write(files.join(release.cvd_name().to_string()), &release.cvd).unwrap();
        if let Some(cdiff) = &release.cdiff {
            fs::write(files.join(release.cdiff_name().to_string()), cdiff).unwrap();
        }
    }
    fs::remove_file(files.join("bench-1.cvd")).unwrap();
    let mut servers = [Server::nginx(&nginx, dir.path(), &files), Server::ours(&mint, dir.path(), &files)];
    for case in &CASES {
        let len = fs::metadata(files.join(case.file)).unwrap().len();
        for server in &servers {
            assert_eq!(server.length_of(case.file), len, "{} serves {}", server.name, case.file);
        }
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
                let Load { requests, bytes, p99_ms, .. } = load(&wrk, server, case, connections, seconds);
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
fn load(wrk: &Path, server: &Server, case: &Case, connections: u32, seconds: u64) -> Load {
    let mut command = Command::new(wrk);
    command.args(["-t1", "-c", &connections.to_string(), "-d", &format!("{seconds}s")]);
    // More than one file takes at the slowest.
    command.args(["--timeout", "30s", "-s"]).arg(server.script.as_path());
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

struct Server {
    name: &'static str,
    port: u16,
    child: Child,
    script: PathBuf,
}

impl Server {
    fn nginx(program: &Path, dir: &Path, files: &Path) -> Self {
        // Between this and nginx's bind another process could take the port: then the run fails and says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (at, root) = (dir.display(), files.display());
        let config = format!(
            "daemon off; master_process on; worker_processes 2; pid {at}/nginx.pid; error_log {at}/nginx.err;\n\
             events {{ worker_connections 1024; }}\n\
             http {{ sendfile on; tcp_nopush on; tcp_nodelay on; etag on; access_log {at}/nginx.log;\n\
             keepalive_requests 1000000000; client_body_temp_path {at}; proxy_temp_path {at}; \
             fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};\n\
             server {{ listen 127.0.0.1:{port}; root {root}; default_type application/octet-stream;\n\
             add_header Cache-Control 'public, max-age=31536000, immutable'; }} }}\n"
        );
        // Without a user line workers become `nobody`, who may not read the temporary directory.
        let user = if fs::metadata("/proc/self").unwrap().uid() == 0 { "user root;\n" } else { "" };
        let path = dir.join("nginx.conf");
        fs::write(&path, format!("{user}{config}")).unwrap();
        let child = Command::new(program).arg("-c").arg(&path).arg("-p").arg(dir).spawn().unwrap();
        Self::up("nginx", port, child, dir)
    }

    fn ours(mint: &Mint, dir: &Path, files: &Path) -> Self {
        let keys = dir.join("keys.toml");
        fs::write(&keys, mint.keys_toml()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cvdmirror"))
            .args(["serve", "--listen", "127.0.0.1:0", "--database", "bench", "--source"])
            .arg(format!("dir:{}", files.display()))
            .arg("--trust-keys")
            .arg(&keys)
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--access-log")
            .arg(dir.join("access.log"))
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("cvdmirror.log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().and_then(Result::ok).unwrap_or_else(|| {
            panic!("{}", fs::read_to_string(dir.join("cvdmirror.log")).unwrap());
        });
        let port = line.rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
        Self::up("cvdmirror", port, child, dir)
    }

    /// Waits until the CVD is there.
    fn up(name: &'static str, port: u16, child: Child, dir: &Path) -> Self {
        let script = dir.join("count.lua");
        fs::write(&script, SCRIPT).unwrap();
        let server = Self { name, port, child, script };
        let began = Instant::now();
        while server.length_of("bench-2.cvd") == 0 || server.length_of("bench-2.cdiff") == 0 {
            assert!(began.elapsed() < Duration::from_secs(120), "{name} does not serve the files");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    /// The Content-Length of a 200 for a file; 0 for anything else.
    fn length_of(&self, file: &str) -> u64 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return 0 };
        let request = format!("HEAD /{file} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        stream.read_to_string(&mut head).unwrap();
        let length =
            |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned);
        let found = head.starts_with("HTTP/1.1 200").then(|| head.lines().find_map(length)).flatten();
        found.map_or(0, |length| length.parse().unwrap())
    }

    /// CPU time of the process and its children, user and system, from /proc/PID/stat.
    fn cpu_s(&self) -> f64 {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
        let ids = children.split_whitespace().map(|id| id.parse().unwrap());
        // A clock tick is 10 ms on every Linux that this runs on.
        std::iter::once(own).chain(ids).map(ticks).sum::<u64>() as f64 / 100.0
    }
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the command's name, which is in parentheses, come the fields from the third on; 14 and 15 are wanted.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

impl Drop for Server {
    fn drop(&mut self) {
        // TERM, so that nginx's master ends its workers.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
