//! A client's clamd, by its clamd.conf and what runs on this machine: what in it keeps a new version that `pull` installs
//! from being used.
use super::{Check, ClientConf, finding};
use crate::{
    config::PullConfig,
    pull::{clamd::Address, clamd_conf::ClamdConf},
    trouble::{Trouble, TroubleKind},
    units::size,
};
use std::{fs, path::Path};

/// What runs on this machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Machine {
    /// Whether freshclam runs, as a service or by hand.
    pub(super) freshclam: bool,
    /// The memory that a running clamd takes, bytes.
    pub(super) clamd_bytes: Option<u64>,
    /// The memory that is free for another engine, bytes.
    pub(super) available_bytes: Option<u64>,
}

impl Machine {
    /// Looks through /proc; what cannot be read there is not known.
    pub(super) fn look() -> Self {
        let mut machine =
            Self { available_bytes: figure("/proc/meminfo", "MemAvailable:"), ..Self::default() };
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            match fs::read_to_string(process.path().join("comm")).unwrap_or_default().trim() {
                "freshclam" => machine.freshclam = true,
                "clamd" => {
                    let status = process.path().join("status");
                    machine.clamd_bytes = machine.clamd_bytes.max(figure(status, "VmRSS:"));
                }
                _ => {}
            }
        }
        machine
    }
}

