//! What is newest, as the mirror says: its TXT record, its dns.txt, its index.json, or the header of its file.
//!
//! dns.txt is asked before index.json, which says the same at a hundred times the size. Whatever is said here is checked
//! by what comes: nothing is believed but that a version may exist.
use super::{
    PullError,
    fetch::{FetchError, Mirror},
};
use crate::{
    cvd::{CurrentRecord, Database, DatabaseRecord, HEADER_BYTES, Header},
    source::txt::TxtResolver,
};
use serde::Deserialize;
use std::collections::BTreeMap;

const MAX_DNS_TXT_BYTES: u64 = 64 << 10;
const MAX_INDEX_BYTES: u64 = 32 << 20;

/// What of index.json counts here.
#[derive(Deserialize)]
struct Index {
    databases: BTreeMap<String, Entry>,
}
#[derive(Deserialize)]
struct Entry {
    version: Option<u32>,
}

/// Where the newest version of a database is said; asks each place at most once.
pub(super) struct Newest<'a> {
    mirror: &'a Mirror,
    txt: Option<&'a TxtResolver>,
    dns_txt: Option<Option<String>>,
    index: Option<Option<Index>>,
}

impl<'a> Newest<'a> {
    pub(super) fn new(mirror: &'a Mirror, txt: Option<&'a TxtResolver>) -> Self {
        Self { mirror, txt, dns_txt: None, index: None }
    }

    /// The newest version of a database.
    pub(super) async fn of(&mut self, database: &Database) -> Result<u32, PullError> {
        if let Some(txt) = self.txt
            && let Ok(said) = txt.lookup(database).await
            && let Some(version) = said.version
        {
            return Ok(version);
        }
        if let Some(version) = self.dns_txt().await?.and_then(|text| version_in(text, database)) {
            return Ok(version);
        }
        if let Some(index) = self.index().await? {
            let entry = index.databases.get(database.as_str());
            return entry
                .and_then(|entry| entry.version)
                .ok_or_else(|| PullError::NotThere { database: database.clone() });
        }
        let name = format!("{database}.cvd");
        let (bytes, _) = self.mirror.first(&name, HEADER_BYTES as u64).await?;
        let header = Header::parse(&bytes)
            .map_err(|source| PullError::Header { url: self.mirror.shown(&name), source })?;
        Ok(header.version)
    }

    async fn dns_txt(&mut self) -> Result<Option<&str>, FetchError> {
        if self.dns_txt.is_none() {
            let bytes = absent_is_none(self.mirror.small("dns.txt", MAX_DNS_TXT_BYTES).await)?;
            self.dns_txt = Some(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        }
        Ok(self.dns_txt.as_ref().and_then(Option::as_deref))
    }

    async fn index(&mut self) -> Result<Option<&Index>, PullError> {
        if self.index.is_none() {
            let bytes = absent_is_none(self.mirror.small("index.json", MAX_INDEX_BYTES).await)?;
            let parse = |bytes: Vec<u8>| {
                let why = |source| PullError::Index { url: self.mirror.shown("index.json"), source };
                serde_json::from_slice(&bytes).map_err(why)
            };
            self.index = Some(bytes.map(parse).transpose()?);
        }
        Ok(self.index.as_ref().and_then(Option::as_ref))
    }
}

/// Some servers have neither page: what is not there, or is a page of another kind, says nothing.
fn absent_is_none(got: Result<Vec<u8>, FetchError>) -> Result<Option<Vec<u8>>, FetchError> {
    match got {
        Ok(bytes) => Ok(Some(bytes)),
        Err(FetchError::Absent { .. }) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The version that the text of a dns.txt names: on the first line those with a field, then `<db>.cvd <record>`.
fn version_in(text: &str, database: &Database) -> Option<u32> {
    let mut lines = text.lines();
    let current = lines.next()?;
    if CurrentRecord::has_field(database) {
        return CurrentRecord::parse(current).ok()?.version(database);
    }
    let own = lines.find_map(|line| line.split_once(".cvd ").filter(|(name, _)| *name == database.as_str()));
    DatabaseRecord::parse(own?.1).ok().map(|record| record.version)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn dns_txt_names_each_database_in_its_place() {
        let text = "0.0.0:63:28034:1781708400:0:90:0:339\ntest.cvd 5:1781708400\n";
        let version = |name: &str| version_in(text, &name.parse().unwrap());
        assert_eq!(
            [version("main"), version("daily"), version("bytecode"), version("test"), version("other")],
            [Some(63), Some(28034), Some(339), Some(5), None]
        );
        assert_eq!(version_in("<html>", &"daily".parse().unwrap()), None);
        assert_eq!(version_in("", &"daily".parse().unwrap()), None);
    }
}
