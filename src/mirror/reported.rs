//! What hosts told that they have, summed up: `status` says it in two lines.
use crate::units::count;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// Versions that are told apart, the newest ones.
const SHOWN: usize = 2;

/// What the hosts told that sent reports lately.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reported {
    /// How many hosts.
    pub hosts: u64,
    /// How many of them have, or have loaded, an older version of a database than is published.
    pub lagging: u64,
    /// Each database that is published.
    pub databases: BTreeMap<String, ReportedVersions>,
}

/// How many hosts have which version.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReportedVersions {
    /// In their directory.
    pub installed: BTreeMap<u32, u64>,
    /// In their clamd, as far as it tells.
    pub loaded: BTreeMap<u32, u64>,
}

/// `28110 installed by 11, 28109 by 1, older ones by 3`
fn said(versions: &BTreeMap<u32, u64>, word: &str) -> Option<String> {
    let mut newest = versions.iter().rev();
    let (version, hosts) = newest.next()?;
    let mut said = format!("{version} {word} by {hosts}");
    for (version, hosts) in newest.by_ref().take(SHOWN - 1) {
        said += &format!(", {version} by {hosts}");
    }
    match newest.map(|(_, hosts)| hosts).sum::<u64>() {
        0 => {}
        hosts => said += &format!(", older ones by {hosts}"),
    }
    Some(said)
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hosts, lagging, databases } = self;
        if *hosts == 0 {
            return writeln!(f, "no host has reported lately what it has");
        }
        let told = databases.iter().filter_map(|(database, versions)| {
            let both = [said(&versions.installed, "installed"), said(&versions.loaded, "loaded")];
            let both: Vec<String> = both.into_iter().flatten().collect();
            (!both.is_empty()).then(|| format!("{database} {}", both.join("; ")))
        });
        let told = told.collect::<Vec<_>>().join(". ");
        writeln!(f, "{} {}: {told}", count(*hosts, "host"), if *hosts == 1 { "reports" } else { "report" })?;
        match lagging {
            0 => writeln!(f, "  none of them lags"),
            lagging => writeln!(f, "  behind what is published: {lagging}; `status --clients` names them"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_two_lines_however_many_versions_there_are() {
        assert_eq!(Reported::default().to_string(), "no host has reported lately what it has\n");
        let versions = |pairs: &[(u32, u64)]| pairs.iter().copied().collect();
        let daily = ReportedVersions {
            installed: versions(&[(9, 1), (27, 2), (28, 3), (29, 6)]),
            loaded: versions(&[(29, 5)]),
        };
        let main = ReportedVersions { installed: versions(&[(63, 12)]), ..ReportedVersions::default() };
        let other = ReportedVersions::default();
        let databases = [("daily", daily), ("main", main), ("other", other)];
        let databases = databases.map(|(name, versions)| (name.to_owned(), versions)).into();
        let reported = Reported { hosts: 12, lagging: 6, databases };
        assert_eq!(
            reported.to_string(),
            "12 hosts report: daily 29 installed by 6, 28 by 3, older ones by 3; 29 loaded by 5. main 63 installed by 12\n\
             \x20 behind what is published: 6; `status --clients` names them\n"
        );
    }
}
