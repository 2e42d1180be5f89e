//! ClamAV's formats, pure: bytes in, facts or bytes out; no async, no network, nothing of ours below it.
pub mod name;
pub use name::{Database, FileKind, FileName};
