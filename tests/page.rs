//! The status page of the real binary: what it says of a mirror's life, and what it lets nobody do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod http_fixture;
mod page_scenes;
mod support;
use page_scenes::{HOSTILE, Scene};
use sha2::{Digest, Sha256};
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
    assert!(!html.contains("<script") && !html.contains("<b>") && !html.contains(HOSTILE), "{html}");
    let read = readable(&html);
    // In the error, in a remark, in a finding, in two events, and as an engine.
    assert_eq!(read.matches(HOSTILE).count(), 6, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_is_told_to_run_and_fetch_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let address = Scene::fresh(dir.path()).serve().await;
    let reply = tokio::task::spawn_blocking(move || wire::get(address, "/", "")).await.unwrap();
    let html = reply.text();
    let style = html.split_once("<style>").unwrap().1.split_once("</style>").unwrap().0;
    use base64::{Engine, prelude::BASE64_STANDARD};
    let hash = BASE64_STANDARD.encode(Sha256::digest(style));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    assert_eq!(reply.field("content-security-policy"), Some(policy.as_str()));
    assert_eq!(reply.field("x-content-type-options"), Some("nosniff"));
    assert_eq!(reply.field("referrer-policy"), Some("no-referrer"));
    assert_eq!(reply.field("cache-control"), Some("no-store"));
    for needle in [" style=", "<script", " src=", "@import", "url("] {
        assert!(!html.contains(needle), "{needle}");
    }
}
