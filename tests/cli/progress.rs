//! What is said while a file is fetched: in the log, by `status`, on the page, to Prometheus, and by a `sync` beside it.
use std::{
    process::Stdio,
    sync::{Arc, Mutex, mpsc::channel},
};
use support::{
    cdn::{Cdn, Fault},
    mint::Mint,
    process::{Lines, ends},
    program::Program,
    wait_for,
};

#[test]
fn everybody_hears_what_is_fetched_and_how_far_it_is() {
    let mint = Mint::new(16);
    let release = mint.database_of("test", 60_000, 0).publish();
    let (total, held) = (release.cvd.len(), release.cvd.len() / 4 * 3);
    assert!(held > 1 << 20, "{total} bytes are too few");
    let cdn = Cdn::start([0, 0]);
    cdn.publish("test", &release);
    let front = cdn.front();
    let (go_on, gate) = channel();
    front.fault("test.cvd", Fault::Hold(held, Arc::new(Mutex::new(gate))));
    let program = Program::new(&front.url()).trusting(&mint.keys_toml()).set("stall-timeout", "10m");
    let server = program.serve();

    let now = wait_for("three quarters of it", || {
        let now = program.status()["now"].clone();
        (now["done_bytes"] == held).then_some(now)
    });
    assert_eq!(now["total_bytes"], total, "{now}");
    let what = now["what"].as_str().unwrap();
    let mib = |bytes: usize| format!("{:.2} MiB", bytes as f64 / f64::from(1 << 20));
    let so_far = format!("{what}: {} of {}", mib(held), mib(total));
    program.run(&["status"]).exits(0).says([&format!("now {so_far}")]);
    let page = server.get("/").text();
    assert!(page.contains(&format!("<strong>Now</strong> {so_far}")), "{page}");
    let metrics = server.get("/metrics").text();
    for line in [format!("cvdmirror_fetch_done_bytes {held}"), format!("cvdmirror_fetch_size_bytes {total}")]
    {
        assert!(metrics.lines().any(|said| said == line), "no {line:?} in {metrics}");
    }
    server.says(&format!(" of {}", mib(total)));
    let log = server.log.so_far();
    let lines = |needle: String| log.iter().filter(|line| line.contains(&needle)).count();
    assert_eq!(lines(format!("{what}: {}", mib(total))), 1, "{log:?}");
    let tenths = lines(format!(" of {}", mib(total)));
    assert!((1..=7).contains(&tenths), "{tenths} of seven tenths: {log:?}");

    let mut sync = program.command(&["sync"]);
    let mut sync = sync.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (said, report) = (Lines::of(sync.stderr.take().unwrap()), Lines::of(sync.stdout.take().unwrap()));
    wait_for("the sync beside it", || said.find(&format!("{what} ({})", mib(total))));
    drop(go_on);
    let ended = ends(&mut sync).expect("the sync ends");
    assert!(ended.success(), "{:?} {:?}", said.so_far(), report.so_far());
    wait_for("its report", || report.find("test"));
    wait_for("who did it", || said.find("the running server"));
    assert_eq!(program.status()["now"], serde_json::Value::Null);
    assert!(!server.get("/").text().contains("<strong>Now</strong>"));
    assert!(!server.get("/metrics").text().contains("\ncvdmirror_fetch_done_bytes "));
}
