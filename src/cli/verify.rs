//! `cvdmirror verify FILE...`
use super::Outcome;
use crate::config::Config;
use std::path::PathBuf;

pub(super) fn run(_config: &Config, _files: &[PathBuf], _json: bool) -> Outcome {
    Ok(())
}
