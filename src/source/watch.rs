//! Notices that files of a directory have changed, and waits until they are quiet.
//!
//! By inotify where the kernel sees every change; by looking again where it does not: on a network's file system, and
//! while the directory is not there.
use ::notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

/// Quiet for so long, files are taken for whole; they are verified all the same.
const QUIET: Duration = Duration::from_millis(1500);
/// The same while a program holds one of them open that it has written to: it may go on, or never close it.
const LONG_QUIET: Duration = Duration::from_secs(3);
/// How often it is looked whether the directory is still the one that is watched, or for what the kernel cannot see.
const LOOK: Duration = Duration::from_secs(1);
/// Entries compared at most; a directory with more is not one of ours.
const MAX_ENTRIES: usize = 100_000;
/// File systems on which others change files unseen by this kernel: NFS, SMB, CIFS, SMB2, Ceph, AFS, 9P, FUSE.
const REMOTE: [u32; 8] =
    [0x6969, 0x517b, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400, 0x5346_414f, 0x0102_1997, 0x6573_5546];

/// Tells when files of a directory have changed.
#[derive(Debug)]
pub struct Watch {
    dir: PathBuf,
    seen: Seen,
    /// The watcher, and the inode of the directory that it watches.
    inotify: Option<(RecommendedWatcher, u64)>,
    changes: Arc<Changes>,
}

/// What the kernel told.
#[derive(Debug, Default)]
struct Changes {
    happened: Notify,
    /// Files that were written to and not closed since.
    open: Mutex<BTreeSet<PathBuf>>,
}

impl Changes {
    fn note(&self, event: &Event) {
        let mut open = self.open.lock();
        if event.need_rescan() {
            open.clear();
            return self.happened.notify_one();
        }
        let mut ours = event.paths.iter().filter(|path| path.file_name().is_some_and(is_ours)).peekable();
        let written = matches!(event.kind, EventKind::Modify(ModifyKind::Data(_)));
        let closed = event.kind == EventKind::Access(AccessKind::Close(AccessMode::Write));
        // To open and to read a file, as is done here too, changes nothing.
        if ours.peek().is_none() || (event.kind.is_access() && !closed) {
            return;
        }
        for path in ours {
            match written {
                true if open.len() < MAX_ENTRIES => drop(open.insert(path.clone())),
                _ => drop(open.remove(path)),
            }
        }
        self.happened.notify_one();
    }
}

/// Whether a name is one that a source reads.
fn is_ours(name: &OsStr) -> bool {
    let name = Path::new(name);
    let extension = name.extension().and_then(OsStr::to_str);
    matches!(extension, Some("cvd" | "cdiff" | "sign")) || name == Path::new("dns.txt")
}

/// What a look at the directory shows.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
struct Seen {
    /// The directory's; none while it is not there.
    inode: Option<u64>,
    /// Inode, length and time of change of each file, where the kernel does not tell.
    files: BTreeMap<OsString, (u64, u64, i64, i64)>,
}

impl Seen {
    fn look(dir: &Path, files_too: bool) -> Self {
        let inode = fs::metadata(dir).ok().map(|meta| meta.ino());
        let entries = files_too.then(|| fs::read_dir(dir).ok()).flatten();
        let files = entries.into_iter().flatten().flatten().take(MAX_ENTRIES).filter_map(|entry| {
            let name = Some(entry.file_name()).filter(|name| is_ours(name))?;
            let meta = entry.metadata().ok()?;
            Some((name, (meta.ino(), meta.len(), meta.ctime(), meta.ctime_nsec())))
        });
        Self { inode, files: files.collect() }
    }
}

impl Watch {
    /// Watches `dir` from now on; it need not be there yet.
    pub(super) fn new(dir: PathBuf) -> Self {
        let mut watch = Self { dir, seen: Seen::default(), inotify: None, changes: Arc::default() };
        watch.seen.inode = fs::metadata(&watch.dir).ok().map(|meta| meta.ino());
        watch.listen();
        watch.seen = Seen::look(&watch.dir, watch.inotify.is_none());
        watch
    }

    /// Resolves once files have changed since it was made, or since it last resolved, and are quiet. What it knows is
    /// kept when it is dropped before.
    pub async fn changed(&mut self) {
        self.change().await;
        loop {
            let in_work = !self.changes.open.lock().is_empty();
            if timeout(if in_work { LONG_QUIET } else { QUIET }, self.change()).await.is_err() {
                return self.changes.open.lock().clear();
            }
        }
    }

