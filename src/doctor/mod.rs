//! What stands between a site and fresh databases, each thing with why it matters and the line that mends it.
//!
//! Guarantees: nothing is changed, and the source is asked for a header of each database at most, within what the
//! upstream's ledger allows. Works beside a running server and without one. Does not guarantee that a site without
//! findings stays so: it looks once.
mod certs;
mod clamd_conf;
mod data_dir;
mod freshclam_conf;
mod ports;
mod site_ca;
mod source;
mod tls;

use crate::{
    config::Config,
    control,
    mirror::{DataDir, status::Status},
    style::{BAD, GOOD},
    trouble::{COLUMNS, Trouble, TroubleKind},
    units::count,
};
use serde::Serialize;
use std::fmt;

/// Something that is not as it should be: what is so, what comes of it, and the line to write or the command to run.
fn finding(
    kind: TroubleKind,
    what: impl Into<String>,
    why: impl Into<String>,
    fix: impl Into<String>,
) -> Trouble {
    Trouble::new(kind, what).because(why.into()).mend(fix)
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub about: &'static str,
    /// What is as it should be, a line each.
    pub said: Vec<String>,
    /// What is not; the `why` of each says what comes of it.
    pub findings: Vec<Trouble>,
    #[serde(skip)]
    kind: TroubleKind,
}

impl Check {
    /// Nothing yet; what is found is of this kind, unless it is a trouble of its own.
    fn new(about: &'static str, kind: TroubleKind) -> Self {
        Self { about, said: Vec::new(), findings: Vec::new(), kind }
    }
    fn say(&mut self, what: impl Into<String>) {
        self.said.push(what.into());
    }
    fn find(&mut self, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) {
        self.findings.push(finding(self.kind, what, why, fix));
    }
    /// Finds trouble: its cause goes with what is so, and `why` says what comes of it.
    fn trouble(&mut self, trouble: &Trouble, why: &str) {
        self.findings.push(Trouble { what: trouble.said(), why: why.to_owned(), ..trouble.clone() });
    }
}

/// Everything that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    /// In the order in which it is best mended.
    pub checks: Vec<Check>,
}

impl Report {
    /// Everything that is not as it should be.
    pub fn findings(&self) -> impl Iterator<Item = &Trouble> {
        self.checks.iter().flat_map(|check| &check.findings)
    }
}

/// A client's freshclam.conf or clamd.conf.
#[derive(Clone, Copy, Debug)]
pub struct ClientConf<'a> {
    /// Its path, to be named.
    pub path: &'a str,
    /// Its text.
    pub text: &'a str,
}

/// Looks at everything.
pub async fn examine(config: &Config, client: Option<ClientConf<'_>>) -> Report {
    let dir = DataDir::new(&config.data_dir);
    let server = control::status(&dir).await;
    let running: Option<&Status> = server.as_ref().ok().and_then(Option::as_ref);
    let (source, txt, clock) = source::check(config, running).await;
    let mut checks = vec![
        source,
        txt,
        clock,
        ports::check(config, &dir),
        data_dir::check(&dir, &server),
        certs::check(config),
    ];
    checks.extend(tls::check(config));
    checks.extend(site_ca::check(config));
    if let Some(conf) = client {
        checks.push(freshclam_conf::check(conf, &freshclam_conf::Mirror::new(config)));
    }
    Report { checks }
}

/// Looks at a client whose databases `pull` keeps: its clamd, and what else runs on this machine.
pub fn examine_clamd(config: &Config, conf: ClientConf<'_>) -> Report {
    let mut checks = vec![clamd_conf::check(conf, &config.pull, &clamd_conf::Machine::look())];
    checks.extend(site_ca::check_client(config));
    Report { checks }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { about, said, findings, .. } in &self.checks {
            for line in said {
                writeln!(f, "{GOOD}{about}{GOOD:#}: {line}")?;
            }
            for found @ Trouble { why, fix, .. } in findings {
                let found = Trouble { why: String::new(), fix: String::new(), ..found.clone() };
                let said = found.lines(&format!("FINDING {about}: "), COLUMNS);
                let said = said.strip_prefix("FINDING ").unwrap_or(&said);
                let fix = fix.replace('\n', "\n       ");
                write!(f, "{BAD}FINDING{BAD:#} {said}  why: {why}\n  fix: {fix}\n")?;
            }
        }
        match self.findings().count() {
            0 => writeln!(f, "{GOOD}no findings{GOOD:#}"),
            found => writeln!(f, "{BAD}{}{BAD:#}", count(found, "finding")),
        }
    }
}
