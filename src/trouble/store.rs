//! Trouble with the disk and the store.
use super::{Trouble, TroubleKind};
use crate::units::{no_descriptor, os};
use cvdmirror_store::{Error, Finding, ObjectId, PackId, Severity};
use std::{io, path::Path};

const NEWER_BUILD: &str = "run a newer cvdmirror";
const RESTORE: &str = "restore the pack from a copy, or remove it and sync; look at the disk";

/// The operating system refuses a file or a directory.
pub fn disk(path: &Path, source: &io::Error) -> Trouble {
    refused(path.display().to_string(), path, source)
}

/// The same, and what was tried.
fn refused(what: String, path: &Path, source: &io::Error) -> Trouble {
    Trouble::new(TroubleKind::Disk, what).because(os(source)).mend(remedy(path, source))
}

/// What mends a lack of file descriptors.
pub(super) const DESCRIPTORS: &str = "too few files may be open: raise the limit (LimitNOFILE=, ulimit -n)";

/// What mends an answer of the operating system; empty where the answer says it itself.
pub(super) fn remedy(path: &Path, error: &io::Error) -> String {
    use io::ErrorKind::{
        CrossesDevices, FileTooLarge, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
    };
    let path = path.display();
    match error.kind() {
        StorageFull | QuotaExceeded => {
            format!(
                "free space on the disk of {path}, or move everything to a larger one: data_dir = \"DIR\""
            )
        }
        ReadOnlyFilesystem => {
            format!("remount the file system of {path} to be writable, or give another --data-dir")
        }
        PermissionDenied => {
            format!(
                "run this as its owner (sudo), or give it to the user that runs this:\nchown -R USER {path}"
            )
        }
        CrossesDevices => {
            "store/ and tmp/ must be on one file system: mount it at the data directory, not inside it".into()
        }
        FileTooLarge => {
            "the limit on the length of files is too low: raise it (LimitFSIZE=, ulimit -f)".into()
        }
        _ if no_descriptor(error) => DESCRIPTORS.into(),
        _ => String::new(),
    }
}

impl From<&Error> for Trouble {
    fn from(e: &Error) -> Self {
        let (kind, fix) = match e {
            Error::Io { path, op, source } => {
                return refused(format!("cannot {op} {}", path.display()), path, source);
            }
            Error::NewerFormat { .. } => (TroubleKind::NewerFormat, NEWER_BUILD),
            Error::Unusable { .. } => (TroubleKind::Unusable, RESTORE),
            Error::FileChanged { .. } => (TroubleKind::Altered, RESTORE),
            Error::Corrupt { .. } => {
                (TroubleKind::Corrupt, "the next round fetches it anew; look at the disk")
            }
            Error::NameConflict { .. } => (TroubleKind::NameConflict, "remove what does not belong here"),
            Error::ObjectMissing { .. } => {
                (TroubleKind::ObjectMissing, "sync again, or restore the pack that held it")
            }
            _ => (TroubleKind::Store, ""),
        };
        Self::new(kind, e.to_string()).mend(fix)
    }
}

impl From<&Finding> for Trouble {
    fn from(finding: &Finding) -> Self {
        let (kind, fix) = match finding {
            Finding::Foreign { .. } => (TroubleKind::Foreign, "move it out of the store; it is ignored"),
            Finding::Unusable { .. } | Finding::Unreadable { .. } => {
                (TroubleKind::Unusable, "restore the file from a copy, or remove it and sync")
            }
            Finding::NameConflict { .. } => {
                (TroubleKind::NameConflict, "move the pack that does not belong here out of the store")
            }
            Finding::ObjectMissing { .. } => {
                (TroubleKind::ObjectMissing, "sync again, or restore the pack that held it")
            }
            Finding::WrongSize { .. } => {
                (TroubleKind::Altered, "remove the pack; no build writes such a record")
            }
            Finding::FileChanged { .. } | Finding::Structure { .. } => (TroubleKind::Altered, RESTORE),
            Finding::Corrupt { .. } => (TroubleKind::Corrupt, RESTORE),
            Finding::Unused { .. } => (TroubleKind::Unused, "`cvdmirror store gc` gives the space back"),
            _ => (TroubleKind::Store, ""),
        };
        Self { severity: finding.severity(), ..Self::new(kind, finding.to_string()).mend(fix) }
    }
}

impl Trouble {
    /// A copy of an object is corrupt; `healed` where another takes its place.
    pub fn corrupt(pack: &PackId, object: ObjectId, healed: bool) -> Self {
        let (severity, so) = match healed {
            true => (Severity::Warning, "; another copy is served"),
            false => (Severity::Error, " and not served; the next round fetches it anew"),
        };
        let what = format!("object {object} in pack {pack} is corrupt{so}");
        Self { severity, ..Self::new(TroubleKind::Corrupt, what) }
    }

    /// Names of a pack do not hold, each with the reason; there is one at least.
    pub fn withdrawn(pack: &PackId, names: &[(&str, &str)]) -> Self {
        let (name, why) = names.first().copied().unwrap_or_default();
        let more = match names.len() {
            0 | 1 => String::new(),
            all => format!(" and {} more", all - 1),
        };
        Self::new(TroubleKind::Withdrawn, format!("pack {pack}: {name}{more} is not published"))
            .because(why)
            .mend("it is asked for again; if the pack is not yours, move it out of the store")
            .warning()
    }

    /// A name of a pack was never judged, because what it is bound to cannot be read.
    pub fn unread(pack: &PackId, name: &str, why: &dyn std::fmt::Display) -> Self {
        Self::new(TroubleKind::Withdrawn, format!("pack {pack}: {name} is not published"))
            .because(why)
            .mend("if the pack was copied, copy what lay beside it too; it is looked at again at each check")
            .warning()
    }

    /// A pack is not admitted.
    pub fn refused_pack(pack: &PackId, why: &dyn std::fmt::Display) -> Self {
        Self::new(TroubleKind::Pack, format!("pack {pack} is not published"))
            .because(why)
            .mend("move it out of the store")
    }

    /// A pack was not yet looked at.
    pub fn unverified_pack(pack: &PackId) -> Self {
        let what = format!("pack {pack} is verified at the next start, and until then not published");
        Self::new(TroubleKind::Pack, what).warning()
    }

    /// A pack is not added by a restore.
    pub fn unrestored(pack: &PackId, why: &dyn std::fmt::Display) -> Self {
        Self::new(TroubleKind::Pack, format!("pack {pack} is not restored")).because(why)
    }

    /// A pack is not whole, and what that means to a backup.
    pub fn in_backup(so: &str, why: &Error) -> Self {
        let why = Self::from(why);
        Self { what: format!("{so}: {}", why.what), ..why }
    }

    /// A backup's copy of a pack was not whole.
    pub fn replaced(path: &Path) -> Self {
        let what = format!("{}: was altered or cut short, and is replaced", path.display());
        Self::new(TroubleKind::Altered, what).warning()
    }
}
