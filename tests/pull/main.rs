//! The client's half: a directory that follows a mirror, beside the real clamd, clamscan and freshclam.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod bytes;
mod clamd;
mod client;
mod directory;
mod kills;
mod lies;
mod memory;
mod rounds;
mod seen;
mod site_ca;
