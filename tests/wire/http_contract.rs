//! Every row of the HTTP contract, asked over TCP.
use cvdmirror::http::{Aliases, Limits};
use support::http_fixture::{CVD_BYTES, STIME, Server, content, etag, fill};

const FOR_EVER: &str = "public, max-age=31536000, immutable";

#[tokio::test]
async fn a_versioned_name_is_served_for_ever() {
    let server = Server::start().await;
    for name in ["test-4.cvd", "test-5.cvd", "test-4.cdiff", "test-5.cdiff", "test-5.cvd.sign"] {
        let answer = server.get(&format!("/{name}"), "").await;
        assert_eq!(answer.status, 200, "{name}");
        assert!(answer.body == content(name), "{name}");
        assert_eq!(answer.field("cache-control"), Some(FOR_EVER));
        assert_eq!(answer.field("etag"), Some(etag(name).as_str()));
        assert_eq!(answer.field("accept-ranges"), Some("bytes"));
        assert_eq!(answer.field("content-type"), Some("application/octet-stream"));
        assert_eq!(answer.field("last-modified"), name.ends_with(".cvd").then_some(STIME));
        let head = server.ask("HEAD", &format!("/{name}"), "").await;
        assert_eq!(head.status, 200);
        let dateless = |fields: &[(String, String)]| {
            let mut fields: Vec<_> = fields.iter().filter(|(name, _)| name != "date").cloned().collect();
            fields.sort();
            fields
        };
        assert_eq!(dateless(&head.fields), dateless(&answer.fields), "{name}");
    }
}

#[tokio::test]
async fn ranges_are_the_bytes_they_name() {
    let server = Server::start().await;
    let whole = content("test-5.cvd");
    // On both sides of the store's chunks, and across them.
    for (first, last) in [(0, 511), (0, 0), (100, 300_000), (255_000, 262_144), (300_000, CVD_BYTES - 1)] {
        let answer = server.get("/test-5.cvd", &format!("Range: bytes={first}-{last}\r\n")).await;
        assert_eq!(answer.status, 206);
        assert!(answer.body == whole[first..=last], "{first}-{last}");
        assert_eq!(answer.field("content-range"), Some(format!("bytes {first}-{last}/{CVD_BYTES}").as_str()));
        assert_eq!(answer.field("etag"), Some(etag("test-5.cvd").as_str()));
        assert_eq!(answer.field("cache-control"), Some(FOR_EVER));
    }
    let suffix = server.get("/test-5.cvd", "Range: bytes=-7\r\n").await;
    assert_eq!((suffix.status, suffix.body.as_slice()), (206, &whole[CVD_BYTES - 7..]));
    let open = server.get("/test-5.cvd", "Range: bytes=700000-\r\n").await;
    assert_eq!((open.status, open.body.as_slice()), (206, &whole[700_000..]));

    let past = server.get("/test-5.cvd", "Range: bytes=700001-\r\n").await;
    assert_eq!(past.status, 416);
    assert_eq!(past.field("content-range"), Some("bytes */700001"));
    assert_eq!(past.field("cache-control"), Some("no-store"));
    for whole_range in ["bytes=0-1,3-4", "bytes=9-1", "lines=1-2"] {
        let answer = server.get("/test-5.cvd", &format!("Range: {whole_range}\r\n")).await;
        assert!(answer.status == 200 && answer.body == whole, "{whole_range}");
    }
    // Only GET has ranges (RFC 9110, 14.2), and nothing of an empty file could be named.
    assert_eq!(server.ask("HEAD", "/test-5.cvd", "Range: bytes=0-1\r\n").await.status, 200);
    assert_eq!(server.get("/test-5.cdiff", "Range: bytes=0-511\r\n").await.status, 200);
}

