//! A directory as a source: what cvdupdate or freshclam leaves in it.
//!
//! Only plain files directly in the directory are read: a symbolic link, a FIFO or a device is an error that is
//! named, and never opened in a way that could block. A file that is being written or replaced while it is read
//! either shows as changed here or fails verification later; it is tried again at the next check.
use super::{
    Doubt, Evidence, FetchError, Incoming, Newest, Wanted,
    intake::Intake,
    limits::{Chunks, Part},
    txt::Said,
    watch::Watch,
};
use crate::{
    clock::{self, Clock},
    cvd::{
        Database, FileKind, FileName, HEADER_BYTES, Header,
        txt_record::{CurrentRecord, DatabaseRecord, TxtError},
    },
};
use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, stream::try_unfold};
use parking_lot::Mutex;
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::time::Instant;

/// Entries read of one listing at most; a directory with more is not one of ours.
const MAX_ENTRIES: usize = 100_000;
/// Bytes read of dns.txt at most.
const MAX_TXT_BYTES: u64 = 64 * 1024;
/// Bytes read at once.
const CHUNK_BYTES: usize = 1 << 18;

/// A directory that another program fills.
#[derive(Clone, Debug)]
pub struct DirectorySource {
    dir: PathBuf,
    intake: Intake,
    clock: Clock,
    /// The version of each database whose full CVD was fetched last, and how often.
    fetched: Arc<Mutex<BTreeMap<Database, (u32, u32)>>>,
}

impl DirectorySource {
    /// Uses `dir`; `clock` tells how old its dns.txt is.
    pub fn new(dir: PathBuf, intake: Intake, clock: Clock) -> Self {
        Self { dir, intake, clock, fetched: Arc::default() }
    }

    /// Tells when its files have changed since this call.
    pub fn watch(&self) -> Watch {
        Watch::new(self.dir.clone())
    }

    /// What it stages with.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Says what is newest: the greatest of what dns.txt, the CVD's header and the names of CDIFFs say.
    ///
    /// # Errors
    /// When none of them says anything.
    pub async fn newest(&self, database: &Database) -> Result<Newest, FetchError> {
        let (this, database) = (self.clone(), database.clone());
        blocking(&self.dir, move || this.newest_now(&database)).await
    }

