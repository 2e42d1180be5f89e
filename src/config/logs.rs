//! What is logged, where, and how it reads.
use super::{ValueError, value};
use std::path::PathBuf;

/// How the log on standard error reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// A sentence a line, for people.
    Text,
    /// An object a line, with the sentence and its parts.
    Json,
}

/// Where requests are logged.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AccessLogTo {
    /// Nowhere.
    Off,
    /// On standard output.
    Stdout,
    /// In a file, which is reopened by its name on SIGHUP.
    File(PathBuf),
}

pub(super) fn format(text: &str) -> Result<LogFormat, ValueError> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("is neither text nor json".into()),
    }
}

pub(super) fn access_log(text: &str) -> Result<AccessLogTo, ValueError> {
    match text {
        "off" => Ok(AccessLogTo::Off),
        "-" => Ok(AccessLogTo::Stdout),
        path => value::path(path).map(AccessLogTo::File),
    }
}
