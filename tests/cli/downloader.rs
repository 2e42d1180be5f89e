//! A downloader that does not do its work is named and started again, and nothing is lost by it.
use rustix::process::{Pid, Signal, kill_process};
use std::process::Stdio;
use support::{
    cdn::Cdn,
    process,
    program::{Program, bare, script},
    upstream::Upstream,
    wait_for,
};

/// A freshclam that says it is 1.4.6, and then does this.
fn fake(dir: &std::path::Path, then: &str) -> String {
    let text = format!("#!/bin/sh\n[ \"$1\" = --version ] && exec echo ClamAV 1.4.6/28000/now\n{then}\n");
    script(dir, "freshclam", &text).to_str().unwrap().to_owned()
}

#[test]
fn each_way_to_fail_is_named_and_what_is_held_stays() {
    let upstream = Upstream::talos(3);
    let held = Program::new(&upstream.url());
    held.sync().exits(0);
    upstream.move_to(5);
    let dir = tempfile::tempdir().unwrap();
    let path = fake(dir.path(), "exit 0");
    let program =
        held.set("source", "freshclam").set("upstream", &upstream.url()).set("freshclam-path", &path);
    let old = "#!/bin/sh\necho ClamAV 0.102.4\n";
    upstream.asked();
    for (then, said) in [
        ("echo starting; echo ERROR: out of luck; exit 58", "freshclam exited 58: ERROR: out of luck"),
        ("kill -9 $$", "freshclam was killed"),
        ("exit 2", "freshclam cannot read "),
        ("exit 2", "AppArmor"),
    ] {
        fake(dir.path(), then);
        let ran = program.sync().exits(1).says([said]);
        assert!(ran.stdout.contains("3"), "{ran}");
    }
    script(dir.path(), "freshclam", old);
    program.sync().exits(1).says(["freshclam 0.102.4 is too old: 0.103.2 is the oldest"]);
    program.run(&["doctor"]).exits(1).says(["freshclam 0.102.4 is too old"]);
    let file = dir.path().join("freshclam");
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let path = file.display();
    program.sync().exits(1).says([&format!("{path} cannot be run: Permission denied"), "chmod a+rx"]);
    script(dir.path(), "freshclam", "#!/nowhere/sh\n");
    program
        .sync()
        .exits(1)
        .says([&format!("{path} cannot be run: No such file or directory"), "freshclam_path"]);
    std::fs::remove_file(&file).unwrap();
    program.sync().exits(1).says(["freshclam is not installed", "apt install clamav-freshclam"]);
    program.run(&["doctor"]).exits(1).says(["freshclam is not installed"]);
    let program = program.set("downloader-user", "nobody-at-all");
    fake(dir.path(), "exit 0");
    if rustix::process::geteuid().is_root() {
        program.sync().exits(1).says(["this machine has no user nobody-at-all"]);
    }
    assert_eq!(upstream.targets(), Vec::<String>::new());
    assert_eq!(program.version(), Some(3));
}

/// Where it was nobody's choice, one that cannot work here is passed over, and that is said.
#[test]
fn one_that_nobody_chose_and_that_cannot_work_here_keeps_nothing_away() {
    let upstream = Upstream::talos(3);
    let dir = tempfile::tempdir().unwrap();
    let path = fake(dir.path(), "exit 2");
    let program = Program::new("").set("upstream", &upstream.url()).set("freshclam-path", &path);
    let server = program.serve();
    server.publishes(3);
    program.run(&["status"]).exits(0).says(["freshclam cannot read ", "AppArmor"]);
    upstream.move_to(5);
    program.sync().exits(0).says(["3 -> 5 published"]);
    assert!(upstream.asked().iter().all(|it| it.agent.starts_with("cvdmirror/")));
}

/// Its directory may be another user's: what is written there goes into no file elsewhere.
#[test]
fn no_link_that_it_leaves_is_written_through() {
    let upstream = Upstream::talos(3);
    let dir = tempfile::tempdir().unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "mine").unwrap();
    let path = fake(dir.path(), &format!("ln -sf {} \"$2\"; exit 58", victim.display()));
    let program = Program::new("freshclam").set("upstream", &upstream.url()).set("freshclam-path", &path);
    for _ in 0..2 {
        program.sync().exits(1).says(["freshclam exited 58"]);
        assert!(program.data().join("freshclam/freshclam.conf").is_symlink());
    }
    assert_eq!(std::fs::read_to_string(victim).unwrap(), "mine");
}

/// With everything that it has started.
#[test]
fn one_that_hangs_is_killed_with_its_children() {
    let upstream = Upstream::talos(3);
    let dir = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let path = fake(dir.path(), &format!("sleep 1000 & echo $! >{0}; echo $$ >>{0}; wait", pids.display()));
    let program = Program::new("freshclam")
        .set("upstream", &upstream.url())
        .set("freshclam-path", &path)
        .set("downloader-timeout", "2s");
    program.sync().exits(1).says(["freshclam did not end within 2 s, and was killed"]);
    wait_for("its end", || is_gone(&std::fs::read_to_string(&pids).unwrap()).then_some(()));

    // The same when the server stops meanwhile.
    let program = program.set("downloader-timeout", "1h");
    std::fs::remove_file(&pids).unwrap();
    let mut server = program.serve();
    wait_for("it to run", || std::fs::read_to_string(&pids).ok().filter(|pids| pids.lines().count() == 2));
    server.terminate();
    assert_eq!(server.ends(), Some(0));
    wait_for("its end", || is_gone(&std::fs::read_to_string(&pids).unwrap()).then_some(()));
}

