//! The site's own freshclam and cvdupdate as downloaders, against a CDN that answers nobody else.
use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};
use support::{
    cdn::{Cdn, Fault, Front},
    clients::{Cvdupdate, Freshclam, freshclam_of_test},
    mint::Mint,
    name_server::{NameServer, time_s},
    namespace, peer,
    peers::Peers,
    program::{Program, script},
    skip, talos, wait_for,
};

/// A strict CDN that has `test` up to `version`.
fn strict(version: u32) -> (Cdn, Front) {
    let cdn = Cdn::talos(version);
    let front = cdn.front();
    front.is_strict(4);
    (cdn, front)
}

/// A program for which the real freshclam asks `front`; what it needs is kept as long as the second value.
fn fed(program: Program, front: &Front) -> Option<(Program, (tempfile::TempDir, Option<Peers>))> {
    let dir = tempfile::tempdir().unwrap();
    let (freshclam, peers) = freshclam_of_test(dir.path())?;
    let program = program.set("upstream", &front.url()).set("freshclam-path", freshclam.to_str().unwrap());
    Some((program, (dir, peers)))
}

#[test]
fn freshclam_feeds_a_mirror_at_the_price_of_cdiffs() {
    let (cdn, front) = strict(3);
    let Some((program, _keep)) = fed(Program::new("freshclam"), &front) else { return };
    let server = program.serve();
    server.publishes(3);
    (4..=5).for_each(|version| cdn.publish_talos(version));
    program.sync().exits(0).says(["3 -> 5 published"]);
    program.sync().exits(0);
    assert!(program.cat("test-5.cvd") == talos("test-5.cvd"));
    assert_eq!(program.names(), ["test-3.cvd", "test-4.cdiff", "test-5.cdiff", "test-5.cvd"]);

    let asked = front.asked();
    for request in &asked {
        assert!(request.agent.starts_with("ClamAV/1."), "{request:?}");
        assert!(request.agent.contains("UUID"), "{request:?}");
    }
    let shown: Vec<_> = asked.iter().map(|it| (it.target.as_str(), it.status, it.range.is_some())).collect();
    assert_eq!(
        shown,
        [
            ("/test.cvd", 206, true),
            ("/test.cvd", 200, false),
            ("/test.cvd", 206, true),
            ("/test-4.cdiff", 200, false),
            ("/test-5.cdiff", 200, false),
            ("/test.cvd", 304, true),
        ]
    );
    // What clients get from it is whole.
    let Some(client) = Freshclam::of(&server.url()) else { return };
    client.update(&["--no-dns"]).exits(0).says(["test.cvd updated (version: 5,"]);

    // A directory in disorder is mended, and no more than the CVD of one version stays in it.
    let own = program.data().join("freshclam");
    std::fs::remove_dir_all(own.join("db")).unwrap();
    std::fs::write(own.join("db"), b"no directory").unwrap();
    program.sync().exits(0);
    std::fs::write(own.join("db/test.cvd"), vec![7; 9000]).unwrap();
    std::fs::create_dir(own.join("db/tmp.0123456789")).unwrap();
    program.sync().exits(0);
    let left = std::fs::read_dir(own.join("db")).unwrap().map(|entry| entry.unwrap().file_name());
    let mut left: Vec<_> = left.map(|name| name.into_string().unwrap()).collect();
    left.sort();
    assert_eq!(left, ["freshclam.dat", "test.cvd"]);
    assert_eq!(std::fs::read_dir(own.join("passed")).unwrap().count(), 0);
}

/// An edge that lags is no step back, and a record that says so already is worth a run.
#[test]
fn a_lagging_edge_is_waited_for() {
    let (cdn, front) = strict(3);
    let dir = tempfile::tempdir().unwrap();
    let Some((freshclam, _peers)) = freshclam_of_test(dir.path()) else { return };
    let names = NameServer::start();
    names.set("test.cvd.example.net", &format!("3:{}", time_s(60)));
    let program = Program::new("freshclam")
        .set("upstream", &front.url())
        .set("txt-record", "current.cvd.example.net")
        .set("nameserver", &names.address.to_string())
        .set("freshclam-path", freshclam.to_str().unwrap());
    program.sync().exits(0);
    front.asked();
    // The record names what is held: nothing is asked.
    program.sync().exits(0);
    assert_eq!(front.asked(), []);
    cdn.hold("test.cvd");
    (4..=5).for_each(|version| cdn.publish_talos(version));
    names.set("test.cvd.example.net", &format!("5:{}", time_s(60)));
    program.sync().exits(1).says(["version 5 cannot be had yet; 3 stays published"]);
    cdn.release("test.cvd");
    program.sync().exits(0).says(["3 -> 5 published"]);
}