/// A figure in kB of a file of /proc, in bytes.
fn figure(path: impl AsRef<Path>, key: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Looks at a file.
pub(super) fn check(conf: ClientConf<'_>, pull: &PullConfig, machine: &Machine) -> Check {
    let mut check = Check::new("clamd.conf", TroubleKind::ClientConf);
    check.findings = lint(conf.text, pull, machine);
    if check.findings.is_empty() {
        check.say(format!("{}: clamd loads what pull installs", conf.path));
    }
    check
}

fn lint(text: &str, pull: &PullConfig, machine: &Machine) -> Vec<Trouble> {
    let conf = ClamdConf(text);
    let mut findings = Vec::new();
    let directory = conf.directory();
    if Path::new(&directory) != pull.into {
        findings.push(finding(
            TroubleKind::ClientConf,
            format!("clamd loads {directory}, and pull installs into {}", pull.into.display()),
            "clamd never sees what is installed",
            format!("into = \"{directory}\""),
        ));
    }
    let check_s = conf.self_check_s();
    match (&pull.clamd, conf.addresses().as_slice()) {
        (_, []) => findings.push(finding(
            TroubleKind::ClientConf,
            "clamd listens nowhere: neither LocalSocket nor TCPSocket is set",
            "it cannot be told to load, nor asked what it has loaded",
            "LocalSocket /run/clamav/clamd.ctl",
        )),
        (None, [address, ..]) => findings.push(finding(
            TroubleKind::ClientConf,
            "pull does not tell clamd (clamd is none)",
            match check_s {
                Some(0) => {
                    "nothing does, since SelfCheck is 0: it goes on with what it loaded when it started"
                        .into()
                }
                Some(seconds) => format!("it notices a new version by itself up to {seconds} s later"),
                None => "it notices a new version by itself, sooner or later".into(),
            },
            format!("clamd = \"{address}\""),
        )),
        (Some(Address::Unix(told)), [Address::Unix(path), ..]) if told != path => findings.push(finding(
            TroubleKind::ClientConf,
            format!("pull tells {}, and clamd listens on {}", told.display(), path.display()),
            "each round ends with an error, and clamd goes on with what it has",
            format!("clamd = \"{}\"", path.display()),
        )),
        _ => {}
    }
    if !conf.is_on("ConcurrentDatabaseReload", true) {
        findings.push(finding(
            TroubleKind::ClientConf,
            "ConcurrentDatabaseReload is off",
            "clamd scans nothing while it loads, and ends if it cannot load",
            "ConcurrentDatabaseReload yes",
        ));
    } else if let (Some(engine), Some(free)) = (machine.clamd_bytes, machine.available_bytes)
        && free < engine
    {
        findings.push(finding(
            TroubleKind::ClientConf,
            format!("clamd takes {}, and {} are free", size(engine), size(free)),
            "while it loads there are two engines in memory: the second one does not fit",
            "ConcurrentDatabaseReload no",
        ));
    }
    if machine.freshclam {
        findings.push(finding(
            TroubleKind::ClientConf,
            "freshclam runs on this machine",
            "two programs that update one directory undo each other's work",
            "systemctl disable --now clamav-freshclam",
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const GIB: u64 = 1 << 30;

    fn pull(clamd: Option<&str>) -> PullConfig {
        PullConfig {
            from: None,
            into: "/var/lib/clamav".into(),
            interval: None,
            form: None,
            ca: None,
            clamd: clamd.map(|text| Address::parse(text).unwrap()),
            clamd_timeout: std::time::Duration::from_secs(1),
            allow_older: false,
            test: None,
            report_as: None,
        }
    }

    fn found(text: &str, clamd: Option<&str>, machine: &Machine) -> Vec<(String, String)> {
        let findings = lint(text, &pull(clamd), machine);
        findings.into_iter().map(|finding| (finding.what, finding.fix)).collect()
    }

    #[test]
    fn a_clamd_that_is_told_and_has_room_is_well() {
        let machine = Machine { clamd_bytes: Some(GIB), available_bytes: Some(GIB), freshclam: false };
        let debian = "LocalSocket /run/clamd.ctl\nDatabaseDirectory /var/lib/clamav\nSelfCheck 3600\n";
        for (text, clamd) in [
            (debian, "/run/clamd.ctl"),
            ("TCPSocket 3310\nTCPAddr 0.0.0.0\n", "clamd:3310"),
            ("#ConcurrentDatabaseReload no\nLocalSocket /run/clamd.ctl", "/run/clamd.ctl"),
        ] {
            assert_eq!(found(text, Some(clamd), &machine), [], "{text}");
        }
    }

    #[test]
    fn each_thing_that_keeps_clamd_behind_has_its_line() {
        let idle = Machine::default();
        let socket = "LocalSocket /run/clamd.ctl\n";
        let cases = [
            (format!("{socket}DatabaseDirectory /srv/db"), Some("/run/clamd.ctl"), "into = \"/srv/db\""),
            (String::new(), None, "LocalSocket /run/clamav/clamd.ctl"),
            (socket.into(), None, "clamd = \"/run/clamd.ctl\""),
            ("TCPSocket 3310".into(), None, "clamd = \"127.0.0.1:3310\""),
            (socket.into(), Some("/run/other.ctl"), "clamd = \"/run/clamd.ctl\""),
            (
                format!("{socket}ConcurrentDatabaseReload no"),
                Some("/run/clamd.ctl"),
                "ConcurrentDatabaseReload yes",
            ),
        ];
        for (text, clamd, fix) in cases {
            let findings = found(&text, clamd, &idle);
            assert_eq!(findings.len(), 1, "{text}: {findings:?}");
            assert_eq!(findings[0].1, fix, "{text}");
        }
        let crowded = Machine { clamd_bytes: Some(2 * GIB), available_bytes: Some(GIB), freshclam: true };
        let findings = found(socket, Some("/run/clamd.ctl"), &crowded);
        assert_eq!(
            findings,
            [
                ("clamd takes 2.00 GiB, and 1.00 GiB are free".into(), "ConcurrentDatabaseReload no".into()),
                ("freshclam runs on this machine".into(), "systemctl disable --now clamav-freshclam".into()),
            ]
        );
        let why = lint(&format!("{socket}SelfCheck 0"), &pull(None), &idle).remove(0).why;
        assert!(why.starts_with("nothing does, since SelfCheck is 0"), "{why}");
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        assert!(Machine::look().available_bytes.is_some_and(|bytes| bytes > 0));
    }
}
