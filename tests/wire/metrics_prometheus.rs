//! What `/metrics` says, judged by Prometheus itself: its linter, its server, its rules, and the dashboard's queries.
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};
use support::{
    peer,
    process::{self, Lines, run},
    program::{Program, Serving},
    talos,
    upstream::{Answer, Upstream},
    wait_for, wire,
};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(name)
}

/// A mirror with everything turned on that has numbers, after a round.
fn everything(upstream: &Upstream) -> (Program, Serving) {
    let program = Program::new(&upstream.url())
        .set("dns-listen", "127.0.0.1:0")
        .set("dns-zone", "example.net")
        .set("remember-clients", "14d");
    let server = program.serve();
    program.sync().exits(0);
    (program, server)
}

/// The value of a series, as it is written in `/metrics`.
fn value(text: &str, series: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
}

#[track_caller]
fn assert_values<const N: usize>(server: &Serving, expected: [(&str, f64); N]) {
    let text = server.get("/metrics").text();
    for (series, expected) in expected {
        assert_eq!(value(&text, series), Some(expected), "{series} in\n{text}");
    }
}

/// Every metric that a text of Prometheus' query language or exposition format speaks of.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !word(c));
    words.filter(|w| w.starts_with("cvdmirror_") || w.starts_with("process_")).map(str::to_owned).collect()
}

/// Every query of the dashboard.
fn queries() -> Vec<String> {
    let dashboard: serde_json::Value =
        serde_json::from_slice(&std::fs::read(packaging("grafana/cvdmirror.json")).unwrap()).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| panel["targets"].as_array().cloned().unwrap_or_default());
    targets.map(|target| target["expr"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_numbers_answer_what_is_asked_of_them() {
    let upstream = Upstream::talos(3);
    let (program, server) = everything(&upstream);
    assert_values(
        &server,
        [
            ("cvdmirror_fresh", 1.0),
            ("cvdmirror_database_version{database=\"test\"}", 3.0),
            ("cvdmirror_database_newest_version{database=\"test\"}", 3.0),
            ("cvdmirror_database_skew_versions{database=\"test\",held=\"published\"}", 0.0),
            ("cvdmirror_database_skew_versions{database=\"test\",held=\"cvd\"}", 0.0),
            ("cvdmirror_database_chain_length{database=\"test\"}", 2.0),
            ("cvdmirror_database_chain_gaps{database=\"test\"}", 0.0),
            ("cvdmirror_sync_failing{database=\"test\"}", 0.0),
            ("cvdmirror_sync_rounds_total{database=\"test\",result=\"failed\"}", 0.0),
            ("cvdmirror_sync_files_total{database=\"test\",outcome=\"refused\"}", 0.0),
            ("cvdmirror_upstream_requests_total{kind=\"cvd\"}", 1.0),
            ("cvdmirror_upstream_received_bytes_total{kind=\"cvd\"}", talos("test-3.cvd").len() as f64),
            ("cvdmirror_upstream_cool_down_seconds", 0.0),
            ("cvdmirror_store_quarantined_objects", 0.0),
            ("cvdmirror_store_findings", 0.0),
            ("cvdmirror_access_log_lost_lines_total", 0.0),
        ],
    );

    // Served, by kind and status, with the bytes of the bodies.
    let (cvd, cdiff) = (talos("test-3.cvd").len() as f64, talos("test-3.cdiff").len() as f64);
    for target in ["/test.cvd", "/test-3.cvd", "/test-3.cdiff", "/test-3.cvd.sign", "/nothing", "/health"] {
        server.get(target);
    }
    let tag = server.get("/test-3.cvd").field("etag").unwrap().to_owned();
    wire::get(server.address, "/test-3.cvd", &format!("If-None-Match: {tag}\r\n"));
    wire::get(server.address, "/test-3.cvd", "Range: bytes=0-511\r\n");
    assert_values(
        &server,
        [
            ("cvdmirror_http_requests_total{kind=\"alias\",code=\"302\"}", 1.0),
            ("cvdmirror_http_requests_total{kind=\"cvd\",code=\"200\"}", 2.0),
            ("cvdmirror_http_requests_total{kind=\"cvd\",code=\"206\"}", 1.0),
            ("cvdmirror_http_requests_total{kind=\"cvd\",code=\"304\"}", 1.0),
            ("cvdmirror_http_requests_total{kind=\"cdiff\",code=\"200\"}", 1.0),
            ("cvdmirror_http_requests_total{kind=\"sign\",code=\"200\"}", 1.0),
            ("cvdmirror_http_requests_total{kind=\"page\",code=\"200\"}", 1.0),
            ("cvdmirror_http_requests_total{kind=\"other\",code=\"404\"}", 1.0),
            ("cvdmirror_http_response_bytes_total{kind=\"cvd\"}", 2.0 * cvd + 512.0),
            ("cvdmirror_http_response_bytes_total{kind=\"cdiff\"}", cdiff),
        ],
    );

    // CDIFFs and a probe move on, the full file is the old one: said as a skew of the CVD, and as a stale answer.
    upstream.move_to(5);
    upstream.set(
        "/test.cvd",
        Answer::Split(
            Answer::File(talos("test-5.cvd")[..512].to_vec()).into(),
            Answer::File(talos("test-3.cvd")).into(),
        ),
    );
    upstream.remove("/test-5.cdiff");
    program.sync().exits(1);
    assert_values(
        &server,
        [
            ("cvdmirror_database_version{database=\"test\"}", 4.0),
            ("cvdmirror_database_cvd_version{database=\"test\"}", 3.0),
            ("cvdmirror_database_newest_version{database=\"test\"}", 5.0),
            ("cvdmirror_database_skew_versions{database=\"test\",held=\"published\"}", 1.0),
            ("cvdmirror_database_skew_versions{database=\"test\",held=\"cvd\"}", 2.0),
            ("cvdmirror_sync_failing{database=\"test\"}", 1.0),
            ("cvdmirror_sync_rounds_total{database=\"test\",result=\"failed\"}", 1.0),
            ("cvdmirror_sync_files_total{database=\"test\",outcome=\"absent\"}", 1.0),
            ("cvdmirror_sync_files_total{database=\"test\",outcome=\"stale\"}", 1.0),
        ],
    );
    let text = server.get("/metrics").text();
    for time in ["success", "failure", "check"] {
        let at_s =
            value(&text, &format!("cvdmirror_sync_last_{time}_timestamp_seconds{{database=\"test\"}}"));
        assert!(at_s.unwrap() > 1.7e9, "{time}: {at_s:?}");
    }
}

#[test]
fn promtool_finds_nothing_to_complain_of() {
    let upstream = Upstream::talos(5);
    let (_program, server) = everything(&upstream);
    let Some(promtool) = peer("promtool") else { return };
    server.get("/test.cvd");
    let dir = tempfile::tempdir().unwrap();
    let check = |text: &str| {
        let path = dir.path().join("metrics");
        std::fs::write(&path, text).unwrap();
        run(Command::new("sh").args(["-c", "\"$0\" check metrics < \"$1\""]).arg(&promtool).arg(&path))
    };
    let text = server.get("/metrics").text();
    let ran = check(&text).exits(0);
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""));
    // It does look: what it knows to be wrong it says.
    check(&text.replace("_rounds_total", "_rounds")).exits(3).says(["cvdmirror_sync_rounds"]);
}

