//! ClamAV's formats, pure: bytes in, facts or bytes out; no async, no network, nothing of ours below it.
//!
//! Only `verify` makes a [`Verified`]: of a CVD, whose header and `container` a `pass` has read, by the signed list in
//! its `info` and the keys of `signature`; of a `cdiff` and its `script`; of a `sign_file` through `sign_verify` and a
//! `chain` of certificates. `rebuild` makes a CVD of the one before, or proves that it could: a `draft` of the members,
//! changed by `apply`, packed by `body_writer`. `inspect` tells people which rules a file keeps; `error` names them.
pub mod apply;
pub mod body_writer;
pub mod cdiff;
pub mod chain;
pub mod container;
pub mod draft;
mod error;
mod hashing;
pub mod header;
pub mod info;
pub mod inspect;
pub mod limits;
pub mod name;
mod pass;
pub mod rebuild;
pub mod script;
pub mod sign_file;
pub mod sign_verify;
pub mod signature;
pub mod txt_record;
pub mod verify;
mod zlib;

pub use cdiff::{Cdiff, Patch};
pub use chain::{AnchorError, Anchors, ChainError, ChainRule};
pub use error::VerifyError;
pub use header::{HEADER_BYTES, Header, HeaderError};
pub use info::{Info, Member};
pub use limits::Limits;
pub use name::{Database, FileKind, FileName, NameError};
pub use rebuild::{Rebuild, RebuildError, check_cld};
pub use sign_file::SignFile;
pub use sign_verify::SignError;
pub use signature::{PublicKey, TrustKeys};
pub use txt_record::{CurrentRecord, DatabaseRecord};
pub use verify::{
    Cvd, CvdVerifier, Verified, parse_sign, verify_cdiff, verify_cld, verify_cvd, verify_header, verify_sign,
};
