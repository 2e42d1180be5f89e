//! What the black-box tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod forge;
pub mod mint;
pub mod mint_keys;
pub mod mint_sign;
pub mod peers;
use std::path::PathBuf;

/// A file of the Talos-signed database `test`.
pub fn talos(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/testdata/talos").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
