//! Where files come from: an HTTP upstream, or a directory that cvdupdate or freshclam fills.
//!
//! Guarantees: every fetch is bounded in size and time and ends as a [`Staged`] file whose BLAKE3 hash was taken
//! on the way, or as a typed [`FetchError`] that leaves nothing behind. Guarantees nothing about content: what
//! is staged is not verified, and a source may answer another version than it was asked for.

pub mod budget;
pub mod directory;
mod get;
pub mod http;
pub mod login;
pub mod staging;
pub mod txt;

pub use staging::{Intake, Progress, Silent, Staged, Staging};

use crate::cvd::{Database, FileName};
use serde::{Deserialize, Serialize};
use std::{fmt, path::PathBuf, time::Duration};

/// Bounds on what one fetch may cost.
#[derive(Clone, Debug)]
pub struct FetchLimits {
    /// Largest CVD taken, bytes. The largest real one (main) has been 163 MB.
    pub cvd_bytes: u64,
    /// Largest CDIFF taken, bytes. Real ones are 3 to 32 KB; a big clean-up can reach megabytes.
    pub cdiff_bytes: u64,
    /// Largest sign file taken, bytes. Real ones are 9 KB.
    pub sign_bytes: u64,
    /// Longest wait for a connection, for the answer's head, and between two pieces of a body.
    pub stall: Duration,
    /// Slowest transfer accepted, bytes a second, as an average once `stall` has passed.
    pub min_bytes_per_s: u64,
    /// Longest a whole fetch may take.
    pub total: Duration,
    /// Most redirects followed.
    pub redirects: usize,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            cvd_bytes: 512 << 20,
            cdiff_bytes: 64 << 20,
            sign_bytes: 256 << 10,
            stall: Duration::from_secs(20),
            min_bytes_per_s: 1024,
            total: Duration::from_secs(3600),
            redirects: 3,
        }
    }
}

/// What may be asked of a source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// The full CVD of a database, by preference this version; the answer may hold another.
    Cvd(Database, u32),
    /// The first 512 bytes of the CVD of a database, by preference this version.
    Header(Database, Option<u32>),
    /// A CDIFF or a sign file, whose name holds the version.
    Named(FileName),
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cvd(database, version) => write!(f, "{database}-{version}.cvd"),
            Self::Header(database, Some(version)) => write!(f, "header of {database}-{version}.cvd"),
            Self::Header(database, None) => write!(f, "header of {database}.cvd"),
            Self::Named(name) => name.fmt(f),
        }
    }
}

impl Wanted {
    fn cap(&self, limits: &FetchLimits) -> u64 {
        match self {
            Self::Cvd(..) => limits.cvd_bytes,
            Self::Header(..) => crate::cvd::HEADER_BYTES as u64,
            Self::Named(name) if name.kind.sign().is_none() => limits.sign_bytes,
            Self::Named(_) => limits.cdiff_bytes,
        }
    }
}

/// How the newest version of a database was learnt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Evidence {
    /// The TXT record, in the DNS or in a directory's dns.txt.
    TxtRecord,
    /// The header of the file the source offers.
    Header,
    /// The name of a CDIFF in a directory.
    CdiffName,
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TxtRecord => "TXT record",
            Self::Header => "header of the file",
            Self::CdiffName => "name of a CDIFF",
        })
    }
}

/// What a source says is the newest version of a database.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Newest {
    /// The version.
    pub version: u32,
    /// How it was learnt.
    pub evidence: Evidence,
    /// When that was so, epoch seconds, where the evidence says it: a record speaks for the time it was made,
    /// not for the time it is read.
    pub at_s: Option<u64>,
    /// What did not agree on the way, in words; empty when all is well.
    pub remarks: Vec<String>,
}

/// A file that was fetched, and where from.
#[derive(Debug)]
pub struct Fetched {
    /// The bytes.
    pub staged: Staged,
    /// The URL or path that answered.
    pub origin: String,
    /// What caches on the way said of themselves (`age`, `x-cache`, `cf-ray`, `cf-cache-status`, `via`).
    pub via: Vec<(String, String)>,
}

