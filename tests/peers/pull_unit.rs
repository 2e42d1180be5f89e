//! The timer and the service for `pull`, as packaging/doc/pull.md has them put in place, on a machine of its own with a real
//! systemd and clamd.
use std::fs;
use support::{
    machine::Machine,
    peer,
    talos::{own_or_skip, talos},
    wait_for,
};

const PAGE: &str = include_str!("../../packaging/doc/pull.md");

/// The commands of the page's section about the timer.
fn commands() -> impl Iterator<Item = &'static str> {
    let section = PAGE.split("\n## Every quarter of an hour\n").nth(1).unwrap();
    section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap().lines()
}

#[test]
fn the_timer_keeps_clamd_up_to_date_without_rights() {
    for program in ["clamd", "freshclam", "nsenter", "setpriv", "sudo"] {
        if peer(program).is_none() {
            return;
        }
    }
    // Its clamd trusts no other keys than Talos'.
    if !own_or_skip() {
        return;
    }
    let Some(machine) = Machine::boot() else { return };
    machine.put("/usr/bin/cvdmirror.new", fs::read(env!("CARGO_BIN_EXE_cvdmirror")).unwrap());
    machine.run("chmod 755 /usr/bin/cvdmirror.new && mv /usr/bin/cvdmirror.new /usr/bin/cvdmirror").exits(0);
    let units = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/systemd");
    for unit in ["cvdmirror-pull.service", "cvdmirror-pull.timer"] {
        let text = fs::read(format!("{units}/{unit}")).unwrap();
        machine.put(&format!("/usr/share/doc/cvdmirror/examples/{unit}"), text);
    }
    machine.put("/etc/cvdmirror/here", "");

    // A mirror with version 3 of the database that Talos signed and is small, and a clamd that has 2.
    for version in 2..=5 {
        let name = format!("test-{version}.cdiff");
        machine.put(&format!("/srv/upstream/{name}"), talos(&name));
    }
    machine.put("/srv/upstream/test.cvd", talos("test-3.cvd"));
    machine.run("rm /srv/upstream/test-4.cdiff /srv/upstream/test-5.cdiff").exits(0);
    let mirror = "--config /dev/null --data-dir /srv/data --source dir:/srv/upstream --database test";
    machine.run(&format!("cvdmirror sync {mirror}")).exits(0);
    let listen = "--listen 127.0.0.1:8080 --check-interval 200ms";
    machine.run(&format!("systemd-run -p Type=notify -- cvdmirror serve {mirror} {listen}")).exits(0);
    machine.run("echo 127.0.0.1 mirror.example.lan >>/etc/hosts && rm -rf /var/lib/clamav/*").exits(0);
    machine.put("/var/lib/clamav/test.cvd", talos("test-2.cvd"));
    machine.run("chown clamav:clamav /var/lib/clamav/* && mkdir -p /run/clamav /var/log/clamav").exits(0);
    machine.run("chown clamav:clamav /run/clamav /var/log/clamav").exits(0);
    machine.run("systemd-run --unit=clamd -- clamd --foreground").exits(0);
    let socket = machine.path("/run/clamav/clamd.ctl");
    wait_for("clamd", || socket.exists().then_some(()));

    for command in commands() {
        machine.run(command).exits(0);
    }
    // A database of its own, and no wait for the timer.
    machine.run("echo 'database = [\"test\"]' >>/etc/cvdmirror/pull.toml").exits(0);
    machine.run("systemctl start cvdmirror-pull").exits(0);
    let journal = || machine.out("journalctl --no-pager -o cat -u cvdmirror-pull");
    assert!(journal().contains("test: 2 -> 3 installed as CVD, by 1 CDIFF"), "{}", journal());
    assert!(journal().contains("clamd has loaded it"), "{}", journal());
    assert_eq!(machine.out("stat -c '%U:%G %a' /var/lib/clamav/test.cvd"), "clamav:clamav 644");
    assert_eq!(machine.out("systemctl is-active cvdmirror-pull.timer"), "active");

    // Not what else runs out there: that nothing is said of clamd's own settings.
    let doctor = "cvdmirror doctor --config /etc/cvdmirror/pull.toml --clamd-conf /etc/clamav/clamd.conf";
    let ran = machine.run(doctor);
    ran.says(["clamd.conf"]).never_says("pull installs into").never_says("does not tell");

    // The timer does the same by itself.
    for name in ["test-4.cdiff", "test-5.cdiff"] {
        machine.put(&format!("/srv/upstream/{name}"), talos(name));
    }
    machine.put("/srv/upstream/test.cvd", talos("test-5.cvd"));
    let often =
        "[Timer]\nOnUnitInactiveSec=\nOnUnitInactiveSec=1s\nRandomizedDelaySec=0\nAccuracySec=100ms\n";
    machine.put("/etc/systemd/system/cvdmirror-pull.timer.d/often.conf", often);
    machine.run("systemctl daemon-reload && systemctl restart cvdmirror-pull.timer").exits(0);
    wait_for("version 5", || {
        let held = fs::read(machine.path("/var/lib/clamav/test.cvd")).ok()?;
        (held == talos("test-5.cvd")).then_some(())
    });
    let exposure = machine.out("systemd-analyze security --no-pager cvdmirror-pull.service | tail -n 1");
    println!("{exposure}");
    machine
        .run("systemd-analyze verify --man=no /etc/systemd/system/cvdmirror-pull.{service,timer}")
        .exits(0);
}