#[test]
fn a_limit_is_named_and_sat_out() {
    let (_cdn, front) = strict(3);
    front.is_strict(0);
    let Some((program, _keep)) = fed(Program::new("freshclam"), &front) else { return };
    let mut server = program.serve();
    server.says("the source limits this client (429)");
    let status = program.run(&["status"]).exits(0).says(["the source limits this client (429)"]);
    assert!(status.stdout.contains("freshclam itself is turned away"), "{status}");
    let asked = front.asked().len();
    // By the ledger, and freshclam itself is not even started.
    program.sync().exits(1).says(["the source is not asked for another"]);
    program.run(&["doctor"]).exits(1).says(["freshclam itself is turned away"]);
    assert_eq!((asked, front.asked().len()), (2, 0));
    server.terminate();
    server.ends();
}

/// What this program itself was refused does not hold freshclam back: its advice is of use at once.
#[test]
fn a_403_concerns_the_client_that_got_it() {
    let (_cdn, front) = strict(3);
    let program = Program::new(&front.url());
    program.sync().exits(1).says(["refuses this client (403)", "source = \"freshclam\""]);
    let Some((program, _keep)) = fed(program.set("source", "freshclam"), &front) else { return };
    program.sync().exits(0).says(["nothing -> 3 published"]);
}

/// freshclam ends without an error while it sits out a wait of its own, and has asked nobody.
#[test]
fn a_run_that_asked_nothing_confirms_nothing() {
    let (cdn, front) = strict(3);
    let Some((program, _keep)) = fed(Program::new("freshclam"), &front) else { return };
    program.sync().exits(0);
    cdn.publish_talos(4);
    front.fault("test.cvd", Fault::Status(403, ""));
    program.sync().exits(1).says(["refuses this client (403)"]);
    front.asked();
    // As when the ledger's wait, which is shorter, has ended.
    std::fs::remove_file(program.data().join("state.redb")).unwrap();
    program.sync().exits(1).says(["freshclam asked for nothing"]);
    assert_eq!(front.asked(), []);
    assert_eq!(program.status()["fresh"], false);
}

/// freshclam ends without an error where it got some of what there is; the mirror says what was in the way of the rest.
#[test]
fn a_body_that_breaks_off_is_named_though_something_came() {
    let (cdn, front) = strict(3);
    let Some((program, _keep)) = fed(Program::new("freshclam"), &front) else { return };
    let server = program.serve();
    server.publishes(3);
    wait_for("the first round's end", || program.status()["next_check_in_s"].as_u64());
    (4..=5).for_each(|version| cdn.publish_talos(version));
    front.fault("test-5.cdiff", Fault::Truncate(100));
    let said = format!("{}/test-5.cdiff: the body ended after 100 B", front.url());
    program.sync().exits(1).says(["3 -> 4 published", &said]);
    program.run(&["status"]).exits(0).says([&said]);
    program.sync().exits(0).says(["4 -> 5 published"]);
    program.run(&["status"]).exits(0).never_says("the body ended");
}

/// Killed in the middle of a body, it is started again, and nothing is lost.
#[test]
fn a_freshclam_that_is_killed_is_started_again() {
    let (cdn, front) = strict(3);
    let Some((program, _keep)) = fed(Program::new("freshclam"), &front) else { return };
    program.sync().exits(0);
    (4..=5).for_each(|version| cdn.publish_talos(version));
    let (resume, gate) = std::sync::mpsc::channel();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
    front.fault("test-5.cdiff", Fault::Hold(20, gate));
    let conf = program.data().join("freshclam/freshclam.conf");
    front.asked();
    let sync = std::thread::scope(|scope| {
        let sync = scope.spawn(|| program.sync());
        wait_for("the held body", || {
            front.asked().iter().any(|it| it.target == "/test-5.cdiff").then_some(())
        });
        kill_with(conf.to_str().unwrap());
        sync.join().unwrap()
    });
    drop(resume);
    // What came before that is whole, and taken.
    sync.exits(1).says(["freshclam was killed"]);
    assert!(program.names().contains(&"test-4.cdiff".into()), "{:?}", program.names());
    program.sync().exits(0);
    assert!(program.cat("test-5.cvd") == talos("test-5.cvd"));
}