    /// Reads the header of the CVD that lies there now.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn probe(&self, database: &Database) -> Result<Header, FetchError> {
        let (this, database) = (self.clone(), database.clone());
        blocking(&self.dir, move || this.header(&database)).await
    }

    /// Begins to read one file.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn open(&self, wanted: &Wanted) -> Result<Incoming, FetchError> {
        let started = Instant::now();
        let (this, asked) = (self.clone(), wanted.clone());
        let (path, file) = blocking(&self.dir, move || this.find(&asked)).await?;
        let before = stamp(&file).map_err(|source| FetchError::Io { path: path.clone(), source })?;
        let part = Part { origin: path.display().to_string(), from: 0, announced: Some(before.0) };
        let head_bytes = matches!(wanted, Wanted::Header(..)).then_some(HEADER_BYTES as u64);
        let chunks = Reading { path, file, before, left: head_bytes.unwrap_or(u64::MAX) }.chunks();
        let announced = head_bytes.map_or(before.0, |bytes| bytes.min(before.0));
        let chunks = Part { announced: Some(announced), ..part.clone() }.hold(chunks, &self.intake.limits);
        Incoming::new(wanted, part, chunks, &self.intake.limits, started)
    }

    fn newest_now(&self, database: &Database) -> Result<Newest, FetchError> {
        let mut doubts = Vec::new();
        let mut said = Vec::new();
        let record = self.dns_txt(database, &mut doubts);
        if let Some(version) = record.and_then(|record| record.version) {
            said.push((version, Evidence::TxtRecord));
        }
        if let Some(version) = self.newest_named(database, FileKind::Cdiff)? {
            said.push((version, Evidence::CdiffName));
        }
        let header = self.header(database);
        match &header {
            Ok(header) => said.push((header.version, Evidence::Header)),
            Err(FetchError::Absent { .. }) => {}
            Err(e) => doubts.push(Doubt::Unread { why: e.to_string() }),
        }
        match said.into_iter().max_by_key(|(version, _)| *version) {
            // dns.txt tells when its writer last asked: a directory that nobody fills any more shows as old.
            Some((version, evidence)) => {
                let at_s = record.and_then(|record| self.written_at_s(record.time_s?, &mut doubts));
                Ok(Newest { version, evidence, at_s, doubts })
            }
            None => {
                Err(header.err().unwrap_or(FetchError::Absent { origin: self.dir.display().to_string() }))
            }
        }
    }

    /// When dns.txt was written. A time that has not come yet may be any: then the file's own counts, or none that
    /// would make the directory look tended.
    fn written_at_s(&self, time_s: u64, doubts: &mut Vec<Doubt>) -> Option<u64> {
        let now_s = self.clock.epoch_s();
        let Some(off) = clock::off_by(now_s, time_s).filter(|off| *off < 0) else { return Some(time_s) };
        doubts.push(Doubt::Early { off_s: off, in_directory: true });
        let changed_s = std::fs::metadata(self.dir.join("dns.txt")).ok().map(|meta| meta.mtime());
        let changed_s = changed_s.and_then(|at_s| u64::try_from(at_s).ok());
        Some(changed_s.filter(|at_s| *at_s <= now_s).unwrap_or(0))
    }

    fn dns_txt(&self, database: &Database, doubts: &mut Vec<Doubt>) -> Option<Said> {
        let path = self.dir.join("dns.txt");
        let mut text = String::new();
        match open_plain(&path).map(|file| file.take(MAX_TXT_BYTES).read_to_string(&mut text)) {
            Err(FetchError::Absent { .. }) => return None,
            Err(e) => {
                doubts.push(Doubt::Unrecorded { why: e.to_string() });
                return None;
            }
            Ok(read) => {
                if let Err(e) = read {
                    doubts.push(Doubt::Unrecorded { why: format!("{}: {e}", path.display()) });
                    return None;
                }
            }
        }
        match said_in(&text, database) {
            Ok(said) => Some(said),
            Err(e) => {
                doubts.push(Doubt::Unrecorded { why: format!("{}: {e}", path.display()) });
                None
            }
        }
    }

    /// The greatest version of a kind that a file's name says.
    fn newest_named(&self, database: &Database, kind: FileKind) -> Result<Option<u32>, FetchError> {
        let io = |source| FetchError::Io { path: self.dir.clone(), source };
        let mut newest = None;
        for entry in std::fs::read_dir(&self.dir).map_err(io)?.take(MAX_ENTRIES) {
            let name = entry.map_err(io)?.file_name();
            let Some(Ok(name)) = name.to_str().map(str::parse::<FileName>) else { continue };
            if name.kind == kind && name.database == *database {
                newest = newest.max(Some(name.version));
            }
        }
        Ok(newest)
    }

    /// Of the file without a version, or where there is none of the newest with one.
    fn header(&self, database: &Database) -> Result<Header, FetchError> {
        let header = header_of(&self.dir.join(format!("{database}.cvd")));
        if !matches!(header, Err(FetchError::Absent { .. })) {
            return header;
        }
        match self.newest_named(database, FileKind::Cvd) {
            Ok(Some(version)) => header_of(&self.dir.join(format!("{database}-{version}.cvd"))),
            _ => header,
        }
    }

    /// The files that may hold a version of a CVD, the likelier first: one whose header says so. Where both say so and
    /// one was fetched before, it was not what it says, and the other one comes first.
    fn candidates(&self, database: &Database, version: u32, whole: bool) -> Vec<PathBuf> {
        let names = [format!("{database}-{version}.cvd"), format!("{database}.cvd")];
        let says_so = |path: &PathBuf| header_of(path).is_ok_and(|header| header.version == version);
        let (mut likely, mut others): (Vec<_>, Vec<_>) =
            names.map(|name| self.dir.join(name)).into_iter().partition(says_so);
        let mut fetched = self.fetched.lock();
        let (last, count) = fetched.entry(database.clone()).or_default();
        if *last != version {
            (*last, *count) = (version, 0);
        }
        if *count % 2 == 1 {
            likely.reverse();
        }
        *count = count.wrapping_add(u32::from(whole));
        likely.append(&mut others);
        likely
    }

    /// Whether another file may hold a version of a CVD whose first file was refused.
    pub fn has_another(&self, wanted: &Wanted) -> bool {
        let Wanted::Cvd(database, version) = wanted else { return false };
        let both = [format!("{database}-{version}.cvd"), format!("{database}.cvd")];
        both.iter().all(|name| self.dir.join(name).exists())
    }

    /// Opens the file that is wanted.
    fn find(&self, wanted: &Wanted) -> Result<(PathBuf, File), FetchError> {
        let paths = match wanted {
            Wanted::Named(name) => vec![self.dir.join(name.to_string())],
            Wanted::Header(database, None) => vec![self.dir.join(format!("{database}.cvd"))],
            Wanted::Cvd(database, version) | Wanted::Header(database, Some(version)) => {
                self.candidates(database, *version, matches!(wanted, Wanted::Cvd(..)))
            }
        };
        let mut absent = FetchError::Absent { origin: self.dir.display().to_string() };
        for path in paths {
            match open_plain(&path) {
                Err(e @ FetchError::Absent { .. }) => absent = e,
                opened => return opened.map(|file| (path, file)),
            }
        }
        Err(absent)
    }
}

/// A file being read, which must not change meanwhile.
struct Reading {
    path: PathBuf,
    file: File,
    before: (u64, i64, i64),
    left: u64,
}

