//! What serving costs in memory: a file of its own, because the whole process is measured.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(target_os = "linux")]
mod http_fixture;
use cvdmirror::http::{Aliases, Limits};
use http_fixture::{Server, fill, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const MIB: u64 = 1 << 20;

/// A figure of /proc/self/status, in bytes.
fn status(key: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap() * 1024
}

/// Sends a request and throws the answer away; returns its length.
async fn drink(server: &Server, fields: &str) -> u64 {
    let mut client = server.connect().await;
    let request = format!("GET /test-5.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\n{fields}\r\n");
    client.0.write_all(request.as_bytes()).await.unwrap();
    let mut buf = vec![0; 64 << 10];
    let mut length = 0;
    loop {
        match client.0.read(&mut buf).await.unwrap() {
            0 => return length,
            n => length += n as u64,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_of_200_mb_stays_within_32_mb() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), &[("test-5.cvd", noise(200 << 20, 5))]);
    let server = Server::over(dir, Aliases::Redirect, Limits::default()).await;
    // Idle means having served before: threads are up, and what is made once is made.
    drink(&server, "Range: bytes=0-511\r\n").await;
    // 5 resets the peak (proc(5)).
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let idle = status("VmRSS:");
    assert!(drink(&server, "").await > 200 * MIB);
    assert!(drink(&server, "Range: bytes=1-\r\n").await > 199 * MIB);
    let peak = status("VmHWM:");
    assert!(peak - idle < 32 * MIB, "{} KiB above idle", (peak - idle) / 1024);
    println!("{} KiB above idle", (peak - idle) / 1024);
}
