//! Where files come from: an HTTP upstream, or a directory that cvdupdate or freshclam fills.
//!
//! Guarantees: every fetch is an [`Incoming`] stream that is bounded in size and time, whatever source it comes from,
//! and ends whole or as a typed [`FetchError`]. Guarantees nothing about content: what comes is not verified, and a
//! source may answer another version than it was asked for.

mod activity;
pub mod budget;
pub mod directory;
mod doubt;
pub mod downloader;
pub mod fields;
mod get;
pub mod http;
mod incoming;
mod intake;
pub mod ledger;
mod limits;
pub mod login;
mod redirects;
mod response;
pub mod txt;
pub mod watch;

pub use activity::{Activity, Underway};
pub use doubt::Doubt;
pub use incoming::Incoming;
pub use intake::{Intake, Progress, Shown, Silent};
pub use redirects::RedirectFault;

use crate::{
    cvd::{Database, FileName},
    units::size,
};
use reqwest::header::HeaderMap;
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
    /// What did not agree on the way; empty when all is well.
    pub doubts: Vec<Doubt>,
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
    #[error("{url}: the source refuses this client (403)")]
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
    /// It redirects to where it may not.
    #[error("{url}: {why}")]
    Redirect {
        /// URL asked.
        url: String,
        /// The rule against it.
        why: RedirectFault,
    },
    /// A part of a file that is not the one asked for.
    #[error("{url}: answered {what}; not taken")]
    WrongPart {
        /// URL that answered.
        url: String,
        /// What came.
        what: http::WrongPart,
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
    #[error("{origin}: the body ended after {}, before its announced end; not taken", size(*.got_bytes))]
    Truncated {
        /// URL or path.
        origin: String,
        /// Bytes that came.
        got_bytes: u64,
    },
    /// Nothing came for too long, or too little.
    #[error("{origin}: {what} after {}; given up", size(*.got_bytes))]
    TooSlow {
        /// URL or path.
        origin: String,
        /// What was waited for.
        what: &'static str,
        /// Bytes that came.
        got_bytes: u64,
    },
    /// What answers does not speak the scheme of the URL.
    #[error("{url}: what answers there speaks no {} ({why})", url.scheme())]
    WrongScheme {
        /// URL asked.
        url: reqwest::Url,
        /// The chain of causes.
        why: String,
    },
    /// The downloader that is run here brought nothing of it.
    #[error(transparent)]
    Downloader(downloader::Fault),
    /// No connection, or it broke.
    #[error("{url}: {why}")]
    Unreachable {
        /// URL asked.
        url: String,
        /// The chain of causes.
        why: String,
    },
    /// This process has no file descriptor left for a connection.
    #[error("{url}: {}", crate::units::os(source))]
    NoDescriptor {
        /// URL asked.
        url: String,
        /// The cause.
        source: std::io::Error,
    },
    /// A directory entry that is no plain file.
    #[error("{}: {what}", path.display())]
    NotAFile {
        /// The entry.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// A file that changed while it was read.
    #[error("{}: changed while it was read", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// Reading a directory source, failed.
    #[error("{}: {}", path.display(), crate::units::os(source))]
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
        why: txt::TxtFault,
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

/// No client for an upstream can be made.
#[derive(Debug, thiserror::Error)]
#[error("no TLS client: {}", get::why(.0))]
pub struct ClientError(#[from] reqwest::Error);

impl FetchError {
    /// Whether a transfer ended before its time, so that the rest may be had by asking again.
    fn broke_off(&self) -> bool {
        matches!(self, Self::Truncated { .. } | Self::TooSlow { .. } | Self::Unreachable { .. })
    }
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
    /// A downloader that is run here.
    Downloader(Box<downloader::Downloader>),
}

impl Source {
    /// What was asked of an upstream so far; a directory keeps no books.
    pub fn book(&self) -> Option<budget::Book> {
        match self {
            Self::Http(source) => Some(source.ledger().book()),
            Self::Directory(_) => None,
            Self::Downloader(source) => Some(source.upstream().ledger().book()),
        }
    }

    /// How far this machine's clock is ahead of the source's, seconds; nothing while they agree.
    pub fn off_by_s(&self) -> Option<i64> {
        match self {
            Self::Http(source) => source.off_by_s(),
            Self::Directory(_) => None,
            Self::Downloader(source) => source.upstream().off_by_s(),
        }
    }

    /// Whether a file that came and was refused may be had a second time from elsewhere in the source.
    pub fn has_another(&self, wanted: &Wanted) -> bool {
        match self {
            Self::Http(_) | Self::Downloader(_) => false,
            Self::Directory(source) => source.has_another(wanted),
        }
    }

    /// From now on asks an upstream with a client's fields, or with none but its own.
    pub fn asks_for(&self, client: Option<HeaderMap>) {
        match self {
            Self::Http(source) => source.asks_for(client.unwrap_or_default()),
            Self::Downloader(source) => source.asks_for(client),
            Self::Directory(_) => {}
        }
    }

    /// Whether the client for which an upstream is asked was refused (403): that concerns it alone.
    pub fn client_is_denied(&self) -> bool {
        match self {
            Self::Http(source) => source.client_is_denied(),
            Self::Downloader(source) => source.upstream().client_is_denied(),
            Self::Directory(_) => false,
        }
    }

    /// A round has taken what came.
    pub fn end_round(&self) {
        if let Self::Downloader(source) = self {
            source.end();
        }
    }

    /// What went wrong though files came.
    pub fn fault(&self) -> Option<FetchError> {
        match self {
            Self::Downloader(source) => source.fault().map(FetchError::Downloader),
            Self::Http(_) | Self::Directory(_) => None,
        }
    }

    /// What it takes files in with.
    pub fn intake(&self) -> &Intake {
        match self {
            Self::Http(source) => source.intake(),
            Self::Directory(source) => source.intake(),
            Self::Downloader(source) => source.upstream().intake(),
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
            Self::Downloader(source) => source.newest(database).await,
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
            Self::Downloader(source) => source.probe(database).await,
        };
        Ok(header?.version)
    }

    /// Begins to fetch a file.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn open(&self, wanted: &Wanted) -> Result<Incoming, FetchError> {
        match self {
            Self::Http(source) => source.open(wanted).await,
            Self::Directory(source) => source.open(wanted).await,
            Self::Downloader(source) => source.open(wanted).await,
        }
    }

    /// Tells when there may be something new, where a source can.
    pub fn watch(&self) -> Option<watch::Watch> {
        match self {
            Self::Http(_) | Self::Downloader(_) => None,
            Self::Directory(source) => Some(source.watch()),
        }
    }
}
