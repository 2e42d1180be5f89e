//! `cvdmirror store backup DEST`
use super::super::{Outcome, Ui, readable};
use crate::{
    config::Config,
    mirror::{
        DataDir,
        copies::{self, Copies},
    },
    units::{count, size},
};
use std::{fmt, path::Path};

pub(super) fn run(config: &Config, ui: Ui, dest: &Path) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    readable(&dir)?;
    let copied = copies::backup(&dir, dest)?;
    ui.report(Copied(&copied), copied.findings.is_empty())
}

/// What became of the packs of a backup, for people.
pub(super) struct Copied<'a>(pub(super) &'a Copies);

impl fmt::Display for Copied<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Copies { held, linked, copied, bytes, findings, .. } = self.0;
        for finding in findings {
            writeln!(f, "{finding}")?;
        }
        let verb = if *held == 1 { "was" } else { "were" };
        let (held, size) = (count(*held, "pack"), size(*bytes));
        writeln!(f, "{held} {verb} there already, {linked} linked, {copied} copied, {size}")
    }
}
