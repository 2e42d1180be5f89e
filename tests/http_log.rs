//! The access log, in a process of its own: loggers are a matter of the whole process.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod http_fixture;
use http_fixture::Server;
use std::sync::{Arc, Mutex};

/// A log kept in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);
impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// On one thread, so that the log of this thread is the server's.
#[tokio::test(flavor = "current_thread")]
async fn every_request_is_one_event_without_its_users_uuid() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().json().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let server = Server::start().await;
    let agent = "User-Agent: ClamAV/1.4.6 (OS: Linux, UUID: 6f1c2f0e-8a44)\r\n";
    server.get("/test.cvd?version=4", agent).await;
    server.get("/test-4.cvd", "Range: bytes=0-511\r\n").await;
    server.get("/test-4.cvd%00", "").await;
    // An event comes when its answer is let go, which may be after the client has read it.
    let all = async {
        loop {
            let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
            if text.matches("cvdmirror::access").count() >= 3 {
                return text;
            }
            tokio::task::yield_now().await;
        }
    };
    let text = tokio::time::timeout(std::time::Duration::from_secs(30), all).await.unwrap();
    assert!(!text.contains("6f1c2f0e"), "{text}");
    let events: Vec<(String, u64, u64, String)> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .filter(|event| event["target"] == "cvdmirror::access")
        .map(|event| {
            let f = &event["fields"];
            let text = |name: &str| f[name].as_str().unwrap().to_owned();
            assert_eq!((text("method").as_str(), f["complete"].as_bool()), ("GET", Some(true)));
            (text("path"), f["status"].as_u64().unwrap(), f["bytes"].as_u64().unwrap(), text("agent"))
        })
        .collect();
    assert_eq!(
        events,
        [
            ("/test.cvd?version=4".into(), 302, 12, "ClamAV/1.4.6 (OS: Linux)".into()),
            ("/test-4.cvd".into(), 206, 512, String::new()),
            ("/test-4.cvd%00".into(), 404, 9, String::new()),
        ]
    );
}
