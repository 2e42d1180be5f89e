//! `cvdmirror status`
use super::{Failure, Outcome, Ui, print, print_json, readable, runtime, unanswered};
use crate::{
    clients::Clients,
    clock::epoch_s,
    config::Config,
    control,
    cvd::Database,
    mirror::{DataDir, OpenError, Standing, status::Status},
    state::State,
};
use std::collections::BTreeMap;

/// What a script or a container's health check wants to know.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(super) enum Probe {
    /// A server runs and answers
    Serving,
    /// A server runs, and what it publishes is fresh
    Fresh,
}

pub(super) fn run(config: &Config, ui: Ui, json: bool, check: Option<Probe>) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let status = match runtime()?.block_on(control::status(&dir)) {
        Ok(Some(status)) => status,
        Ok(None) => {
            let standing = read(config, &dir)?;
            let reported = match recorded(config, &dir)? {
                Some(clients) => clients.reported(&published(config, &standing)),
                None => None,
            };
            Status { reported, ..Status::new(&standing, epoch_s()) }
        }
        Err(e) => return Err(unanswered(&e)),
    };
    let holds = match check {
        None => true,
        Some(Probe::Serving) => status.serving,
        Some(Probe::Fresh) => status.serving && status.fresh,
    };
    ui.report_or_json(&status, holds, json)
}

/// The mirror's status from its files, without a server.
fn read(config: &Config, dir: &DataDir) -> Result<Standing, Failure> {
    readable(dir)?;
    let standing = Standing::read(dir, &config.databases, config.max_age)?;
    Ok(Standing { max_build_age_s: config.max_build_age_s.clone(), ..standing })
}

/// Reports which installations asked lately.
pub(super) fn clients(config: &Config, json: bool) -> Outcome {
    let dir = DataDir::new(&config.data_dir);
    let report = match runtime()?.block_on(control::clients(&dir)) {
        Ok(Some(report)) => report,
        Ok(None) => match recorded(config, &dir)? {
            Some(clients) => Some(clients.report(&published(config, &read(config, &dir)?))),
            None => None,
        },
        Err(e) => return Err(unanswered(&e)),
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

/// Installations that asked while a server ran, from the files.
fn recorded(config: &Config, dir: &DataDir) -> Result<Option<Clients>, Failure> {
    let Some(time) = config.remember_clients else { return Ok(None) };
    let Some(state) = State::open_read_only(&dir.state()).map_err(OpenError::from)? else { return Ok(None) };
    let clients = Clients::read(&state, time.as_secs()).map_err(OpenError::from)?;
    Ok(Some(clients.taking_reports(config.client_reports)))
}

/// The newest version of each database that is mirrored.
fn published(config: &Config, standing: &Standing) -> BTreeMap<Database, u32> {
    let mut published = standing.snapshot.versions();
    published.retain(|database, _| config.databases.contains(database));
    published
}
