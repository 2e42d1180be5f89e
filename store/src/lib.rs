//! Content-addressed objects and names in write-once redb packs.
mod error;
mod object_id;
mod pack;
mod reader;
mod store;

pub use error::Error;
pub use object_id::{Hasher, ObjectId};
pub use pack::{NameRecord, Pack, PackId, PackWriter};
pub use reader::ObjectReader;
pub use store::{Finding, Scan, Severity, Store, View};
