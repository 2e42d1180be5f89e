//! Who is stale, as the page shows it: numbers of installations, and nothing that names one.
use super::words::{count, grouped};
use crate::{
    clients::{DatabaseClients, Report},
    clock::ago,
};

/// The installations that asked lately.
pub(super) struct Clients {
    pub(super) installations: String,
    pub(super) lately: String,
    /// Each database, and how many are 0, 1, 2 to 7 and more versions behind, and how many never fetched it here.
    pub(super) databases: Vec<(String, [String; 5])>,
    /// Each engine, and how many have it.
    pub(super) engines: Vec<(String, String)>,
    /// Engines of clients that name no installation.
    pub(super) nameless: String,
    pub(super) turned_away: u64,
}

impl Clients {
    pub(super) fn of(report: &Report) -> Self {
        let database = |(name, clients): (&String, &DatabaseClients)| {
            (name.clone(), clients.lags.labelled().map(|(_, count)| grouped(count)))
        };
        let mut engines: Vec<(&String, u64)> =
            report.engines.iter().map(|(name, count)| (name, *count)).collect();
        // The commonest first; of as many, in the order of their names.
        engines.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self {
            installations: count(report.installations, "installation", "installations"),
            lately: ago(report.retention_s),
            databases: report.databases.iter().map(database).collect(),
            engines: engines.into_iter().map(|(name, count)| (name.clone(), grouped(count))).collect(),
            nameless: report.nameless.keys().cloned().collect::<Vec<_>>().join(", "),
            turned_away: report.turned_away,
        }
    }
}
