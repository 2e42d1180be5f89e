//! A disk, a limit or a file system that refuses: the server serves what it holds, says so, and recovers by itself.
use std::{
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    namespace, peer,
    program::{Program, Serving},
    talos,
    upstream::Upstream,
    wait_for,
};

/// Names that are held at version 3.
const HELD: [&str; 5] =
    ["test-3.cvd", "test-3.cvd.sign", "test-3.cdiff", "test-2.cdiff", "test-3.cdiff.sign"];

/// A server that holds version 3, before an upstream that has gone on to 5.
fn behind(program: Program, upstream: &Upstream) -> (Program, Serving) {
    program.sync().exits(0);
    upstream.move_to(5);
    upstream.remove("/test.cvd");
    let server = program.serve();
    // Its first round, so that each later one is the test's.
    server.says("checked");
    upstream.move_to(5);
    assert_serves_held(&server);
    (program, server)
}

fn assert_serves_held(server: &Serving) {
    for name in HELD {
        assert!(server.get(&format!("/{name}")).body == talos(name), "{name}");
    }
}

/// The server gets everything, and nothing is wrong any more.
fn assert_recovers(program: &Program, server: &Serving) {
    program.sync().exits(0).says(["5 published"]);
    assert_holds_all(program, server);
}

fn assert_holds_all(program: &Program, server: &Serving) {
    assert_serves_held(server);
    for name in ["test-5.cvd", "test-4.cdiff", "test-5.cdiff"] {
        assert!(server.get(&format!("/{name}")).body == talos(name), "{name}");
    }
    let health = server.get("/health");
    assert_eq!((health.status, health.text().as_str()), (200, "fresh\n"));
    program.run(&["store", "verify"]).exits(0);
}

/// Sets a soft limit of a running process; `None` where that cannot be done.
fn limit(server: &Serving, resource: &str, value: &str) -> Option<()> {
    let prlimit = peer("prlimit")?;
    let set = |value: &str| {
        let pid = server.pid().to_string();
        let done = Command::new(&prlimit).args(["--pid", &pid, &format!("--{resource}={value}:")]).status();
        assert!(done.unwrap().success());
    };
    set(value);
    Some(())
}

#[test]
fn a_limit_on_the_length_of_files_stops_syncs_and_nothing_else() {
    let upstream = Upstream::talos(3);
    let (program, server) = behind(Program::new(&upstream.url()), &upstream);
    // Not even state.redb can be written.
    for bytes in ["1", "5000", "100000"] {
        if limit(&server, "fsize", bytes).is_none() {
            return;
        }
        let ran = program.sync();
        if bytes != "100000" {
            ran.exits(1).says(["File too large"]);
            let health = server.get("/health").text();
            assert!(health.contains("File too large"), "{health}");
        }
        assert_serves_held(&server);
    }
    limit(&server, "fsize", "unlimited");
    assert_recovers(&program, &server);
}

/// Has a server sync with ever more descriptors, until it has enough; whether it ever had too few.
fn had_too_few_descriptors() -> Option<bool> {
    let upstream = Upstream::talos(3);
    let (program, server) = behind(Program::new(&upstream.url()), &upstream);
    let open = std::fs::read_dir(format!("/proc/{}/fd", server.pid())).unwrap().count();
    limit(&server, "nofile", "1024")?;
    let mut failed = false;
    // From what is enough to be asked.
    let enough = (open + 2..open + 64).find(|limited| {
        limit(&server, "nofile", &limited.to_string());
        let ran = program.sync();
        let enough = ran.code == Some(0);
        if ran.code == Some(1) {
            failed = true;
            let health = server.get("/health").text();
            let ran = ran.says(["Too many open files", "LimitNOFILE="]).never_says("firewall");
            assert!(health.contains("Too many open files"), "with {limited} of {open}: {health}{ran}");
        } else {
            ran.exits(0);
        }
        assert_serves_held(&server);
        enough
    });
    assert!(enough.is_some(), "of {open}");
    limit(&server, "nofile", "1024");
    program.sync().exits(0);
    assert_holds_all(&program, &server);
    Some(failed)
}

#[test]
fn without_file_descriptors_what_is_held_is_served_and_the_rest_comes_later() {
    // What was still being closed when the open ones were counted is enough for a sync: then once more.
    for _ in 0..20 {
        if had_too_few_descriptors() != Some(false) {
            return;
        }
    }
    panic!("each sync had enough");
}

fn mount(args: &[&str], at: &Path) {
    let mounted = Command::new("mount").args(args).arg(at).status().unwrap();
    assert!(mounted.success(), "mount {args:?} {}", at.display());
}

