//! The parsers and verifiers of ClamAV's formats: valid, hostile, minted and random files, beside ClamAV and OpenSSL.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod cdiff;
mod fuzz;
mod hostile;
mod mint;
mod props;
mod rebuild;
mod sign;
mod talos;
