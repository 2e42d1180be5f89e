//! What is published: one immutable value that the alias, index, TXT record and every page read.
use crate::cvd::{Database, FileName};
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
