//! How the program speaks: when it is silent, in which colours, what its help shows, and what it says where it may not look.
use std::{os::unix::fs::PermissionsExt, process::Command};
use support::{
    peer, process,
    program::{Program, bare},
    talos::{self, talos},
    upstream::Upstream,
};

const ESCAPE: char = '\x1b';

/// A mirror that holds version 5 of `test`.
fn mirror() -> (Program, Upstream) {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    (program, upstream)
}

#[test]
fn colours_are_for_terminals_and_for_those_who_ask() {
    let (program, _upstream) = mirror();
    for command in [&["status"][..], &["store", "ls"], &["doctor"]] {
        let coloured = |more: &[&str], no_color: bool| {
            let mut line = program.command(&[command, more].concat());
            if no_color {
                line.env("NO_COLOR", "1");
            }
            process::run(&mut line).stdout.contains(ESCAPE)
        };
        // No terminal reads here.
        assert!(!coloured(&[], false) && !coloured(&["--color", "never"], false), "{command:?}");
        assert!(coloured(&["--color", "always"], false), "{command:?}");
        assert!(coloured(&["--color=always"], true), "{command:?}: what is asked for wins");
    }
    program.run(&["status", "--color", "sometimes"]).exits(2);
    let json = program.run(&["status", "--json", "--color", "always"]).exits(0);
    assert!(!json.stdout.contains(ESCAPE));
}

#[test]
fn on_a_terminal_there_are_colours_unless_no_color_is_set() {
    let Some(script) = peer("script") else { return };
    let (program, _upstream) = mirror();
    let on_a_terminal = |more: &[&str], no_color: &str| {
        let line = program.command(&[&["status"], more].concat());
        let words: Vec<_> = std::iter::once(line.get_program()).chain(line.get_args()).collect();
        let words: Vec<String> = words.iter().map(|word| format!("'{}'", word.to_str().unwrap())).collect();
        let mut terminal = Command::new(&script);
        terminal
            .args(["-qec", &words.join(" "), "/dev/null"])
            .env("TERM", "xterm")
            .env("CVDMIRROR_CONFIG", "/dev/null");
        process::run(
            terminal.env_remove("NO_COLOR").envs((!no_color.is_empty()).then_some(("NO_COLOR", no_color))),
        )
        .exits(0)
        .stdout
        .contains(ESCAPE)
    };
    assert!(on_a_terminal(&[], ""));
    assert!(!on_a_terminal(&[], "1"));
    assert!(!on_a_terminal(&["--color=never"], ""));
}

#[test]
fn quiet_says_nothing_while_all_is_well_and_all_when_it_is_not() {
    let (program, upstream) = mirror();
    for command in [
        &["sync"][..],
        &["status"],
        &["store", "verify"],
        &["store", "gc"],
        &["doctor"],
        &["config", "check"],
    ] {
        let ran = program.run(&[command, &["-q"]].concat()).exits(0);
        assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("", ""), "{command:?}");
    }
    // What was asked for comes.
    program.run(&["store", "ls", "-q"]).exits(0).says(["test-5.cvd"]);
    program.run(&["status", "-q", "--json"]).exits(0).says(["\"databases\""]);
    program.run(&["status", "-q", "--check", "serving"]).exits(1).says(["no server is running"]);
    upstream.move_to(5);
    upstream.remove("/test.cvd");
    program.run(&["sync", "-q"]).exits(1).says(["/test.cvd: "]);
    program.run(&["sync", "-q", "-v"]).exits(2);
}

#[test]
fn verbose_logs_more() {
    let (program, _upstream) = mirror();
    let lines = |option: &[&str]| program.run(&[&["sync"], option].concat()).exits(0).stderr.lines().count();
    assert!(lines(&["-vv"]) > lines(&[]));
}

