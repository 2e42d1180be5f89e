//! The status page of the real binary: what it says of a mirror's life, and what it lets nobody do.
use sha2::{Digest, Sha256};
use support::page_scenes::{HOSTILE, Scene};
use support::{
    program::{Program, Serving},
    upstream::{Answer, Upstream},
    wire,
};

/// The page's text with what it escapes put back, so that it can be searched as it is read.
fn page(server: &Serving) -> String {
    let reply = server.get("/");
    assert_eq!(reply.status, 200);
    readable(&reply.text())
}

fn readable(html: &str) -> String {
    let marks = [("&#34;", "\""), ("&#39;", "'"), ("&#60;", "<"), ("&#62;", ">"), ("&#38;", "&")];
    marks.iter().fold(html.to_owned(), |text, (mark, plain)| text.replace(mark, plain))
}

fn shows(page: &str, words: &[&str]) {
    for words in words {
        assert!(page.contains(words), "no {words:?} in {page}");
    }
}

#[test]
fn it_tells_a_mirrors_life_and_a_restart_forgets_none_of_it() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    upstream.move_to(5);
    upstream.remove("/test-5.cdiff");
    upstream.remove("/test-4.cdiff");
    upstream.set("/test.cvd", Answer::Hangup);
    program.sync().exits(1);
    program.sync().exits(1);
    upstream.move_to(5);
    let mut server = program.serve();
    server.publishes(5);
    // The round's end.
    program.sync().exits(0);
    let told = [
        "version 3 announced upstream",
        "full CVD 3 fetched, ",
        "check failed: ",
        "2 times since ",
        "version 5 announced upstream",
        "version 5 held, by CDIFF",
        "full CVD 5 rebuilt here, ",
    ];
    let first = page(&server);
    shows(&first, &told);
    shows(&first, &[">Fresh</h1>", "<h3 id=\"db-test\">test</h3>", "href=\"/test-5.cvd\"", "1 full CVD ("]);
    server.terminate();
    assert_eq!(server.ends(), Some(0));

    let nowhere = "http://127.0.0.1:1";
    let program = program.set("source", nowhere);
    let server = program.serve();
    server.says(nowhere);
    // The round's end: the server does one at a time.
    program.sync().exits(1);
    let later = page(&server);
    shows(&later, &told);
    shows(&later, &["Fresh, but not all is well", "cvdmirror doctor"]);
    let status = program.status();
    shows(&later, &[status["databases"][0]["last_error"].as_str().unwrap()]);
}

#[test]
fn an_empty_mirror_says_what_is_in_the_way() {
    let program = Program::new("http://127.0.0.1:1");
    let server = program.serve();
    program.sync().exits(1);
    let status = program.status();
    let error = status["databases"][0]["last_error"].as_str().unwrap();
    shows(&page(&server), &["Nothing is held yet", "cvdmirror doctor", "cvdmirror sync", error]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enemys_words_are_shown_and_do_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let address = Scene::troubled(dir.path()).serve().await;
    let reply = tokio::task::spawn_blocking(move || wire::get(address, "/", "")).await.unwrap();
    let html = reply.text();
    assert!(!html.contains("<b>") && !html.contains(HOSTILE), "{html}");
    assert_eq!(html.matches("<script").count(), 1, "{html}");
    let read = readable(&html);
    // In the error, in a remark, in a finding, and in two events.
    assert_eq!(read.matches(HOSTILE).count(), 5, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_every_database_fails_for_is_said_once() {
    let dir = tempfile::tempdir().unwrap();
    let address = Scene::empty(dir.path()).serve().await;
    let reply = tokio::task::spawn_blocking(move || wire::get(address, "/", "")).await.unwrap();
    let read = readable(&reply.text());
    shows(&read, &["bytecode, daily, main: the last check failed: https://database.clamav.net/main.cvd: "]);
    assert_eq!(read.matches("connection refused").count(), 1, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_told_to_fetch_nothing_and_to_run_one_script() {
    let dir = tempfile::tempdir().unwrap();
    let address = Scene::fresh(dir.path()).serve().await;
    let reply = tokio::task::spawn_blocking(move || wire::get(address, "/", "")).await.unwrap();
    let html = reply.text();
    use base64::{Engine, prelude::BASE64_STANDARD};
    let hash = |tag: &str| {
        let text =
            html.split_once(&format!("<{tag}>")).unwrap().1.split_once(&format!("</{tag}>")).unwrap().0;
        BASE64_STANDARD.encode(Sha256::digest(text))
    };
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'none'",
        hash("style"),
        hash("script")
    );
    assert_eq!(reply.field("content-security-policy"), Some(policy.as_str()));
    assert_eq!(reply.field("x-content-type-options"), Some("nosniff"));
    assert_eq!(reply.field("referrer-policy"), Some("no-referrer"));
    assert_eq!(reply.field("cache-control"), Some("no-store"));
    assert_eq!(html.matches("<script").count(), 1);
    for needle in [" style=", " src=", " onload=", "@import", "url("] {
        assert!(!html.contains(needle), "{needle}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_where_files_come_from_when_next_and_how_a_client_is_pointed_here() {
    let dir = tempfile::tempdir().unwrap();
    let address = Scene::fresh(dir.path()).serve().await;
    let ask = move |request: &'static str| async move {
        let request = format!("GET {request}\r\nConnection: close\r\n\r\n");
        let reply =
            tokio::task::spawn_blocking(move || wire::raw(address, request.as_bytes())).await.unwrap();
        assert_eq!(reply.status, 200);
        readable(&reply.text())
    };
    let all = ask("/ HTTP/1.1\r\nHost: mirror.example:8080").await;
    shows(&all, &["</strong> https://database.clamav.net, asked again in 1", "212 GiB left on the disk"]);
    shows(&all, &["stale 12 h after", "DatabaseMirror http://mirror.example:8080\nDNSDatabaseInfo no\n"]);
    // The first is what led the visitor here, the second leads a client to itself.
    let own = ask("/?q= HTTP/1.1\r\nHost: localhost:8080").await;
    shows(&own, &["DatabaseMirror http://mirror.example.lan:8080\n"]);
    let found = ask("/?q=daily-2810 HTTP/1.1\r\nHost: mirror").await;
    shows(
        &found,
        &["Files with “daily-2810” in their name", "href=\"/daily-28109.cvd\"", "value=\"daily-2810\""],
    );
    let none = ask("/?q=%22%3E%3Cscript%3E HTTP/1.1\r\nHost: mirror").await;
    shows(&none, &["No file held here has “\"><script>” in its name"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_fill_says_what_is_fetched_and_draws_no_empty_figure() {
    let dir = tempfile::tempdir().unwrap();
    let address = Scene::filling(dir.path()).serve().await;
    let reply = tokio::task::spawn_blocking(move || wire::get(address, "/", "")).await.unwrap();
    let read = readable(&reply.text());
    shows(
        &read,
        &["<strong>Now</strong> daily-28109.cvd: 21.9 MiB of 59.5 MiB", "The first fill is under way"],
    );
    for absent in ["<figure", "Nothing is held yet", "class=\"verdict bad", "together"] {
        assert!(!read.contains(absent), "{absent}: {read}");
    }
}
