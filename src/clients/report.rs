//! The report on which installations are stale.
use super::Clients;
use crate::{
    clock::{ago, epoch_s},
    cvd::Database,
    mirror::reported::Reported,
    units::count,
};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, sync::Arc};

/// Most hosts that are named.
pub(super) const MOST_LAGGING: usize = 100;

/// The installations that asked lately.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// How long an installation is remembered after it asked, seconds: the meaning of "lately".
    pub retention_s: u64,
    /// How many asked lately.
    pub installations: u64,
    /// How many of each engine, by its name and version (`ClamAV/1.4.6`).
    pub engines: BTreeMap<String, u64>,
    /// What they have of each database that is published.
    pub databases: BTreeMap<String, DatabaseClients>,
    /// Engines of clients that send no UUID, so that they cannot be counted, and when one last asked, epoch seconds.
    pub nameless: BTreeMap<String, u64>,
    /// Requests since the start of installations beyond those that can be kept.
    pub turned_away: u64,
    /// Hosts that told what they have, and that it is not what is published; at most [`MOST_LAGGING`], by name.
    #[serde(default)]
    pub lagging: Vec<Lagging>,
    /// How many more there are.
    #[serde(default)]
    pub lagging_more: u64,
}

/// A host that told that it is behind in a database.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Lagging {
    /// How it calls itself.
    pub host: String,
    /// Which database.
    pub database: String,
    /// The version that is published.
    pub published: u32,
    /// The version in its directory.
    pub installed: Option<u32>,
    /// The version that its clamd has loaded, as far as it tells.
    pub loaded: Option<u32>,
    /// When it told so, epoch seconds.
    pub told_at_s: u64,
}

impl Lagging {
    /// How many versions it is behind.
    pub fn behind(&self) -> u32 {
        let has = self.installed.into_iter().chain(self.loaded).min();
        self.published.saturating_sub(has.unwrap_or_default())
    }
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
    /// How many have a clamd that has loaded each version, of those that tell so.
    #[serde(default)]
    pub loaded: BTreeMap<u32, u64>,
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
    /// No fetch of this database is remembered.
    pub unknown: u64,
}

impl Lags {
    /// Counts as many that have this version, or of which none is known.
    pub fn count(&mut self, published: u32, has: Option<u32>, count: u64) {
        *match has.map(|version| published.saturating_sub(version)) {
            Some(0) => &mut self.current,
            Some(1) => &mut self.one_behind,
            Some(2..=7) => &mut self.up_to_seven_behind,
            Some(_) => &mut self.older,
            None => &mut self.unknown,
        } += count;
    }

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
    /// Reports the installations that asked lately, against the published versions.
    pub fn report(&self, published: &BTreeMap<Database, u32>) -> Report {
        self.report_at(published, epoch_s())
    }

    /// Sums up what hosts told lately; `None` where they are not heard.
    pub fn reported(&self, published: &BTreeMap<Database, u32>) -> Option<Reported> {
        if !self.takes_reports {
            return None;
        }
        let (seen, now_s) = (self.lock(), epoch_s());
        let mut reported = Reported::default();
        for known in seen.known.values().filter(|known| known.host.is_some() && !self.is_over(known, now_s)) {
            reported.hosts += 1;
            let mut lags = false;
            for (database, published) in published {
                let versions = reported.databases.entry(database.to_string()).or_default();
                let both = [(&known.has, &mut versions.installed), (&known.loaded, &mut versions.loaded)];
                for (told, counts) in both {
                    if let Some(version) = version_of(told, database.as_str()) {
                        *counts.entry(version).or_default() += 1;
                        lags |= version < *published;
                    }
                }
            }
            reported.lagging += u64::from(lags);
        }
        Some(reported)
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
                let of = |versions| version_of(versions, database);
                let (has, loaded, published) = (of(&known.has), of(&known.loaded), clients.published);
                if let Some(version) = has {
                    *clients.versions.entry(version).or_default() += 1;
                }
                if let Some(version) = loaded {
                    *clients.loaded.entry(version).or_default() += 1;
                }
                clients.lags.count(published, has, 1);
                let lags = has.into_iter().chain(loaded).any(|version| version < published);
                report.lagging.extend(known.host.as_ref().filter(|_| lags).map(|host| Lagging {
                    host: host.to_string(),
                    database: database.clone(),
                    published,
                    installed: has,
                    loaded,
                    told_at_s: known.at_s,
                }));
            }
        }
        report.lagging.sort();
        report.lagging_more = report.lagging.len().saturating_sub(MOST_LAGGING) as u64;
        report.lagging.truncate(MOST_LAGGING);
        report
    }
}

fn version_of(versions: &[(Arc<str>, u32)], database: &str) -> Option<u32> {
    versions.iter().find(|(name, _)| **name == *database).map(|(_, version)| *version)
}

impl fmt::Display for Lagging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, database, published, installed, loaded, .. } = self;
        write!(f, "{host} lags: {database}")?;
        let known = [(installed, "installed"), (loaded, "loaded")];
        for (version, word) in known.iter().filter_map(|(version, word)| Some((version.as_ref()?, word))) {
            write!(f, " {version} {word},")?;
        }
        write!(f, " {published} is published")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let installations = count(self.installations, "installation");
        writeln!(f, "{installations} asked in the last {}", ago(self.retention_s))?;
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
            for (version, count) in clients.loaded.iter().rev() {
                writeln!(f, "  {:<24} {count:>7}", format!("{version} loaded by clamd"))?;
            }
        }
        let now_s = epoch_s();
        for lagging in &self.lagging {
            let ago = ago(now_s.saturating_sub(lagging.told_at_s));
            writeln!(f, "{lagging} (told {ago} ago)")?;
        }
        if self.lagging_more > 0 {
            writeln!(f, "and {} more", self.lagging_more)?;
        }
        for (engine, at_s) in &self.nameless {
            let ago = ago(now_s.saturating_sub(*at_s));
            writeln!(f, "{engine} asked without naming its installation, {ago} ago last: not counted")?;
        }
        if self.turned_away > 0 {
            writeln!(
                f,
                "{} came from more installations than are kept ({}): not counted",
                count(self.turned_away, "request"),
                super::MOST
            )?;
        }
        Ok(())
    }
}
