//! `cvdmirror sync`
use super::{
    Failure, Outcome, Ui,
    progress::{self, Relay},
    runtime,
    signals::Signals,
    unanswered,
};
use crate::{
    config::Config,
    control::{self, ControlError},
    mirror::{DataDir, OpenError, RoundReport, Stopped},
    service,
};
use std::{pin::pin, time::Duration};
use tokio::time::timeout;

pub(super) fn run(config: &Config, ui: Ui) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let runtime = runtime()?;
    let report = match dir.lock() {
        Ok(lock) => {
            let entered = runtime.enter();
            let signals = Signals::listen().map_err(|e| Failure::Failed(format!("cannot sync: {e}")))?;
            drop(entered);
            let mut opened = service::open(config, lock, progress::to_stderr(ui), runtime.handle())?;
            let stop = opened.stop.clone();
            runtime.spawn(async move {
                signals.first().await;
                let _ = stop.send(true);
            });
            let stopped = |Stopped| Failure::Failed("stopped; what came whole until now is kept".into());
            opened.mirror.round().map_err(stopped)?
        }
        // A running server does it, with its own settings; without one, another sync is at work.
        Err(OpenError::Locked { data_dir, holder }) => match runtime.block_on(beside(&dir, ui)) {
            Ok(Some(report)) => {
                if !ui.quiet {
                    eprintln!("the running server (process {holder}) did this round, with its own settings");
                }
                report
            }
            Ok(None) => return Err(OpenError::Locked { data_dir, holder }.into()),
            Err(e) => return Err(unanswered(&e)),
        },
        Err(e) => return Err(e.into()),
    };
    ui.report(&report, report.is_complete())
}

/// How often the running server is asked how far it is.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Has the running server do a round, and shows how far it is.
async fn beside(dir: &DataDir, ui: Ui) -> Result<Option<RoundReport>, ControlError> {
    let mut relay = Relay::new(progress::to_stderr(ui));
    let mut round = pin!(control::sync(dir));
    loop {
        match timeout(LOOK_EVERY, round.as_mut()).await {
            Ok(report) => {
                relay.show(None);
                return report;
            }
            Err(_) => relay.show(control::status(dir).await.ok().flatten().and_then(|status| status.now)),
        }
    }
}
