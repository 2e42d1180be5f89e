//! From the package to a client that is up to date, in the five commands of packaging/doc/install.md, on a machine of
//! its own with a real systemd, apt and freshclam.
//!
//! What stands in for the world outside: a CDN that answers freshclam and cvdupdate alone, and has the Talos-signed database
//! `test`. freshclam is told to follow that one, by lines that were there before the five commands. What feeds the mirror is
//! the default: the machine's freshclam, run by the packaged unit.
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use support::{
    cdn::{Cdn, Front},
    machine::Machine,
    peer,
    process::{self, Ran},
    skip,
    talos::{own_or_skip, talos},
    wait_for,
};

const PAGE: &str = include_str!("../../packaging/doc/install.md");

/// The commands in a section of the page, in their order.
fn commands(section: &str) -> Vec<String> {
    let text =
        PAGE.split(&format!("\n## {section}\n")).nth(1).unwrap_or_else(|| panic!("no section {section}"));
    let text = text.split("\n## ").next().unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(|block| one_a_line(block).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The text with each command on one line.
fn one_a_line(text: &str) -> String {
    text.replace("\\\n", "")
}

/// Runs the commands in a section of the page, each of which must succeed.
fn does(machine: &Machine, section: &str) -> Vec<Ran> {
    let commands = commands(section);
    assert!(!commands.is_empty(), "{section}");
    commands.iter().map(|command| machine.run(command).exits(0)).collect()
}

/// The package under test; none where it was not built.
fn package() -> Option<PathBuf> {
    let path = std::env::var_os("CVDMIRROR_DEB").map(PathBuf::from);
    if path.is_none() {
        skip("no package to install: let packaging/build-deb make one, and name it in CVDMIRROR_DEB");
    }
    path
}

/// What bears its name on the machine; logs, caches and what the test itself put there apart.
fn left_behind(machine: &Machine) -> String {
    let places = "/etc /run /usr /var -path /var/log -prune -o -path /var/cache -prune";
    machine.out(&format!("find {places} -o -iname '*cvdmirror*' -print | sort"))
}

#[test]
fn five_commands_lead_from_the_package_to_an_updated_client() {
    // Neither mirror nor client is told of other keys than Talos'.
    let Some(package) = package().filter(|_| own_or_skip()) else { return };
    for program in ["apt", "dig", "freshclam", "nsenter", "setpriv", "sudo"] {
        if peer(program).is_none() {
            return;
        }
    }
    let Some(machine) = Machine::boot() else { return };
    let before = left_behind(&machine);

    // The world outside: a CDN, and names that lead to it and to the mirror.
    let cdn = Cdn::talos(4);
    let front = cdn.front_on(machine.listen("127.0.0.1:9000"));
    front.is_strict(4);
    machine.run("echo 127.0.0.1 cdn.example.net mirror.example.lan >>/etc/hosts").exits(0);
    machine.put(
        "/etc/systemd/system/cvdmirror.service.d/outside.conf",
        // systemd refuses more than five starts in ten seconds, and this test is quicker than people.
        "[Unit]\nStartLimitIntervalSec=0\n[Service]\nEnvironment=CVDMIRROR_UPSTREAM=http://cdn.example.net:9000 \
         CVDMIRROR_TXT_RECORD=none CVDMIRROR_DATABASE=test\n",
    );
    let follow =
        "ExcludeDatabase main\nExcludeDatabase daily\nExcludeDatabase bytecode\nExtraDatabase test\n";
    machine.run(&format!("printf '{follow}' >>/etc/clamav/freshclam.conf")).exits(0);
    machine.run("rm -f /var/lib/clamav/* /var/log/clamav/freshclam.log").exits(0);
    take_there(&machine, &package);

    let said = does(&machine, "Five commands");
    assert_eq!(said.len(), 5);
    assert!(said[2].stdout.contains("4 published"), "{}", said[2]);
    let log = wait_for("freshclam's update", || {
        let log = fs::read_to_string(machine.path("/var/log/clamav/freshclam.log")).ok()?;
        log.contains("test.cvd updated (version: 4,").then_some(log)
    });
    assert!(log.contains("mirror.example.lan"), "{log}");
    wait_for("the database", || {
        (fs::read(machine.path("/var/lib/clamav/test.cvd")).ok()? == talos("test-4.cvd")).then_some(())
    });

    is_fed_by_freshclam_alone(&machine, &cdn, &front);
    holds_what_a_package_should(&machine);
    is_confined(&machine);
    answers_on_port_53_where_it_is_told_to(&machine);
    is_replaced_when_it_stands_still(&machine);
    goes_without_a_trace(&machine, &before);
}

/// Puts the package where the five commands find it.
fn take_there(machine: &Machine, package: &Path) {
    let name = package.file_name().unwrap().to_str().unwrap();
    machine.put(&format!("/root/{name}"), fs::read(package).unwrap());
}

/// The unit's sandbox lets freshclam work, and the CDN heard of nobody else: a version costs a header and its CDIFF.
fn is_fed_by_freshclam_alone(machine: &Machine, cdn: &Cdn, front: &Front) {
    let asked = front.asked();
    assert_eq!(asked.iter().filter(|request| request.is_full()).count(), 1, "{asked:?}");
    cdn.publish_talos(5);
    machine.run("cvdmirror sync").exits(0).says(["4 -> 5 published"]);
    let moved = front.asked();
    let shown: Vec<_> = moved.iter().map(|request| (request.target.as_str(), request.status)).collect();
    assert_eq!(shown, [("/test.cvd", 206), ("/test-5.cdiff", 200)]);
    for request in asked.iter().chain(&moved) {
        assert!(request.agent.starts_with("ClamAV/1.") && request.agent.contains("UUID"), "{request:?}");
    }
    machine.run("sudo -u cvdmirror cvdmirror store cat test-5.cvd >/root/test-5.cvd").exits(0);
    assert!(fs::read(machine.path("/root/test-5.cvd")).unwrap() == talos("test-5.cvd"));
    let owner = machine.out("stat -c %U:%G /var/lib/cvdmirror/freshclam /var/lib/cvdmirror/freshclam/db");
    assert_eq!(owner, "cvdmirror:cvdmirror\ncvdmirror:cvdmirror");
    machine.run("cvdmirror doctor").says(["freshclam"]).never_says("AppArmor");
}

fn unit(machine: &Machine, property: &str) -> String {
    machine.out(&format!("systemctl show --value -p {property} cvdmirror"))
}

/// The pages and examples of this tree, and what is made from the binary.
fn holds_what_a_package_should(machine: &Machine) {
    let listed = machine.out("dpkg -L cvdmirror");
    let holds = |path: &str| assert!(listed.lines().any(|line| line == path), "{path} in\n{listed}");
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging");
    for (dir, ending, place) in
        [("doc", ".md", ""), ("prometheus", ".rules.yml", "examples/"), ("grafana", ".json", "examples/")]
    {
        let names = fs::read_dir(tree.join(dir)).into_iter().flatten().map(|file| file.unwrap().file_name());
        for name in names.map(|name| name.into_string().unwrap()).filter(|name| name.ends_with(ending)) {
            let path = format!("/usr/share/doc/cvdmirror/{place}{name}");
            holds(&path);
        }
    }
    holds("/etc/cvdmirror/cvdmirror.toml");
    holds("/usr/share/bash-completion/completions/cvdmirror");
    let settings = machine.out("stat -c '%U:%G %a' /etc/cvdmirror/cvdmirror.toml");
    assert_eq!(settings, "root:cvdmirror 640", "a source's URL may hold a password");
    machine.run("man -w cvdmirror cvdmirror-serve cvdmirror-store-restore").exits(0);
}

fn is_confined(machine: &Machine) {
    let unit = |property| unit(machine, property);
    assert_eq!(unit("ActiveState"), "active");
    // It is told every few seconds.
    wait_for("the status line", || (unit("StatusText") == "fresh: test 5").then_some(()));
    let pid = unit("MainPID");
    assert_eq!(machine.out(&format!("stat -c %U:%G /proc/{pid}")), "cvdmirror:cvdmirror");
    let status = fs::read_to_string(machine.path(&format!("/proc/{pid}/status"))).unwrap();
    for line in ["CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in\n{status}");
    }
    machine.run("cvdmirror status --check fresh").exits(0).says(["/var/lib/cvdmirror: serving"]);
    let said = does(machine, "See how it is");
    assert!(said[0].stdout.contains("/var/lib/cvdmirror: serving"), "{}", said[0]);
    assert!(said[3].stdout.contains("test-5.cvd"), "{}", said[3]);
    does(machine, "Change settings");
    logs_where_logrotate_looks(machine);
    let verified = machine.run("systemd-analyze verify cvdmirror.service").exits(0);
    assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""));
    exposes_itself_little(machine);
}