/// Kills the process whose command line has this path.
fn kill_with(path: &str) {
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.split(|byte| *byte == 0).any(|word| word == path.as_bytes()) {
            let pid = rustix::process::Pid::from_raw(pid).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// A client that knows of a newer version makes the mirror ask at once: by the client's name, and not by the downloader's.
#[test]
fn what_a_client_asks_for_is_pulled_through_by_its_own_name() {
    if !namespace::inside("what_a_client_asks_for_is_pulled_through_by_its_own_name") {
        return;
    }
    let (cdn, front) = strict(3);
    let program =
        Program::new("freshclam").set("proxy", "true").set("pull-through", "true").set("backfill", "0");
    let Some((program, _keep)) = fed(program, &front) else { return };
    let server = program.serve();
    server.publishes(3);
    wait_for("the first round's end", || program.status()["next_check_in_s"].as_u64());
    let by_downloader = front.asked()[0].agent.clone();
    // Only the client is told by DNS.
    let names = NameServer::at("127.0.0.1:53");
    names.set("current.cvd.clamav.net", &format!("1.4.6:63:28000:{}:1:90:49192:339", time_s(60)));
    names.set("test.cvd.clamav.net", &format!("5:{}", time_s(60)));
    (4..=5).for_each(|version| cdn.publish_talos(version));
    // One that the CDN turns away changes nothing for those that come after it.
    assert_eq!(server.get("/test-4.cdiff").status, 502);
    // The mirror is its proxy, and the host that it asks for is the upstream.
    let lines = format!(
        "HTTPProxyServer 127.0.0.1\nHTTPProxyPort {}\nDatabaseMirror {}\nDNSDatabaseInfo current.cvd.clamav.net\n",
        server.address.port(),
        front.url()
    );
    let Some(client) = Freshclam::with(&lines) else { return };
    client.put("test.cvd", &talos("test-3.cvd"));
    client.update(&[]).exits(0).says(["test.cld updated (version: 5,"]);
    let asked = front.asked();
    assert_eq!((asked[0].agent.as_str(), asked[0].status), (support::wire::AGENT, 403), "{asked:?}");
    assert!(asked.iter().all(|it| it.via.is_some()), "{asked:?}");
    for file in ["/test-4.cdiff", "/test-5.cdiff"] {
        let passed: Vec<_> = asked[1..].iter().filter(|it| it.target == file).collect();
        assert_eq!(passed.len(), 1, "{asked:?}");
        let agent = &passed[0].agent;
        assert!(agent.starts_with("ClamAV/1.") && *agent != by_downloader, "{asked:?}");
        assert_eq!(passed[0].via.as_deref(), Some("1.1 cvdmirror"));
    }
    // The downloader's runs are its own still.
    program.sync().exits(0);
    assert!(program.cat("test-5.cvd") == talos("test-5.cvd"));
    let asked = front.asked();
    assert!(asked.iter().all(|it| it.agent == by_downloader && it.via.is_none()), "{asked:?}");
    assert!(!asked.iter().any(|it| it.is_full()), "{asked:?}");
}

/// With `downloader_user`: its own directory is its own, and nothing else.
#[test]
fn root_runs_it_as_another_user_who_can_change_nothing_else() {
    if !rustix::process::geteuid().is_root() {
        return skip("only root can run it as another user");
    }
    let (cdn, front) = strict(3);
    let Some((program, (dir, peers))) = fed(Program::new("freshclam"), &front) else { return };
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    [dir.path(), program.dir.path()].into_iter().chain(peers.iter().map(Peers::libraries)).for_each(open);
    let real = match &peers {
        Some(_) => dir.path().join("freshclam"),
        None => peer("freshclam").unwrap(),
    };
    let paths = dir.path().join("paths");
    let text = format!(
        "#!/bin/sh\nid -un >$HOME/db/who; id -G >>$HOME/db/who\n\
         while read -r path; do [ -w $path ] && echo w $path; [ -r $path ] && echo r $path; done <{} >$HOME/db/may\n\
         exec {} \"$@\"\n",
        paths.display(),
        real.display()
    );
    let spy = script(dir.path(), "spy", &text);
    let program = program.set("freshclam-path", spy.to_str().unwrap()).set("downloader-user", "nobody");
    fs::write(&paths, "").unwrap();
    program.sync().exits(0).says(["nothing -> 3 published"]);
    let (data, own) = (program.data(), program.data().join("freshclam"));
    let (db, conf) = (own.join("db"), own.join("freshclam.conf"));
    // Beside a server, whose socket is there too.
    let server = program.serve();
    server.publishes(3);
    wait_for("the first round's end", || program.status()["next_check_in_s"].as_u64());
    let is_its = |path: &PathBuf| path.starts_with(&db) || *path == conf;
    let elsewhere = below(&data).into_iter().filter(|path| !is_its(path)).collect::<Vec<_>>();
    for name in ["store", "tmp", "state.redb", "lock", "control", "freshclam", "freshclam/passed"] {
        assert!(elsewhere.contains(&data.join(name)), "{name} in {elsewhere:?}");
    }
    fs::write(&paths, elsewhere.iter().map(|path| format!("{}\n", path.display())).collect::<String>())
        .unwrap();
    (4..=5).for_each(|version| cdn.publish_talos(version));
    program.sync().exits(0).says(["3 -> 5 published"]);
    let said = |name: &str| fs::read_to_string(db.join(name)).unwrap();
    let (nobody, group) = fs::metadata(&db).map(|meta| (meta.uid(), meta.gid())).unwrap();
    assert_eq!(said("who"), format!("nobody\n{group}\n"));
    assert_eq!(said("may"), "");
    assert_ne!(nobody, 0);
    for path in below(&own) {
        let owner = if is_its(&path) { nobody } else { 0 };
        assert_eq!(fs::metadata(&path).unwrap().uid(), owner, "{}", path.display());
    }
    // A directory on the way that is closed to it is named, with what opens it.
    fs::set_permissions(program.dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let closed = program.dir.path().display();
    program.sync().exits(1).says([
        &format!("the user that freshclam is run as may not enter {closed}"),
        &format!("chmod o+x {closed}"),
    ]);
    assert_eq!(program.version(), Some(5));
}

/// A directory, and everything below it.
fn below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).unwrap().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(below(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

#[test]
fn cvdupdate_feeds_a_mirror() {
    if peer("cvdupdate").is_none() || !namespace::inside("cvdupdate_feeds_a_mirror") {
        return;
    }
    let mint = Mint::new(2);
    let mut daily = mint.database("daily");
    let cdn = Cdn::start([0, 0]);
    let front = cdn.front();
    front.is_strict(4);
    cdn.publish("daily", &daily.publish());
    let names = NameServer::at("127.0.0.1:53");
    let record = |version: u32| format!("1.4.6:63:{version}:{}:1:90:49192:339", time_s(60));
    names.set("current.cvd.clamav.net", &record(1));
    let program = Program::new("cvdupdate")
        .set("database", "daily")
        .set("upstream", &front.url())
        .set("nameserver", "127.0.0.1")
        .trusting(&mint.keys_toml());
    program.sync().exits(0).says(["1 published"]);
    let second = daily.publish();
    cdn.publish("daily", &second);
    names.set("current.cvd.clamav.net", &record(2));
    program.sync().exits(0).says(["1 -> 2 published"]);
    assert!(program.cat("daily-2.cvd") == second.cvd);
    for request in front.asked() {
        assert!(request.agent.starts_with("CVDUPDATE/"), "{request:?}");
    }
}

/// Bytes of ten versions at daily's real size, beside the real cvdupdate: at most one in three hundred. It takes minutes,
/// and is run where `CVDMIRROR_DAILY` is set.
#[test]
fn ten_versions_of_daily_cost_a_fraction_of_what_cvdupdate_pays() {
    const NAME: &str = "ten_versions_of_daily_cost_a_fraction_of_what_cvdupdate_pays";
    if std::env::var_os("CVDMIRROR_DAILY").is_none() {
        return eprintln!("not run: CVDMIRROR_DAILY is not set");
    }
    if !namespace::inside(NAME) {
        return;
    }
    let (Some(freshclam), Some(peers)) = (peer("freshclam"), Peers::with_mint_keys()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let freshclam = peers.script(dir.path(), &freshclam);
    let mint = Mint::new(3);
    let mut daily = mint.database_of("daily", 1_300_000, 300);
    let cdn = Cdn::start([0, 0]);
    let fronts = [cdn.front(), cdn.front()];
    fronts.iter().for_each(|front| front.is_strict(4));
    let names = NameServer::at("127.0.0.1:53");
    let Some(cvdupdate) = Cvdupdate::of(&fronts[1].url(), "daily", 2) else { return };
    let program = Program::new("freshclam")
        .set("database", "daily")
        .set("upstream", &fronts[0].url())
        .set("freshclam-path", freshclam.to_str().unwrap())
        .set("stall-timeout", "60s")
        .trusting(&mint.keys_toml());
    let (mut first, mut whole) = ([0, 0], 0);
    for version in 1..=11 {
        let release = daily.publish();
        cdn.publish("daily", &release);
        cdn.tick();
        names.set("current.cvd.clamav.net", &format!("1.4.6:63:{version}:{}:1:90:49192:339", time_s(60)));
        cvdupdate.update().exits(0);
        program.sync().exits(0);
        assert!(program.cat(&format!("daily-{version}.cvd")) == release.cvd, "{version}");
        whole = release.cvd.len();
        if version == 1 {
            first = [fronts[0].bytes(), fronts[1].bytes()];
        }
    }
    let [ours, theirs] = [0, 1].map(|of: usize| fronts[of].bytes() - first[of]);
    eprintln!(
        "ten versions of a daily of {whole} bytes: freshclam's intake {ours} bytes, cvdupdate {theirs}: 1/{}",
        theirs / ours
    );
    assert!(ours * 300 <= theirs, "{ours} {theirs}");
}
