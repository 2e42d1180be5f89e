//! The command line: one small file a command, and the only place that words errors for people.
//!
//! Exit codes: 0 done; 1 findings, or something could not be done; 2 usage or configuration.
mod ca;
mod client_config;
mod doctor;
mod generate;
mod log;
mod options;
mod progress;
mod pull;
mod serve;
mod signals;
mod status;
mod store;
mod sync;
mod verify;

use crate::{
    config::{Config, ConfigError},
    control::ControlError,
    mirror::{DataDir, OpenError},
    service::StartError,
    trouble::{COLUMNS, Trouble, TroubleKind, sudo},
    units::os,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use options::Manner;
use std::{
    fmt,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};
use tokio::signal::unix::SignalKind;

/// "File size limit exceeded", on Linux and the BSDs.
const SIGXFSZ: i32 = 25;

/// A LAN mirror of ClamAV's virus databases that no cache can make lie.
#[derive(Parser, Debug)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    manner: Manner,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Syncs on a schedule and serves what is held
    Serve,
    /// Does one round now and reports it; exit 1 if anything advertised could not be fetched
    Sync,
    /// Keeps a client's database directory at the mirror's newest version, and has clamd load it; needs no store
    Pull,
    /// Says what is held and published, how fresh it is, and what went wrong last
    Status {
        /// Prints JSON
        #[arg(long)]
        json: bool,
        /// Exits 1 unless this holds
        #[arg(long, value_name = "WHAT")]
        check: Option<status::Probe>,
        /// Says instead which installations asked lately, by engine and by what they have (see --remember-clients)
        #[arg(long, conflicts_with = "check")]
        clients: bool,
    },
    /// Looks into the store, beside a running server too
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Makes a site's own CA, and sign files of it
    #[command(subcommand)]
    Ca(ca::CaCommand),
    /// Checks CVD, CDIFF, CLD and sign files offline
    Verify {
        /// Files to check
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Looks for what stands between this site and fresh databases, and says how to mend it; exit 1 on any finding
    Doctor {
        /// A client's freshclam.conf to look at as well
        #[arg(long, value_name = "FILE")]
        freshclam_conf: Option<PathBuf>,
        /// Looks instead at a client whose databases `pull` keeps: its clamd.conf, and what runs on this machine
        #[arg(long, value_name = "FILE", conflicts_with = "freshclam_conf")]
        clamd_conf: Option<PathBuf>,
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows or checks the settings
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Prints the lines of a client's freshclam.conf that lead it to this mirror
    ClientConfig {
        /// By what the client is led here
        #[arg(long = "for", value_name = "WAY", value_enum, default_value = "direct")]
        way: client_config::Way,
        /// Where clients reach this mirror [default: its address in `listen`, or this host's name or address]
        #[arg(long)]
        url: Option<String>,
    },
    /// Prints the completions of a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Writes a manual page for each command
    Man {
        /// Where to; it is made if it is not there
        dir: PathBuf,
    },
}

#[derive(Subcommand, Debug, Clone, Copy)]
enum ConfigCommand {
    /// Prints every setting and where it was given
    Show,
    /// Checks the settings; exit 2 if any is wrong
    Check,
    /// Prints a settings file to start from: every setting, what it is for, and what is in force without it
    Template,
}

/// How a command ended, if not with success.
enum Failure {
    /// Exit 1, after saying why.
    Failed(String),
    /// Exit 1; what was found has been printed.
    Findings,
    /// Exit 2.
    Usage(String),
}

type Outcome = Result<(), Failure>;

/// Runs the program.
pub fn run() -> ExitCode {
    cvdmirror_store::hide_caught_panics();
    let matches = command().get_matches();
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(e) => e.exit(),
    };
    // What a package is built with, where no settings need be right.
    match &cli.command {
        Command::Completions { shell } => return end(generate::completions(*shell)),
        Command::Man { dir } => return end(generate::man(dir)),
        _ => {}
    }
    let config = match Config::from_matches(&matches) {
        Ok(config) => config,
        Err(e) => return end(Err(e.into())),
    };
    cli.manner.colour();
    log::start(config.log_format, &cli.manner, matches!(cli.command, Command::Sync));
    let ui = Ui { quiet: cli.manner.quiet };
    end(match cli.command {
        Command::Serve => serve::run(config),
        Command::Sync => sync::run(&config, ui),
        Command::Pull => pull::run(&config, ui),
        Command::Status { json, clients: true, check: None } => status::clients(&config, json),
        Command::Status { json, check, .. } => status::run(&config, ui, json, check),
        Command::Store(command) => store::run(&config, ui, command),
        Command::Ca(command) => ca::run(&config, ui, &command),
        Command::Verify { files, json } => verify::run(&config, ui, &files, json),
        Command::Doctor { clamd_conf: Some(file), json, .. } => doctor::run_clamd(&config, ui, &file, json),
        Command::Doctor { freshclam_conf, json, .. } => {
            doctor::run(&config, ui, freshclam_conf.as_deref(), json)
        }
        Command::Config(ConfigCommand::Show) => print(config.show()),
        Command::Config(ConfigCommand::Check) => match config.absent() {
            absent if absent.is_empty() => ui.report("the settings are right\n", true),
            absent => Err(Failure::Usage(absent.join("\ncvdmirror: "))),
        },
        Command::Config(ConfigCommand::Template) => print(config.template()),
        Command::ClientConfig { way, url } => client_config::run(&config, way, url.as_deref()),
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    })
}

/// The whole command line.
fn command() -> clap::Command {
    options::with_settings(Cli::command())
}

/// How reports are given.
#[derive(Clone, Copy)]
struct Ui {
    /// Prints problems only.
    quiet: bool,
}

impl Ui {
    /// Prints a report and returns the outcome.
    fn report(self, report: impl fmt::Display, well: bool) -> Outcome {
        if !(well && self.quiet) {
            print(report)?;
        }
        if well { Ok(()) } else { Err(Failure::Findings) }
    }

    /// The same for a report that may be wanted as JSON, which is always printed.
    fn report_or_json(
        self,
        report: &(impl fmt::Display + serde::Serialize),
        well: bool,
        json: bool,
    ) -> Outcome {
        if !json {
            return self.report(report, well);
        }
        print_json(report)?;
        if well { Ok(()) } else { Err(Failure::Findings) }
    }
}

fn end(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Findings) => ExitCode::from(1),
        Err(Failure::Failed(why)) => {
            eprintln!("cvdmirror: {why}");
            ExitCode::from(1)
        }
        Err(Failure::Usage(why)) => {
            eprintln!("cvdmirror: {why}");
            ExitCode::from(2)
        }
    }
}

