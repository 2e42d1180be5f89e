//! What a round did, what it noticed, and what went wrong: as values, and in words.
use super::{
    Form,
    clamd::{Address, ClamdError, Proof},
    directory::DirectoryError,
    fetch::FetchError,
    make::{NoPatch, Way},
    site::SiteFault,
};
use crate::cvd::{Database, FileName, HeaderError, VerifyError};
use std::{fmt, io, path::PathBuf};

/// What a round did.
#[derive(Debug, Default)]
pub struct Report {
    /// Of each database that nothing went wrong with.
    pub outcomes: Vec<(Database, Outcome)>,
    /// What was noticed and needs no error.
    pub remarks: Vec<Remark>,
    /// What could not be done.
    pub errors: Vec<PullError>,
    /// How it is known that clamd has loaded what was installed.
    pub clamd: Option<Proof>,
}

/// How it stands with a database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The newest version was held already.
    Current {
        /// It.
        version: u32,
    },
    /// A newer one is advertised, and neither a CVD nor CDIFFs lead there yet.
    Waiting {
        /// What is held.
        held: u32,
        /// What is advertised.
        version: u32,
    },
    /// Another version is in force.
    Installed {
        /// What was there.
        from: Option<u32>,
        /// What is there.
        to: u32,
        /// In this form.
        form: Form,
        /// How it was made.
        way: Way,
        /// Bytes that it took from the mirror.
        bytes: u64,
    },
}

/// What was noticed.
#[derive(Debug)]
pub enum Remark {
    /// A database that was changed or damaged; it is not built upon, and replaced.
    Damaged {
        /// Its file.
        path: PathBuf,
        /// The rule it breaks.
        why: VerifyError,
    },
    /// The site's CA does not stand by a CLD that is held, and it is made anew.
    Unvouched {
        /// Its sign file.
        path: PathBuf,
        /// Why not.
        why: SiteFault,
    },
    /// A file that libclamav did not take any more was removed.
    Removed {
        /// It.
        path: PathBuf,
    },
    /// Another program has written here since the last round.
    Others {
        /// What it wrote.
        path: PathBuf,
        /// Whether freshclam has been at work here.
        freshclam: bool,
    },
    /// The patches were of no use, and the full CVD was taken.
    NoPatch {
        /// Of which database.
        database: Database,
        /// Why.
        why: NoPatch,
    },
    /// A clamd that runs here is not told of what was installed, and does not look by itself.
    Unnoticed {
        /// Where it listens.
        address: Option<Address>,
    },
    /// The mirror was not told what is here.
    Untold {
        /// Why.
        why: FetchError,
    },
    /// A sign file was left out.
    NoSign {
        /// Its name.
        name: FileName,
        /// Why.
        why: String,
    },
}

/// What could not be done. The files are as they were, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The mirror does not give a file.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The directory does not take a file.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// It.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("{}: {source}", path.display())]
    Disk {
        /// Where.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The mirror's index.json cannot be read.
    #[error("{url}: {source}")]
    Index {
        /// Where it is.
        url: String,
        /// The cause.
        source: serde_json::Error,
    },
    /// What should be a CVD is none.
    #[error("{url} is no database: {source}")]
    Header {
        /// Where it is.
        url: String,
        /// Why not.
        source: HeaderError,
    },
    /// A file of the mirror is not genuine.
    #[error("{url} is not to be trusted: {source}")]
    Verify {
        /// Where it is.
        url: String,
        /// The rule it breaks.
        source: Box<VerifyError>,
    },
    /// The site's CA has not signed what would be installed.
    #[error("{url} {why}")]
    Site {
        /// The sign file's URL.
        url: String,
        /// Why it does not count.
        why: SiteFault,
    },
    /// The site's CA signs CLDs alone, and this version can only be installed as a CVD.
    #[error(
        "{database}: {held} is held, and ClamAV would prefer it to a CLD of {offered}, the only form that the site's CA \
         signs; remove {held} first"
    )]
    OnlyCvd {
        /// The database.
        database: Database,
        /// What is held.
        held: u32,
        /// What the mirror has.
        offered: u32,
    },
    /// A file of the mirror holds another version than its name says.
    #[error("{url} holds version {found}, not {expected}")]
    OtherVersion {
        /// Where it is.
        url: String,
        /// The name's version.
        expected: u32,
        /// The file's.
        found: u32,
    },
    /// The mirror does not have a database.
    #[error("{database}: the mirror does not have it")]
    NotThere {
        /// It.
        database: Database,
    },
    /// The mirror has gone back.
    #[error(
        "{database}: {held} is held and the mirror has {offered}: the mirror went back, or is behind another one; \
         --allow-older takes it all the same"
    )]
    Older {
        /// The database.
        database: Database,
        /// What is held.
        held: u32,
        /// What the mirror has.
        offered: u32,
    },
    /// No way leads to the version that the mirror advertises.
    #[error("{database}: nothing leads to {version}: {why}")]
    NoWay {
        /// The database.
        database: Database,
        /// What is advertised.
        version: u32,
        /// Why the patches to it are of no use.
        why: Box<NoPatch>,
    },
    /// Files beside the database that would be loaded together with it.
    #[error(
        "{database}: ClamAV would load {} beside {database}.cvd; move that away, and pull again",
        paths(copies)
    )]
    Copies {
        /// The database.
        database: Database,
        /// They.
        copies: Vec<PathBuf>,
    },
    /// Another program changed the files during the round.
    #[error(
        "{database}: another program changed it meanwhile; is freshclam running here too? Stop one of the two"
    )]
    Changed {
        /// The database.
        database: Database,
    },
    /// A version that could not be loaded.
    #[error("{database}: {version} could not be loaded and is not installed; it is kept: {}; {why}", path.display())]
    Refused {
        /// The database.
        database: Database,
        /// Its version.
        version: u32,
        /// What was kept, or the words about it.
        path: PathBuf,
        /// In the engine's words.
        why: String,
    },
    /// clamd cannot be told, or does not follow.
    #[error("{0}; it goes on with what it has, and loads what is installed when it starts")]
    Clamd(ClamdError),
    /// clamd did not load what was installed, and it was taken back.
    #[error("{why}; the previous files are back{}{}", kept(aside), again.as_ref().map(|e| format!("; {e}")).unwrap_or_default())]
    TakenBack {
        /// What clamd did.
        why: Box<ClamdError>,
        /// Where the files are that it did not load.
        aside: Vec<PathBuf>,
        /// Why it could not be told to load the previous ones.
        again: Option<Box<ClamdError>>,
    },
}

