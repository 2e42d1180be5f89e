//! The Delays, side by side: cvdupdate with nginx, squid alone, and cvdmirror behind that squid, over 30 versions.
//!
//! `cargo bench --bench lab`; needs ClamAV's tools, cvdupdate, nginx, squid and network namespaces. Prints a table and
//! writes a plot to `LAB_PLOT` (`target/lab.svg`). `LAB_FULL=1` mints a database of daily's real size (about 60 MB)
//! and measures what is taken from the CDN without running clients, which take minutes to load a database that large;
//! `LAB_VERSIONS=N` publishes so many versions instead of 30, `LAB_VERBOSE=1` shows what failing clients said.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use lab::Settings;
use std::{path::PathBuf, time::Instant};
use support::namespace;

fn main() {
    if !namespace::is_inside() {
        let status = namespace::enter(&[], |command| command.status().unwrap());
        assert!(status.is_none_or(|status| status.success()), "{status:?}");
        return;
    }
    let full = std::env::var_os("LAB_FULL").is_some();
    let versions = std::env::var("LAB_VERSIONS").map_or(30, |versions| versions.parse().unwrap());
    let settings = match full {
        true => Settings { versions, pace: 4, lines: 1_300_000, edits: 500, fresh_every: 1, clients: false },
        false => Settings { versions, pace: 4, lines: 20_000, edits: 200, fresh_every: 1, clients: true },
    };
    let began = Instant::now();
    let Some(outcomes) = lab::run(&settings) else { return };
    println!("{}", lab::table(&outcomes, &settings, began));
    let plot = std::env::var_os("LAB_PLOT")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/lab.svg"), PathBuf::from);
    std::fs::write(&plot, lab::svg(&outcomes)).unwrap();
    println!("plot: {}", plot.display());
}
