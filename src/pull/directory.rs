//! The database directory: a place in it where files are made ready, and how they come into force.
//!
//! Everything of pull's own lies in `.cvdmirror/` of that directory, on its file system and without a name that libclamav
//! looks at: `new/` (what is being made; emptied at each start), `pending/` (what was replaced, until clamd has loaded
//! what replaced it), `refused/` (what could not be loaded, and why), `seen.json` and `lock`.
//!
//! Guarantees of [`Directory::install`]: at every moment, and after a crash at any, each database is there under a name
//! that libclamav takes, whole, in its old or its new version. Sign files come first, then the databases, each by one
//! rename, then what they replace goes; between these steps the directory is synced. A reader at work meanwhile finds
//! the one or the other too, as long as the form stays; where that changes, see `Maker::form`.
use super::local::{Form, Held, Local, Sign, Stamp};
use crate::cvd::Database;
use rustix::fs::{Gid, Mode, Uid};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

const WORK: &str = ".cvdmirror";
const NEW: &str = "new";
const PENDING: &str = "pending";
const REFUSED: &str = "refused";
const SEEN: &str = "seen.json";
const ROUND: &str = "round.json";

/// Why the directory cannot be worked in; nothing in it was changed then.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// It cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another pull is at work in it.
    #[error("{}: another pull is at work there", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// Files in it cannot be given the owner that it has itself.
    #[error(
        "{}: belongs to user {uid} and group {gid}, and files cannot be given to them: run as that user, or as root",
        path.display()
    )]
    Owner {
        /// The directory.
        path: PathBuf,
        /// Its owner's user id.
        uid: u32,
        /// Its group's id.
        gid: u32,
    },
}

/// A new version of a database, complete and verified, that is not in force yet.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) database: Database,
    pub(super) version: u32,
    pub(super) form: Form,
    /// Its file below `new/`.
    pub(super) file: PathBuf,
    /// Its sign file below `new/`.
    pub(super) sign: Option<PathBuf>,
    /// What it replaces.
    pub(super) replaces: Local,
}

/// What was replaced and may yet come back.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Pending {
    pub(super) replaced: Vec<Replaced>,
}

/// One database of these.
#[derive(Serialize, Deserialize, Debug)]
pub(super) struct Replaced {
    pub(super) database: String,
    pub(super) version: u32,
    pub(super) form: Form,
    /// The files that were there before; their links below `pending/` have the same names.
    old: Vec<String>,
}

/// The open directory; one process at a time has it.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    work: PathBuf,
    uid: u32,
    gid: u32,
    mode: u32,
    lock: File,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { path, source }
}

impl Directory {
    /// Opens the directory, takes its lock, removes what an earlier run left half made, and tries whether files can be
    /// made here as they must be.
    pub(super) fn open(path: &Path) -> Result<Self, DirectoryError> {
        let meta = fs::metadata(path).map_err(at(path))?;
        // Where the group may write and new files are the group's, as in a volume that is shared, nobody minds who in it
        // wrote one. That everybody may write to the directory says nothing of the files.
        let is_groups = meta.mode() & 0o2020 == 0o2020;
        let uid = if is_groups { rustix::process::geteuid().as_raw() } else { meta.uid() };
        let (gid, mode) = (meta.gid(), meta.mode() & 0o664);
        let work = path.join(WORK);
        make_dir(&work)?;
        let lock = work.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock);
        let file = file.map_err(at(&lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(DirectoryError::Locked { path: path.into() }),
            Err(fs::TryLockError::Error(source)) => return Err(DirectoryError::Io { path: lock, source }),
        }
        let directory = Self { path: path.into(), work, uid, gid, mode, lock: file };
        // Root's work must not keep out the directory's own user, who may be the one to pull the next time.
        directory.own(&directory.lock, &lock)?;
        for dir in ["", NEW, REFUSED] {
            let dir = directory.work.join(dir);
            if dir.ends_with(NEW) {
                remove_all(&dir)?;
            }
            make_dir(&dir)?;
            directory.own(&File::open(&dir).map_err(at(&dir))?, &dir)?;
        }
        Ok(directory)
    }

    /// A new file below `new/`, open for reading and writing.
    pub(super) fn create(&self, name: &str) -> Result<(File, PathBuf), DirectoryError> {
        let path = self.work.join(NEW).join(name);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        Ok((file.map_err(at(&path))?, path))
    }

    /// A nameless file on the same file system.
    pub(super) fn scratch(&self) -> Result<File, DirectoryError> {
        let new = self.work.join(NEW);
        tempfile::tempfile_in(&new).map_err(at(&new))
    }

    /// Gives a file the owner, group and mode that the directory has, and brings it to the disk.
    pub(super) fn finish(&self, file: &File, path: &Path) -> Result<(), DirectoryError> {
        self.own(file, path)?;
        rustix::fs::fchmod(file, Mode::from_raw_mode(self.mode)).map_err(|e| at(path)(e.into()))?;
        file.sync_all().map_err(at(path))
    }

