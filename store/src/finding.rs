//! What a look at the store found wrong, as values: one variant a kind, each naming its file, pack, object or name.
use crate::{ObjectId, PackId};
use std::{fmt, path::PathBuf};

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing served is affected.
    Note,
    /// Something is not as it should be; what is published stays right.
    Warning,
    /// Data is lost or wrong.
    Error,
}

/// Something found wrong, as a value. `Display` is for people, `Serialize` for JSON.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Finding {
    /// Something in `store/` that is not called like a pack, or is no regular file. It is left alone.
    Foreign {
        /// Where it is.
        path: PathBuf,
        /// What it is.
        what: ForeignKind,
    },
    /// A file called like a pack that does not open. Nothing of it is used.
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A name that packs bind to different contents. None of them is published.
    NameConflict {
        /// The name.
        name: String,
        /// Each object, and a pack that binds the name to it.
        bindings: Vec<(PackId, ObjectId)>,
    },
    /// A name whose object is in no pack, or is quarantined. The name is left out.
    ObjectMissing {
        /// The name.
        name: String,
        /// The pack that binds it.
        pack: PackId,
        /// The object.
        object: ObjectId,
    },
    /// A name's record states another length than its object has. The name is left out.
    WrongSize {
        /// The name.
        name: String,
        /// The pack that binds it.
        pack: PackId,
        /// The object.
        object: ObjectId,
        /// Its length in bytes.
        held: u64,
        /// The length the record states.
        claimed: u64,
    },
    /// A pack's bytes are not those it was sealed with.
    FileChanged {
        /// The pack's file.
        path: PathBuf,
        /// The start of the hash in its name.
        expected: String,
        /// The start of the hash its bytes have.
        found: String,
    },
    /// redb's own check of a pack failed.
    Structure {
        /// The pack's file.
        path: PathBuf,
        /// What redb said.
        reason: String,
    },
    /// An object's stored bytes do not hash to its id. It is never served.
    Corrupt {
        /// The pack.
        pack: PackId,
        /// The object.
        object: ObjectId,
        /// Where the first bad piece begins.
        offset: u64,
        /// The names that use it.
        names: Vec<String>,
    },
    /// A file could not be read to its end: the device fails, or permission is missing.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        reason: String,
    },
    /// Objects that no name uses.
    Unused {
        /// The pack.
        pack: PackId,
        /// How many.
        objects: u64,
        /// Their length in bytes.
        bytes: u64,
    },
}

/// What a foreign thing in `store/` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForeignKind {
    /// A file of another name.
    File,
    /// A directory.
    Directory,
    /// A symbolic link: not followed.
    Link,
    /// A FIFO, socket or device: not opened.
    Special,
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::Unused { .. } => Severity::Note,
            Self::Foreign { .. } => Severity::Warning,
            Self::NameConflict { .. }
            | Self::Unusable { .. }
            | Self::ObjectMissing { .. }
            | Self::WrongSize { .. }
            | Self::FileChanged { .. }
            | Self::Structure { .. }
            | Self::Corrupt { .. }
            | Self::Unreadable { .. } => Severity::Error,
        }
    }

    /// What to do about it, in a sentence.
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Foreign { .. } => "Move it out of the store; it is ignored.",
            Self::Unusable { .. } | Self::Unreadable { .. } => {
                "Restore the file from a copy, or remove it and sync."
            }
            Self::NameConflict { .. } => "Remove the pack that does not belong here.",
            Self::ObjectMissing { .. } => "Sync again, or restore the pack that held it.",
            Self::WrongSize { .. } => "Remove the pack; no build writes such a record.",
            Self::FileChanged { .. } | Self::Structure { .. } | Self::Corrupt { .. } => {
                "Restore the pack from a copy, or remove it and sync. Look at the disk."
            }
            Self::Unused { .. } => "A gc gives the space back.",
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign { path, what } => {
                let what = match what {
                    ForeignKind::File => "a file that is not called like a pack",
                    ForeignKind::Directory => "a directory",
                    ForeignKind::Link => "a symbolic link",
                    ForeignKind::Special => "a FIFO, socket or device",
                };
                write!(f, "{}: {what} among the packs", path.display())
            }
            Self::Unusable { path, reason } => {
                write!(f, "{}: not a usable pack: {reason}", path.display())
            }
            Self::NameConflict { name, bindings } => {
                let bindings = bindings.iter().map(|(pack, object)| format!("{object} in pack {pack}"));
                let bindings = bindings.collect::<Vec<_>>().join(" and to ");
                write!(f, "{name}: bound to {bindings}; none of them is published")
            }
            Self::ObjectMissing { name, pack, object } => {
                write!(f, "{name}: pack {pack} binds it to object {object}, which no pack holds whole")
            }
            Self::WrongSize { name, pack, object, held, claimed } => {
                write!(f, "{name}: pack {pack} says object {object} has {claimed} bytes, it has {held}")
            }
            Self::FileChanged { path, expected, found } => write!(
                f,
                "{}: altered after it was sealed: its bytes hash to {found}…, not {expected}…",
                path.display()
            ),
            Self::Structure { path, reason } => {
                write!(f, "{}: redb's integrity check: {reason}", path.display())
            }
            Self::Corrupt { pack, object, offset, names } => {
                write!(f, "object {object} in pack {pack} is corrupt at byte {offset}")?;
                if names.is_empty() {
                    return Ok(());
                }
                write!(f, "; used by {}", names.join(", "))
            }
            Self::Unreadable { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Unused { pack, objects, bytes } => {
                let plural = if *objects == 1 { "" } else { "s" };
                write!(f, "pack {pack}: {objects} object{plural} ({bytes} bytes) without a name")
            }
        }
    }
}
