//! Requests and clients that mean harm, and a store that rotted: nothing wrong is served, nothing grows, nothing hangs.
use cvdmirror::http::{Aliases, Limits};
use cvdmirror_store::ObjectId;
use std::time::Duration;
use support::http_fixture::{Client, Server, content, fill, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Sends bytes that are no fair request; returns the status of the one answer, after which the connection ends.
async fn only_answer(server: &Server, bytes: &[u8]) -> u16 {
    let mut client = server.connect().await;
    // The server may have answered and stopped reading before all of it is written.
    let _ = client.0.write_all(bytes).await;
    let answer = client.answer(false).await.expect("an answer");
    assert!(answer.complete, "{answer:?} to {}", bytes[..bytes.len().min(80)].escape_ascii());
    assert!(client.ends().await, "more than one answer");
    answer.status
}

#[tokio::test]
async fn requests_that_try_to_escape_are_refused() {
    let server = Server::start().await;
    let get = |target: &str, fields: &str| {
        format!("GET {target} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n{fields}\r\n").into_bytes()
    };
    let long = |n: usize| "a".repeat(n);
    let field_lines = |n: usize| (0..n).map(|i| format!("X{i}: y\r\n")).collect::<String>();
    let ranges = |n: usize| format!("Range: bytes={}\r\n", vec!["0-1"; n].join(","));
    for (what, request, status) in [
        ("dots", get("/../../etc/passwd", ""), 404),
        ("dots after a name", get("/test-5.cvd/../../store", ""), 404),
        ("encoded dots", get("/%2e%2e/%2e%2e/etc/passwd", ""), 404),
        ("encoded slashes", get("/..%2f..%2fetc%2fpasswd", ""), 404),
        ("backslashes", get("/..\\..\\etc\\passwd", ""), 404),
        ("double slash", get("//etc/passwd", ""), 404),
        ("absolute form", get("http://localhost/../etc/passwd", ""), 404),
        ("a file URI", get("file:///etc/passwd", ""), 400),
        ("encoded NUL", get("/test-5.cvd%00.txt", ""), 404),
        ("NUL", get("/test-5.cvd\0", ""), 400),
        ("NUL in a field", get("/", "X: a\0b\r\n"), 400),
        ("asterisk", get("*", ""), 400),
        ("no path", get("test-5.cvd", ""), 400),
        ("8 KB URI", get(&format!("/{}", long(8 << 10)), ""), 404),
        ("64 KB URI", get(&format!("/{}", long(64 << 10)), ""), 431),
        ("1 MB URI", get(&format!("/{}", long(1 << 20)), ""), 431),
        ("64 KB query", get(&format!("/test.cvd?version={}", long(64 << 10)), ""), 431),
        ("a field of 16 KB", get("/", &format!("X: {}\r\n", long(16 << 10))), 431),
        ("a field name of 16 KB", get("/", &format!("{}: x\r\n", long(16 << 10))), 431),
        ("99 more fields", get("/test-6.cvd", &field_lines(98)), 404),
        ("100 more fields", get("/", &field_lines(100)), 431),
        ("1,000 fields", get("/", &field_lines(1000)), 431),
        ("16 ranges of nothing there", get("/test-6.cvd", &ranges(16)), 404),
        ("17 ranges", get("/test-5.cvd", &ranges(17)), 400),
        ("1,000 ranges", get("/test-5.cvd", &ranges(1000)), 400),
        ("100,000 ranges", get("/test-5.cvd", &ranges(100_000)), 431),
        ("no Host", b"GET /test-5.cvd HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(), 400),
        ("two Hosts", get("/test-5.cvd", "Host: other\r\n"), 400),
        ("a folded field", get("/", "X: a\r\n b\r\n"), 400),
        ("a space before the colon", get("/", "X : a\r\n"), 400),
        ("noise", [noise(300, 1), b"\r\n\r\n".to_vec()].concat(), 400),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), 400),
        ("20,000 blank lines", b"\r\n".repeat(20_000), 431),
        ("an endless method", long(1 << 20).into_bytes(), 431),
        ("an endless version", format!("GET / {}", long(1 << 20)).into_bytes(), 400),
    ] {
        assert_eq!(only_answer(&server, &request).await, status, "{what}");
    }
}