    /// Gives a file the directory's owner and group.
    fn own(&self, file: &File, path: &Path) -> Result<(), DirectoryError> {
        let meta = file.metadata().map_err(at(path))?;
        if (meta.uid(), meta.gid()) != (self.uid, self.gid) {
            let (uid, gid) = (Uid::from_raw(self.uid), Gid::from_raw(self.gid));
            match rustix::fs::fchown(file, Some(uid), Some(gid)) {
                Ok(()) => {}
                Err(rustix::io::Errno::PERM) => {
                    let (path, uid, gid) = (self.path.clone(), self.uid, self.gid);
                    return Err(DirectoryError::Owner { path, uid, gid });
                }
                Err(e) => return Err(at(path)(e.into())),
            }
        }
        Ok(())
    }

    /// Brings names to the disk.
    fn sync(&self) -> Result<(), DirectoryError> {
        File::open(&self.path).and_then(|dir| dir.sync_all()).map_err(at(&self.path))
    }

    /// Which of the staged files still replace what they were made to replace; the others, another program has changed
    /// meanwhile.
    pub(super) fn unchanged(&self, staged: &Staged) -> bool {
        let now = Local::scan(&self.path, &staged.database);
        let stamps =
            |local: &Local| local.files.iter().map(|held| (held.form, held.stamp)).collect::<Vec<_>>();
        now.is_ok_and(|now| stamps(&now) == stamps(&staged.replaces) && now.copies.is_empty())
    }

    /// Brings all of it into force.
    pub(super) fn install(&self, staged: &[Staged]) -> Result<(), DirectoryError> {
        for Staged { database, version, form, sign, .. } in staged {
            if let Some(sign) = sign {
                rename(sign, &self.path.join(form.sign_name(database.as_str(), *version)))?;
            }
        }
        self.sync()?;
        for Staged { database, form, file, .. } in staged {
            rename(file, &self.name(database.as_str(), *form))?;
        }
        // What is replaced must not go before what replaces it is there for good.
        self.sync()?;
        for Staged { database, version, form, sign, replaces, .. } in staged {
            for held in replaces.files.iter().filter(|held| held.form != *form) {
                remove(&held.path)?;
            }
            // A reader that has just opened the previous version may still need its sign file: the next round removes it.
            let previous = replaces.files.first().and_then(|held| held.version);
            let stale =
                |of: (u32, Form)| (sign.is_none() || of != (*version, *form)) && Some(of.0) != previous;
            for Sign { path, .. } in replaces.signs.iter().filter(|sign| stale(sign.of)) {
                remove(path)?;
            }
            tracing::debug!("{database} {version} is in force");
        }
        self.sync()
    }

    fn name(&self, database: &str, form: Form) -> PathBuf {
        self.path.join(format!("{database}.{}", form.suffix()))
    }

    /// Removes what libclamav does not take of a database, and sign files of other versions; says which databases went.
    ///
    /// The lower version goes, or of equal ones the CVD: a reader that has listed both skips that one.
    pub(super) fn tidy(&self, local: &Local) -> Result<Vec<PathBuf>, DirectoryError> {
        let mut removed = Vec::new();
        let Some((kept, rest)) = local.files.split_first() else { return Ok(removed) };
        for Held { path, .. } in rest {
            remove(path)?;
            removed.push(path.clone());
        }
        for Sign { path, of } in &local.signs {
            if kept.version.map(|version| (version, kept.form)) != Some(*of) {
                remove(path)?;
            }
        }
        Ok(removed)
    }

    /// Keeps links to what is about to be replaced, until [`Directory::confirm`]. What is kept already, because clamd has
    /// not loaded since, stays: that is what it is known to load.
    pub(super) fn keep_replaced(&self, staged: &[Staged]) -> Result<(), DirectoryError> {
        let pending = self.work.join(PENDING);
        let mut replaced = self.pending().map(|pending| pending.replaced).unwrap_or_default();
        if replaced.is_empty() {
            remove_all(&pending)?;
            make_dir(&pending)?;
            self.own(&File::open(&pending).map_err(at(&pending))?, &pending)?;
        }
        for Staged { database, version, form, replaces, .. } in staged {
            if let Some(kept) = replaced.iter_mut().find(|kept| kept.database == database.as_str()) {
                (kept.version, kept.form) = (*version, *form);
                continue;
            }
            let files = replaces.files.iter().map(|held| &held.path);
            let mut old = Vec::new();
            for path in files.chain(replaces.signs.iter().map(|sign| &sign.path)) {
                let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
                link(path, &pending.join(name))?;
                old.push(name.to_owned());
            }
            replaced.push(Replaced { database: database.to_string(), version: *version, form: *form, old });
        }
        // The list comes last: without it what lies there means nothing.
        self.write_json(&pending.join(ROUND), &Pending { replaced })
    }

    /// What was replaced and not confirmed.
    pub(super) fn pending(&self) -> Option<Pending> {
        serde_json::from_slice(&fs::read(self.work.join(PENDING).join(ROUND)).ok()?).ok()
    }

    /// What was replaced is not needed any more.
    pub(super) fn confirm(&self) -> Result<(), DirectoryError> {
        remove(&self.work.join(PENDING).join(ROUND))?;
        remove_all(&self.work.join(PENDING))
    }

