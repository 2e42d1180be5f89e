//! What a round did, as one value: for the log, for people, for JSON.
use crate::source::Newest;
use serde::{Deserialize, Serialize};
use std::fmt;

/// One round over every database.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Round {
    /// When it began, epoch seconds.
    pub started_at_s: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Each database.
    pub databases: Vec<DatabaseRound>,
    /// What is wrong with the store, in words.
    pub findings: Vec<String>,
    /// What is not as it should be around the store, in words that name the fix.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// One database in a round.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseRound {
    /// Which.
    pub database: String,
    /// What the source says is newest.
    pub newest: Option<Newest>,
    /// What was published before.
    pub before: Option<u32>,
    /// What is published now.
    pub published: Option<u32>,
    /// The newest full CVD held now.
    pub cvd: Option<u32>,
    /// Every file that was asked for.
    pub files: Vec<FileRound>,
    /// Why the newest version is not published; `None` when it is.
    pub error: Option<String>,
}

/// One file in a round.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileRound {
    /// What was asked for.
    pub wanted: String,
    /// What came of it.
    pub outcome: Outcome,
    /// Bytes that came.
    pub bytes: u64,
    /// The URL or path that answered.
    pub origin: String,
    /// Why, where the outcome alone does not say it.
    pub detail: String,
    /// What caches on the way said of themselves.
    pub via: Vec<(String, String)>,
}

/// What came of asking for a file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Verified and stored.
    Stored,
    /// Not fetched, but rebuilt from what is held; verified and stored.
    Rebuilt,
    /// Fetched and used, not kept (a header).
    Used,
    /// The source does not have it.
    Absent,
    /// The source answered with an older version than it speaks of.
    Stale,
    /// What came does not verify; nothing of it is kept.
    Refused,
    /// It could not be fetched.
    Failed,
}

impl FileRound {
    /// A file of which nothing has come yet.
    pub fn of(wanted: String) -> Self {
        Self {
            wanted,
            outcome: Outcome::Failed,
            bytes: 0,
            origin: String::new(),
            detail: String::new(),
            via: Vec::new(),
        }
    }
}

impl DatabaseRound {
    /// Takes back what the rows from `first` on say was stored, because the round ended before it was.
    pub(super) fn unsettle(&mut self, first: usize, why: &str) {
        for file in self.files.iter_mut().skip(first) {
            if matches!(file.outcome, Outcome::Stored | Outcome::Rebuilt) {
                (file.outcome, file.detail) = (Outcome::Failed, format!("came, and is not stored: {why}"));
            }
        }
    }

    /// Says in the log how it went: a line, and a warning where the newest version is not published.
    pub(super) fn log(&self) {
        let (database, published) = (&self.database, self.published);
        let newest = self.newest.as_ref().map(|newest| newest.version);
        let held = published.map_or("nothing is served of it".into(), |v: u32| format!("{v} is served"));
        match &self.error {
            Some(error) => tracing::warn!(
                database,
                published,
                newest,
                error,
                "{database}: checked in vain: {error}; {held}; it is tried again by itself, and if that does not help, \
                 `cvdmirror doctor` says what does"
            ),
            None if self.before == published => {
                tracing::info!(
                    database,
                    published,
                    newest,
                    "{database}: checked, {held}, the newest there is"
                );
            }
            None => tracing::info!(database, published, newest, "{database}: checked, {held}, and is new"),
        }
    }
}

impl Round {
    /// Whether everything that the source advertises could be had.
    pub fn is_complete(&self) -> bool {
        self.databases.iter().all(|database| database.error.is_none())
    }

    /// Whether some full CVD lags behind what patches lead to, because the source's own copy does.
    pub fn lags(&self) -> bool {
        self.databases.iter().any(|database| database.cvd < database.published)
    }
}

impl Outcome {
    /// Every one.
    pub const ALL: [Self; 7] =
        [Self::Stored, Self::Rebuilt, Self::Used, Self::Absent, Self::Stale, Self::Refused, Self::Failed];

    /// Its name as a label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Rebuilt => "rebuilt",
            Self::Used => "used",
            Self::Absent => "absent",
            Self::Stale => "stale",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refused => "REFUSED",
            Self::Failed => "FAILED",
            other => other.label(),
        })
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "store: {finding}")?;
        }
        for remark in &self.remarks {
            writeln!(f, "note: {remark}")?;
        }
        for database in &self.databases {
            database.fmt(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for DatabaseRound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |v: Option<u32>| v.map_or("nothing".into(), |v: u32| v.to_string());
        write!(f, "{}: ", self.database)?;
        match (self.before, self.published) {
            (before, after) if before == after => write!(f, "{} published", version(after))?,
            (before, after) => write!(f, "{} -> {} published", version(before), version(after))?,
        }
        if self.cvd.is_some() && self.cvd != self.published {
            write!(f, " (full CVD {}, patches to {})", version(self.cvd), version(self.published))?;
        }
        if let Some(newest) = &self.newest {
            write!(f, ", the source says {} ({})", newest.version, newest.evidence)?;
        }
        writeln!(f)?;
        for remark in self.newest.iter().flat_map(|newest| &newest.remarks) {
            writeln!(f, "  note: {remark}")?;
        }
        for file in &self.files {
            write!(f, "  {:<28} {:<7} {:>10} bytes", file.wanted, file.outcome, file.bytes)?;
            if !file.detail.is_empty() {
                write!(f, "  {}", file.detail)?;
            }
            for (name, value) in &file.via {
                write!(f, "  {name}: {value}")?;
            }
            writeln!(f)?;
        }
        if let Some(error) = &self.error {
            writeln!(f, "  error: {error}")?;
        }
        Ok(())
    }
}
