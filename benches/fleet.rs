//! A fleet's morning, before nginx and before cvdmirror in turn: who comes first, and then everybody.
//!
//! `cargo bench --bench fleet [-- seconds]`; needs nginx. First one client takes a CVD of 60 MB that is in no cache. Then,
//! from one process, 2,000 clients that come within so many seconds (40), take a CDIFF and stay connected, and 200 that take
//! the CVD at 10 Mbit/s each.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]
mod beside;

use beside::{CDIFF, CVD, Server, Site};
use rustix::process::{Resource, Rlimit, setrlimit};
use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};
use support::peers::peer;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpSocket,
    task::JoinSet,
    time::sleep,
};

const ROUNDS: usize = 5;
const PATCHED: u32 = 2000;
const WHOLE: u32 = 200;
/// What a client that takes the CVD reads at once, bytes, and how often: 10 Mbit/s.
const PART: usize = 125_000;
const EVERY: Duration = Duration::from_millis(100);

fn main() {
    let Some(nginx) = peer("nginx") else { return };
    let seconds = std::env::args().filter_map(|arg| arg.parse().ok()).next().unwrap_or(40);
    let site = Site::new();
    let enough = Rlimit { current: Some(1 << 14), maximum: Some(1 << 14) };
    setrlimit(Resource::Nofile, enough).expect("leave to open many files");

    println!("The first client of a CVD that is in no cache, ms, median of {ROUNDS}:\n");
    // It holds the files from then on.
    drop(site.ours(&[]));
    let sides: [(&str, &dyn Fn() -> Server); 3] = [
        ("nginx", &|| site.nginx(&nginx)),
        ("cvdmirror", &|| site.ours(&[])),
        ("cvdmirror without sealed memory", &|| site.ours(&["--hot-memory", "0"])),
    ];
    let mut took = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        for ((_, start), took) in sides.iter().zip(&mut took) {
            let server = start();
            forget(&site.files());
            forget(&site.dir.path().join("data/store"));
            took.push(first(&server));
        }
    }
    for ((name, _), took) in sides.iter().zip(&mut took) {
        took.sort_by(f64::total_cmp);
        println!("- {name}: {:.0} ({:.0} to {:.0})", took[ROUNDS / 2], took[0], took[ROUNDS - 1]);
    }

    println!(
        "\n{PATCHED} clients take a CDIFF within {seconds} s and stay, {WHOLE} the CVD at 10 Mbit/s each:\n"
    );
    println!("| | server CPU, s | peak memory, MiB | p99 of the CDIFFs, ms | failed |");
    println!("|---|---|---|---|---|");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for start in [sides[0].1, sides[1].1] {
        let server = start();
        let before = server.cpu_s();
        let Fleet { mut took_ms, failed } = runtime.block_on(fleet(&server, seconds));
        took_ms.sort_by(f64::total_cmp);
        let p99 = took_ms.get(took_ms.len() * 99 / 100).copied().unwrap_or(f64::NAN);
        println!(
            "| {} | {:.1} | {} | {p99:.1} | {failed} |",
            server.name,
            server.cpu_s() - before,
            server.peak_bytes() >> 20
        );
    }
}

/// Has the next reader find the files of a directory on the disk alone.
fn forget(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let file = File::open(entry.unwrap().path()).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
}

/// How long one client takes for the CVD, ms.
fn first(server: &Server) -> f64 {
    let length = server.length_of(CVD);
    let began = Instant::now();
    assert_eq!(server.get(CVD), length);
    began.elapsed().as_secs_f64() * 1000.0
}

#[derive(Default)]
struct Fleet {
    /// How long each CDIFF took.
    took_ms: Vec<f64>,
    failed: usize,
}

async fn fleet(server: &Server, seconds: u64) -> Fleet {
    let (port, lengths) = (server.port, [CDIFF, CVD].map(|file| server.length_of(file) as usize));
    let mut clients: JoinSet<Option<f64>> = JoinSet::new();
    let (done, over) = tokio::sync::watch::channel(false);
    for n in 0..PATCHED {
        let mut over = over.clone();
        clients.spawn(async move {
            sleep(Duration::from_millis(seconds * 1000 * u64::from(n) / u64::from(PATCHED))).await;
            let began = Instant::now();
            let mut client = Client::ask(n, port, CDIFF).await?;
            client.take(lengths[0], usize::MAX).await?;
            let took = began.elapsed().as_secs_f64() * 1000.0;
            // Idle, until it is closed or all is over.
            tokio::select! {
                _ = client.0.read_u8() => {}
                _ = over.changed() => {}
            }
            Some(took)
        });
    }
    let mut downloads = JoinSet::new();
    for n in 0..WHOLE {
        downloads.spawn(async move {
            let mut client = Client::ask(PATCHED + n, port, CVD).await?;
            client.take(lengths[1], PART).await
        });
    }
    let mut all = Fleet::default();
    while let Some(download) = downloads.join_next().await {
        all.failed += usize::from(download.unwrap().is_none());
    }
    sleep(Duration::from_secs(1)).await;
    done.send(true).unwrap();
    while let Some(client) = clients.join_next().await {
        match client.unwrap() {
            Some(took) => all.took_ms.push(took),
            None => all.failed += 1,
        }
    }
    all
}

struct Client(tokio::net::TcpStream);

impl Client {
    /// Each comes from an address of its own.
    async fn ask(n: u32, port: u16, file: &str) -> Option<Self> {
        let socket = TcpSocket::new_v4().ok()?;
        let from = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 1, 0, 1)) + n);
        socket.bind(SocketAddr::from((from, 0))).ok()?;
        let mut stream = socket.connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).await.ok()?;
        let request = format!("GET /{file} HTTP/1.1\r\nHost: m\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        Some(Self(stream))
    }

    /// Reads the head and a body of this length, at most so much at a time.
    async fn take(&mut self, length: usize, part: usize) -> Option<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.0.read_u8().await.ok()?);
        }
        head.starts_with(b"HTTP/1.1 200").then_some(())?;
        let mut pace = tokio::time::interval(EVERY);
        let (mut left, mut buffer) = (length, vec![0; part.min(length)]);
        while left > 0 {
            if part < length {
                pace.tick().await;
            }
            let some = left.min(buffer.len());
            self.0.read_exact(&mut buffer[..some]).await.ok()?;
            left -= some;
        }
        Some(())
    }
}
