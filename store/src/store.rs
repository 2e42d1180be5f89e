//! The directory of packs as one store.
use crate::{Error, NameRecord, ObjectId, ObjectReader, Pack, PackWriter};
use std::{path::Path, sync::Arc};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Severity {
    /// Nothing served is affected.
    Note,
    /// Something is not as it should be; what is published stays right.
    Warning,
    /// Data is lost or wrong.
    Error,
}
/// Something found wrong, as a value.
#[derive(Clone, Debug)]
pub struct Finding;

/// What a directory of packs holds.
#[derive(Debug)]
pub struct Scan {
    /// Every pack that opens, oldest first.
    pub packs: Vec<Pack>,
    /// Every file that is no pack, or does not open.
    pub findings: Vec<Finding>,
}

/// The packs of one directory, put together.
#[derive(Debug)]
pub struct Store;
impl Store {
    /// Opens every pack of a directory; what does not open is a finding.
    pub fn scan(_store_dir: &Path) -> Result<Scan, Error> {
        todo!()
    }
    /// Puts packs together, the most trusted first: where two bind a name to different objects the first wins,
    /// and the finding names both.
    pub fn assemble(
        _store_dir: &Path,
        _tmp_dir: &Path,
        _packs: Vec<Pack>,
    ) -> Result<(Self, Vec<Finding>), Error> {
        todo!()
    }
    /// What is held now; later commits do not change a view.
    pub fn view(&self) -> Arc<View> {
        todo!()
    }
    /// A new empty batch.
    pub fn batch(&self) -> Result<PackWriter, Error> {
        todo!()
    }
    /// Seals a batch (fsync, rename, fsync of the directory) and adds it. `now_s` is epoch seconds.
    pub fn commit(&self, _batch: PackWriter, _now_s: u64) -> Result<Pack, Error> {
        todo!()
    }
}
/// The union of the packs' names and objects at one moment.
#[derive(Debug)]
pub struct View;
impl View {
    /// Every name, in order.
    pub fn names(&self) -> impl Iterator<Item = (&str, &NameRecord)> {
        std::iter::empty()
    }
    /// What a name is bound to.
    pub fn lookup(&self, _name: &str) -> Option<&NameRecord> {
        todo!()
    }
    /// Opens an object for reading.
    pub fn open(&self, _id: &ObjectId) -> Result<Option<ObjectReader>, Error> {
        todo!()
    }
}