#[test]
fn the_alert_rules_hold_and_each_is_shown_to_fire() {
    let rules = std::fs::read_to_string(packaging("prometheus/cvdmirror.rules.yml")).unwrap();
    let tests = std::fs::read_to_string(packaging("prometheus/cvdmirror.rules.test.yml")).unwrap();
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in alerts {
        let fires = format!("        alertname: {alert}\n        exp_alerts:\n          - exp_labels:");
        assert!(tests.contains(&fires), "no test in which {alert} fires");
        assert!(
            tests.contains(&format!("alertname: {alert}, exp_alerts: []")),
            "none in which {alert} rests"
        );
    }
    let Some(promtool) = peer("promtool") else { return };
    let dir = packaging("prometheus");
    let tool = |arguments: &[&str]| run(Command::new(&promtool).args(arguments).current_dir(&dir));
    tool(&["check", "rules", "cvdmirror.rules.yml"]).exits(0);
    tool(&["test", "rules", "cvdmirror.rules.test.yml"]).exits(0);
}

#[test]
fn rules_and_dashboard_speak_only_of_what_is_exported() {
    let upstream = Upstream::talos(5);
    let (program, server) = everything(&upstream);
    // The time of the last failure is exported once there was one.
    upstream.set("/test.cvd", Answer::Hangup);
    program.sync().exits(1);
    let exported = names(&server.get("/metrics").text());
    let rules = std::fs::read_to_string(packaging("prometheus/cvdmirror.rules.yml")).unwrap();
    let asked: BTreeSet<String> =
        names(&rules).into_iter().chain(queries().iter().flat_map(|q| names(q))).collect();
    assert!(asked.len() > 30, "{asked:?}");
    let unknown: Vec<&String> = asked.difference(&exported).collect();
    assert!(unknown.is_empty(), "{unknown:?} are not in {exported:?}");
}

