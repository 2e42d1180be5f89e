//! `cvdmirror store restore SRC`
use super::{
    super::{Outcome, Ui, runtime},
    backup::Copied,
    verifier,
};
use crate::{
    config::Config,
    control,
    mirror::{DataDir, copies},
};
use std::path::Path;

/// Adds what is fit; a running server publishes it at once, any other at its start.
pub(super) fn run(config: &Config, ui: Ui, src: &Path) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let copied = copies::restore(&dir, src, &verifier(config)?)?;
    if let Err(e) = runtime()?.block_on(control::look(&dir)) {
        eprintln!("cvdmirror: the running server takes it up at its next check: {e}");
    }
    ui.report(Copied(&copied), copied.findings.is_empty())
}
