//! `cvdmirror sync`
use super::{Failure, Outcome, print, progress, runtime};
use crate::{
    config::Config,
    control,
    mirror::{DataDir, OpenError},
    service,
};

pub(super) fn run(config: &Config) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let runtime = runtime()?;
    let round = match dir.lock() {
        Ok(lock) => runtime.block_on(async {
            let open = || service::open(config, lock, progress::to_stderr());
            let mirror = tokio::task::block_in_place(open)?;
            Ok::<_, Failure>(mirror.round().await)
        })?,
        // A running server does it, with its own settings; without one, another sync is at work.
        Err(OpenError::Locked { data_dir, holder }) => match runtime.block_on(control::sync(&dir)) {
            Ok(Some(round)) => {
                eprintln!("the running server (process {holder}) did this round, with its own settings");
                round
            }
            Ok(None) => return Err(OpenError::Locked { data_dir, holder }.into()),
            Err(e) => return Err(Failure::Failed(format!("the running server does not answer: {e}"))),
        },
        Err(e) => return Err(e.into()),
    };
    print(&round)?;
    if round.is_complete() { Ok(()) } else { Err(Failure::Findings) }
}