/// Prints to standard output, in colours where they are wanted.
fn print(text: impl fmt::Display) -> Outcome {
    let mut out = anstream::stdout().lock();
    printed(write!(out, "{text}").and_then(|()| out.flush()))
}

/// The outcome of printing: a reader that has gone (`| head`) is no error.
fn printed(written: io::Result<()>) -> Outcome {
    match written {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(format!("standard output: {e}")))
        }
        _ => Ok(()),
    }
}

fn print_json(value: &impl serde::Serialize) -> Outcome {
    let text = serde_json::to_string_pretty(value).map_err(|e| Failure::Failed(e.to_string()))?;
    print(text + "\n")
}

/// Fails, with advice, unless there is a store that this user may read.
fn readable(dir: &DataDir) -> Result<(), Failure> {
    match std::fs::read_dir(dir.store()) {
        Ok(_) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::NoStore { data_dir: dir.root().into() }.into())
        }
        Err(e) => Err(Failure::Failed(format!("{}: {}{}", dir.store().display(), os(&e), sudo(&e)))),
    }
}

/// Why a running server could not be asked.
fn unanswered(e: &ControlError) -> Failure {
    let (why, sudo) = match e {
        ControlError::Io(e) => (os(e), sudo(e)),
        e => (e.to_string(), ""),
    };
    Failure::Failed(format!("the running server does not answer: {why}{sudo}"))
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let failed = |e: io::Error| Failure::Failed(format!("cannot start threads: {e}"));
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    // Threads that wait for the disk: enough to keep it busy, each with a chunk.
    let runtime = builder.enable_all().max_blocking_threads(32).build().map_err(failed)?;
    let entered = runtime.enter();
    // By default, a write past the limit on file sizes kills the process; with a handler it fails with an error.
    drop(tokio::signal::unix::signal(SignalKind::from_raw(SIGXFSZ)).map_err(failed)?);
    drop(entered);
    Ok(runtime)
}

/// Trouble as it stands after the program's name.
fn said(trouble: &Trouble) -> String {
    let lines = trouble.lines("cvdmirror: ", COLUMNS);
    lines.trim_end().trim_start_matches("cvdmirror: ").to_owned()
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self::Usage(e.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(e: StartError) -> Self {
        let trouble = Trouble::from(&e);
        match e {
            StartError::Source(_) | StartError::DnsZone { .. } => Self::Usage(said(&trouble)),
            _ => trouble.into(),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(e: OpenError) -> Self {
        Trouble::from(&e).into()
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble.kind {
            TroubleKind::NewerFormat => Self::Usage(said(&trouble)),
            _ => Self::Failed(said(&trouble)),
        }
    }
}

impl From<cvdmirror_store::Error> for Failure {
    fn from(e: cvdmirror_store::Error) -> Self {
        OpenError::Store(e).into()
    }
}
