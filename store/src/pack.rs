//! Packs.
use crate::{Error, ObjectId, ObjectReader};
use std::{io::Read, path::Path};

/// A sealed pack's id: its file stem, e.g. `20261122T205800Z-3f2a91c04d5e6b77`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackId(String);

/// What a name is bound to, and how it came here.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub struct NameRecord {
    /// The object.
    pub object: ObjectId,
    /// Its length in bytes.
    pub size: u64,
    /// The content's own date (HTTP's Last-Modified), epoch seconds, where it has one.
    pub modified_s: Option<u64>,
    /// When this installation stored it, epoch seconds.
    pub stored_at_s: u64,
    /// Where the bytes came from: a URL or a path.
    pub origin: String,
    /// How they were verified, in words.
    pub proof: String,
}

/// A sealed pack, open for reading.
#[derive(Clone, Debug)]
pub struct Pack;
impl Pack {
    /// Its id.
    pub fn id(&self) -> &PackId {
        todo!()
    }
    /// Length of the sealed file in bytes.
    pub fn file_len(&self) -> u64 {
        todo!()
    }
    /// The names it binds.
    pub fn names(&self) -> Result<Vec<(String, NameRecord)>, Error> {
        todo!()
    }
    /// The objects it holds, with their length in bytes.
    pub fn objects(&self) -> Result<Vec<(ObjectId, u64)>, Error> {
        todo!()
    }
    /// Opens one of its objects.
    pub fn open(&self, _id: &ObjectId) -> Result<Option<ObjectReader>, Error> {
        todo!()
    }
}

/// Builds one pack in a temporary directory. Dropped unsealed, it leaves nothing.
#[derive(Debug)]
pub struct PackWriter;
impl PackWriter {
    /// Starts a pack in `tmp_dir`.
    pub fn create(_tmp_dir: &Path) -> Result<Self, Error> {
        todo!()
    }
    /// Adds an object: exactly `len` bytes that must hash to `id`.
    pub fn put(&mut self, _id: ObjectId, _len: u64, _bytes: &mut dyn Read) -> Result<(), Error> {
        todo!()
    }
    /// Binds a name.
    pub fn bind(&mut self, _name: &str, _record: NameRecord) -> Result<(), Error> {
        todo!()
    }
}
