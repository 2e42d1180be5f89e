//! `cvdmirror store gc`
use super::super::{Failure, Outcome, Ui, readable, runtime};
use crate::{
    config::Config,
    control,
    mirror::{DataDir, OpenError, gc::Collected},
    service,
    source::Silent,
};
use std::sync::Arc;

/// Drops and merges now; a running server is asked to do it.
pub(super) fn run(config: &Config, ui: Ui, dry_run: bool) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    readable(&dir)?;
    let runtime = runtime()?;
    let done: Collected = match dir.lock() {
        Ok(lock) => {
            let mut opened = service::open(config, lock, Arc::new(Silent), runtime.handle())?;
            match dry_run {
                true => opened.mirror.would_gc(),
                false => opened.mirror.gc()?,
            }
        }
        Err(locked @ OpenError::Locked { .. }) => match runtime.block_on(control::gc(&dir, dry_run)) {
            Ok(Some(done)) => done,
            Ok(None) => return Err(locked.into()),
            Err(e) => return Err(Failure::Failed(format!("the running server could not: {e}"))),
        },
        Err(e) => return Err(e.into()),
    };
    ui.report(&done, true)
}