/// The access log goes where the unit lets it, and a new one is begun after it was moved away.
fn logs_where_logrotate_looks(machine: &Machine) {
    let log = machine.path("/var/log/cvdmirror/access.log");
    machine.put(
        "/etc/systemd/system/cvdmirror.service.d/log.conf",
        "[Service]\nEnvironment=CVDMIRROR_ACCESS_LOG=/var/log/cvdmirror/access.log\n",
    );
    machine.run("systemctl daemon-reload && systemctl restart cvdmirror").exits(0);
    for moved in ["access.log.1", "access.log.2"] {
        machine.run("curl -s http://127.0.0.1:8080/dns.txt").exits(0);
        wait_for("a line", || fs::read_to_string(&log).ok()?.contains("/dns.txt").then_some(()));
        fs::rename(&log, log.with_file_name(moved)).unwrap();
        machine.run("systemctl reload cvdmirror").exits(0);
        wait_for("a new log", || log.exists().then_some(()));
    }
    machine.run("rm /etc/systemd/system/cvdmirror.service.d/log.conf").exits(0);
    machine.run("systemctl daemon-reload && systemctl restart cvdmirror").exits(0);
}

/// 2.0 at most, on systemd's scale from 0 to 10.
fn exposes_itself_little(machine: &Machine) {
    let ran = machine.run("systemd-analyze security --no-pager --threshold=20 cvdmirror.service");
    eprintln!("{}", ran.stdout.lines().last().unwrap_or_default());
    ran.exits(0);
}

