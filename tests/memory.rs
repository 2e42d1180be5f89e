//! What serving costs in memory: a file of its own, because the whole process is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(target_os = "linux")]
use cvdmirror::{
    hot::HotSet,
    http::{Aliases, Limits},
};
use std::sync::Arc;
use support::http_fixture::{Server, fill, noise};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Barrier,
    task::JoinSet,
};

const MIB: u64 = 1 << 20;
const CLIENTS: usize = 500;

/// A figure of /proc/self/status, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() * 1024
}

/// Sends a request and throws the answer away, once all have its head; returns its length.
async fn drink(server: &Server, name: &str, fields: &str, all: Option<Arc<Barrier>>) -> u64 {
    let mut client = server.connect().await;
    let request = format!("GET /{name} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n{fields}\r\n");
    client.0.write_all(request.as_bytes()).await.unwrap();
    let mut length = client.0.read(&mut [0; 100]).await.unwrap() as u64;
    if let Some(all) = all {
        all.wait().await;
    }
    let mut buf = vec![0; 8 << 10];
    loop {
        match client.0.read(&mut buf).await.unwrap() {
            0 => return length,
            n => length += n as u64,
        }
    }
}

/// What a step adds to what the process holds, at most.
async fn peak(step: impl Future<Output = ()>) -> u64 {
    // 5 resets the peak (proc(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let idle = status("VmRSS:");
    step.await;
    let peak = status("VmHWM:") - idle;
    println!("{} KiB above idle", peak / 1024);
    peak
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_of_200_mb_and_500_of_different_files_keep_their_bounds() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), &[("test-5.cvd", noise(200 << 20, 5))]);
    let names: Vec<String> = (0..CLIENTS).map(|n| format!("d{n}-5.cvd")).collect();
    for some in names.chunks(50) {
        let files = some.iter().zip(1..).map(|(name, seed)| {
            let mut bytes = noise(MIB as usize, seed);
            bytes[..name.len()].copy_from_slice(name.as_bytes());
            (name.as_str(), bytes)
        });
        fill(dir.path(), &files.collect::<Vec<_>>());
    }
    let hot = HotSet::new(64 * MIB);
    let server = Server::hot(dir, Aliases::Redirect, Limits::default(), hot.clone()).await;
    // Idle means having served before: threads are up, and what is made once is made.
    drink(&server, "test-5.cvd", "Range: bytes=0-511\r\n", None).await;
    // Longer than what may be hot.
    let one = peak(async {
        assert!(drink(&server, "test-5.cvd", "", None).await > 200 * MIB);
        assert!(drink(&server, "test-5.cvd", "Range: bytes=1-\r\n", None).await > 199 * MIB);
    });
    assert!(one.await < 32 * MIB);
    assert_eq!(hot.figures().loads, 0);

    let server = Arc::new(server);
    let (all, mut clients) = (Arc::new(Barrier::new(CLIENTS)), JoinSet::new());
    let many = peak(async {
        for name in names {
            let (server, all) = (server.clone(), all.clone());
            clients.spawn(async move { drink(&server, &name, "", Some(all)).await });
        }
        while let Some(length) = clients.join_next().await {
            assert!(length.unwrap() > MIB);
        }
    });
    // What is hot counts whether it is mapped or not.
    assert!(many.await < 64 * MIB + hot.figures().budget);
    let hot = hot.figures();
    assert!(hot.loads >= 64 && hot.bytes <= hot.budget, "{hot}");
}
