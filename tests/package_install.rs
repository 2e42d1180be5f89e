//! From the package to a client that is up to date, in the five commands of packaging/doc/install.md, on a machine of
//! its own with a real systemd, apt and freshclam.
//!
//! What stands in for the world outside: the mirror's source is a directory with the Talos-signed database `test`, and
//! freshclam is told to follow that one, by lines that were there before the five commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use std::{fs, path::PathBuf, process::Command};
use support::{
    machine::Machine,
    peer,
    process::{self, Ran},
    skip, talos, wait_for,
};

/// The commands of a page, in their order.
fn commands(page: &str) -> Vec<String> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("packaging/doc").join(page);
    let text = fs::read_to_string(path).unwrap();
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.flat_map(str::lines).map(str::to_owned).collect()
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
    machine.out(
        "find / -xdev -iname '*cvdmirror*' -not -path '/proc/*' -not -path '/root/*' -not -path '/srv/*' \
         -not -path '/work/*' -not -path '/var/log/*' -not -path '/var/cache/*' -print 2>/dev/null | sort",
    )
}

#[test]
fn five_commands_lead_from_the_package_to_an_updated_client() {
    let Some(package) = package() else { return };
    for program in ["apt-get", "dig", "freshclam", "nsenter", "setpriv", "sudo"] {
        if peer(program).is_none() {
            return;
        }
    }
    let Some(machine) = Machine::boot() else { return };
    let before = left_behind(&machine);

    // The world outside.
    for name in ["test.cvd", "test-2.cdiff", "test-3.cdiff", "test-4.cdiff", "test-5.cdiff"] {
        let of = if name == "test.cvd" { "test-5.cvd" } else { name };
        machine.put(&format!("/srv/upstream/{name}"), talos(of));
    }
    machine.put(
        "/etc/systemd/system/cvdmirror.service.d/outside.conf",
        "[Service]\nEnvironment=CVDMIRROR_SOURCE=dir:/srv/upstream CVDMIRROR_DATABASE=test\n",
    );
    machine.run("echo 127.0.0.1 mirror.example.lan >>/etc/hosts").exits(0);
    let follow =
        "ExcludeDatabase main\nExcludeDatabase daily\nExcludeDatabase bytecode\nExtraDatabase test\n";
    machine.run(&format!("printf '{follow}' >>/etc/clamav/freshclam.conf; rm -f /var/lib/clamav/*")).exits(0);
    machine.put(
        &format!("/root/{}", package.file_name().unwrap().to_str().unwrap()),
        fs::read(&package).unwrap(),
    );

    let commands = commands("install.md");
    assert_eq!(commands.len(), 5, "{commands:#?}");
    let said: Vec<Ran> = commands.iter().map(|command| machine.run(command).exits(0)).collect();
    assert!(said[2].stdout.contains("5 published"), "{}", said[2]);
    let log = wait_for("freshclam's update", || {
        let log = fs::read_to_string(machine.path("/var/log/clamav/freshclam.log")).ok()?;
        log.contains("test.cvd updated (version: 5,").then_some(log)
    });
    assert!(log.contains("mirror.example.lan"), "{log}");
    wait_for("the database", || {
        (fs::read(machine.path("/var/lib/clamav/test.cvd")).ok()? == talos("test-5.cvd")).then_some(())
    });

    is_confined(&machine);
    answers_on_port_53_where_it_is_told_to(&machine);
    is_replaced_when_it_stands_still(&machine);
    goes_without_a_trace(&machine, &before);
}

fn unit(machine: &Machine, property: &str) -> String {
    machine.out(&format!("systemctl show --value -p {property} cvdmirror"))
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
    machine.run("sudo -u cvdmirror cvdmirror status --check fresh").exits(0);
    let verified = machine.run("systemd-analyze verify cvdmirror.service").exits(0);
    assert_eq!((verified.stdout.as_str(), verified.stderr.as_str()), ("", ""));
    exposes_itself_little(machine);
}

/// 2.0 at most, on systemd's scale from 0 to 10.
fn exposes_itself_little(machine: &Machine) {
    let ran = machine.run("systemd-analyze security --no-pager --threshold=20 cvdmirror.service");
    eprintln!("{}", ran.stdout.lines().last().unwrap_or_default());
    ran.exits(0);
}

fn answers_on_port_53_where_it_is_told_to(machine: &Machine) {
    let dns = "Environment=CVDMIRROR_DNS_LISTEN=127.0.0.1:53 CVDMIRROR_DNS_ZONE=clamav.net";
    machine.put("/etc/systemd/system/cvdmirror.service.d/dns.conf", format!("[Service]\n{dns}\n"));
    // Without the right to it that is refused, in words that say what to do.
    machine.run("systemctl daemon-reload && systemctl restart cvdmirror").exits(1);
    machine
        .run("journalctl -u cvdmirror -n 20")
        .says(["cannot answer DNS on 127.0.0.1:53: Permission denied"]);

    let example = "/usr/share/doc/cvdmirror/examples/port-53.conf";
    machine.run(&format!("cp {example} /etc/systemd/system/cvdmirror.service.d/")).exits(0);
    machine.run("systemctl daemon-reload && systemctl restart cvdmirror").exits(0);
    machine.run("dig +short @127.0.0.1 test.cvd.clamav.net TXT").exits(0).says(["\"5:"]);
    exposes_itself_little(machine);
    machine.run("cd /etc/systemd/system/cvdmirror.service.d && rm dns.conf port-53.conf").exits(0);
    machine.run("systemctl daemon-reload && systemctl restart cvdmirror").exits(0);
}

/// systemd takes a server for dead that does not ping it for WatchdogSec.
fn is_replaced_when_it_stands_still(machine: &Machine) {
    let unit = |property| unit(machine, property);
    machine.run("systemctl show -p WatchdogUSec cvdmirror").exits(0).says(["WatchdogUSec=1min"]);
    machine.put(
        "/etc/systemd/system/cvdmirror.service.d/short.conf",
        "[Service]\nWatchdogSec=4s\nRestartSec=0\n",
    );
    machine.run("systemctl daemon-reload && systemctl restart cvdmirror").exits(0);
    let pid = unit("MainPID");
    machine.run(&format!("kill -STOP {pid}")).exits(0);
    wait_for("the next server", || (unit("MainPID") != pid && unit("ActiveState") == "active").then_some(()));
    assert_ne!(unit("NRestarts"), "0");
    machine.run("rm /etc/systemd/system/cvdmirror.service.d/short.conf && systemctl daemon-reload").exits(0);
}

/// Removed, it leaves what it has mirrored and how it was set; purged, nothing.
fn goes_without_a_trace(machine: &Machine, before: &str) {
    machine.run("apt-get remove -qy cvdmirror").exits(0);
    machine.run("pgrep -x cvdmirror").exits(1);
    assert!(machine.path("/var/lib/cvdmirror/store").exists());
    assert!(machine.path("/etc/cvdmirror/cvdmirror.toml").exists());
    machine.run("apt-get purge -qy cvdmirror").exits(0);
    machine.run("rm -r /etc/systemd/system/cvdmirror.service.d").exits(0);
    assert_eq!(left_behind(machine), before);
    machine.run("getent passwd cvdmirror").exits(2);
}

#[test]
fn lintian_finds_nothing_in_the_package() {
    let (Some(package), Some(lintian)) = (package(), peer("lintian")) else { return };
    let ran = process::run(Command::new(lintian).args(["--fail-on", "error,warning"]).arg(package)).exits(0);
    assert_eq!(ran.stdout, "");
}