fn answers_on_port_53_where_it_is_told_to(machine: &Machine) {
    machine.run("ip address add 192.0.2.1/32 dev lo").exits(0);
    let mut commands = commands("Answer DNS on port 53");
    let restart = commands.pop().unwrap();
    machine.run(&commands.remove(0)).exits(0);
    // Without the right to it that is refused, in words that say what was.
    machine.run(&restart).exits(1);
    machine.run("journalctl -u cvdmirror").says(["cannot answer DNS on 192.0.2.1:53: Permission denied"]);
    for command in commands.iter().chain([&restart]) {
        machine.run(command).exits(0);
    }
    machine.run("dig +short @192.0.2.1 test.cvd.clamav.net TXT").exits(0).says(["\"5:"]);
    exposes_itself_little(machine);
}

/// systemd takes a server for dead that does not ping it for WatchdogSec.
fn is_replaced_when_it_stands_still(machine: &Machine) {
    let unit = |property| unit(machine, property);
    machine.run("systemctl show -p WatchdogUSec cvdmirror").exits(0).says(["WatchdogUSec=1min"]);
    machine.put(
        "/etc/systemd/system/cvdmirror.service.d/short.conf",
        "[Service]\nWatchdogSec=5s\nRestartSec=0\n",
    );
    machine.run("systemctl daemon-reload && systemctl restart cvdmirror").exits(0);
    let pid = unit("MainPID");
    machine.run("systemctl kill -s STOP cvdmirror").exits(0);
    wait_for("the next server", || (unit("MainPID") != pid && unit("ActiveState") == "active").then_some(()));
    assert_ne!(unit("NRestarts"), "0");
    machine.run("rm /etc/systemd/system/cvdmirror.service.d/short.conf && systemctl daemon-reload").exits(0);
}

/// Removed, it leaves what it has mirrored and how it was set; purged, nothing.
fn goes_without_a_trace(machine: &Machine, before: &str) {
    let commands = commands("Remove it");
    let [remove, purge] = &commands[..] else { panic!("{commands:?}") };
    machine.run(remove).exits(0);
    machine.run("pgrep -x cvdmirror").exits(1);
    assert!(machine.path("/var/lib/cvdmirror/store").exists());
    assert!(machine.path("/etc/cvdmirror/cvdmirror.toml").exists());
    machine.run(purge).exits(0);
    machine.run("rm -r /etc/systemd/system/cvdmirror.service.d").exits(0);
    assert_eq!(left_behind(machine), before);
    machine.run("getent passwd cvdmirror").exits(2);
}

