//! Every touch of the file system that changes or opens something, in one place.
//!
//! Guarantees: nothing here follows a symbolic link at the last step of a path, opens anything but a regular file,
//! or blocks on a FIFO. Each operation passes [`seam`], where crash and fault tests watch and interfere.
//! Does not guarantee order or durability by itself: the caller says when to fsync.
use crate::Error;
use redb::StorageBackend;
use rustix::fs::{Mode, OFlags};
use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

/// Creates a file that must not exist yet, for reading and writing.
pub(crate) fn create_new(path: &Path) -> Result<File, Error> {
    seam(&Op::Create(path)).map_err(Error::io(path, "create"))?;
    File::options().read(true).write(true).create_new(true).open(path).map_err(Error::io(path, "create"))
}

/// Opens a regular file for reading.
pub(crate) fn open_regular(path: &Path) -> Result<File, Error> {
    // NONBLOCK: opening a FIFO must not wait for a writer.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::LOOP) => {
            return Err(Error::unusable(path, "it is a symbolic link"));
        }
        Err(errno) => return Err(Error::io(path, "open")(errno.into())),
    };
    let meta = file.metadata().map_err(Error::io(path, "inspect"))?;
    if !meta.is_file() {
        return Err(Error::unusable(path, "it is not a regular file"));
    }
    Ok(file)
}

/// Writes a file's bytes to the disk while more are added, so that the fsync at the end has less to do. One thread at most;
/// `push` or `finish` returns its errors, since the kernel reports an error only once.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Option<thread::JoinHandle<io::Result<()>>>);

impl Ahead {
    /// Starts writing what there is, unless that is going on.
    pub(crate) fn push(&mut self, file: &Arc<File>) -> io::Result<()> {
        if self.0.as_ref().is_some_and(|running| !running.is_finished()) {
            return Ok(());
        }
        self.finish()?;
        let file = file.clone();
        self.0 = Some(thread::Builder::new().spawn(move || file.sync_data())?);
        Ok(())
    }

    /// Waits until nothing is going on.
    pub(crate) fn finish(&mut self) -> io::Result<()> {
        let running = self.0.take();
        running.map_or(Ok(()), |running| running.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    }
}

/// Makes a file's bytes durable and read-only while `beside` reads it, so that disk and processor work at the same time.
pub(crate) fn seal<T>(
    file: &File,
    path: &Path,
    beside: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Error> {
    // A sealed pack is never written again: without write permission a stray tool cannot do so by accident.
    rustix::fs::fchmod(file, Mode::from_raw_mode(0o444))
        .map_err(|e| Error::io(path, "make read-only")(e.into()))?;
    seam(&Op::Fsync(path)).map_err(Error::io(path, "fsync"))?;
    let (synced, done) = thread::scope(|scope| {
        let fsync = thread::Builder::new().spawn_scoped(scope, || file.sync_all());
        let done = beside();
        let synced =
            fsync.and_then(|fsync| fsync.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())));
        (synced, done)
    });
    synced.map_err(Error::io(path, "fsync"))?;
    done
}

/// Renames within one file system; refuses to replace anything.
pub(crate) fn rename_new(from: &Path, to: &Path) -> Result<(), Error> {
    // One process writes (the data directory's lock), so that looking first is enough; RENAME_NOREPLACE is not
    // offered by every file system.
    if to.symlink_metadata().is_ok() {
        let exists = io::Error::from(io::ErrorKind::AlreadyExists);
        return Err(Error::io(to, "put a pack at")(exists));
    }
    seam(&Op::Rename(from, to)).map_err(Error::io(to, "rename a pack to"))?;
    std::fs::rename(from, to).map_err(Error::io(to, "rename a pack to"))
}

/// Makes the entries of a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), Error> {
    seam(&Op::SyncDir(dir)).map_err(Error::io(dir, "fsync"))?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(Error::io(dir, "fsync"))
}

/// Removes a file; one that is not there is fine.
pub(crate) fn unlink(path: &Path) -> Result<(), Error> {
    seam(&Op::Unlink(path)).map_err(Error::io(path, "remove"))?;
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "remove")(e)),
        _ => Ok(()),
    }
}

/// On how many cores one file is hashed.
#[derive(Clone, Copy)]
pub(crate) enum Cores {
    /// The others are hashing other files.
    One,
    All,
}

pub(crate) fn hash_file(
    file: &File,
    path: &Path,
    cores: Cores,
    progress: &mut dyn FnMut(u64),
) -> Result<blake3::Hash, Error> {
    let mut hasher = blake3::Hasher::new();
    // Long enough to be worth hashing on several cores, short enough to stay in a core's cache.
    let mut buffer = match cores {
        Cores::One => vec![0; 256 << 10],
        Cores::All => vec![0; 1 << 20],
    };
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at) {
            Ok(0) => return Ok(hasher.finalize()),
            Ok(n) => {
                match cores {
                    Cores::One => hasher.update(&buffer[..n]),
                    Cores::All => hasher.update_rayon(&buffer[..n]),
                };
                at += n as u64;
                progress(n as u64);
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(path, "read")(e)),
        }
    }
}

/// A pack's file as redb sees it.
///
/// It takes no locks: a pack under construction has a name nobody else uses, a sealed one is never written.
/// And it does not sync: until it is sealed nobody relies on a pack, and then one fsync does for all.
#[derive(Clone, Debug)]
pub(crate) struct PackFile {
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
}

impl StorageBackend for PackFile {
    fn len(&self) -> Result<u64, io::Error> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> Result<(), io::Error> {
        seam(&Op::SetLen(&self.path, len))?;
        self.file.set_len(len)
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        seam(&Op::Write(&self.path, offset, data))?;
        self.file.write_all_at(data, offset)
    }
}

/// What passes the seam.
#[derive(Debug)]
#[cfg_attr(not(test), allow(dead_code))]
pub(crate) enum Op<'a> {
    Create(&'a Path),
    SetLen(&'a Path, u64),
    Write(&'a Path, u64, &'a [u8]),
    Fsync(&'a Path),
    Rename(&'a Path, &'a Path),
    SyncDir(&'a Path),
    Unlink(&'a Path),
}

#[cfg(not(test))]
#[inline]
fn seam(_op: &Op<'_>) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
pub(crate) use test_seam::{seam, watch};

#[cfg(test)]
mod test_seam {
    use super::{Op, io};
    use std::cell::RefCell;

    type Watcher = Box<dyn FnMut(&Op<'_>) -> io::Result<()>>;
    thread_local!(static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) });

    pub(crate) fn seam(op: &Op<'_>) -> io::Result<()> {
        WATCHER.with_borrow_mut(|watcher| watcher.as_mut().map_or(Ok(()), |watch| watch(op)))
    }

    /// Runs `body` with every operation of this thread shown to `watcher`, which may fail it.
    pub(crate) fn watch<T>(
        watcher: impl FnMut(&Op<'_>) -> io::Result<()> + 'static,
        body: impl FnOnce() -> T,
    ) -> T {
        WATCHER.set(Some(Box::new(watcher)));
        let result = body();
        WATCHER.set(None);
        result
    }
}
