//! Options of every command: how much is said and in which colours, and those settings that the command uses.
use crate::config;
use clap::{ArgAction, ColorChoice, Command};

/// How much is said, and how.
#[derive(clap::Args, Debug)]
pub(super) struct Manner {
    /// Says nothing while all is well: no report, no progress, and in the log warnings and errors alone
    #[arg(short, long, global = true, conflicts_with = "verbose", display_order = 900)]
    pub(super) quiet: bool,
    /// Logs more; given twice, what libraries log as well
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 901)]
    pub(super) verbose: u8,
    /// When reports and the log have colours; NO_COLOR counts as `never` where this is `auto`
    #[arg(long, global = true, value_name = "WHEN", value_enum, default_value = "auto", display_order = 902)]
    color: ColorChoice,
}

impl Manner {
    /// Decides for the whole process whether there are colours.
    pub(super) fn colour(&self) {
        let choice = match self.color {
            ColorChoice::Auto => anstream::ColorChoice::Auto,
            ColorChoice::Always => anstream::ColorChoice::Always,
            ColorChoice::Never => anstream::ColorChoice::Never,
        };
        choice.write_global();
    }
}

/// What opening the mirror and doing a round needs.
const ROUND: &[&str] = &[
    "data_dir",
    "database",
    "source",
    "txt_record",
    "nameserver",
    "certs_dir",
    "trust_keys",
    "publish_cld",
    "site_ca",
    "backfill",
    "keep_cvds",
    "keep_cdiff_days",
    "grace",
    "stall_timeout",
    "log_format",
];

/// The settings that a command uses, as its path below the program's name; `None`: all of them.
fn used(path: &str) -> Option<&'static [&'static str]> {
    Some(match path {
        "sync" => ROUND,
        "pull" => &[
            "database",
            "txt_record",
            "nameserver",
            "certs_dir",
            "trust_keys",
            "stall_timeout",
            "log_format",
        ],
        "status" => {
            &["data_dir", "database", "max_age", "max_build_age", "remember_clients", "client_reports"]
        }
        "store verify" | "store restore" => &["data_dir", "certs_dir", "trust_keys", "site_ca"],
        "store gc" => &["data_dir", "database", "backfill", "keep_cvds", "keep_cdiff_days", "grace"],
        _ if path.starts_with("store") => &["data_dir"],
        "verify" => &["certs_dir", "trust_keys"],
        "doctor" => &[
            "data_dir",
            "database",
            "source",
            "txt_record",
            "nameserver",
            "certs_dir",
            "listen",
            "dns_listen",
            "dns_zone",
            "site_ca",
            "max_age",
            "stall_timeout",
        ],
        "ca sign" => &["data_dir"],
        "ca" | "ca init" => &[],
        "client-config" => &["listen", "dns_listen", "dns_zone"],
        "completions" | "man" => &[],
        _ => return None,
    })
}

/// Gives every command every setting, so that the same options work for all, but shows in its help only those that it
/// uses.
pub(super) fn with_settings(command: Command) -> Command {
    narrowed(command.args(config::args()), "")
        .mut_subcommand("pull", |pull| pull.args(config::args_of("pull")))
}

fn narrowed(command: Command, path: &str) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    names.into_iter().fold(command, |command, name| {
        let path = format!("{path} {name}");
        command.mut_subcommand(name, |sub| {
            let sub = match used(path.trim_start()) {
                None => sub,
                Some(used) => sub.args(config::args().map(|arg| {
                    let is_used = arg.get_id() == "config" || used.contains(&arg.get_id().as_str());
                    arg.hide(!is_used)
                })),
            };
            narrowed(sub, &path)
        })
    })
}
