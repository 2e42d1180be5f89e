//! What is published: one immutable value that the alias, index, TXT record and every page read.
//!
//! Guarantees: every name in it is held whole and was verified by this installation; a version it advertises
//! can be reached by a client from what is held (a full CVD, and patches after it without a gap).
use super::{
    plan::Held,
    reading::{self, Unheld},
};
use crate::cvd::{Database, FileKind, FileName, HEADER_BYTES, Header, HeaderError};
use cvdmirror_store::{NameRecord, View};
use std::{collections::BTreeMap, sync::Arc};

/// What is published at one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// Every versioned name that is served, and what it is bound to.
    pub files: BTreeMap<FileName, NameRecord>,
    /// What is advertised of each database that has anything to advertise.
    pub databases: BTreeMap<Database, Published>,
    /// When all of it was last confirmed against the source, epoch seconds; `None` before the first time.
    pub confirmed_at_s: Option<u64>,
    /// The packs behind it.
    pub view: Arc<View>,
}

/// What is advertised of one database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    /// The newest version a client can reach from what is held: the full CVD plus the CDIFFs after it.
    pub version: u32,
    /// The newest full CVD held, the alias' target.
    pub cvd: u32,
    /// The first and last CDIFF of the chain without a gap that ends at `version`, if there is any.
    pub chain: Option<(u32, u32)>,
    /// The newest CVD's build time from its header, epoch seconds.
    pub stime_s: u64,
    /// The newest CVD's number of signatures.
    pub signatures: u32,
    /// The newest CVD's functionality level.
    pub functionality_level: u32,
    /// When this database was last confirmed to be the newest at the source, epoch seconds.
    pub confirmed_at_s: Option<u64>,
}

/// A CVD that is held and not published, because its header cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("{name} is not published: {why}")]
pub struct Unreadable {
    /// Its name.
    pub name: FileName,
    /// Why.
    pub why: UnreadableHeader,
}

/// Why a stored CVD's header cannot be read back.
#[derive(Debug, thiserror::Error)]
pub enum UnreadableHeader {
    /// The store does not give it: most likely it is corrupt.
    #[error(transparent)]
    Held(#[from] Unheld),
    /// It has fewer bytes than a header.
    #[error("it is shorter than a header")]
    Short,
    /// It is no header.
    #[error(transparent)]
    Header(#[from] HeaderError),
}

impl Snapshot {
    /// Reads what a view of the store lets be published, but for what is `hidden`; `confirmed` tells when each database was last
    /// confirmed. A name of no ClamAV file, a sign file without its file, and a CVD whose header cannot be read
    /// back are left out; the last of these is said in the second value.
    pub fn new(
        view: Arc<View>,
        hidden: impl Fn(&FileName) -> bool,
        confirmed: impl Fn(&Database) -> Option<u64>,
    ) -> (Self, Vec<Unreadable>) {
        let mut files: BTreeMap<FileName, NameRecord> =
            view.names().filter_map(|(name, record)| Some((name.parse().ok()?, record.clone()))).collect();
        files.retain(|name, _| !hidden(name));
        let mut unreadable = Vec::new();
        let mut headers: BTreeMap<Database, Header> = BTreeMap::new();
        files.retain(|name, record| {
            if name.kind != FileKind::Cvd {
                return true;
            }
            match header_of(&view, name) {
                // In order of version: the last one stays.
                Ok(header) => {
                    // What the content says, whatever the pack's record does.
                    record.modified_s = Some(header.stime_s);
                    headers.insert(name.database.clone(), header);
                    true
                }
                Err(why) => {
                    unreadable.push(Unreadable { name: name.clone(), why });
                    false
                }
            }
        });
        let orphans: Vec<FileName> = files
            .keys()
            .filter(|name| name.signed().is_some_and(|signed| !files.contains_key(&signed)))
            .cloned()
            .collect();
        for orphan in orphans {
            files.remove(&orphan);
        }
        let mut databases = BTreeMap::new();
        for (database, header) in headers {
            let held = Held::new(&files, &database);
            let Some(version) = held.reachable() else { continue };
            let published = Published {
                version,
                cvd: header.version,
                chain: held.chain_to(version),
                stime_s: header.stime_s,
                signatures: header.signatures,
                functionality_level: header.functionality_level,
                confirmed_at_s: confirmed(&database),
            };
            databases.insert(database, published);
        }
        // The oldest confirmation speaks for all: a record must not look fresher than its stalest field.
        let confirmed_at_s = databases.values().map(|p| p.confirmed_at_s).min().flatten();
        (Self { files, databases, confirmed_at_s, view }, unreadable)
    }

    /// Of a view of which nothing is published yet.
    pub fn empty(view: Arc<View>) -> Self {
        Self { files: BTreeMap::new(), databases: BTreeMap::new(), confirmed_at_s: None, view }
    }

    /// What is served of one database.
    pub fn files_of(&self, database: &Database) -> impl DoubleEndedIterator<Item = (&FileName, &NameRecord)> {
        let of = |version, kind| FileName::new(database, version, kind);
        self.files.range(of(0, FileKind::Cvd)..=of(u32::MAX, FileKind::CdiffSign))
    }

    /// The version that is advertised of each database.
    pub fn versions(&self) -> BTreeMap<Database, u32> {
        self.databases.iter().map(|(database, published)| (database.clone(), published.version)).collect()
    }

    /// The same content, with other confirmations.
    pub fn reconfirmed(&self, confirmed: impl Fn(&Database) -> Option<u64>) -> Self {
        let mut databases = self.databases.clone();
        for (database, published) in &mut databases {
            published.confirmed_at_s = confirmed(database);
        }
        let confirmed_at_s = databases.values().map(|p| p.confirmed_at_s).min().flatten();
        Self { files: self.files.clone(), databases, confirmed_at_s, view: self.view.clone() }
    }
}

impl Held {
    /// What of `files` belongs to `database`.
    pub fn new(files: &BTreeMap<FileName, NameRecord>, database: &Database) -> Self {
        let mut held = Self::default();
        let first = FileName::new(database, 0, FileKind::Cvd);
        for (name, record) in files.range(first..).take_while(|(name, _)| name.database == *database) {
            held.insert(name, record.size > 0);
        }
        held
    }
}

/// Reads a stored CVD's header back.
fn header_of(view: &View, name: &FileName) -> Result<Header, UnreadableHeader> {
    let chunk = reading::open(view, &name.to_string())?.1.next_chunk().map_err(Unheld::from)?;
    let bytes = chunk.get(..HEADER_BYTES).ok_or(UnreadableHeader::Short)?;
    Ok(Header::parse(bytes)?)
}