impl Reading {
    fn chunks(self) -> Chunks {
        let read = |mut this: Self| async move {
            let path = this.path.clone();
            blocking(&path, move || Ok(this.read()?.map(|chunk| (chunk, this)))).await
        };
        try_unfold(self, read).boxed()
    }

    fn read(&mut self) -> Result<Option<Bytes>, FetchError> {
        let io = |source| FetchError::Io { path: self.path.clone(), source };
        let room = usize::try_from(self.left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        let mut buffer = BytesMut::zeroed(room);
        let got = loop {
            match self.file.read(&mut buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                got => break got.map_err(io)?,
            }
        };
        self.left -= got as u64;
        if (got == 0 || self.left == 0) && stamp(&self.file).map_err(io)? != self.before {
            return Err(FetchError::Changed { path: self.path.clone() });
        }
        buffer.truncate(got);
        Ok((got > 0).then(|| buffer.freeze()))
    }
}

/// What the text of a dns.txt says of a database: cvdupdate writes the record of `current.cvd.<zone>` alone, a mirror
/// adds a line `<db>.cvd <record>` for each database that has no field in it.
fn said_in(text: &str, database: &Database) -> Result<Said, TxtError> {
    let mut lines = text.lines();
    let current = CurrentRecord::parse(lines.next().unwrap_or_default());
    if CurrentRecord::has_field(database) {
        return current.map(|record| Said { version: record.version(database), time_s: record.time_s });
    }
    let own = lines.find_map(|line| line.split_once(".cvd ").filter(|(name, _)| *name == database.as_str()));
    match own {
        Some((_, record)) => DatabaseRecord::parse(record)
            .map(|record| Said { version: Some(record.version), time_s: record.time_s }),
        None => current.map(|record| Said { version: None, time_s: record.time_s }),
    }
}

/// Reads the header of a CVD.
fn header_of(path: &Path) -> Result<Header, FetchError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    open_plain(path)?
        .take(HEADER_BYTES as u64)
        .read_to_end(&mut bytes)
        .map_err(|source| FetchError::Io { path: path.into(), source })?;
    Header::parse(&bytes)
        .map_err(|e| FetchError::NotACvd { origin: path.display().to_string(), why: e.to_string() })
}

/// What tells whether a file changed while it was read.
fn stamp(file: &File) -> io::Result<(u64, i64, i64)> {
    let meta = file.metadata()?;
    Ok((meta.len(), meta.mtime(), meta.mtime_nsec()))
}

/// Opens a plain file: not through a symbolic link, and without ever waiting (a FIFO's writer).
fn open_plain(path: &Path) -> Result<File, FetchError> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::NOENT) => return Err(FetchError::Absent { origin: path.display().to_string() }),
        Err(Errno::LOOP) => {
            return Err(FetchError::NotAFile { path: path.into(), what: "is a symbolic link" });
        }
        Err(e) => return Err(FetchError::Io { path: path.into(), source: e.into() }),
    };
    let meta = file.metadata().map_err(|source| FetchError::Io { path: path.into(), source })?;
    if !meta.is_file() {
        return Err(FetchError::NotAFile { path: path.into(), what: "is not a plain file" });
    }
    Ok(file)
}

async fn blocking<T: Send + 'static>(
    dir: &Path,
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(FetchError::Io { path: dir.into(), source: io::Error::other(e) }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn said(text: &str, database: &str) -> Result<Option<u32>, TxtError> {
        said_in(text, &database.parse().unwrap()).map(|said| said.version)
    }

    #[test]
    fn each_database_is_said_on_its_own_line_of_dns_txt() {
        let ours = "0.0.0:63:28034:1781708400:0:90:0:339\nlocal.cvd 7:1781708400\ntest.cvd 5:1781708400\n";
        for (database, version) in
            [("daily", Some(28034)), ("test", Some(5)), ("local", Some(7)), ("x", None)]
        {
            assert_eq!(said(ours, database), Ok(version), "{database}");
        }
        let cvdupdates = "1.4.6:63:28034:1781708400:1:90:49192:339";
        assert_eq!(said(cvdupdates, "main"), Ok(Some(63)));
        assert_eq!(said(cvdupdates, "test"), Ok(None));
        // A database's line is no record of another's, nor of one whose name ends alike.
        assert_eq!(said("0.0.0:63:1:1:0:90:0:3\nmytest.cvd 5:1\n", "test"), Ok(None));
    }

    #[test]
    fn a_line_that_is_no_record_is_an_error_of_the_databases_it_speaks_of() {
        let text = "<html>\ntest.cvd 0:1\nlocal.cvd 7:1\n";
        assert!(said(text, "daily").is_err());
        assert!(said(text, "test").is_err());
        assert_eq!(said(text, "local"), Ok(Some(7)));
    }
}
