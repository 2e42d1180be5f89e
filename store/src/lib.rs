//! Content-addressed objects and names in write-once redb packs.
//!
//! An *object* is bytes named by their BLAKE3 hash. A *name* is an opaque string bound to one object, for ever. A batch of both
//! becomes one *pack*: a redb database that is built in a temporary directory, sealed, renamed into the store's directory, and never
//! written again. The store is the union of the packs in the directory, in any number and from any origin. This crate knows
//! nothing of what the names and objects mean.
//!
//! ```text
//! Store::scan ──► [Pack] ──► Store::assemble ──► Store ──► view() ──► View: names, lookup, open ──► ObjectReader
//!                   (the caller orders them             │
//!                    by trust)                          └► batch() ──► PackWriter: object, bind ──► commit()
//! ```
//!
//! # What is promised
//!
//! * **Durability.** When [`Store::commit`] returns, the pack's bytes were fsynced, then it was renamed, then the directory was
//!   fsynced: the batch survives a crash and a power cut, as far as the disk keeps what it said it wrote. Before that, a crash
//!   leaves nothing of the batch in the store's directory, or (between rename and return) all of it. What a crash leaves in the
//!   temporary directory, [`Store::empty_tmp`] removes at the next start. Both directories must be on one file system.
//! * **Integrity.** Every byte handed out was hashed in this process and compared with the hash of its piece. Lists of names
//!   and objects are checked when a pack is opened. A changed bit is an [`Error::Corrupt`], or a pack that does not open; it is
//!   never other content. [`check_pack`] finds any changed byte of a pack's file, used or not.
//! * **One content a name.** Binding a name to a second object is refused by [`PackWriter::bind`] and [`Store::commit`]. Where
//!   packs of other origin disagree, content beats an empty object; of two contents neither is shown, and a [`Finding`] names both.
//! * **Views do not change.** A [`View`], and readers opened from it, go on as they are while packs are added, merged, retired
//!   and removed.
//!
//! # Backup is a file copy
//!
//! Every file `<UTC time>-<16 hex digits>.redb` in the store's directory is complete from the moment it has that name, and stays as
//! it is (mode 0444) until it is removed. So `cp -r`, `rsync` and hard links of the directory, at any moment and any speed, beside any
//! number of readers and the one writer, give a store that opens and holds everything acknowledged before the copy began. In detail:
//!
//! * A copier that lists the directory first and reads later has the packs of the moment it listed; a pack committed since may or
//!   may not be among them. What replaces a pack is in the directory before that pack is retired, and the retired file stays until
//!   the caller removes it ([`Store::remove_retired`]) after a *grace period*. A copy that began before the retirement must end
//!   within that period, for it has not listed the replacement. A copy that began later has listed both: if the
//!   retired file vanishes under it, the copying program may complain, and nothing is missing.
//! * A copy may have a merged pack together with those it replaced. That is harmless: objects and names are the same.
//!   Names that were dropped on purpose may come back with a retired pack; dropping them again is all it takes.
//! * A copier that writes in place under the final name can be cut off: that file is found unusable when the copy is scanned
//!   ([`Finding::Unusable`]), and copying it again mends it. What such programs leave under other names is
//!   [`Finding::Foreign`] and does no harm.
//! * Two packs' names never differ by case alone, and have no character that any file system refuses. Hard links are safe
//!   because nothing writes to the file again. Permissions, times and owners carry no meaning.
//! * Any subset of the packs is a store: a name whose object is in a missing pack is left out, and said
//!   ([`Finding::ObjectMissing`]).
//! * The hash in a file's name is no signature. A pack that this installation did not seal must be verified by the caller before its
//!   names are published.
//!
//! # Limits
//!
//! One process writes at a time, which the caller ensures with a lock. Names have [`MAX_NAME_LEN`] bytes, objects
//! [`MAX_OBJECT_LEN`], packs [`MAX_ROWS`] names and as many objects. A pack of a megabyte or more is at most 1.05 times its
//! data (a hundred objects of less than 10 KB each: from 2 MB on); one of 30 KB has 40 KB on top, which merging
//! ([`merges`]) gives back. Memory does not grow with the length of an object: about 10 MB to store one, a few
//! pieces to read one. All of it blocks: call it where blocking is allowed.
mod batch_reader;
mod check;
#[cfg(test)]
mod crash_tests;
mod disk;
mod error;
mod finding;
mod limits;
mod name_record;
mod object_id;
mod object_writer;
mod pack;
mod pack_id;
mod panics;
mod reader;
mod retain;
mod store;
mod tables;
mod view;
mod writer;

pub use batch_reader::BatchReader;
pub use check::{Progress, Proven, check_len, check_pack, check_view};
pub use error::Error;
pub use finding::{Finding, ForeignKind, Severity};
pub use limits::{MAX_NAME_LEN, MAX_OBJECT_LEN, MAX_ROWS, MAX_TEXT_LEN};
pub use name_record::{NameRecord, Proof};
pub use object_id::{Hasher, ObjectId};
pub use object_writer::ObjectWriter;
pub use pack::Pack;
pub use pack_id::PackId;
pub use panics::{caught, hide_caught_panics};
pub use reader::ObjectReader;
pub use retain::{Merged, PackSize, merges};
pub use store::{Scan, Store};
pub use view::{View, Withdrawn};
pub use writer::PackWriter;
