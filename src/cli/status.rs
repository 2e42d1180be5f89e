//! `cvdmirror status`
use super::{Failure, Outcome, print, print_json, runtime};
use crate::{
    config::Config,
    control,
    mirror::{DataDir, status::Status},
};

pub(super) fn run(config: &Config, json: bool) -> Outcome {
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
    Ok(())
}