#[test]
fn help_shows_the_settings_that_a_command_uses_and_it_takes_the_others_too() {
    let help = |command: &[&str]| process::run(bare().args(command).arg("--help")).exits(0).stdout;
    for (command, shows, hides) in [
        (&["verify"][..], &["--certs-dir", "--trust-keys"][..], &["--listen", "--source", "--data-dir"][..]),
        (&["store", "ls"], &["--data-dir"], &["--listen", "--source", "--certs-dir"]),
        (&["store", "verify"], &["--data-dir", "--certs-dir"], &["--listen", "--source"]),
        (&["store"], &["--data-dir"], &["--listen"]),
        (&["sync"], &["--source", "--keep-cvds"], &["--listen", "--access-log", "--check-interval"]),
        (&["status"], &["--data-dir", "--max-age"], &["--listen", "--source"]),
        (&["client-config"], &["--listen", "--dns-zone"], &["--source", "--data-dir"]),
        (&["completions"], &["--color"], &["--data-dir"]),
        (&["serve"], &["--listen", "--access-log", "--source", "--max-age"], &[]),
        (&["config", "show"], &["--listen", "--source", "--max-age"], &[]),
    ] {
        let text = help(command);
        let has = |option: &&&str| text.contains(&format!("{option} <"));
        assert_eq!(shows.iter().filter(|option| !has(option)).count(), 0, "{command:?} shows\n{text}");
        assert_eq!(hides.iter().filter(has).count(), 0, "{command:?} hides\n{text}");
    }
    // One line of options does for all, before the command or behind it.
    let file = tempfile::tempdir().unwrap();
    let path = file.path().join("test-5.cvd");
    std::fs::write(&path, talos("test-5.cvd")).unwrap();
    let mut verify = bare();
    verify.args(["verify", "--listen=127.0.0.1:1", "--source=http://m"]).arg(&path);
    process::run(talos::trusting(&mut verify, file.path())).exits(0);
    process::run(bare().args(["--listen=nonsense", "verify"]).arg(&path)).exits(2).says(["--listen"]);
    process::run(bare().args(["store", "--data-dir=/nonexistent", "ls"])).exits(1).says(["/nonexistent: "]);
    process::run(bare().args(["--data-dir=/nonexistent", "store", "ls"])).exits(1).says(["/nonexistent: "]);
}

#[test]
fn every_report_ends_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let files = ["test-5.cvd", "test-5.cdiff"].map(|name| dir.path().join(name));
    for file in &files {
        std::fs::write(file, talos(file.file_name().unwrap().to_str().unwrap())).unwrap();
    }
    let ran = process::run(talos::trusting(bare().arg("verify").args(&files), dir.path())).exits(0);
    let heads: Vec<&str> = ran.stdout.lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(heads.len(), 2, "{ran}");
    assert!(heads[0].starts_with("test-5.cvd: ") && heads[1].starts_with("test-5.cdiff: "), "{ran}");
    assert!(ran.stdout.ends_with('\n'));
    let (program, _upstream) = mirror();
    for command in
        [&["status"][..], &["store", "stat"], &["store", "verify"], &["doctor"], &["config", "show"]]
    {
        assert!(program.run(command).exits(0).stdout.ends_with('\n'), "{command:?}");
    }
}

#[test]
fn where_nothing_is_held_or_nobody_may_look_the_way_on_is_said() {
    let (program, _upstream) = mirror();
    for command in
        [&["status"][..], &["store", "ls"], &["store", "stat"], &["store", "verify"], &["store", "cat", "x"]]
    {
        process::run(bare().args(command).args(["--data-dir", "/nonexistent"])).exits(1).says([
            "/nonexistent: nothing is held there yet\n  fix: start `cvdmirror serve` or `cvdmirror sync` with it, or give another --data-dir",
        ]);
        // As root one may look everywhere, unless that right is given up.
        let line = program.command(command);
        let Some(setpriv) = peer("setpriv") else { return };
        let mut without = match rustix::process::geteuid().is_root() {
            false => Command::new(line.get_program()),
            true => {
                let mut without = Command::new(setpriv);
                without.args(["--bounding-set", "-dac_override,-dac_read_search"]).arg(line.get_program());
                without
            }
        };
        let may = |mode| std::fs::set_permissions(program.data(), PermissionsExt::from_mode(mode)).unwrap();
        may(0);
        let ran = process::run(without.args(line.get_args()).env("CVDMIRROR_CONFIG", "/dev/null"));
        may(0o755);
        ran.exits(1).says(["Permission denied", "fix: it is another user's: put sudo before the command"]);
    }
}

#[test]
fn a_source_is_named_in_full_and_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("db")).unwrap();
    let show = |source: &str| {
        process::run(bare().args(["config", "check", "--source", source]).current_dir(dir.path()))
    };
    show("dir:db").exits(0);
    let full = dir.path().canonicalize().unwrap().join("nowhere");
    show("dir:nowhere").exits(2).says([&format!("is no directory: there is none at {}", full.display())]);
    // What is written into the records of a round is the full path.
    std::fs::write(dir.path().join("db/test.cvd"), talos("test-5.cvd")).unwrap();
    let program = Program::new("dir:db");
    process::run(program.command(&["sync"]).current_dir(dir.path())).exits(0);
    let listed = program.set("source", "dir:/nonexistent").run(&["store", "ls"]).exits(0);
    assert!(listed.stdout.contains(dir.path().join("db").to_str().unwrap()), "{listed}");
}

#[test]
fn the_server_says_first_what_it_is() {
    let (program, upstream) = mirror();
    let server = program.serve();
    server.says(&format!("INFO data directory {}", program.data().display()));
    let log = server.log.so_far();
    let ends = |at: usize, text: &str| assert!(log[at].ends_with(text), "{log:#?}");
    ends(0, &format!("INFO cvdmirror {}, source {}/", env!("CARGO_PKG_VERSION"), upstream.url()));
}
