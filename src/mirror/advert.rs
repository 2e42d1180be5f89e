//! The records that advertise versions, made from one snapshot: what the TXT responder answers and dns.txt holds.
//!
//! dns.txt says all that the responder says: the record of `current.cvd.<zone>` on the first line, which is all that
//! cvdupdate ever writes there, then a line `<db>.cvd <record>` for each database without a field in it.
use super::Snapshot;
use crate::cvd::{
    Database,
    txt_record::{CurrentRecord, DatabaseRecord},
};

impl Snapshot {
    /// Makes the record of `current.cvd.<zone>`; none before anything was confirmed at the source.
    ///
    /// A mirror recommends no release: 0.0.0 with the warning flag 0, so that no client warns that it is outdated. A database
    /// that is not held has version 0.
    pub fn txt_record(&self) -> Option<CurrentRecord> {
        let level = self.databases.values().map(|published| published.functionality_level).max();
        let mut record = CurrentRecord {
            engine: "0.0.0".into(),
            time_s: Some(self.confirmed_at_s?),
            version_warning: Some(0),
            functionality_level: level,
            ..CurrentRecord::default()
        };
        for (database, published) in &self.databases {
            // A database without a field has a record of its own.
            record.set_version(database, published.version);
        }
        Some(record)
    }

    /// Writes dns.txt; none before anything was confirmed at the source.
    pub fn txt_records(&self) -> Option<String> {
        let mut text = format!("{}\n", self.txt_record()?);
        for database in self.databases.keys().filter(|database| !CurrentRecord::has_field(database)) {
            if let Some(record) = self.database_txt_record(database) {
                text.push_str(&format!("{database}.cvd {record}\n"));
            }
        }
        Some(text)
    }

    /// Makes the record of `<db>.cvd.<zone>`; none where nothing is advertised or nothing was ever confirmed.
    pub fn database_txt_record(&self, database: &Database) -> Option<DatabaseRecord> {
        let published = self.databases.get(database)?;
        let time_s = published.confirmed_at_s.or(self.confirmed_at_s)?;
        Some(DatabaseRecord { version: published.version, time_s: Some(time_s) })
    }
}
