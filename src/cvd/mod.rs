//! ClamAV's formats, pure: bytes in, facts or bytes out; no async, no network, nothing of ours below it.
//!
//! `verify` is the door: only it makes a [`Verified`], of what `pass` gathered from a `container` and held against its
//! `header`, its `info` list and the keys of `signature`; of a `cdiff` and its `script`; of a `sign_file` through
//! `sign_verify` and a `chain` of certificates. `rebuild` makes a CVD of the one before: a `draft` of its members,
//! changed by `apply`, packed by `body_writer`. `inspect` tells people what holds and what does not.
pub mod apply;
pub mod body_writer;
pub mod cdiff;
pub mod chain;
pub mod container;
pub mod draft;
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
pub use chain::{AnchorError, Anchors};
pub use header::{HEADER_BYTES, Header, HeaderError};
pub use limits::Limits;
pub use name::{Database, FileKind, FileName, NameError};
pub use rebuild::{Rebuild, RebuildError};
pub use sign_file::SignFile;
pub use signature::{PublicKey, TrustKeys};
pub use txt_record::{CurrentRecord, DatabaseRecord};
pub use verify::{
    Cvd, Member, Verified, VerifyError, parse_sign, verify_cdiff, verify_cld, verify_cvd, verify_cvd_any,
    verify_header, verify_sign,
};