#[test]
fn a_file_system_that_became_read_only_stops_syncs_and_nothing_else() {
    if !namespace::inside("a_file_system_that_became_read_only_stops_syncs_and_nothing_else") {
        return;
    }
    let upstream = Upstream::talos(3);
    let (program, server) = behind(Program::new(&upstream.url()), &upstream);
    let parts = ["store", "tmp"].map(|part| program.data().join(part));
    for part in &parts {
        mount(&["--bind", part.to_str().unwrap()], part);
        mount(&["-o", "remount,bind,ro"], part);
    }
    program.sync().exits(1).says(["Read-only file system"]);
    let health = server.get("/health").text();
    assert!(health.contains("Read-only file system"), "{health}");
    assert_serves_held(&server);
    for part in &parts {
        // Not made writable but taken away: between two mounts nothing can be renamed.
        assert!(Command::new("umount").arg(part).status().unwrap().success());
    }
    assert_recovers(&program, &server);
}

/// A program whose data directory is a file system of so many KiB.
fn on_small_disk(source: &str, kib: usize) -> Program {
    let program = Program::new(source);
    std::fs::create_dir(program.data()).unwrap();
    mount(&["-t", "tmpfs", "-o", &format!("size={kib}k"), "none"], &program.data());
    program
}

/// Fills a disk up to so many bytes, in whole pages.
fn fill(dir: &Path, left: usize) -> PathBuf {
    let ballast = dir.join("ballast");
    let free = || {
        let stat = rustix::fs::statvfs(dir).unwrap();
        (stat.f_bavail * stat.f_frsize) as usize
    };
    std::fs::write(&ballast, vec![1; free() - left]).unwrap();
    ballast
}

#[test]
fn a_full_disk_stops_syncs_until_there_is_room() {
    if !namespace::inside("a_full_disk_stops_syncs_until_there_is_room") {
        return;
    }
    let upstream = Upstream::talos(3);
    let program = on_small_disk(&upstream.url(), 16 << 10).set("check-interval", "200ms");
    let (program, server) = behind(program, &upstream);
    let ballast = fill(&program.data(), 0);
    let health = wait_for("the full disk in /health", || {
        let health = server.get("/health").text();
        health.contains("No space left").then_some(health)
    });
    assert!(health.contains("test: the last check failed"), "{health}");
    assert_serves_held(&server);
    std::fs::remove_file(ballast).unwrap();
    server.publishes(5);
    assert_recovers(&program, &server);
}

/// ENOSPC at every write of a sync: with a page more left at each turn, until it succeeds.
#[test]
fn wherever_a_sync_runs_out_of_space_nothing_is_lost() {
    if !namespace::inside("wherever_a_sync_runs_out_of_space_nothing_is_lost") {
        return;
    }
    let upstream = Upstream::talos(3);
    let program = on_small_disk(&upstream.url(), 16 << 10);
    program.sync().exits(0);
    let before = tempfile::tempdir().unwrap();
    let copy = |from: &Path, to: &Path| {
        let done =
            Command::new("cp").arg("-a").arg(format!("{}/.", from.display())).arg(to).status().unwrap();
        assert!(done.success());
    };
    copy(&program.data(), before.path());
    upstream.move_to(5);
    let step: usize = std::env::var("STEP").map_or(1, |pages| pages.parse().unwrap());
    let (mut failed, mut turns) = (0, 0);
    for left in (0..).step_by(step * 4096) {
        turns += 1;
        let ballast = fill(&program.data(), left);
        let ran = program.sync();
        if ran.code == Some(1) {
            failed += 1;
            let ran = ran.says(["No space left"]);
            // What the report says is stored is.
            let names = program.names();
            for row in ran.stdout.lines().filter(|row| row.contains(" stored  ") || row.contains(" rebuilt "))
            {
                let name = row.split_whitespace().next().unwrap().to_owned();
                assert!(names.contains(&name), "{row} in {names:?}");
            }
        } else {
            ran.exits(0);
            if failed > 0 && program.version() == Some(5) {
                break;
            }
        }
        for name in HELD {
            assert!(program.cat(name) == talos(name), "{name}");
        }
        std::fs::remove_file(ballast).unwrap();
        program.sync().exits(0).says(["5 published"]);
        program.run(&["store", "verify"]).exits(0);
        assert!(program.cat("test-5.cvd") == talos("test-5.cvd"));
        // Back to version 3.
        for part in ["store", "tmp", "state.redb"] {
            let part = program.data().join(part);
            let _ = std::fs::remove_dir_all(&part).or_else(|_| std::fs::remove_file(&part));
        }
        copy(before.path(), &program.data());
    }
    eprintln!("{failed} of {turns} syncs ran out of space");
    assert!(failed > 3);
}