const PROFILE: &str = "/etc/apparmor.d/usr.bin.freshclam";
const ADDITIONS: &str = "/etc/apparmor.d/local/usr.bin.freshclam";
const RULE: &str = "/var/lib/cvdmirror/freshclam/** krw,";

/// Whatever is installed first, once and again; the kernel's own part is not asked here.
#[test]
fn apparmor_allows_freshclam_its_directory_as_long_as_the_package_is_there() {
    let Some(package) = package() else { return };
    for program in ["dpkg-deb", "nsenter", "setpriv"] {
        if peer(program).is_none() {
            return;
        }
    }
    let Some(machine) = Machine::boot() else { return };
    take_there(&machine, &package);
    let install = "dpkg -i /root/cvdmirror_*.deb";
    let additions = || fs::read_to_string(machine.path(ADDITIONS)).ok();
    let block = format!("# cvdmirror begin\n{RULE}\n# cvdmirror end\n");
    // Another program in freshclam's place, whose reload is seen.
    machine.put("/usr/sbin/apparmor_parser", "#!/bin/sh\necho \"$@\" >>/root/reloaded\n");
    machine.put("/usr/bin/aa-enabled", "#!/bin/sh\nexit 0\n");
    machine.run("chmod +x /usr/sbin/apparmor_parser /usr/bin/aa-enabled").exits(0);
    let reloads = || {
        let lines = fs::read_to_string(machine.path("/root/reloaded")).unwrap_or_default();
        lines.lines().filter(|line| line.ends_with(PROFILE)).count()
    };

    // Without freshclam there is nothing to allow, until that comes.
    machine.run("dpkg --purge --force-depends clamav-freshclam").exits(0);
    machine.run(&format!("rm -f {PROFILE} {ADDITIONS}")).exits(0);
    machine.run(install).exits(0);
    assert_eq!((additions(), reloads()), (None, 0));
    machine.put("/root/freshclam/etc/apparmor.d/usr.bin.freshclam", "# a profile\n");
    machine.put(
        "/root/freshclam/DEBIAN/control",
        "Package: clamav-freshclam\nVersion: 9\nArchitecture: all\nMaintainer: nobody <nobody@example.net>\nDescription: one\n",
    );
    machine
        .run("dpkg-deb --build /root/freshclam /root/freshclam.deb && dpkg -i /root/freshclam.deb")
        .exits(0);
    assert_eq!((additions(), reloads()), (Some(block.clone()), 1));
    // Again and again: once.
    machine.run(install).exits(0);
    machine.run("dpkg -i /root/freshclam.deb").exits(0);
    assert_eq!((additions(), reloads()), (Some(block.clone()), 1));

    // An admin's own lines stay, though the last has no end.
    let own = "# mine\n/srv/mine/** r,";
    machine.run("dpkg --remove cvdmirror").exits(0);
    assert_eq!((additions(), reloads()), (Some(String::new()), 2));
    machine.put(ADDITIONS, own);
    machine.run(install).exits(0);
    assert_eq!(additions(), Some(format!("{own}\n{block}")));
    machine.put(ADDITIONS, format!("{own}\n# cvdmirror begin\n{RULE}\n/srv/other/** r,\n# cvdmirror end\n"));
    machine.run("dpkg --purge cvdmirror").exits(0);
    assert_eq!(additions(), Some(format!("{own}\n/srv/other/** r,\n")));
    // As does the rule where it was the admin's.
    machine.put(ADDITIONS, format!("{RULE}\n"));
    machine.run(install).exits(0);
    machine.run("dpkg --purge cvdmirror").exits(0);
    assert_eq!(additions(), Some(format!("{RULE}\n")));
}

#[test]
fn the_readme_has_the_same_five_commands() {
    let readme = one_a_line(include_str!("../../README.md"));
    for command in commands("Five commands") {
        assert!(readme.contains(&format!("\n{command}\n")), "{command}");
    }
}

#[test]
fn lintian_finds_nothing_in_the_package() {
    let (Some(package), Some(lintian)) = (package(), peer("lintian")) else { return };
    let ran = process::run(Command::new(lintian).args(["--fail-on", "error,warning"]).arg(package)).exits(0);
    assert_eq!(ran.stdout, "");
}
