//! What can be wrong with the settings: each error names where the setting stands and what to write.
use super::{SETTINGS, variable};
use std::{fmt, path::PathBuf};

/// Where a value was given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// On the command line.
    CommandLine,
    /// In the environment.
    Environment,
    /// In the file.
    File,
    /// Nowhere.
    Default,
}

/// A setting is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and why.
        why: String,
    },
    /// The file has a key that is no setting.
    #[error("{}: unknown key `{key}`; {}", path.display(), instead(nearest))]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key as it stands there.
        key: String,
        /// The setting most like it, if any is.
        nearest: Option<&'static str>,
    },
    /// The environment has a variable that is no setting's.
    #[error("environment: {name} is no setting's; did you mean `{}`?", variable(nearest))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The setting most like it.
        nearest: &'static str,
    },
    /// A value does not read.
    #[error("{}: {}: {value:?} {why}", place(*origin, file), option(key, *origin))]
    Value {
        /// The setting.
        key: &'static str,
        /// What was given, without a password that stands in it.
        value: String,
        /// Where.
        origin: Origin,
        /// The file, if there is one.
        file: Option<PathBuf>,
        /// What is wrong and what to write.
        why: String,
    },
    /// A setting without a default is missing.
    #[error("{key} is not set and {why}")]
    Missing {
        /// The setting.
        key: &'static str,
        /// What to do.
        why: &'static str,
    },
}

/// Where a value was given, for people: the file by its path.
fn place(origin: Origin, file: &Option<PathBuf>) -> String {
    match file.as_ref().filter(|_| origin == Origin::File) {
        Some(path) => path.display().to_string(),
        None => origin.to_string(),
    }
}

/// What to write instead of an unknown key: the setting most like it, or the choice.
fn instead(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("there are {}", SETTINGS.iter().map(|s| s.key).collect::<Vec<_>>().join(", ")),
    }
}

fn option(key: &str, origin: Origin) -> String {
    match origin {
        Origin::CommandLine => format!("--{}", key.replace('_', "-")),
        Origin::Environment => variable(key),
        Origin::File | Origin::Default => key.to_owned(),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "command line",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
        })
    }
}
