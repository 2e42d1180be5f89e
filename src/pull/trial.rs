//! A new set of databases, loaded by the real engine before it is installed.
use std::{
    io,
    path::Path,
    process::{Command, Stdio},
};

const CLAMSCAN: &str = "clamscan";
/// Of what clamscan says, the last lines name the fault.
const MAX_LINES: usize = 5;

/// Why a set is not good.
#[derive(Debug, thiserror::Error)]
pub(super) enum TrialError {
    /// It cannot be tried.
    #[error("clamscan cannot be run: {0}")]
    Run(#[source] io::Error),
    /// It cannot be loaded, or the file cannot be scanned with it.
    #[error("clamscan: {0}")]
    Failed(String),
}

/// Has clamscan load a directory and scan a file with it.
pub(super) fn scan(databases: &Path, file: &Path) -> Result<(), TrialError> {
    let mut command = Command::new(CLAMSCAN);
    command.arg("--no-summary").arg(format!("--database={}", databases.display())).arg(file);
    let output = command.stdin(Stdio::null()).output().map_err(TrialError::Run)?;
    // 1: the file holds something, which takes a loaded engine to find.
    if matches!(output.status.code(), Some(0 | 1)) {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines.len().saturating_sub(MAX_LINES);
    Err(TrialError::Failed(lines[last..].join("; ")))
}