/// A Prometheus server that scrapes one address; ended when dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    log: Lines,
    _dir: tempfile::TempDir,
}

impl Prometheus {
    fn scraping(target: SocketAddr) -> Option<Self> {
        let program = peer("prometheus")?;
        let dir = tempfile::tempdir().unwrap();
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s", "evaluation_interval": "1s" },
            "rule_files": [packaging("prometheus/cvdmirror.rules.yml")],
            "scrape_configs": [{
                "job_name": "cvdmirror",
                "static_configs": [{ "targets": [target.to_string()] }],
            }],
        });
        // JSON is YAML.
        std::fs::write(dir.path().join("prometheus.yml"), config.to_string()).unwrap();
        let mut child = Command::new(program)
            .arg(format!("--config.file={}", dir.path().join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("data").display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Lines::of(child.stderr.take().unwrap());
        let address = wait_for("Prometheus' address", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("Prometheus ended with {status}: {:#?}", log.so_far());
            }
            log.find("msg=\"Listening on\"")?.rsplit("address=").next()?.trim().parse().ok()
        });
        Some(Self { child, address, log, _dir: dir })
    }

    fn api(&self, target: &str) -> Option<serde_json::Value> {
        // HTTP/1.0, so that the answer comes in one piece.
        let request = format!("GET /api/v1/{target} HTTP/1.0\r\nHost: prometheus\r\n\r\n");
        let reply = wire::raw(self.address, request.as_bytes());
        let answer: serde_json::Value = serde_json::from_slice(&reply.body).ok()?;
        // While it starts it is not ready to be asked.
        (reply.status != 503).then_some(answer)
    }

    /// What a query comes to now.
    fn query(&self, query: &str) -> Result<Vec<serde_json::Value>, serde_json::Value> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = wait_for("an answer", || self.api(&format!("query?query={encoded}")));
        if answer["status"] != "success" {
            return Err(answer);
        }
        Ok(answer["data"]["result"].as_array().unwrap().clone())
    }

    fn value(&self, query: &str) -> Option<String> {
        let result = self.query(query).unwrap();
        Some(result.first()?["value"][1].as_str().unwrap().to_owned())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- log of Prometheus\n{:#?}", self.log.so_far());
        }
        process::terminate(&self.child);
        if process::ends(&mut self.child).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

#[test]
fn a_real_prometheus_scrapes_it_and_answers_the_dashboard() {
    let upstream = Upstream::talos(5);
    let (_program, server) = everything(&upstream);
    let Some(prometheus) = Prometheus::scraping(server.address) else { return };
    wait_for("the first scrape", || (prometheus.value("up{job=\"cvdmirror\"}")? == "1").then_some(()));
    assert_eq!(prometheus.value("cvdmirror_database_version{database=\"test\"}").unwrap(), "5");
    assert_eq!(prometheus.value("cvdmirror_fresh").unwrap(), "1");
    let scraped = prometheus.value("scrape_samples_scraped").unwrap();
    assert!(scraped.parse::<u32>().unwrap() > 80, "{scraped} samples");

    let queries = queries();
    assert!(queries.len() > 30);
    for query in queries {
        let asked = query.replace("$__rate_interval", "1m").replace("$instance", ".*");
        assert!(!asked.contains('$'), "{asked}");
        // Gauges of everything that is turned on have a value; of `daily` there is none here.
        let result = prometheus.query(&asked).unwrap_or_else(|e| panic!("{query}: {e}"));
        let needs_a_past =
            asked.contains("rate(") || asked.contains("increase(") || asked.contains("_failure_");
        assert!(!result.is_empty() || needs_a_past || asked.contains("daily"), "{query} comes to nothing");
    }

    // Every rule is evaluated, and a mirror that is well raises no alarm.
    let rules = wait_for("the rules' first evaluation", || {
        let rules = prometheus.api("rules")?["data"]["groups"][0]["rules"].as_array()?.clone();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    for rule in rules {
        assert_eq!((&rule["health"], &rule["state"]), (&"ok".into(), &"inactive".into()), "{rule:#}");
    }
}
