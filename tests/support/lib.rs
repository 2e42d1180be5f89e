//! What the black-box tests share.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
pub mod cdn;
pub mod clients;
pub mod forge;
pub mod http_fixture;
pub mod machine;
pub mod mint;
pub mod mint_keys;
pub mod mint_sign;
pub mod name_server;
pub mod namespace;
pub mod page_scenes;
pub mod peers;
pub mod process;
pub mod program;
pub mod talos;
pub mod transcript;
pub mod upstream;
pub mod wire;
use std::{
    io::Write as _,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};
pub use talos::talos;

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
    // Past the test harness, which keeps back what a passing test prints.
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {why}", thread::current().name().unwrap_or_default());
}

/// Waits until `look` sees something; fails with `what` after two minutes: longer than any loaded machine takes.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(Instant::now() < deadline, "waited too long for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}
