//! `cvdmirror status`
use super::{Failure, Outcome, print, print_json, runtime};
use crate::{
    config::Config,
    control,
    mirror::{DataDir, status::Status},
};

/// What a script or a container's health check wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Check {
    /// A server runs and answers
    Serving,
    /// A server runs, and what it publishes is fresh
    Fresh,
}

pub(super) fn run(config: &Config, json: bool, check: Option<Check>) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let status = match runtime()?.block_on(control::status(&dir)) {
        Ok(Some(status)) => status,
        Ok(None) => Status::read(&dir, &config.databases, config.max_age)?,
        Err(e) => return Err(Failure::Failed(format!("the running server does not answer: {e}"))),
    };
    if json {
        print_json(&status)?
    } else {
        print(&status)?
    }
    let holds = match check {
        None => true,
        Some(Check::Serving) => status.serving,
        Some(Check::Fresh) => status.serving && status.fresh,
    };
    if holds { Ok(()) } else { Err(Failure::Findings) }
}