/// An error and its causes, but for those that its own text names.
pub(crate) struct WithCauses<'a>(pub(crate) &'a dyn std::error::Error);

impl fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let said = error.to_string();
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

impl PullError {
    /// Whether clamd is what is wrong.
    pub(super) fn is_clamds(&self) -> bool {
        matches!(self, Self::Clamd(_) | Self::TakenBack { .. })
    }
}

fn paths(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

fn kept(aside: &[PathBuf]) -> String {
    if aside.is_empty() { String::new() } else { format!(", the others are kept: {}", paths(aside)) }
}

impl Report {
    /// What was installed is not in force any more.
    pub(super) fn took_back<'a>(&mut self, databases: impl Iterator<Item = &'a str>) {
        let back: Vec<&str> = databases.collect();
        self.outcomes.retain(|(database, _)| !back.contains(&database.as_str()));
    }

    /// Whether everything could be done.
    pub fn is_complete(&self) -> bool {
        self.errors.is_empty()
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Current { version } => write!(f, "{version} is the newest"),
            Self::Waiting { held, version } => {
                write!(f, "{held}; {version} is advertised, and nothing leads there yet")
            }
            Self::Installed { from, to, form, way, bytes } => {
                if let Some(from) = from {
                    write!(f, "{from} -> ")?;
                }
                write!(f, "{to} installed as {}, ", form.suffix().to_uppercase())?;
                match way {
                    Way::Patches(count) => write!(f, "by {}", cdiffs(*count))?,
                    Way::Full(0) => f.write_str("from the full CVD")?,
                    Way::Full(count) => write!(f, "from the full CVD and {}", cdiffs(*count))?,
                }
                write!(f, " ({bytes} bytes)")
            }
        }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { path, why } => {
                write!(
                    f,
                    "{} is damaged or was tampered with, and is not built upon: {}",
                    path.display(),
                    WithCauses(why)
                )
            }
            Self::Unvouched { path, why } => write!(f, "{}: {why}; the CLD is made anew", path.display()),
            Self::Removed { path } => write!(f, "{} is not needed any more, and removed", path.display()),
            Self::Others { path, freshclam } => {
                let who = if *freshclam { "freshclam, it seems" } else { "another program" };
                write!(
                    f,
                    "{} was written by {who}: two programs that update one directory undo each other's work; \
                     stop one of them (systemctl disable --now clamav-freshclam)",
                    path.display()
                )
            }
            Self::NoPatch { database, why } => {
                write!(f, "{database}: the full CVD is taken: {}", WithCauses(why))
            }
            Self::Unnoticed { address } => {
                let address = address.as_ref().map_or("SOCKET".to_owned(), Address::to_string);
                write!(
                    f,
                    "clamd goes on with what it has loaded: it does not look by itself (SelfCheck 0), and nobody tells \
                     it; --clamd {address} does"
                )
            }
            Self::Untold { why } => write!(f, "the mirror was not told what is here: {why}"),
            Self::NoSign { name, why } => write!(f, "{name} is left out: {why}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (database, outcome) in &self.outcomes {
            writeln!(f, "{database}: {outcome}")?;
        }
        if let Some(proof) = self.clamd {
            writeln!(f, "{proof}")?;
        }
        Ok(())
    }
}

fn cdiffs(count: u32) -> String {
    format!("{count} {}", if count == 1 { "CDIFF" } else { "CDIFFs" })
}
