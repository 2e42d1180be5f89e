//! What a package relies on: the service manager is told the truth, and completions, manual pages and the settings
//! file follow from the command line's own definition.
use std::{
    fs,
    os::unix::net::UnixDatagram,
    process::{Child, Stdio},
    time::Duration,
};
use support::{
    peer,
    process::{self, Lines},
    program::{Program, bare},
    upstream::Upstream,
    wait_for, wire,
};

/// A service manager's end of `NOTIFY_SOCKET`, and the server that was started under it.
struct Managed {
    child: Child,
    stdout: Lines,
    told: UnixDatagram,
}

impl Managed {
    fn start(program: &Program, watchdog: Duration) -> Self {
        let path = program.dir.path().join("notify");
        let told = UnixDatagram::bind(&path).unwrap();
        told.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut command = program.command(&["serve"]);
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let stdout = Lines::of(child.stdout.take().unwrap());
        Self { child, stdout, told }
    }

    /// The next message, a state a line.
    fn next(&self) -> Vec<String> {
        let mut bytes = [0; 4096];
        let length = self.told.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).lines().map(str::to_owned).collect()
    }

    /// The first message that holds a state; those before it are dropped.
    fn until(&self, state: &str) -> Vec<String> {
        loop {
            let message = self.next();
            if message.iter().any(|line| line == state) {
                return message;
            }
        }
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn readiness_is_told_when_all_that_is_held_can_be_asked_for() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    let program = program.set("source", "http://127.0.0.1:1");
    let mut server = Managed::start(&program, Duration::from_secs(3));

    let first = server.next();
    assert_eq!(first, ["READY=1", "STATUS=fresh: test 5", "WATCHDOG=1"]);
    let line = wait_for("its address", || server.stdout.find("listening on http://"));
    let address = line.rsplit('/').next().unwrap().parse().unwrap();
    assert_eq!(wire::get(address, "/test-5.cvd", "").status, 200);
    // Nothing is told twice, and the pings go on.
    assert_eq!(server.next(), ["WATCHDOG=1"]);
    assert_eq!(server.next(), ["WATCHDOG=1"]);

    process::terminate(&server.child);
    server.until("STOPPING=1");
    assert_eq!(process::ends(&mut server.child).unwrap().code(), Some(0));
}

#[test]
fn the_status_line_follows_what_is_published() {
    let upstream = Upstream::start();
    let program = Program::new(&upstream.url());
    let server = Managed::start(&program, Duration::from_millis(300));
    let first = server.next();
    assert_eq!(first[0], "READY=1");
    assert!(first[1].starts_with("STATUS=nothing is published yet: test: "), "{first:?}");
    upstream.move_to(3);
    program.sync().exits(0);
    server.until("STATUS=fresh: test 3");
}

#[test]
fn a_server_that_cannot_have_its_address_never_says_that_it_is_ready() {
    let upstream = Upstream::talos(3);
    let program = Program::new(&upstream.url());
    let holder = program.serve();
    let other = Program::new(&upstream.url()).set("listen", &holder.address.to_string());
    let mut server = Managed::start(&other, Duration::from_millis(300));
    assert_eq!(process::ends(&mut server.child).unwrap().code(), Some(1));
    server.told.set_nonblocking(true).unwrap();
    assert!(server.told.recv(&mut [0; 100]).is_err());
}

#[test]
fn status_answers_the_question_of_a_health_check() {
    let upstream = Upstream::talos(5);
    let program = Program::new(&upstream.url());
    program.sync().exits(0);
    // What is held is fresh, and nobody serves it.
    program.run(&["status"]).exits(0);
    program.run(&["status", "--check", "serving"]).exits(1);
    program.run(&["status", "--check", "fresh"]).exits(1);
}

#[test]
fn serving_is_not_yet_fresh() {
    let upstream = Upstream::start();
    let program = Program::new(&upstream.url());
    let _server = program.serve();
    program.run(&["status", "--check", "serving"]).exits(0).says(["STALE"]);
    program.run(&["status", "--check", "fresh"]).exits(1);
    upstream.move_to(5);
    program.sync().exits(0);
    program.run(&["status", "--check", "fresh"]).exits(0);
}