#[tokio::test]
async fn conditions_are_kept_in_order() {
    let server = Server::start().await;
    let tag = etag("test-5.cvd");
    let not_modified = server.get("/test-5.cvd", &format!("If-None-Match: {tag}\r\n")).await;
    assert_eq!(not_modified.status, 304);
    assert_eq!(not_modified.field("etag"), Some(tag.as_str()));
    assert_eq!(not_modified.field("cache-control"), Some(FOR_EVER));
    assert_eq!(not_modified.field("content-length"), None);
    for (fields, status) in [
        (format!("If-Modified-Since: {STIME}\r\n"), 304),
        ("If-Modified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n".into(), 200),
        (format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {STIME}\r\n"), 200),
        ("If-Match: \"x\"\r\n".into(), 412),
        (format!("If-Match: {tag}\r\n"), 200),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n".into(), 412),
        // A condition comes before the range, and a failed If-Range takes the range away.
        (format!("Range: bytes=0-511\r\nIf-Modified-Since: {STIME}\r\n"), 304),
        (format!("Range: bytes=9999999-\r\nIf-None-Match: {tag}\r\n"), 304),
        (format!("Range: bytes=0-511\r\nIf-Range: {tag}\r\n"), 206),
        (format!("Range: bytes=0-511\r\nIf-Range: {STIME}\r\n"), 206),
        (format!("Range: bytes=0-511\r\nIf-Range: W/{tag}\r\n"), 200),
        ("Range: bytes=9999999-\r\nIf-Range: \"x\"\r\n".into(), 200),
    ] {
        assert_eq!(server.get("/test-5.cvd", &fields).await.status, status, "{fields}");
    }
}

#[tokio::test]
async fn an_alias_only_points() {
    let server = Server::start().await;
    for (target, to) in [
        ("/test.cvd", "/test-5.cvd"),
        ("/test.cvd?version=4", "/test-4.cvd"),
        ("http://mirror.example.lan/test.cvd", "/test-5.cvd"),
    ] {
        for method in ["GET", "HEAD"] {
            let fields = format!("Range: bytes=0-511\r\nIf-Modified-Since: {STIME}\r\n");
            let answer = server.ask(method, target, &fields).await;
            assert_eq!(answer.status, 302, "{target}");
            assert_eq!(answer.field("location"), Some(to));
            assert_eq!(answer.field("cache-control"), Some("no-store"));
        }
    }
    for target in ["/test.cvd?version=3", "/test.cvd?version=9", "/test.cvd?version=x", "/other.cvd"] {
        assert_eq!(server.get(target, "").await.status, 404, "{target}");
    }
}

#[tokio::test]
async fn a_direct_alias_is_the_content_to_be_revalidated() {
    let server = Server::with(Aliases::Direct, Limits::default()).await;
    let whole = server.get("/test.cvd", "").await;
    assert!(whole.status == 200 && whole.body == content("test-5.cvd"));
    assert_eq!(whole.field("cache-control"), Some("no-cache"));
    assert_eq!(whole.field("last-modified"), Some(STIME));
    assert_eq!(whole.field("etag"), Some(etag("test-5.cvd").as_str()));
    // freshclam's probe, before and after an update.
    let probe = |since: &str| format!("Range: bytes=0-511\r\nIf-Modified-Since: {since}\r\n");
    let newer = server.get("/test.cvd", &probe("Sat, 05 Nov 1994 08:49:37 GMT")).await;
    assert!(newer.status == 206 && newer.body == content("test-5.cvd")[..512]);
    assert_eq!(server.get("/test.cvd", &probe(STIME)).await.status, 304);
    let exact = server.get("/test.cvd?version=4", "").await;
    assert!(exact.status == 200 && exact.body == content("test-4.cvd"));
    assert_eq!(server.get("/test.cvd?version=3", "").await.status, 404);
    assert_eq!(server.get("/test-5.cvd", "").await.field("cache-control"), Some(FOR_EVER));
}

#[tokio::test]
async fn an_object_is_served_only_if_a_published_name_is_bound_to_it() {
    let server = Server::start().await;
    let path = |name: &str| format!("/objects/{}", etag(name).trim_matches('"'));
    let answer = server.get(&path("test-4.cdiff"), "Range: bytes=10-19\r\n").await;
    assert!(answer.status == 206 && answer.body == content("test-4.cdiff")[10..20]);
    assert_eq!(answer.field("cache-control"), Some(FOR_EVER));
    assert!(server.site.mirror.standing().snapshot.view.lookup("test-9.cvd").is_some());
    assert_eq!(server.get(&path("test-9.cvd"), "").await.status, 404);
    assert_eq!(server.get("/test-9.cvd", "").await.status, 404);
}

#[tokio::test]
async fn what_is_not_there_is_not_to_be_stored() {
    let server = Server::start().await;
    for target in ["/test.cld", "/test-5.cld", "/test-6.cvd", "/test-3.cdiff", "/x", "/test-5.cvd/"] {
        let answer = server.get(target, "").await;
        assert_eq!((answer.status, answer.field("cache-control")), (404, Some("no-store")), "{target}");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "BREW"] {
        let answer = server.ask(method, "/test-5.cvd", "").await;
        assert_eq!((answer.status, answer.field("allow")), (405, Some("GET, HEAD")), "{method}");
        assert_eq!(answer.field("cache-control"), Some("no-store"));
    }
    // It is no proxy.
    assert_eq!(server.ask("CONNECT", "database.clamav.net:80", "").await.status, 405);
    assert_eq!(server.get("http://database.clamav.net/test-5.cvd", "").await.status, 421);
}

#[tokio::test]
async fn the_index_says_what_is_published() {
    let server = Server::start().await;
    let answer = server.get("/index.json", "").await;
    assert_eq!((answer.status, answer.field("content-type")), (200, Some("application/json")));
    assert_eq!(answer.field("cache-control"), Some("no-cache"));
    let index: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let test = &index["databases"]["test"];
    assert_eq!((test["version"].as_u64(), test["cvd"].as_u64()), (Some(5), Some(5)));
    assert_eq!((test["chain"]["from"].as_u64(), test["chain"]["to"].as_u64()), (Some(4), Some(5)));
    let files = test["files"].as_array().unwrap();
    assert_eq!(files.len(), 5);
    for file in files {
        let bytes = content(file["name"].as_str().unwrap());
        assert_eq!(file["size"].as_u64(), Some(bytes.len() as u64));
        assert_eq!(format!("\"{}\"", file["hash"].as_str().unwrap()), etag(file["name"].as_str().unwrap()));
    }
    let tag = answer.field("etag").unwrap();
    assert_eq!(server.get("/index.json", &format!("If-None-Match: {tag}\r\n")).await.status, 304);
}

#[tokio::test]
async fn the_small_pages_say_what_they_should() {
    let server = Server::start().await;
    let dns = server.get("/dns.txt", "").await;
    assert_eq!(
        (dns.status, dns.text().as_str()),
        (200, "0.0.0:0:0:1781708400:0:90:0:0\ntest.cvd 5:1781708400\n")
    );
    assert_eq!(dns.field("cache-control"), Some("no-cache"));
    let page = server.get("/", "").await;
    assert_eq!((page.status, page.field("content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(page.text().contains("href=\"/test-5.cvd\""));

    let health = server.get("/health", "").await;
    assert_eq!((health.status, health.text().as_str()), (200, "fresh\ntest: held\n"));
    server.turn_stale("the source is <silent>");
    let health = server.get("/health", "").await;
    let told = "stale: test: never confirmed by the source\n\
                test: the last check failed: the source is <silent>\ntest: held\n";
    assert_eq!((health.status, health.text().as_str()), (503, told));
    assert_eq!(health.field("cache-control"), Some("no-store"));
    assert!(server.get("/", "").await.text().contains("the source is &#60;silent&#62;"));

    assert_eq!(server.metric("cvdmirror_http_requests_total{kind=\"page\",code=\"503\"}").await, 1);
    assert_eq!(server.metric("cvdmirror_database_version{database=\"test\"}").await, 5);
    assert_eq!(server.metric("cvdmirror_fresh").await, 0);
}

#[tokio::test]
async fn probes_tell_what_serves_from_what_has_something_to_serve() {
    let probe = async |server: &Server, target: &str| {
        let answer = server.get(target, "").await;
        assert_eq!(answer.field("cache-control"), Some("no-store"));
        assert_eq!(answer.field("content-type"), Some("text/plain; charset=utf-8"));
        (answer.status, answer.text())
    };
    let server = Server::start().await;
    // Stale is a matter of neither.
    server.turn_stale("the source is silent");
    assert_eq!(probe(&server, "/livez").await, (200, "alive\n".into()));
    assert_eq!(probe(&server, "/readyz").await, (200, "ready\n".into()));
    // A patch alone gives no client a database.
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), &[("test-4.cdiff", content("test-4.cdiff"))]);
    let empty = Server::over(dir, Aliases::Redirect, Limits::default()).await;
    assert_eq!(probe(&empty, "/livez").await, (200, "alive\n".into()));
    assert_eq!(probe(&empty, "/readyz").await, (503, "nothing is published yet\n".into()));
}

