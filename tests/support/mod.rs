//! What the black-box tests share.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod cdn;
pub mod clients;
pub mod forge;
pub mod machine;
pub mod mint;
pub mod mint_keys;
pub mod mint_sign;
pub mod name_server;
pub mod namespace;
pub mod peers;
pub mod process;
pub mod program;
pub mod upstream;
pub mod wire;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Finds a program to compare with. Without it the test says that it is skipped, or fails if peers are required.
pub fn peer(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("{program} is not installed"));
    }
    found
}

/// Says aloud that a test is skipped, or fails if peers are required.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CVDMIRROR_REQUIRE_PEERS").is_none(), "required, but {why}");
    eprintln!("SKIPPED: {why}");
}

/// A file of the Talos-signed database `test`.
pub fn talos(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/testdata/talos").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Waits until `look` sees something; fails with `what` after two minutes: longer than any loaded machine takes.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
