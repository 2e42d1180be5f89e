//! The small pages: index.json and the answer of /health.
use super::{Freshness, Health};
use crate::mirror::Snapshot;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

/// index.json: every database with everything of it that is served. Fields are only ever added.
#[derive(Serialize)]
struct Index<'a> {
    confirmed_at_s: Option<u64>,
    databases: BTreeMap<&'a str, DatabaseEntry>,
}
#[derive(Serialize, Default)]
struct DatabaseEntry {
    /// The newest version a client can reach; none where only files without a CVD are held.
    version: Option<u32>,
    /// The version of the newest full CVD.
    cvd: Option<u32>,
    chain: Option<Chain>,
    confirmed_at_s: Option<u64>,
    files: Vec<FileEntry>,
}
#[derive(Serialize)]
struct Chain {
    from: u32,
    to: u32,
}
#[derive(Serialize)]
struct FileEntry {
    name: String,
    hash: String,
    size: u64,
    modified_s: Option<u64>,
}

/// Writes index.json.
pub(super) fn index(snapshot: &Snapshot) -> Result<Vec<u8>, serde_json::Error> {
    let mut databases: BTreeMap<&str, DatabaseEntry> = BTreeMap::new();
    for (database, published) in &snapshot.databases {
        let entry = databases.entry(database.as_str()).or_default();
        entry.version = Some(published.version);
        entry.cvd = Some(published.cvd);
        entry.chain = published.chain.map(|(from, to)| Chain { from, to });
        entry.confirmed_at_s = published.confirmed_at_s;
    }
    for (name, record) in &snapshot.files {
        databases.entry(name.database.as_str()).or_default().files.push(FileEntry {
            name: name.to_string(),
            hash: record.object.to_string(),
            size: record.size,
            modified_s: record.modified_s,
        });
    }
    let mut json = serde_json::to_vec_pretty(&Index { confirmed_at_s: snapshot.confirmed_at_s, databases })?;
    json.push(b'\n');
    Ok(json)
}

/// Writes the answer of /health: the verdict, then what goes wrong now.
pub(super) fn health(health: &Health) -> String {
    let mut out = match &health.freshness {
        Freshness::Fresh => "fresh\n".to_owned(),
        Freshness::Stale { why } => format!("stale: {why}\n"),
    };
    for line in &health.remarks {
        out.push_str(line);
        out.push('\n');
    }
    out
}

/// Epoch seconds as an HTTP date (RFC 9110, 5.6.7); none past the year 9999, which the form cannot say.
pub(super) fn http_date(epoch_s: u64) -> Option<String> {
    const YEAR_10000_S: u64 = 253_402_300_800;
    let date = UNIX_EPOCH + Duration::from_secs(Some(epoch_s).filter(|s| *s < YEAR_10000_S)?);
    Some(httpdate::fmt_http_date(date))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn a_date_past_the_year_9999_is_no_http_date() {
        assert_eq!(http_date(784_111_777).unwrap(), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(http_date(253_402_300_799).unwrap(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(http_date(253_402_300_800), None);
        assert_eq!(http_date(u64::MAX), None);
    }
}