#[tokio::test]
async fn a_connection_is_kept_and_pipelined_requests_are_answered_in_order() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    let ask = |name: &str| format!("GET /{name} HTTP/1.1\r\nHost: m\r\nX: {}\r\n\r\n", "x".repeat(500));
    let names = ["test-4.cdiff", "test-5.cvd", "test-5.cvd.sign", "test-5.cdiff"];
    // More pipelined heads than one head may be long.
    let burst: String = names.iter().cycle().take(60).map(|name| ask(name)).collect();
    assert!(burst.len() > 16 * 1024);
    let (mut from, mut to) = client.0.into_split();
    let writing = tokio::spawn(async move {
        tokio::io::AsyncWriteExt::write_all(&mut to, burst.as_bytes()).await.unwrap();
        to
    });
    for name in names.iter().cycle().take(60) {
        let whole = content(name);
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(tokio::io::AsyncReadExt::read_u8(&mut from).await.unwrap());
        }
        assert!(head.starts_with(b"HTTP/1.1 200 "));
        let mut body = vec![0; whole.len()];
        tokio::io::AsyncReadExt::read_exact(&mut from, &mut body).await.unwrap();
        assert!(body == whole, "{name}");
    }
    client = support::http_fixture::Client(from.reunite(writing.await.unwrap()).unwrap());
    client.send(b"GET /test-5.cvd.sign HTTP/1.0\r\n\r\n").await;
    assert_eq!(client.answer(false).await.unwrap().status, 200);
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_client_that_closes_its_writing_half_gets_its_answer() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client.send(b"GET /test-5.cvd HTTP/1.1\r\nHost: m\r\n\r\n").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.0).await.unwrap();
    let answer = client.answer(false).await.unwrap();
    assert!(answer.status == 200 && answer.body == content("test-5.cvd"));
    assert!(client.ends().await);
}

#[tokio::test]
async fn a_request_with_content_ends_its_connection() {
    let server = Server::start().await;
    let mut client = server.connect().await;
    client
        .send(b"POST / HTTP/1.1\r\nHost: m\r\nContent-Length: 28\r\n\r\nGET /test-5.cvd HTTP/1.1\r\n\r\n")
        .await;
    let answer = client.answer(false).await.unwrap();
    assert_eq!((answer.status, answer.field("connection")), (405, Some("close")));
    assert!(client.ends().await);
}
