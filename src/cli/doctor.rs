//! `cvdmirror doctor`
use super::{Failure, Outcome, Ui, runtime};
use crate::{
    config::Config,
    doctor::{self, ClientConf},
};
use std::path::Path;

/// Larger than any freshclam.conf, bytes.
const MAX_CONF_BYTES: u64 = 1 << 20;

pub(super) fn run(config: &Config, ui: Ui, freshclam_conf: Option<&Path>, json: bool) -> Outcome {
    let text = freshclam_conf.map(|path| read("--freshclam-conf", path)).transpose()?;
    let name = freshclam_conf.map(|path| path.display().to_string());
    let client = text.as_deref().zip(name.as_deref()).map(|(text, path)| ClientConf { path, text });
    let report = runtime()?.block_on(doctor::examine(config, client));
    ui.report_or_json(&report, report.findings().next().is_none(), json)
}

/// The same for a client's clamd.conf alone.
pub(super) fn run_clamd(config: &Config, ui: Ui, clamd_conf: &Path, json: bool) -> Outcome {
    let text = read("--clamd-conf", clamd_conf)?;
    let path = clamd_conf.display().to_string();
    let report = doctor::examine_clamd(config, ClientConf { path: &path, text: &text });
    ui.report_or_json(&report, report.findings().next().is_none(), json)
}

fn read(option: &str, path: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let unreadable = |e| Failure::Usage(format!("{option}: {}: {e}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_CONF_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
