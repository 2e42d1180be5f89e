//! The crate's one error type: every variant names the file, pack, object or name it is about.
use crate::{ObjectId, PackId};
use std::{io, path::Path, path::PathBuf};

/// What can go wrong in the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused. ENOSPC, EROFS, EFBIG and EMFILE come through here: look at `source.kind()`.
    #[error("cannot {op} {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What was tried, as a verb.
        op: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// A pack was written by a newer build. Nothing of it was read.
    #[error("{} has store format {found}, this build reads up to {supported}", path.display())]
    NewerFormat {
        /// The pack.
        path: PathBuf,
        /// Its format version.
        found: u64,
        /// The newest this build reads.
        supported: u64,
    },
    /// A file is not a pack, or is one that is cut short or altered so that it cannot be used at all.
    #[error("{} is not a usable pack: {reason}", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A sealed pack's bytes are not those it was sealed with.
    #[error(
        "{} was altered after it was sealed: its name says {expected}, its bytes hash to {found}",
        path.display()
    )]
    FileChanged {
        /// The pack.
        path: PathBuf,
        /// The start of the hash in its name.
        expected: String,
        /// The start of the hash its bytes have.
        found: String,
    },
    /// Stored bytes of an object do not match their hash. They were not handed out.
    #[error("object {object} in pack {pack} is corrupt at byte {offset}")]
    Corrupt {
        /// The pack.
        pack: PackId,
        /// The object.
        object: ObjectId,
        /// Where in the object the piece that failed begins.
        offset: u64,
    },
    /// An object ended early.
    #[error("object {object} has {found} bytes, {expected} were announced")]
    Short {
        /// The object.
        object: ObjectId,
        /// Bytes announced.
        expected: u64,
        /// Bytes that came.
        found: u64,
    },
    /// An object goes on after its announced length.
    #[error("object {object} goes on after the {expected} bytes announced")]
    Long {
        /// The object.
        object: ObjectId,
        /// Bytes announced.
        expected: u64,
    },
    /// Bytes do not hash to the id they were announced under.
    #[error("bytes announced as object {expected} are object {found}")]
    WrongHash {
        /// The id announced.
        expected: ObjectId,
        /// The id the bytes have.
        found: ObjectId,
    },
    /// An object is held, or announced, with one length and bound or put with another.
    #[error("object {object} has {held} bytes, not {claimed}")]
    WrongSize {
        /// The object.
        object: ObjectId,
        /// Its true length in bytes.
        held: u64,
        /// The length claimed.
        claimed: u64,
    },
    /// The reader an object came from failed.
    #[error("reading object {object} from its source: {source}")]
    Source {
        /// The object.
        object: ObjectId,
        /// The reader's error.
        source: io::Error,
    },
    /// A name or a text of its record is not allowed.
    #[error("name {name:?} refused: {rule}")]
    BadName {
        /// The name.
        name: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// A name is already bound to another object. A name never changes its content.
    #[error("name {name} is bound to {held}; refused to bind it to {offered}")]
    NameConflict {
        /// The name.
        name: String,
        /// What it is bound to.
        held: ObjectId,
        /// What it was to be bound to.
        offered: ObjectId,
    },
    /// A name was bound to an object that neither the batch nor the store holds.
    #[error("name {name} is bound to object {object}, which is not held")]
    ObjectMissing {
        /// The name.
        name: String,
        /// The object.
        object: ObjectId,
    },
    /// A pack to be merged or retired binds a name that is disputed or whose object is missing: it is kept to be looked into.
    #[error("pack {pack} binds {name}, which is disputed or whose object is missing")]
    Unsettled {
        /// The pack.
        pack: PackId,
        /// The name.
        name: String,
    },
    /// Dropping a pack would take an object from a name that stays.
    #[error("pack {pack} holds object {object}, which name {name} still needs")]
    StillNeeded {
        /// The pack.
        pack: PackId,
        /// A name that stays.
        name: String,
        /// The object it would lose.
        object: ObjectId,
    },
    /// A bound of the format is passed.
    #[error("{what}: {found} is more than the {limit} allowed")]
    TooMuch {
        /// What is bounded, with its unit.
        what: &'static str,
        /// How much there is.
        found: u64,
        /// How much may be.
        limit: u64,
    },
    /// A batch with neither objects nor names is not worth a pack.
    #[error("the batch is empty")]
    EmptyBatch,
    /// A batch failed on the disk earlier; it can only be dropped.
    #[error("the batch at {} failed earlier and cannot be continued", path.display())]
    DeadBatch {
        /// Its temporary file.
        path: PathBuf,
    },
    /// The pack is in the view: merge or retire it before its file is removed.
    #[error("pack {pack} is in use")]
    InView {
        /// The pack.
        pack: PackId,
    },
    /// No pack of that id is in the store.
    #[error("no pack {pack} in the store")]
    UnknownPack {
        /// The pack.
        pack: PackId,
    },
    /// The database library failed in a way that is neither I/O nor damage.
    #[error("redb, on {}: {source}", path.display())]
    Redb {
        /// The pack.
        path: PathBuf,
        /// Its error.
        source: Box<redb::Error>,
    },
}

impl Error {
    pub(crate) fn io(path: &Path, op: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { path: path.to_owned(), op, source }
    }

    pub(crate) fn unusable(path: &Path, reason: impl Into<String>) -> Self {
        Self::Unusable { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn redb(path: &Path, op: &'static str, error: redb::Error) -> Self {
        match error {
            redb::Error::Io(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
                Self::unusable(path, "the file is cut short")
            }
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                Self::unusable(path, "it is not a redb database")
            }
            redb::Error::Io(source) => Self::Io { path: path.to_owned(), op, source },
            redb::Error::Corrupted(reason) => Self::unusable(path, reason),
            redb::Error::RepairAborted => Self::unusable(path, "it was never closed properly"),
            redb::Error::UpgradeRequired(version) => {
                Self::unusable(path, format!("redb file format {version} is not readable by this build"))
            }
            redb::Error::TableDoesNotExist(table) => {
                Self::unusable(path, format!("it lacks the table {table}"))
            }
            error @ (redb::Error::TableTypeMismatch { .. }
            | redb::Error::TableIsMultimap(_)
            | redb::Error::TableIsNotMultimap(_)
            | redb::Error::TypeDefinitionChanged { .. }) => Self::unusable(path, error.to_string()),
            error => Self::Redb { path: path.to_owned(), source: Box::new(error) },
        }
    }

    /// Says whether the machine, not the file, is at fault (no more file descriptors, memory, or a failing device),
    /// so that the file must not be blamed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Io { source, .. } if !matches!(
            source.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied
        ))
    }
}
