//! The rules of files, as errors: each says which one is broken, and with what.
use super::{
    cdiff::CdiffError,
    container::ContainerError,
    header::HeaderError,
    info::InfoError,
    name::{Database, FileName},
    sign_verify::SignError,
    signature::SignatureError,
};
use std::io;

/// Which rule a file breaks.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum VerifyError {
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    #[error("{0} is not the name of such a file")]
    Kind(FileName),
    #[error("larger than the limit of {0} bytes")]
    TooLarge(u64),
    #[error("header: {0}")]
    Header(#[from] HeaderError),
    #[error("named version {expected}, but its header says {found}")]
    Version { expected: u32, found: u32 },
    /// A version 0, which no name can have.
    #[error("header says version 0")]
    VersionZero,
    #[error("named as database {expected}, but holds {found}")]
    Database { expected: Database, found: Database },
    #[error("header has no MD5 of the body")]
    NoMd5,
    #[error("MD5 of the body is not the header's: truncated or altered")]
    Md5,
    #[error("header has no signature")]
    NoSignature,
    #[error("signature in the header: {0}")]
    Signature(#[source] SignatureError),
    #[error("body: {0}")]
    Container(#[from] ContainerError),
    #[error("no <database>.info member")]
    NoInfo,
    #[error("a second .info member: {0}")]
    SecondInfo(String),
    #[error("{0}")]
    Info(#[from] InfoError),
    #[error("signature of the .info member: {0}")]
    InfoSignature(#[source] SignatureError),
    /// The header's version, which nobody signed, is not the signed one of `.info`.
    #[error("header says version {header}, its signed .info says {info}")]
    InfoVersion { header: u32, info: u32 },
    #[error("header and line 1 of .info differ: {header:?} and {info:?}")]
    HeaderDiffers { header: String, info: String },
    #[error("member {0} is not listed in .info")]
    Unlisted(String),
    /// A listed member that is not there. No ClamAV notices this.
    #[error("member {0} is listed in .info but missing")]
    Missing(String),
    #[error("member {name} has {found} bytes, .info says {listed}")]
    Size { name: String, listed: u64, found: u64 },
    #[error("SHA-256 of member {0} is not the one in .info")]
    Sha256(String),
    #[error("{0}")]
    Sign(#[from] SignError),
    #[error("{0}")]
    Cdiff(#[from] CdiffError),
}