#[tokio::test]
async fn a_head_is_refused_at_its_limit_and_not_before() {
    let server = Server::start().await;
    let of = |len: usize| {
        let frame = "GET /test-6.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\nX: \r\n\r\n".len();
        format!(
            "GET /test-6.cvd HTTP/1.1\r\nHost: m\r\nConnection: close\r\nX: {}\r\n\r\n",
            "x".repeat(len - frame)
        )
    };
    assert_eq!(only_answer(&server, of(16 * 1024).as_bytes()).await, 404);
    assert_eq!(only_answer(&server, of(16 * 1024 + 1).as_bytes()).await, 431);
    // The client that stops right past the limit and waits is answered too.
    assert_eq!(only_answer(&server, &vec![b'a'; 16 * 1024 + 1]).await, 431);
    assert_eq!(server.metric("cvdmirror_http_malformed_heads_total").await, 2);
}

#[tokio::test]
async fn a_head_too_long_does_not_cut_the_answer_before_it() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let flood = "x".repeat(64 << 10);
    client.send(format!("GET /test-5.cvd HTTP/1.1\r\nHost: m\r\n\r\nGET /{flood}").as_bytes()).await;
    let first = client.answer(false).await.unwrap();
    assert!(first.status == 200 && first.complete && first.body == content("test-5.cvd"));
    assert_eq!(client.answer(false).await.unwrap().status, 431);
    assert!(client.ends().await);
}

fn hasty() -> Limits {
    let soon = Duration::from_millis(200);
    Limits { head_timeout: soon, idle_timeout: soon, stall_window: soon, ..Limits::default() }
}

