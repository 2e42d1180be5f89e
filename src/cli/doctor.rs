//! `cvdmirror doctor`
use super::{Failure, Outcome, print, print_json, runtime};
use crate::{
    config::Config,
    doctor::{self, ClientConf},
};
use std::path::Path;

/// Larger than any freshclam.conf, bytes.
const MAX_CONF_BYTES: u64 = 1 << 20;

pub(super) fn run(config: &Config, freshclam_conf: Option<&Path>, json: bool) -> Outcome {
    let text = freshclam_conf.map(read).transpose()?;
    let name = freshclam_conf.map(|path| path.display().to_string());
    let client = text.as_deref().zip(name.as_deref()).map(|(text, path)| ClientConf { path, text });
    let report = runtime()?.block_on(doctor::examine(config, client));
    if json {
        print_json(&report)?
    } else {
        print(&report)?
    }
    if report.findings().next().is_none() { Ok(()) } else { Err(Failure::Findings) }
}

fn read(path: &Path) -> Result<String, Failure> {
    use std::io::Read;
    let unreadable = |e| Failure::Usage(format!("--freshclam-conf: {}: {e}", path.display()));
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_CONF_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
