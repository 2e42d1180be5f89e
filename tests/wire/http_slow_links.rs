//! Honest clients behind a narrow, delayed link: they get their file whole, however much the kernel queues for them.
use cvdmirror::http::{Aliases, Limits};
use std::{process::Command, time::Duration};
use support::http_fixture::{Server, fill, noise};
use support::{namespace, skip};
use tokio::io::AsyncReadExt;

/// Makes loopback, in a network namespace, a link of so many bytes a second behind a queue of two seconds, which is what
/// delays: a sender fills it, and acknowledgements queue there too. netem adds to that where the kernel has it.
fn narrow(bytes_per_s: u64) -> Result<(), String> {
    let rate = format!("{}bit", 8 * bytes_per_s);
    let queue = (2 * bytes_per_s).max(4500).to_string();
    let tbf = ["tbf", "rate", &rate, "burst", "3000", "limit", &queue];
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().map_err(|e| format!("{program}: {e}"))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr))),
        }
    };
    run("ip", &["link", "set", "lo", "mtu", "1500"])?;
    let netem = ["qdisc", "add", "dev", "lo", "root", "handle", "1:", "netem", "delay", "40ms"];
    match run("tc", &netem) {
        Ok(()) => {
            run("tc", &[&["qdisc", "add", "dev", "lo", "parent", "1:1", "handle", "10:"][..], &tbf].concat())
        }
        Err(_) => run("tc", &[&["qdisc", "add", "dev", "lo", "root"][..], &tbf].concat()),
    }
}

/// Downloads so many bytes at such a pace, in the test `name`, which this runs again in a namespace.
fn downloads(name: &str, bytes_per_s: u64, length: usize) {
    if !namespace::inside(name) {
        return;
    }
    if let Err(why) = narrow(bytes_per_s) {
        return skip(&why);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let whole = noise(length, 5);
        fill(dir.path(), &[("test-5.cvd", whole.clone())]);
        // Shorter than by default, so that there is a verdict on every one of many windows.
        let soon = Duration::from_secs(10);
        let limits = Limits { idle_timeout: soon, stall_window: soon, ..Limits::default() };
        let server = Server::over(dir, Aliases::Redirect, limits).await;
        let mut client = server.connect().await;
        client.send(b"GET /test-5.cvd HTTP/1.1\r\nHost: m\r\n\r\n").await;
        let answer = client.answer(false).await.expect("an answer");
        let counts = server.get("/metrics", "").await.text();
        let counts: Vec<&str> = counts.lines().filter(|line| line.contains("timeouts_total{")).collect();
        assert!(answer.body == whole, "{} of {length} bytes; {counts:?}", answer.body.len());
        // A last chunk that is still on its way is no idleness either.
        assert_eq!(server.metric("cvdmirror_http_timeouts_total{kind=\"slow\"}").await, 0);
    });
}

/// The link is fast, and the client slow: the kernel could queue megabytes for it, and write nothing for seconds.
#[tokio::test]
async fn a_slow_reader_of_a_fast_link() {
    let dir = tempfile::tempdir().unwrap();
    let whole = noise(6 << 20, 5);
    fill(dir.path(), &[("test-5.cvd", whole.clone())]);
    let limits = Limits { stall_window: Duration::from_millis(500), ..Limits::default() };
    let server = Server::over(dir, Aliases::Redirect, limits).await;
    let mut client = server.connect().await;
    client.send(b"GET /test-5.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await;
    let (mut got, mut some) = (Vec::new(), vec![0; 20_000]);
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    while let Ok(n @ 1..) = client.0.read(&mut some).await {
        got.extend_from_slice(&some[..n]);
        pace.tick().await;
    }
    assert!(got.ends_with(&whole), "{} bytes", got.len());
}

/// While it was fast, the kernel was let queue megabytes for it; of those it then takes some all the time.
#[tokio::test]
async fn a_reader_that_was_fast_and_becomes_slow() {
    let dir = tempfile::tempdir().unwrap();
    let whole = noise(24 << 20, 5);
    fill(dir.path(), &[("test-5.cvd", whole.clone())]);
    let limits = Limits { stall_window: Duration::from_millis(500), ..Limits::default() };
    let server = Server::over(dir, Aliases::Redirect, limits).await;
    let mut client = server.connect().await;
    socket2::SockRef::from(&client.0).set_recv_buffer_size(64 << 10).unwrap();
    client.send(b"GET /test-5.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await;
    let mut got = vec![0; 16 << 20];
    client.0.read_exact(&mut got).await.unwrap();
    // 60 kB a second: the kernel takes nothing more from the server for longer than four windows.
    let (mut some, mut pace) = (vec![0; 3000], tokio::time::interval(Duration::from_millis(50)));
    for _ in 0..120 {
        client.0.read_exact(&mut some).await.unwrap();
        got.extend_from_slice(&some);
        pace.tick().await;
    }
    client.0.read_to_end(&mut got).await.unwrap();
    assert!(got.ends_with(&whole), "{} bytes", got.len());
}

#[test]
fn a_link_of_2_kb_a_second() {
    downloads("a_link_of_2_kb_a_second", 2_000, 80_000);
}

#[test]
fn a_link_of_50_kb_a_second() {
    downloads("a_link_of_50_kb_a_second", 50_000, 1_500_000);
}

#[test]
fn a_link_of_100_kb_a_second() {
    downloads("a_link_of_100_kb_a_second", 100_000, 3_000_000);
}

#[test]
fn a_link_of_200_kb_a_second() {
    downloads("a_link_of_200_kb_a_second", 200_000, 6_000_000);
}
