//! Errors in the settings: each names where the setting was given and what to write.
use super::{SETTINGS, variable};
use crate::{
    trouble::{COLUMNS, sudo},
    units::os,
};
use std::{
    fmt, io,
    path::{Path, PathBuf},
    str::FromStr,
};

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
    /// Nowhere; freshclam is there.
    Installed,
    /// Nowhere; freshclam is not there.
    NotInstalled,
    /// Nowhere; the usual default is for Talos' source only, and this is another.
    NotTalos,
}

impl Origin {
    /// Whether nobody gave it.
    pub fn is_default(self) -> bool {
        matches!(self, Self::Default | Self::NotTalos | Self::Installed | Self::NotInstalled)
    }
}

/// Why a value does not read. `Display` follows the value in a sentence and says what to write instead.
#[derive(Debug, thiserror::Error)]
pub enum ValueError {
    /// It breaks a rule that needs no further facts.
    #[error("{0}")]
    Rule(&'static str),
    /// No number from 0 to `most`.
    #[error("is no count from 0 to {most}")]
    Count {
        /// The largest that is taken.
        most: u32,
    },
    /// A time, but shorter or longer than is taken.
    #[error("is not from 1 ms to {most_h} h")]
    Time {
        /// The longest that is taken, hours.
        most_h: u64,
    },
    /// A source without a scheme; what to write instead.
    #[error("has no scheme; write {0}")]
    Scheme(String),
    /// A source that is no URL.
    #[error("is no URL ({0}); write http://… or dir:PATH")]
    Url(<reqwest::Url as FromStr>::Err),
    /// A relative path, and the current directory is not known.
    #[error("cannot be named in full: {0}")]
    Relative(std::io::Error),
    /// A relative path that leads to no directory.
    #[error("is no directory: there is none at {}; write dir:/PATH", .0.display())]
    NoDirectory(PathBuf),
    /// A file that cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    /// A file without the keys that it should hold.
    #[error("holds no keys: {0}")]
    Keys(Box<toml::de::Error>),
}

impl From<&'static str> for ValueError {
    fn from(rule: &'static str) -> Self {
        Self::Rule(rule)
    }
}

/// A setting is wrong.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{}: {}{}", path.display(), os(source), unread(path, source))]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{}: {}\n  `cvdmirror config template` shows one that reads", path.display(), why.trim_end())]
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
        /// The key as written.
        key: String,
        /// The setting with the most similar name, if any is similar.
        nearest: Option<&'static str>,
    },
    /// The environment has a variable that is no setting's.
    #[error("environment: {name} is no setting's;\n  did you mean `{}`?", variable(nearest))]
    UnknownVariable {
        /// The variable.
        name: String,
        /// The setting with the most similar name.
        nearest: &'static str,
    },
    /// A value does not read.
    #[error("{}", fitted(&format!("{}: {}: {value:?}", place(*origin, file), option(key, *origin)), &why.to_string()))]
    Value {
        /// The setting.
        key: &'static str,
        /// What was given, without any password.
        value: String,
        /// Where.
        origin: Origin,
        /// The file, if there is one.
        file: Option<PathBuf>,
        /// What is wrong and what to write.
        why: ValueError,
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

/// What to do about a file that cannot be read.
fn unread(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::PermissionDenied => sudo(error).into(),
        io::ErrorKind::NotFound => format!("\n  fix: cvdmirror config template >{}", path.display()),
        _ => "\n  fix: --config FILE that can be read".into(),
    }
}

/// Where a value was given; a file by its path.
fn place(origin: Origin, file: &Option<PathBuf>) -> String {
    match file.as_ref().filter(|_| origin == Origin::File) {
        Some(path) => path.display().to_string(),
        None => origin.to_string(),
    }
}

/// What to write instead of an unknown key.
fn instead(nearest: &Option<&'static str>) -> String {
    match nearest {
        Some(key) => format!("did you mean `{key}`?"),
        None => format!("there are {}", SETTINGS.iter().map(|s| s.key).collect::<Vec<_>>().join(", ")),
    }
}

/// What is wrong with a value, on the next line where it does not fit beside the value.
fn fitted(value: &str, why: &str) -> String {
    let room = COLUMNS - "cvdmirror: ".len();
    let fits = value.chars().count() + why.chars().count() < room;
    format!("{value}{}{why}", if fits { " " } else { "\n  " })
}

fn option(key: &str, origin: Origin) -> String {
    match origin {
        Origin::CommandLine => format!("--{}", key.replace('_', "-")),
        Origin::Environment => variable(key),
        _ => key.to_owned(),
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CommandLine => "command line",
            Self::Environment => "environment",
            Self::File => "file",
            Self::Default => "default",
            Self::Installed => "default, since freshclam is installed",
            Self::NotInstalled => "default, since freshclam is not installed",
            Self::NotTalos => "default for a source that is not Talos'",
        })
    }
}