/// Also where the command that runs it is told to end.
#[test]
fn a_sync_that_is_ended_ends_it_too() {
    let upstream = Upstream::talos(3);
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let path = fake(dir.path(), &format!("echo $$ >{0}.new; mv {0}.new {0}; exec sleep 1000", pid.display()));
    let program = Program::new("freshclam").set("upstream", &upstream.url()).set("freshclam-path", &path);
    for signal in [Signal::INT, Signal::TERM] {
        let mut command = program.command(&["sync"]);
        let mut sync = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let number = wait_for("it to run", || std::fs::read_to_string(&pid).ok());
        kill_process(Pid::from_child(&sync), signal).unwrap();
        assert_eq!(process::ends(&mut sync).unwrap().code(), Some(1));
        let said = std::io::read_to_string(sync.stderr.take().unwrap()).unwrap();
        assert!(said.contains("stopped; what came whole until now is kept"), "{said}");
        wait_for("its end", || is_gone(&number).then_some(()));
        std::fs::remove_file(&pid).unwrap();
    }
}

/// Also where it ends well and leaves them behind, with its output still open.
#[test]
fn what_it_leaves_behind_ends_with_it() {
    let upstream = Upstream::talos(3);
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let path = fake(dir.path(), &format!("sleep 1000 & echo $! >{}; echo done; exit 0", pid.display()));
    let program = Program::new("freshclam").set("upstream", &upstream.url()).set("freshclam-path", &path);
    program.sync().exits(1).says(["freshclam asked for nothing: done"]);
    let pid = std::fs::read_to_string(pid).unwrap();
    wait_for("its end", || is_gone(&pid).then_some(()));
}

/// Whether processes have ended. One whose parent is gone is reaped by init, which may take a moment.
fn is_gone(pids: &str) -> bool {
    pids.split_whitespace().all(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.is_empty() || stat.contains(") Z ")
    })
}

/// Whom it may ask, and that nothing of ours is in its environment.
#[test]
fn the_intake_passes_on_what_is_asked_of_it_and_nothing_else() {
    let upstream = Upstream::talos(3);
    let dir = tempfile::tempdir().unwrap();
    let said = dir.path().join("said");
    let ask = "ask() { curl -s -o /dev/null -A 'ClamAV/1.4.6 (UUID: x)' -w '%{http_code} ' \"$@\" >>OUT; }
env | sort >ENV
url=$(sed -n 's/^DatabaseMirror //p' \"$2\")
ask -r 0-511 $url/test.cvd; ask $url/test-3.cdiff; ask $url/test-9.cdiff
ask $url/other.cvd; ask $url/test.cld; ask --path-as-is $url/../test.cvd; ask ${url%/*}/test.cvd; ask -d x $url/test.cvd
ask $url/test.cvd; exit 0";
    let env = dir.path().join("env");
    let then = ask.replace("OUT", said.to_str().unwrap()).replace("ENV", env.to_str().unwrap());
    let path = fake(dir.path(), &then);
    let program = Program::new("freshclam").set("upstream", &upstream.url()).set("freshclam-path", &path);
    let mut sync = program.command(&["sync"]);
    process::run(sync.env("SECRET", "s3cret")).exits(0);
    assert_eq!(std::fs::read_to_string(said).unwrap(), "206 200 404 404 404 404 404 404 200 ");
    let asked = upstream.asked();
    let targets: Vec<&str> = asked.iter().map(|it| it.target.as_str()).collect();
    assert_eq!(targets, ["/test.cvd", "/test-3.cdiff", "/test-9.cdiff", "/test.cvd"]);
    assert!(asked.iter().all(|it| it.agent == "ClamAV/1.4.6 (UUID: x)"), "{asked:?}");
    assert_eq!(asked[0].range.as_deref(), Some("bytes=0-511"));
    assert!(!std::fs::read_to_string(env).unwrap().contains("s3cret"));
    assert_eq!(program.version(), Some(3));
}

/// Two lines that say what to do, within one round, wherever somebody looks.
#[test]
fn a_refused_mirror_says_at_once_what_to_do() {
    let cdn = Cdn::talos(3);
    let front = cdn.front();
    front.is_strict(4);
    let program = Program::new(&front.url());
    let server = program.serve();
    let fix = ["apt install clamav-freshclam", "source = \"freshclam\""];
    server.says("403");
    fix.iter().for_each(|line| drop(server.says(line)));
    let health = String::from_utf8(server.get("/health").body).unwrap();
    assert!(fix.iter().all(|line| health.contains(line)), "{health}");
    program.run(&["status"]).exits(0).says(fix);
    program.run(&["doctor"]).exits(1).says(fix);
}

#[test]
fn without_a_source_freshclam_is_run_where_it_is_installed() {
    let dir = tempfile::tempdir().unwrap();
    let path = fake(dir.path(), "exit 1");
    let show = |given: &str| process::run(bare().args(["config", "show", given])).exits(0);
    show(&format!("--freshclam-path={path}")).says([
        "source = \"freshclam\"  # default, since freshclam is installed",
        "txt_record = \"current.cvd.clamav.net\"  # default\n",
    ]);
    show("--freshclam-path=/nowhere/freshclam")
        .says(["source = \"https://database.clamav.net\"  # default, since freshclam is not installed"]);
    show("--source=freshclam").says(["source = \"freshclam\"  # command line"]);
    let upstream = Upstream::talos(3);
    let upstream = upstream.url();
    let server = Program::new("").set("upstream", &upstream).set("freshclam-path", &path).serve();
    server.says(", source freshclam: it is installed, and no source is set");
    assert!(server.log.so_far()[0].contains(", source freshclam: "));
}