    /// Puts back what was replaced, and keeps what replaced it aside, with the words that say why.
    pub(super) fn put_back(&self, pending: &Pending, why: &str) -> Result<Vec<PathBuf>, DirectoryError> {
        let kept = self.work.join(PENDING);
        let mut aside = Vec::new();
        for replaced in &pending.replaced {
            let Replaced { database, version, form, old } = replaced;
            let now = self.name(database, *form);
            let is_that = self.has(replaced);
            if is_that {
                aside.push(self.refuse(&now, database, *version, *form, why)?);
            }
            for name in old.iter().filter(|name| kept.join(name).exists()) {
                rename(&kept.join(name), &self.path.join(name))?;
            }
            self.sync()?;
            // Only what is now a second file of the database goes.
            let own = now.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if is_that && !old.iter().any(|name| name == own) {
                remove(&now)?;
            }
            let sign = form.sign_name(database, *version);
            if !old.contains(&sign) {
                remove(&self.path.join(&sign))?;
            }
        }
        self.sync()?;
        self.confirm()?;
        Ok(aside)
    }

    /// Keeps a file that could not be loaded, and why.
    pub(super) fn refuse(
        &self,
        file: &Path,
        database: &str,
        version: u32,
        form: Form,
        why: &str,
    ) -> Result<PathBuf, DirectoryError> {
        let refused = self.work.join(REFUSED);
        let stem = refused.join(format!("{database}-{version}.{}", form.suffix()));
        link(file, &stem)?;
        let words = refused.join(format!("{database}-{version}.txt"));
        fs::write(&words, why).map_err(at(&words))?;
        Ok(stem)
    }

    /// Why a version was refused before, and where it lies.
    pub(super) fn refused(&self, database: &Database, version: u32) -> Option<(PathBuf, String)> {
        let words = self.work.join(REFUSED).join(format!("{database}-{version}.txt"));
        fs::read_to_string(&words).ok().map(|why| (words, why))
    }

    /// Forgets what was refused, once a set is loaded: of several new versions any may have been the bad one, so that
    /// the others are tried again.
    pub(super) fn forget_refused(&self) {
        for entry in fs::read_dir(self.work.join(REFUSED)).into_iter().flatten().flatten() {
            // One that stays only means that this version is not tried again.
            let _ = fs::remove_file(entry.path());
        }
    }

    /// A directory with what libclamav would load once this is in force; it goes when it is dropped.
    pub(super) fn trial(&self, staged: &[Staged]) -> Result<tempfile::TempDir, DirectoryError> {
        let new = self.work.join(NEW);
        let made = tempfile::tempdir_in(&new).map_err(at(&new))?;
        let trial = made.path();
        let replaced = |path: &Path| {
            let of = |staged: &Staged| {
                let Local { files, signs, .. } = &staged.replaces;
                files.iter().any(|held| held.path == path) || signs.iter().any(|sign| sign.path == path)
            };
            staged.iter().any(of)
        };
        for entry in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let path = entry.map_err(at(&self.path))?.path();
            if let Some(name) = path.file_name().filter(|_| path.is_file() && !replaced(&path)) {
                link(&path, &trial.join(name))?;
            }
        }
        for Staged { database, version, form, file, sign, .. } in staged {
            link(file, &trial.join(format!("{database}.{}", form.suffix())))?;
            if let Some(sign) = sign {
                link(sign, &trial.join(form.sign_name(database.as_str(), *version)))?;
            }
        }
        Ok(made)
    }

    /// Whether the version that replaced another is in force.
    pub(super) fn has(&self, replaced: &Replaced) -> bool {
        let path = self.name(&replaced.database, replaced.form);
        Held::read(&path, replaced.form).is_ok_and(|held| held.version == Some(replaced.version))
    }

    /// The files that were verified, as they were when this program last left.
    pub(super) fn seen(&self) -> BTreeMap<String, Stamp> {
        let bytes = fs::read(self.work.join(SEEN)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Remembers them.
    pub(super) fn remember(&self, seen: &BTreeMap<String, Stamp>) -> Result<(), DirectoryError> {
        self.write_json(&self.work.join(SEEN), seen)
    }

    fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), DirectoryError> {
        let (file, staged) = self.create("json")?;
        serde_json::to_writer(&file, value).map_err(|e| at(path)(e.into()))?;
        self.finish(&file, &staged)?;
        rename(&staged, path)
    }
}

fn make_dir(path: &Path) -> Result<(), DirectoryError> {
    use std::os::unix::fs::DirBuilderExt;
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(at(path)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), DirectoryError> {
    fs::rename(from, to).map_err(at(to))
}

fn remove(path: &Path) -> Result<(), DirectoryError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(at(path)),
    }
}

fn remove_all(path: &Path) -> Result<(), DirectoryError> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(at(path)),
    }
}

/// A second name for a file, or a copy where the file system has no such thing.
fn link(from: &Path, to: &Path) -> Result<(), DirectoryError> {
    remove(to)?;
    fs::hard_link(from, to).or_else(|_| fs::copy(from, to).map(drop)).map_err(at(to))
}
