//! `cvdmirror status`
use super::{Failure, Outcome, print, print_json, runtime};
use crate::{
    clients::{Clients, Report},
    config::Config,
    control,
    mirror::{DataDir, OpenError, state::State, status::Status},
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

/// Says who asked lately.
pub(super) fn clients(config: &Config, json: bool) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let report = match runtime()?.block_on(control::clients(&dir)) {
        Ok(Some(report)) => report,
        Ok(None) => recorded(config, &dir)?,
        Err(e) => return Err(Failure::Failed(format!("the running server does not answer: {e}"))),
    };
    match report {
        _ if json => print_json(&report),
        Some(report) => print(&report),
        None => print(
            "no installation is remembered; to know who is stale, let the server run with --remember-clients=14d \
             (UUIDs are kept as keyed hashes only)\n",
        ),
    }
}

/// Who asked while a server ran, read from the files.
fn recorded(config: &Config, dir: &DataDir) -> Result<Option<Report>, Failure> {
    let Some(time) = config.remember_clients else { return Ok(None) };
    let status = Status::read(dir, &config.databases, config.max_age)?;
    let published = config.databases.iter().filter_map(|database| {
        let held = status.databases.iter().find(|held| held.database == database.as_str())?;
        Some((database.clone(), held.version?))
    });
    let Some(state) = State::open_read_only(&dir.state()).map_err(OpenError::from)? else { return Ok(None) };
    let clients = Clients::read(&state, time.as_secs()).map_err(OpenError::from)?;
    Ok(Some(clients.report(&published.collect())))
}
