//! Who is stale, as one value for people and programs.
use super::Clients;
use crate::{
    clock::{ago, epoch_s},
    cvd::Database,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// The installations that asked lately.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// For how long an installation is remembered after it asked, seconds: what "lately" means.
    pub retention_s: u64,
    /// How many asked lately.
    pub installations: u64,
    /// How many of each engine, by its name and version (`ClamAV/1.4.6`).
    pub engines: BTreeMap<String, u64>,
    /// What they have of each database that is published.
    pub databases: BTreeMap<String, DatabaseClients>,
    /// Engines of clients that name no installation, and when one last asked, epoch seconds: they cannot be counted.
    pub nameless: BTreeMap<String, u64>,
    /// Requests of further installations that there was no room for, since the start.
    pub turned_away: u64,
}

/// What installations have of one database.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseClients {
    /// The version that is published.
    pub published: u32,
    /// How many fetched each version last.
    pub versions: BTreeMap<u32, u64>,
    /// How many are so far behind.
    pub lags: Lags,
}

/// How many installations are how many versions behind.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Lags {
    /// They have what is published.
    pub current: u64,
    /// One version.
    pub one_behind: u64,
    /// Two to seven.
    pub up_to_seven_behind: u64,
    /// More than seven.
    pub older: u64,
    /// They never fetched this database here, as far as is remembered.
    pub unknown: u64,
}

impl Lags {
    /// Each with its name as a label: `0`, `1`, `2-7`, `older`, `unknown`.
    pub fn labelled(self) -> [(&'static str, u64); 5] {
        [
            ("0", self.current),
            ("1", self.one_behind),
            ("2-7", self.up_to_seven_behind),
            ("older", self.older),
            ("unknown", self.unknown),
        ]
    }
}

impl Clients {
    /// Says who asked lately and what they have, beside the versions that are published.
    pub fn report(&self, published: &BTreeMap<Database, u32>) -> Report {
        self.report_at(published, epoch_s())
    }

    pub(super) fn report_at(&self, published: &BTreeMap<Database, u32>, now_s: u64) -> Report {
        let seen = self.lock();
        let mut report = Report {
            retention_s: self.retention_s,
            turned_away: seen.turned_away,
            databases: published
                .iter()
                .map(|(database, version)| {
                    (database.to_string(), DatabaseClients { published: *version, ..Default::default() })
                })
                .collect(),
            ..Report::default()
        };
        for known in seen.known.values().filter(|known| !self.is_over(known, now_s)) {
            if known.nameless {
                let at_s = report.nameless.entry(known.engine.to_string()).or_default();
                *at_s = known.at_s.max(*at_s);
                continue;
            }
            report.installations += 1;
            match report.engines.get_mut(&*known.engine) {
                Some(count) => *count += 1,
                None => drop(report.engines.insert(known.engine.to_string(), 1)),
            }
            for (database, clients) in &mut report.databases {
                let has =
                    known.has.iter().find(|(name, _)| **name == **database).map(|(_, version)| *version);
                if let Some(version) = has {
                    *clients.versions.entry(version).or_default() += 1;
                }
                let lags = &mut clients.lags;
                *match has.map(|version| clients.published.saturating_sub(version)) {
                    Some(0) => &mut lags.current,
                    Some(1) => &mut lags.one_behind,
                    Some(2..=7) => &mut lags.up_to_seven_behind,
                    Some(_) => &mut lags.older,
                    None => &mut lags.unknown,
                } += 1;
            }
        }
        report
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.installations == 1 { "" } else { "s" };
        writeln!(f, "{} installation{s} asked in the last {}", self.installations, ago(self.retention_s))?;
        for (engine, count) in &self.engines {
            writeln!(f, "  {engine:<24} {count:>7}")?;
        }
        for (database, clients) in &self.databases {
            write!(f, "{database}, published {}:", clients.published)?;
            let lags = clients.lags;
            let words = [
                ("current", lags.current),
                ("1 behind", lags.one_behind),
                ("2 to 7 behind", lags.up_to_seven_behind),
                ("older", lags.older),
                ("never fetched here", lags.unknown),
            ];
            let said: Vec<String> = words
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(word, count)| format!(" {count} {word}"))
                .collect();
            writeln!(f, "{}", if said.is_empty() { " nobody".into() } else { said.join(",") })?;
            for (version, count) in clients.versions.iter().rev() {
                writeln!(f, "  {version:<24} {count:>7}")?;
            }
        }
        let now_s = epoch_s();
        for (engine, at_s) in &self.nameless {
            let ago = ago(now_s.saturating_sub(*at_s));
            writeln!(f, "{engine} asked without naming its installation, {ago} ago last: not counted")?;
        }
        if self.turned_away > 0 {
            writeln!(
                f,
                "{} requests came from more installations than are kept ({}): not counted",
                self.turned_away,
                super::MOST
            )?;
        }
        Ok(())
    }
}