    /// Resolves at the next change.
    async fn change(&mut self) {
        loop {
            tokio::select! {
                () = self.changes.happened.notified() => return,
                () = sleep(LOOK) => {}
            }
            let (dir, files_too) = (self.dir.clone(), self.inotify.is_none());
            // On a thread of its own: a network's file system may hang.
            let looked = tokio::task::spawn_blocking(move || Seen::look(&dir, files_too));
            let Ok(seen) = looked.await else { continue };
            if seen == self.seen {
                continue;
            }
            self.seen = seen;
            if self.inotify.as_ref().is_none_or(|(_, inode)| Some(*inode) != self.seen.inode) {
                self.listen();
            }
            return;
        }
    }

    /// Has the kernel tell of the directory that is there now, where it can.
    fn listen(&mut self) {
        self.inotify = None;
        self.changes.open.lock().clear();
        let Some(inode) = self.seen.inode.filter(|_| !is_remote(&self.dir)) else { return };
        let changes = self.changes.clone();
        let watcher = ::notify::recommended_watcher(move |event: ::notify::Result<Event>| {
            if let Ok(event) = event {
                changes.note(&event);
            }
        });
        let watching = watcher.and_then(|mut watcher| {
            watcher.watch(&self.dir, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        match watching {
            Ok(watcher) => self.inotify = Some((watcher, inode)),
            Err(e) => tracing::info!(
                "{}: the kernel does not tell of changes ({e}); it is looked at each second instead",
                self.dir.display()
            ),
        }
    }
}

fn is_remote(dir: &Path) -> bool {
    // An error is the next look's.
    rustix::fs::statfs(dir).is_ok_and(|fs| REMOTE.contains(&(fs.f_type as u32)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::{fs::File, io::Write as _};
    use tokio::time::Instant;

    const SOON: Duration = Duration::from_secs(20);

    async fn changes(watch: &mut Watch) {
        timeout(SOON, watch.changed()).await.expect("a change is noticed");
    }

    /// What is there and is only read changes nothing.
    async fn stays_quiet(watch: &mut Watch) {
        assert!(timeout(LONG_QUIET, watch.changed()).await.is_err(), "nothing has changed");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn files_put_in_and_taken_out_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        for polled in [false, true] {
            let mut watch = Watch::new(dir.path().into());
            if polled {
                watch.inotify = None;
                watch.seen = Seen::look(dir.path(), true);
            }
            let path = dir.path().join("test.cvd");
            fs::write(&path, b"one").unwrap();
            changes(&mut watch).await;
            let aside = dir.path().join("test.cvd.tmp");
            fs::write(&aside, b"two").unwrap();
            fs::read(&path).unwrap();
            if !polled {
                stays_quiet(&mut watch).await;
            }
            fs::rename(&aside, &path).unwrap();
            changes(&mut watch).await;
            fs::remove_file(&path).unwrap();
            changes(&mut watch).await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_is_written_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let mut watch = Watch::new(dir.path().into());
        let mut file = File::create(dir.path().join("test.cvd")).unwrap();
        let writer = tokio::task::spawn_blocking(move || {
            for _ in 0..4 {
                file.write_all(b"piece").unwrap();
                // Longer than what is quiet for a file that is closed.
                std::thread::sleep(Duration::from_secs(2));
            }
            Instant::now()
        });
        changes(&mut watch).await;
        let noticed = Instant::now();
        let last = writer.await.unwrap();
        assert!(noticed > last, "while it was written");
        assert!(noticed < last + Duration::from_secs(4));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_directory_that_is_made_later_is_watched() {
        let outer = tempfile::tempdir().unwrap();
        let dir = outer.path().join("databases");
        let mut watch = Watch::new(dir.clone());
        for _ in 0..2 {
            fs::create_dir(&dir).unwrap();
            fs::write(dir.join("test.cvd"), b"one").unwrap();
            changes(&mut watch).await;
            assert!(watch.inotify.is_some());
            fs::write(dir.join("test.cvd"), b"two").unwrap();
            changes(&mut watch).await;
            fs::remove_dir_all(&dir).unwrap();
            changes(&mut watch).await;
        }
    }
}
