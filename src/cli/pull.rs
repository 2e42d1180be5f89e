//! `cvdmirror pull`
use super::{Failure, Outcome, Ui, runtime};
use crate::{
    config::{Config, ConfigError, PullConfig},
    mirror::verify::{anchors_in, anchors_of},
    pull::{DirectoryError, Pull, Report, Settings, WithCauses},
    source::txt::TxtResolver,
};

pub(super) fn run(config: &Config, ui: Ui) -> Outcome {
    let PullConfig { from, into, interval, form, ca, clamd, clamd_timeout, allow_older, test, report_as } =
        config.pull.clone();
    let why = "says which mirror to follow: --from http://mirror.example.lan:8080";
    let from = from.ok_or(ConfigError::Missing { key: "from", why })?;
    let anchors = config.certs_dir.as_deref().map(anchors_in).transpose();
    let anchors = anchors.map_err(|e| Failure::Usage(format!("certs_dir: {e}")))?;
    let ca = ca.as_deref().map(anchors_of).transpose();
    let ca = ca.map_err(|e| Failure::Usage(format!("ca: {e}")))?;
    let txt = config.given_txt_record().map(|record| TxtResolver::new(record, config.nameserver));
    let pull = Pull::new(Settings {
        from,
        into,
        databases: config.databases.clone(),
        form,
        clamd,
        clamd_timeout,
        allow_older,
        test,
        report_as,
        keys: config.trust_keys.clone(),
        anchors,
        ca,
        txt,
        stall: config.stall_timeout,
    })
    .map_err(|e| Failure::Failed(e.to_string()))?;
    // A signal ends the process at once: whatever it interrupts, the directory is right.
    runtime()?.block_on(async {
        let Some(interval) = interval else { return told(pull.round().await, ui) };
        loop {
            if let Err(Failure::Failed(why)) = told(pull.round().await, ui) {
                eprintln!("cvdmirror: {why}");
            }
            tokio::time::sleep(interval).await;
        }
    })
}

/// Says what a round did.
fn told(round: Result<Report, DirectoryError>, ui: Ui) -> Outcome {
    let report = round.map_err(|e| Failure::Failed(e.to_string()))?;
    let outcome = ui.report(&report, report.is_complete());
    for remark in &report.remarks {
        eprintln!("cvdmirror: {remark}");
    }
    for error in &report.errors {
        eprintln!("cvdmirror: {}", WithCauses(error));
    }
    outcome
}