/// Why a fetch brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The source does not have it.
    #[error("{origin}: not there")]
    Absent {
        /// URL or path.
        origin: String,
    },
    /// The source refuses us (403); asking again soon makes it worse.
    #[error(
        "{url}: the source refuses this client (403) and is left alone for now; `status` says for how long. A directory filled by cvdupdate is the way round: --source dir:PATH"
    )]
    Denied {
        /// URL asked.
        url: String,
    },
    /// The source limits us (429).
    #[error("{url}: the source limits this client (429); it says to wait {} s", wait_s.map_or("4 h, its default, in".into(), |s| s.to_string()))]
    Limited {
        /// URL asked.
        url: String,
        /// `Retry-After`, seconds.
        wait_s: Option<u64>,
    },
    /// The source wants to be left alone, or a limit kept towards it is reached; it was not asked.
    #[error("{url}: not asked for another {}: {why}", crate::clock::ago(*wait_s))]
    CoolDown {
        /// URL that was wanted.
        url: String,
        /// How long still, seconds.
        wait_s: u64,
        /// Why.
        why: String,
    },
    /// Any other status.
    #[error("{url}: answered HTTP status {status}")]
    Status {
        /// URL asked.
        url: String,
        /// The status code.
        status: u16,
    },
    /// More bytes than a file of its kind may have.
    #[error("{origin}: larger than the {cap_bytes} bytes allowed for it; not taken")]
    TooLarge {
        /// URL or path.
        origin: String,
        /// The bound.
        cap_bytes: u64,
    },
    /// The body ended before its announced length.
    #[error("{origin}: the body ended after {got_bytes} bytes, before its announced end; not taken")]
    Truncated {
        /// URL or path.
        origin: String,
        /// Bytes that came.
        got_bytes: u64,
    },
    /// Nothing came for too long, or too little.
    #[error("{origin}: {what} after {got_bytes} bytes; given up")]
    TooSlow {
        /// URL or path.
        origin: String,
        /// What was waited for.
        what: &'static str,
        /// Bytes that came.
        got_bytes: u64,
    },
    /// What answers does not speak the scheme of the URL.
    #[error(
        "{url}: what answers there speaks no {} ({why}); if it speaks {}, write source = \"{}\"",
        url.scheme(), by_other_scheme(url).scheme(), by_other_scheme(url)
    )]
    WrongScheme {
        /// URL asked.
        url: reqwest::Url,
        /// The chain of causes.
        why: String,
    },
    /// No connection, or it broke.
    #[error(
        "{url}: {why}; see that the source runs and that the network, or a proxy, leads to it: it is asked again by itself"
    )]
    Unreachable {
        /// URL asked.
        url: String,
        /// The chain of causes.
        why: String,
    },
    /// A directory entry that is no plain file.
    #[error("{}: {what}; put a plain file there", path.display())]
    NotAFile {
        /// The entry.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that changed while it was read.
    #[error("{}: changed while it was read; it is tried again at the next check", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Staging, or reading a directory source, failed.
    #[error("{}: {source}{}", path.display(), cvdmirror_store::remedy(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The TXT record could not be had or read.
    #[error("TXT record {name}: {why}")]
    Txt {
        /// The record's name.
        name: String,
        /// The cause.
        why: String,
    },
    /// The answer to a probe is no CVD header.
    #[error("{origin}: {why}")]
    NotACvd {
        /// URL or path.
        origin: String,
        /// The rule that failed.
        why: String,
    },
}

/// The directory of a URL by the other scheme; a port that is the scheme's own goes with it.
pub(crate) fn by_other_scheme(url: &reqwest::Url) -> reqwest::Url {
    let mut other = url.join(".").unwrap_or_else(|_| url.clone());
    // Fails for schemes without a host alone, and a source has one.
    let _ = other.set_scheme(if url.scheme() == "https" { "http" } else { "https" });
    other
}

/// Where files come from.
#[derive(Debug)]
pub enum Source {
    /// An HTTP upstream and, where configured, its TXT record.
    Http(Box<http::HttpSource>),
    /// A directory.
    Directory(directory::DirectorySource),
}

impl Source {
    /// What was asked of an upstream so far; a directory keeps no books.
    pub fn book(&self) -> Option<budget::Book> {
        match self {
            Self::Http(source) => Some(source.ledger().book()),
            Self::Directory(_) => None,
        }
    }

    /// How far this machine's clock is off by the source's, in words; nothing while they agree.
    pub fn clock(&self) -> Option<String> {
        match self {
            Self::Http(source) => source.off_by_s().map(|off| crate::clock::remark(off, "the source's")),
            Self::Directory(_) => None,
        }
    }

    /// Whether a file that came and was refused may be had a second time from elsewhere in the source.
    pub fn has_another(&self, wanted: &Wanted) -> bool {
        match self {
            Self::Http(_) => false,
            Self::Directory(source) => source.has_another(wanted),
        }
    }

    /// What it stages with.
    pub fn intake(&self) -> &Intake {
        match self {
            Self::Http(source) => source.intake(),
            Self::Directory(source) => source.intake(),
        }
    }

    /// Says what is newest of a database.
    ///
    /// # Errors
    /// When neither the TXT record nor the file's header can be had.
    pub async fn newest(&self, database: &Database) -> Result<Newest, FetchError> {
        match self {
            Self::Http(source) => source.newest(database).await,
            Self::Directory(source) => source.newest(database).await,
        }
    }

    /// Says what version the file itself has, whatever any record says.
    ///
    /// # Errors
    /// When its header cannot be had.
    pub async fn probe(&self, database: &Database) -> Result<u32, FetchError> {
        let header = match self {
            Self::Http(source) => source.probe(database).await,
            Self::Directory(source) => source.probe(database).await,
        };
        Ok(header?.version)
    }

    /// Fetches a file into the staging directory.
    ///
    /// # Errors
    /// See [`FetchError`]; nothing is left behind.
    pub async fn fetch(&self, wanted: &Wanted) -> Result<Fetched, FetchError> {
        match self {
            Self::Http(source) => source.fetch(wanted).await,
            Self::Directory(source) => source.fetch(wanted).await,
        }
    }
}
