//! The command line: one small file a command, and the only place that words errors for people.
//!
//! Exit codes: 0 done; 1 findings, or something could not be done; 2 usage or configuration.
mod care;
mod dns;
mod doctor;
mod generate;
mod log;
mod progress;
mod serve;
mod status;
mod store;
mod sync;
mod verify;

use crate::{
    config::{self, Config, ConfigError},
    mirror::OpenError,
    service::StartError,
};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
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
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Syncs on a schedule and serves what is held
    Serve,
    /// Does one round now and reports it; exit 1 if anything advertised could not be had
    Sync,
    /// Says what is held and published, how fresh it is, and what went wrong last
    Status {
        /// Prints JSON
        #[arg(long)]
        json: bool,
        /// Exits 1 unless this holds
        #[arg(long, value_name = "WHAT")]
        check: Option<status::Check>,
        /// Says instead which installations asked lately, by engine and by what they have (see --remember-clients)
        #[arg(long, conflicts_with = "check")]
        clients: bool,
    },
    /// Looks into the store, beside a running server too
    #[command(subcommand)]
    Store(store::StoreCommand),
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
        /// Prints JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows or checks the settings
    #[command(subcommand)]
    Config(ConfigCommand),
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
    /// Prints the lines with which a resolver forwards the TXT records' names to this mirror
    Dns {
        /// The resolver
        #[arg(long = "for", value_name = "RESOLVER")]
        resolver: dns::Resolver,
    },
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
    log::start(config.log_format);
    end(match cli.command {
        Command::Serve => serve::run(config),
        Command::Sync => sync::run(&config),
        Command::Status { json, clients: true, check: None } => status::clients(&config, json),
        Command::Status { json, check, .. } => status::run(&config, json, check),
        Command::Store(command) => store::run(&config, command),
        Command::Verify { files, json } => verify::run(&config, &files, json),
        Command::Doctor { freshclam_conf, json } => doctor::run(&config, freshclam_conf.as_deref(), json),
        Command::Config(ConfigCommand::Show) => print(config.show()),
        Command::Config(ConfigCommand::Check) => match config.absent() {
            absent if absent.is_empty() => print("the settings are right\n"),
            absent => Err(Failure::Usage(absent.join("\ncvdmirror: "))),
        },
        Command::Config(ConfigCommand::Template) => print(config.template()),
        Command::Config(ConfigCommand::Dns { resolver }) => dns::run(&config, resolver),
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    })
}

/// The whole command line.
fn command() -> clap::Command {
    Cli::command().args(config::args())
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

/// Prints to standard output.
fn print(text: impl fmt::Display) -> Outcome {
    printed(write!(io::stdout().lock(), "{text}").and_then(|()| io::stdout().flush()))
}

/// How printing ended: a reader that went away (`| head`) is no error.
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

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    let failed = |e: io::Error| Failure::Failed(format!("cannot start threads: {e}"));
    let runtime = tokio::runtime::Runtime::new().map_err(failed)?;
    let entered = runtime.enter();
    // Unheeded, a limit on the length of files ends the process; heeded once, a write past it is an error like any.
    drop(tokio::signal::unix::signal(SignalKind::from_raw(SIGXFSZ)).map_err(failed)?);
    drop(entered);
    Ok(runtime)
}

impl From<ConfigError> for Failure {
    fn from(e: ConfigError) -> Self {
        Self::Usage(e.to_string())
    }
}

impl From<StartError> for Failure {
    fn from(e: StartError) -> Self {
        match e {
            StartError::Open(e) => e.into(),
            StartError::Source(_) => Self::Usage(e.to_string()),
            StartError::DnsZone { .. } => Self::Usage(e.to_string()),
            StartError::Listen { .. }
            | StartError::DnsListen { .. }
            | StartError::AccessLog { .. }
            | StartError::Control { .. } => Self::Failed(e.to_string()),
        }
    }
}

impl From<OpenError> for Failure {
    fn from(e: OpenError) -> Self {
        match e {
            OpenError::NewerState { .. } | OpenError::Store(cvdmirror_store::Error::NewerFormat { .. }) => {
                Self::Usage(e.to_string())
            }
            e => Self::Failed(e.to_string()),
        }
    }
}

impl From<cvdmirror_store::Error> for Failure {
    fn from(e: cvdmirror_store::Error) -> Self {
        OpenError::Store(e).into()
    }
}