#[test]
fn bash_completes_commands_options_and_values() {
    let Some(bash) = peer("bash") else { return };
    let script = process::run(bare().args(["completions", "bash"])).exits(0).stdout;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("cvdmirror"), script).unwrap();
    let complete = |words: &str| {
        let last = words.split(' ').count() - 1;
        let line = format!(
            "source ./cvdmirror; COMP_WORDS=({words} ''); COMP_WORDS=(\"${{COMP_WORDS[@]:0:{}}}\"); COMP_CWORD={last}; \
             set -- cvdmirror \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[{last}-1]}}\"; \
             _cvdmirror \"$@\"; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            last + 1
        );
        let ran = process::run(std::process::Command::new(&bash).args(["-c", &line]).current_dir(dir.path()));
        ran.exits(0).stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("cvdmirror stat"), ["status"]);
    assert_eq!(complete("cvdmirror store rest"), ["restore"]);
    assert_eq!(complete("cvdmirror serve --check-i"), ["--check-interval"]);
    assert_eq!(complete("cvdmirror status --check f"), ["fresh"]);
    assert_eq!(complete("cvdmirror nothing-like-it"), [""]);
}

#[test]
fn zsh_and_fish_take_their_completions() {
    let dir = tempfile::tempdir().unwrap();
    let script = |shell: &str| {
        let path = dir.path().join(shell);
        fs::write(&path, process::run(bare().args(["completions", shell])).exits(0).stdout).unwrap();
        path
    };
    if let Some(zsh) = peer("zsh") {
        let ran = process::run(std::process::Command::new(zsh).arg("-n").arg(script("zsh"))).exits(0);
        assert_eq!(ran.stderr, "");
    }
    if let Some(fish) = peer("fish") {
        let line = format!("source {}; complete -C 'cvdmirror stat'", script("fish").display());
        let mut command = std::process::Command::new(fish);
        let ran = process::run(command.args(["--no-config", "-c", &line]).env("HOME", dir.path())).exits(0);
        assert!(ran.stdout.starts_with("status\tSays what is held"), "{ran}");
    }
}

#[test]
fn every_command_has_a_manual_page_that_groff_takes() {
    let dir = tempfile::tempdir().unwrap();
    process::run(bare().arg("man").arg(dir.path())).exits(0);
    let mut pages: Vec<String> = fs::read_dir(dir.path())
        .unwrap()
        .map(|page| page.unwrap().file_name().into_string().unwrap())
        .collect();
    pages.sort();
    let help = process::run(bare().arg("--help")).exits(0).stdout;
    let listed = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands = listed.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<&str> = commands.map(|line| line.split_whitespace().next().unwrap()).collect();
    assert!(commands.contains(&"serve") && commands.contains(&"store"), "{help}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        assert!(pages.contains(&format!("cvdmirror-{command}.1")), "{command} in {pages:?}");
    }
    let Some(groff) = peer("groff") else { return };
    for page in pages {
        let mut command = std::process::Command::new(&groff);
        let ran =
            process::run(command.args(["-man", "-ww", "-z", "-Tutf8"]).arg(dir.path().join(&page))).exits(0);
        assert_eq!(ran.stderr, "", "{page}");
    }
}

#[test]
fn the_settings_file_to_start_from_says_what_is_in_force() {
    let template =
        |args: &[&str]| process::run(bare().args(["config", "template"]).args(args)).exits(0).stdout;
    let text = template(&["--data-dir", "/var/lib/cvdmirror"]);
    assert!(text.lines().any(|line| line == "data_dir = \"/var/lib/cvdmirror\""), "{text}");
    let set = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    assert_eq!(set.count(), 1, "{text}");

    // Every setting is listed, and uncommenting those with a default changes nothing.
    let file = tempfile::NamedTempFile::new().unwrap();
    let shown = |text: &str| {
        fs::write(file.path(), text).unwrap();
        let config = ["config", "show", "--config", file.path().to_str().unwrap()];
        let ran = process::run(bare().env_remove("CVDMIRROR_CONFIG").args(config)).exits(0);
        // Values without their origins.
        let values = ran.stdout.lines().map(|line| line.split("  # ").next().unwrap().to_owned());
        values.collect::<Vec<_>>()
    };
    let mut unset = false;
    let uncommented = text.lines().map(|line| {
        unset = if line.starts_with("# ") { line.ends_with("Not set by default.") } else { unset };
        match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') && !unset => format!("{setting}\n"),
            _ => format!("{line}\n"),
        }
    });
    let uncommented: String = uncommented.collect();
    assert!(uncommented.contains("\ncheck_interval = "), "{uncommented}");
    assert_eq!(shown(&uncommented), shown(&text));
    for setting in cvdmirror::config::SETTINGS {
        let stands = |line: &str| line.trim_start_matches('#').starts_with(&format!("{} = ", setting.key));
        assert_eq!(text.lines().filter(|line| stands(line)).count(), 1, "{}", setting.key);
    }
}
