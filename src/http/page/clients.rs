//! Who is stale, as the page shows it: numbers of installations, and nothing that names one.
use crate::{
    clients::{DatabaseClients, Lagging, Report},
    clock::ago,
    units::{count, grouped},
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
    /// Host, database, and the versions installed, loaded and published, of hosts that tell that they are behind; and
    /// when they did.
    pub(super) lagging: Vec<[String; 6]>,
    pub(super) lagging_more: u64,
}

impl Clients {
    fn row(lagging: &Lagging, now_s: u64) -> [String; 6] {
        let Lagging { host, database, published, installed, loaded, told_at_s } = lagging;
        let version = |version: &Option<u32>| version.map_or("–".to_owned(), |version| version.to_string());
        let told = format!("{} ago", ago(now_s.saturating_sub(*told_at_s)));
        [host.clone(), database.clone(), version(installed), version(loaded), published.to_string(), told]
    }

    pub(super) fn new(report: &Report, now_s: u64) -> Self {
        let database = |(name, clients): (&String, &DatabaseClients)| {
            (name.clone(), clients.lags.labelled().map(|(_, count)| grouped(count)))
        };
        let mut engines: Vec<(&String, u64)> =
            report.engines.iter().map(|(name, count)| (name, *count)).collect();
        // The commonest first; of as many, in the order of their names.
        engines.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Self {
            installations: count(report.installations, "installation"),
            lately: ago(report.retention_s),
            databases: report.databases.iter().map(database).collect(),
            engines: engines.into_iter().map(|(name, count)| (name.clone(), grouped(count))).collect(),
            nameless: report.nameless.keys().cloned().collect::<Vec<_>>().join(", "),
            turned_away: report.turned_away,
            lagging: report.lagging.iter().map(|lagging| Self::row(lagging, now_s)).collect(),
            lagging_more: report.lagging_more,
        }
    }
}
