//! The data directory: where its parts lie, and that one process at a time writes there.
//!
//! ```text
//! DATA_DIR/store/       sealed packs: the backup unit
//! DATA_DIR/cld/         packs of CLDs, with publish_cld: what is lost is made anew
//! DATA_DIR/ca/          the site's own CA, where it is kept here
//! DATA_DIR/tmp/         packs being built; emptied at start
//! DATA_DIR/state.redb   what may be lost
//! DATA_DIR/lock         held by the one server or sync
//! DATA_DIR/control      socket of the running server
//! ```
use super::OpenError;
use std::{
    fs::{DirBuilder, File, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Paths inside a data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// The right to write; given back when dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl DataDir {
    /// Names a directory; nothing is created or opened.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Sealed packs.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }

    /// Packs of CLDs.
    pub fn cld(&self) -> PathBuf {
        self.root.join("cld")
    }

    /// The site's own CA.
    pub fn ca(&self) -> PathBuf {
        self.root.join("ca")
    }

    /// Files being built.
    pub fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// What may be lost.
    pub fn state(&self) -> PathBuf {
        self.root.join("state.redb")
    }

    /// Socket of the running server.
    pub fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// The process that holds the lock, if one does. For a moment nobody else can take it.
    pub fn holder(&self) -> Option<u32> {
        let file = File::open(self.root.join("lock")).ok()?;
        if !matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        let mut text = String::new();
        file.take(32).read_to_string(&mut text).ok()?;
        text.trim().parse().ok()
    }

    /// Creates the directories that are missing, for their owner, and its group to read: who backs the store up.
    ///
    /// # Errors
    /// When one cannot be created.
    pub fn create(&self) -> Result<(), OpenError> {
        for path in [self.root.clone(), self.store(), self.tmp()] {
            let created = DirBuilder::new().recursive(true).mode(0o750).create(&path);
            created.map_err(|source| OpenError::Io { path, source })?;
        }
        Ok(())
    }

    /// Creates what is missing and takes the lock.
    ///
    /// # Errors
    /// [`OpenError::Locked`] when another process holds it, [`OpenError::Io`] otherwise.
    pub fn lock(&self) -> Result<Lock, OpenError> {
        self.create()?;
        let path = self.root.join("lock");
        let io = |source| OpenError::Io { path: path.clone(), source };
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false).mode(0o640);
        let mut file = options.open(&path).map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                let _ = file.take(32).read_to_string(&mut holder);
                let holder = holder.trim().to_owned();
                return Err(OpenError::Locked { data_dir: self.root.clone(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        // Only for the message above: the lock is the kernel's, not the number's.
        let note = |file: &mut File| -> io::Result<()> {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        note(&mut file).map_err(io)?;
        Ok(Lock { _file: file })
    }
}
