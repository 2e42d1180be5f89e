//! `cvdmirror completions` and `cvdmirror man`: made from the command line's own definition, so they cannot disagree.
use super::{Failure, Outcome, command, print};
use clap_complete::Shell;
use std::path::Path;

const NAME: &str = "cvdmirror";

pub(super) fn completions(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command(), NAME, &mut script);
    print(String::from_utf8_lossy(&script))
}

/// Writes `cvdmirror.1`, and `cvdmirror-<command>.1` for each command.
pub(super) fn man(dir: &Path) -> Outcome {
    std::fs::create_dir_all(dir)
        .and_then(|()| clap_mangen::generate_to(command(), dir))
        .map_err(|e| Failure::Failed(format!("{}: {e}", dir.display())))
}
