//! From the package to a client that is up to date, in the five commands of packaging/doc/install.md, on a machine of
//! its own with a real systemd, apt and freshclam.
//!
//! What stands in for the world outside: the mirror's source is a directory with the Talos-signed database `test`, and
//! freshclam is told to follow that one, by lines that were there before the five commands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use std::{fs, path::PathBuf};
use support::{machine::Machine, peer, process::Ran, skip, talos, wait_for};

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

/// Files below the root of the machine that its lower layer does not have; those of logs and caches apart.
fn left_behind(machine: &Machine) -> String {
    machine.out(
        "find / -xdev -iname '*cvdmirror*' -not -path '/proc/*' -not -path '/root/*' -not -path '/srv/*' \
         -not -path '/work/*' -not -path '/var/log/*' -print 2>/dev/null | sort",
    )
}

#[test]
fn five_commands_lead_from_the_package_to_an_updated_client() {
    let Some(package) = package() else { return };
    for program in ["apt-get", "freshclam", "nsenter", "setpriv", "sudo"] {
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

    // The unit says how it is, and runs as nobody special.
    let unit = |property: &str| machine.out(&format!("systemctl show --value -p {property} cvdmirror"));
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

    // A server that stands still is replaced.
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

    // Removed, it leaves what it has mirrored and how it was set; purged, nothing.
    machine.run("apt-get remove -qy cvdmirror").exits(0);
    machine.run("pgrep -x cvdmirror").exits(1);
    assert!(machine.path("/var/lib/cvdmirror/store").exists());
    assert!(machine.path("/etc/cvdmirror/cvdmirror.toml").exists());
    machine.run("apt-get purge -qy cvdmirror").exits(0);
    machine.run("rm -r /etc/systemd/system/cvdmirror.service.d").exits(0);
    assert_eq!(left_behind(&machine), before);
    machine.run("getent passwd cvdmirror").exits(2);
}
