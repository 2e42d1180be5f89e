//! What stands between a site and fresh databases, each thing with why it matters and the line that mends it.
//!
//! Guarantees: nothing is changed, and the source is asked for a header of each database at most, within what the
//! upstream's ledger allows. Works beside a running server and without one. Does not guarantee that a site without
//! findings stays so: it looks once.
mod certs;
mod data_dir;
mod freshclam_conf;
mod ports;
mod source;

use crate::{config::Config, control, mirror::DataDir, mirror::status::Status};
use serde::Serialize;
use std::fmt;

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// What is so.
    pub what: String,
    /// What comes of it.
    pub why: String,
    /// The line to write, or the command to run.
    pub fix: String,
}

fn finding(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Finding {
    Finding { what: what.into(), why: why.into(), fix: fix.into() }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    /// What was looked at.
    pub about: &'static str,
    /// What is as it should be, a line each.
    pub said: Vec<String>,
    /// What is not.
    pub findings: Vec<Finding>,
}

impl Check {
    fn of(about: &'static str) -> Self {
        Self { about, said: Vec::new(), findings: Vec::new() }
    }
    fn say(&mut self, what: impl Into<String>) {
        self.said.push(what.into());
    }
    fn find(&mut self, what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) {
        self.findings.push(finding(what, why, fix));
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
    pub fn findings(&self) -> impl Iterator<Item = &Finding> {
        self.checks.iter().flat_map(|check| &check.findings)
    }
}

/// A client's freshclam.conf.
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
    if let Some(conf) = client {
        checks.push(freshclam_conf::check(conf, &freshclam_conf::Mirror::of(config)));
    }
    Report { checks }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Check { about, said, findings } in &self.checks {
            for line in said {
                writeln!(f, "{about}: {line}")?;
            }
            for Finding { what, why, fix } in findings {
                writeln!(
                    f,
                    "FINDING {about}: {what}\n  why: {why}\n  fix: {}",
                    fix.replace('\n', "\n       ")
                )?;
            }
        }
        match self.findings().count() {
            0 => writeln!(f, "no findings"),
            1 => writeln!(f, "1 finding"),
            count => writeln!(f, "{count} findings"),
        }
    }
}