#[tokio::test]
async fn silent_and_slow_clients_are_let_go() {
    let server = Server::with(Aliases::Redirect, hasty()).await;
    let mut silent = server.connect().await;
    assert!(silent.ends().await);
    let mut half = server.connect().await;
    half.send(b"GET / HT").await;
    assert!(half.ends().await);
    assert_eq!(server.metric("cvdmirror_http_timeouts_total{kind=\"head\"}").await, 2);

    let mut idle = server.connect().await;
    idle.send(b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert_eq!(idle.answer(false).await.unwrap().status, 200);
    assert!(idle.ends().await);
    assert_eq!(server.metric("cvdmirror_http_timeouts_total{kind=\"idle\"}").await, 1);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_let_go() {
    let dir = tempfile::tempdir().unwrap();
    // More than the kernel buffers between the two.
    fill(dir.path(), &[("test-5.cvd", noise(40 << 20, 5))]);
    let server = Server::over(dir, Aliases::Redirect, hasty()).await;
    let mut stalled = server.connect().await;
    stalled.send(b"GET /test-5.cvd HTTP/1.1\r\nHost: m\r\n\r\n").await;
    while server.metric("cvdmirror_http_timeouts_total{kind=\"slow\"}").await == 0 {
        tokio::task::yield_now().await;
    }
    let mut taken = Vec::new();
    let _ = stalled.0.read_to_end(&mut taken).await;
    assert!(taken.len() < 40 << 20);
}

#[tokio::test]
async fn when_every_connection_is_taken_one_that_waits_is_let_go() {
    let limits = Limits { connections: 3, ..Limits::default() };
    let server = Server::with(Aliases::Redirect, limits).await;
    let mut kept: Vec<Client> = Vec::new();
    for _ in 0..3 {
        let mut client = server.connect().await;
        client.send(b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n").await;
        assert_eq!(client.answer(false).await.unwrap().status, 200);
        kept.push(client);
    }
    assert_eq!(server.get("/health", "").await.status, 200);
    // The one that waited longest; the others are kept.
    assert!(kept[0].ends().await);
    for client in &mut kept[1..] {
        client.send(b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n").await;
        assert_eq!(client.answer(false).await.unwrap().status, 200);
    }
    drop(kept);
    assert_eq!(server.metric("cvdmirror_http_connections_full_total").await, 1);
    // It was told to go, and did not just grow old.
    assert_eq!(server.metric("cvdmirror_http_timeouts_total{kind=\"idle\"}").await, 0);
}

/// One client connects again and again and says nothing; another one asks.
#[tokio::test]
async fn one_silent_address_leaves_room_for_the_others() {
    let limits = Limits { connections: 64, head_timeout: Duration::from_secs(3600), ..Limits::default() };
    let server = Server::with(Aliases::Redirect, limits).await;
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(server.connect().await);
    }
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = Client(socket.connect(server.addr).await.unwrap());
    other.send(b"GET /health HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n").await;
    let answer = tokio::time::timeout(Duration::from_secs(60), other.answer(false)).await;
    assert_eq!(answer.expect("an answer in time").unwrap().status, 200);
}

/// Many clients may come through one proxy.
#[tokio::test]
async fn connections_of_one_address_that_have_asked_are_not_counted() {
    let server = Server::with(Aliases::Redirect, Limits { connections: 64, ..Limits::default() }).await;
    let mut asked = Vec::new();
    for _ in 0..63 {
        let mut client = server.connect().await;
        client.send(b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n").await;
        assert_eq!(client.answer(false).await.unwrap().status, 200);
        asked.push(client);
    }
}

#[tokio::test]
async fn shutdown_lets_a_running_download_finish_and_ends_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let whole = noise(40 << 20, 5);
    fill(dir.path(), &[("test-5.cvd", whole.clone())]);
    let mut server = Server::over(dir, Aliases::Redirect, Limits::default()).await;
    let mut running = server.connect().await;
    running.send(b"GET /test-5.cvd HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert_eq!(running.0.read_u8().await.unwrap(), b'H');
    let mut idle = server.connect().await;
    idle.send(b"GET /health HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert_eq!(idle.answer(false).await.unwrap().status, 200);
    let mut silent = server.connect().await;
    // Known to the server: what was accepted before this answer came before it.
    assert_eq!(server.get("/health", "").await.status, 200);

    server.stop();
    assert!(idle.ends().await);
    assert!(silent.ends().await);
    assert!(!server.task.is_finished());
    let mut got = Vec::new();
    running.0.read_to_end(&mut got).await.unwrap();
    assert!(got.ends_with(&whole[whole.len() - 1000..]) && got.len() > whole.len());
    server.task.await.unwrap().unwrap();
    assert!(tokio::net::TcpStream::connect(server.addr).await.is_err());
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), &[("test-5.cvd", noise(40 << 20, 5))]);
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let mut server = Server::over(dir, Aliases::Redirect, limits).await;
    let mut stalled = server.connect().await;
    stalled.send(b"GET /test-5.cvd HTTP/1.1\r\nHost: m\r\n\r\n").await;
    assert_eq!(stalled.0.read_u8().await.unwrap(), b'H');
    server.stop();
    server.task.await.unwrap().unwrap();
}

/// Flips one bit of the only pack of `dir`, `at` bytes into `content` as it lies there.
fn rot(dir: &std::path::Path, content: &[u8], at: usize) {
    let pack = std::fs::read_dir(dir.join("store")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&pack).unwrap();
    let needle = &content[at..at + 64];
    let found = bytes.windows(64).position(|window| window == needle).unwrap();
    bytes[found] ^= 1;
    let mut permissions = std::fs::metadata(&pack).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o600);
    std::fs::set_permissions(&pack, permissions).unwrap();
    std::fs::write(&pack, bytes).unwrap();
}

#[tokio::test]
async fn rot_is_never_served() {
    for (at, status, sound) in [(100, 503, 600_000..700_001), (600_000, 200, 0..1000)] {
        let dir = tempfile::tempdir().unwrap();
        let whole = noise(700_001, 5);
        fill(dir.path(), &[("test-5.cvd", whole.clone())]);
        rot(dir.path(), &whole, at);
        let server = Server::over(dir, Aliases::Redirect, Limits::default()).await;
        let answer = server.get("/test-5.cvd", "").await;
        assert_eq!(answer.status, status);
        if status == 200 {
            // The head was out before the rot was met: the connection ends short, and what came is right.
            assert!(!answer.complete && answer.body == whole[..answer.body.len()]);
        } else {
            assert_eq!(answer.field("cache-control"), Some("no-store"));
            assert!(answer.complete);
        }
        assert_eq!(server.metric("cvdmirror_http_unreadable_objects_total").await, 1);
        assert_eq!(*server.corrupt.lock().unwrap(), [ObjectId::of(&whole)]);
        // What is whole is still served.
        let range = format!("Range: bytes={}-{}\r\n", sound.start, sound.end - 1);
        let answer = server.get("/test-5.cvd", &range).await;
        assert!(answer.status == 206 && answer.body == whole[sound]);
    }
}

#[tokio::test]
async fn names_of_other_objects_do_not_reach_them() {
    let server = Server::start().await;
    let nothing = ObjectId::of(b"never stored");
    assert_eq!(server.get(&format!("/objects/{nothing}"), "").await.status, 404);
}
