//! What the black-box tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod mint;
pub mod mint_keys;
use std::path::PathBuf;

/// Finds a program to compare with. Without it the test says that it is skipped, or fails if peers are required.
pub fn peer(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    if found.is_none() {
        assert!(
            std::env::var_os("CVDMIRROR_REQUIRE_PEERS").is_none(),
            "{program} is required but not installed"
        );
        eprintln!("SKIPPED: {program} is not installed");
    }
    found
}

/// A file of the Talos-signed database `test`.
pub fn talos(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/testdata/talos").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
