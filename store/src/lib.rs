//! Content-addressed objects and names in write-once redb packs.
mod check;
#[cfg(test)]
mod crash_tests;
mod disk;
mod error;
mod finding;
mod object_id;
mod pack;
mod reader;
mod retain;
mod store;
mod tables;
mod view;
mod writer;

pub use check::{Progress, check_len, check_pack, check_view};
pub use error::Error;
pub use finding::{Finding, ForeignKind, Severity};
pub use object_id::{Hasher, ObjectId};
pub use pack::{NameRecord, Pack, PackId};
pub use reader::ObjectReader;
pub use retain::{Merged, PackSize, merges};
pub use store::{HOT_CACHE_BYTES, Scan, Store};
pub use view::View;
pub use writer::{MAX_NAME_LEN, MAX_OBJECT_LEN, MAX_ROWS, MAX_TEXT_LEN, PackWriter};
