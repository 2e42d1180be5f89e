//! What pull tells the mirror of this host, and what the mirror makes of it.
use super::client::{Client, talos_mirror};
use serde_json::Value;
use std::{
    io::{Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    },
};
use support::{mint::Mint, program::Program, upstream::Upstream, wait_for};

/// Answers as clamd does; once it is told to load, it has the version that lies there.
fn clamd(socket: &Path, there: &Arc<AtomicU32>) {
    let listener = UnixListener::bind(socket).unwrap();
    let there = there.clone();
    std::thread::spawn(move || {
        let mut loaded = 0;
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut command = [0; 16];
            let count = stream.read(&mut command).unwrap_or_default();
            let answer = match &command[..count] {
                b"zRELOAD\0" => {
                    loaded = there.load(SeqCst);
                    "RELOADING\0".to_owned()
                }
                _ => format!("ClamAV 1.4.6/{loaded}/Thu Nov 26 02:00:00 2026\0"),
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
}

fn report(program: &Program) -> Value {
    let ran = program.run(&["status", "--clients", "--json"]).exits(0);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn the_mirror_knows_what_a_host_has_and_names_it_when_it_lags() {
    let mint = Mint::new(61);
    let mut daily = mint.database("daily");
    let upstream = Upstream::start();
    upstream.release("daily", &daily.publish());
    let program = Program::new(&upstream.url())
        .set("database", "daily")
        .set("remember-clients", "14d")
        .set("client-reports", "true")
        .trusting(&mint.keys_toml());
    program.sync().exits(0);
    let mut server = program.serve();
    let client = Client::of(&server.url()).set("database", "daily").trusting(&mint.keys_toml());
    let (socket, there) = (client.dir.path().join("clamd.ctl"), Arc::new(AtomicU32::new(1)));
    clamd(&socket, &there);
    let client = client.set("clamd", socket.to_str().unwrap()).set("report-as", "web-1");
    // Without being asked for it, it tells nothing.
    client.pull(&[]).exits(0);
    assert_eq!(report(&program)["installations"], 0);
    let client = client.set("report", "true");
    let ran = client.pull(&[]).exits(0);
    assert!(!ran.stderr.contains("not told"), "{ran}");
    let told = report(&program);
    assert_eq!(
        (&told["installations"], &told["engines"]["ClamAV/1.4.6"]),
        (&1.into(), &1.into()),
        "{told:#}"
    );
    let of_daily = |told: &Value| told["databases"]["daily"].clone();
    assert_eq!((&of_daily(&told)["versions"]["1"], &of_daily(&told)["loaded"]["1"]), (&1.into(), &1.into()));
    assert_eq!(told["lagging"].as_array().unwrap().len(), 0);

    // The mirror moves on, and the host has not followed yet.
    upstream.release("daily", &daily.publish());
    program.sync().exits(0);
    program.run(&["status", "--clients"]).exits(0).says([
        "1 loaded by clamd              1",
        "web-1 lags: daily 1 installed, 1 loaded, 2 is published (told ",
    ]);
    program.run(&["status"]).exits(0).says([
        "\n1 host reports: daily 1 installed by 1; 1 loaded by 1\n",
        "  behind what is published: 1; `status --clients` names them\n",
    ]);
    let page = server.get("/").text();
    assert!(page.contains("<th scope=\"row\">web-1</th><td>daily</td>"), "{page}");
    let metrics = server.get("/metrics").text();
    for line in [
        "cvdmirror_client_lagging_versions{database=\"daily\",host=\"web-1\"} 1\n",
        "cvdmirror_client_installations{database=\"daily\",lag=\"1\"} 1\n",
        "cvdmirror_client_loaded{database=\"daily\",lag=\"1\"} 1\n",
    ] {
        assert!(metrics.contains(line), "no {line} in {metrics}");
    }
    // Nor does it when it is down; what it told is remembered without a server, too.
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    assert_eq!(report(&program)["lagging"][0]["host"], "web-1");
    program.run(&["status"]).exits(0).says(["1 host reports: daily 1 installed by 1; 1 loaded by 1\n"]);
    assert_eq!(program.status()["reported"]["lagging"], 1);

    let server = program.serve();
    let client = client.set("from", &server.url());
    there.store(2, SeqCst);
    client.pull(&[]).exits(0).says(["clamd has loaded daily 2"]);
    let told = report(&program);
    assert_eq!(told["lagging"].as_array().unwrap().len(), 0, "{told:#}");
    assert_eq!((&of_daily(&told)["versions"]["2"], &of_daily(&told)["loaded"]["2"]), (&1.into(), &1.into()));
    let said = ["1 host reports: daily 2 installed by 1; 2 loaded by 1\n", "  none of them lags\n"];
    program.run(&["status"]).exits(0).says(said);
    drop(server);

    // Switched off, it is forgotten, on the disk too.
    let program = program.set("client-reports", "");
    let mut server = program.serve();
    wait_for("the empty report", || (report(&program)["installations"] == 0).then_some(()));
    program.run(&["status"]).exits(0).never_says("report");
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    let program = program.set("client-reports", "true");
    assert_eq!(report(&program)["installations"], 0);
    program.run(&["status"]).exits(0).says(["no host has reported lately what it has\n"]);
}

#[test]
fn a_mirror_that_does_not_hear_it_is_one_line_and_no_error() {
    // This one answers 404.
    let mirror = talos_mirror(3);
    let client = Client::of(&mirror.url()).set("report", "true").set("report-as", "web-1");
    let ran = client.pull(&[]).exits(0).says(["test: 3 installed as CVD"]);
    let told: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("not told")).collect();
    assert_eq!(told.len(), 1, "{ran}");
    assert!(told[0].contains("/seen is not there"), "{ran}");
    let asked: Vec<String> = mirror.targets();
    assert_eq!(asked.last().map(String::as_str), Some("/seen"));

    // A mirror where it is not switched on answers as to any other method.
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url()).set("remember-clients", "14d");
    program.sync().exits(0);
    let server = program.serve();
    let ran = client.set("from", &server.url()).pull(&[]).exits(0);
    assert!(ran.stderr.contains("/seen: the answer is 405"), "{ran}");
    assert_eq!(report(&program)["lagging"].as_array().unwrap().len(), 0);

    for wrong in ["a b", "<b>", ""] {
        let client = Client::of(&mirror.url()).set("report", "true").set("report-as", wrong);
        let ran = client.pull(&[]);
        assert_eq!(ran.code, Some(2), "{wrong:?} {ran}");
    }
}
