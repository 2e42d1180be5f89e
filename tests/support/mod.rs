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
