//! What a round did, as one value: for the log, for people, for JSON.
use crate::{
    clock::ago,
    cvd::{Database, FileKind, FileName, NameError},
    source::{Newest, Wanted},
    trouble::{COLUMNS, Told, Trouble},
    units::size,
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr, time::Duration};

/// One round over every database.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RoundReport {
    /// When it began, epoch seconds.
    pub started_at_s: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// Each database.
    pub databases: Vec<DatabaseReport>,
    /// What is wrong with the store.
    pub findings: Vec<Trouble>,
    /// What is not as it should be around the store.
    #[serde(default)]
    pub remarks: Vec<Trouble>,
}

/// One database in a round.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DatabaseReport {
    /// Which.
    #[serde(with = "as_text")]
    pub database: Database,
    /// What the source says is newest.
    pub newest: Option<Newest>,
    /// What was published before.
    pub before: Option<u32>,
    /// What is published now.
    pub published: Option<u32>,
    /// The newest full CVD held now.
    pub cvd: Option<u32>,
    /// Every file that was asked for.
    pub files: Vec<FileReport>,
    /// Why the newest version is not published; `None` when it is.
    pub error: Option<Trouble>,
}

/// One file in a round.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FileReport {
    /// What was asked for, or came in its place.
    #[serde(with = "as_text")]
    pub wanted: Wanted,
    /// What came of it.
    pub outcome: Outcome,
    /// Bytes that came.
    pub bytes: u64,
    /// The URL or path that answered.
    pub origin: String,
    /// Why, where the outcome alone does not say it.
    pub detail: Detail,
    /// What caches on the way said of themselves.
    pub via: Vec<(String, String)>,
}

const HEADER_OF: &str = "header of ";

/// Reads what `Display` writes.
impl FromStr for Wanted {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.strip_prefix(HEADER_OF) {
            None => text.parse().map(|name: FileName| Self::from(&name)),
            Some(of) => match of.parse::<FileName>() {
                Ok(name) => Ok(Self::Header(name.database, Some(name.version))),
                Err(e) => Ok(Self::Header(of.strip_suffix(".cvd").ok_or(e)?.parse()?, None)),
            },
        }
    }
}

/// The whole file of this name.
impl From<&FileName> for Wanted {
    fn from(name: &FileName) -> Self {
        match name.kind {
            FileKind::Cvd => Self::Cvd(name.database.clone(), name.version),
            FileKind::Cdiff | FileKind::CvdSign | FileKind::CdiffSign => Self::Named(name.clone()),
        }
    }
}

/// What a row says beside its outcome.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Detail {
    /// Nothing.
    #[default]
    None,
    /// The source answered with an older version than was asked for.
    Older {
        /// The version asked for.
        asked: u32,
        /// The version that came.
        found: u32,
    },
    /// It was rebuilt from this version.
    RebuiltFrom(u32),
    /// It did not come, or was not taken.
    Trouble(Trouble),
}

impl Detail {
    /// An older answer than was asked for is said, whatever else it is good for.
    pub(super) fn asked(asked: u32, found: u32) -> Self {
        if found < asked { Self::Older { asked, found } } else { Self::None }
    }

    /// As trouble; none where there is none.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        match self {
            Self::None | Self::RebuiltFrom(_) => None,
            Self::Older { asked, found } => Some(Trouble::lagged(*asked, *found)),
            Self::Trouble(trouble) => Some(trouble.clone()),
        }
    }
}

impl fmt::Display for Detail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::RebuiltFrom(version) => write!(f, "rebuilt from version {version}"),
            Self::Older { .. } | Self::Trouble(_) => self.trouble().iter().try_for_each(|t| t.fmt(f)),
        }
    }
}

impl From<Detail> for String {
    fn from(detail: Detail) -> Self {
        detail.to_string()
    }
}

/// What another process said, in words.
impl From<String> for Detail {
    fn from(text: String) -> Self {
        if text.is_empty() { Self::None } else { Self::Trouble(text.into()) }
    }
}

/// Reads and writes a value as the text that people see.
mod as_text {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};
    use std::{fmt::Display, str::FromStr};

    pub(super) fn serialize<S: Serializer>(value: &impl Display, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
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

impl FileReport {
    /// A file of which nothing has come yet.
    pub fn new(wanted: Wanted) -> Self {
        Self {
            wanted,
            outcome: Outcome::Failed,
            bytes: 0,
            origin: String::new(),
            detail: Detail::None,
            via: Vec::new(),
        }
    }
}

impl DatabaseReport {
    /// Of a database of which nothing was done yet.
    pub fn new(database: Database) -> Self {
        let (newest, before, published, cvd, error) = (None, None, None, None, None);
        Self { database, newest, before, published, cvd, files: Vec::new(), error }
    }

    /// Takes back what the rows from `first` on say was stored, because the round ended before it was.
    pub(super) fn unsettle(&mut self, first: usize, why: &Trouble) {
        for file in self.files.iter_mut().skip(first) {
            if matches!(file.outcome, Outcome::Stored | Outcome::Rebuilt) {
                (file.outcome, file.detail) = (Outcome::Failed, Detail::Trouble(Trouble::unsealed(why)));
            }
        }
    }

    /// Says in the log how it went, if it went well: what failed is said once the round is over, a line a cause.
    pub(super) fn log(&self) {
        let (database, published) = (self.database.as_str(), self.published);
        let newest = self.newest.as_ref().map(|newest| newest.version);
        let held = published.map_or("nothing is served of it".into(), |v: u32| format!("{v} is served"));
        match &self.error {
            Some(_) => {}
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

impl RoundReport {
    /// Why newest versions are not published, one cause once.
    pub fn failures(&self) -> Vec<Told> {
        let mut told = Vec::new();
        for database in &self.databases {
            if let Some(error) = &database.error {
                Told::add(&mut told, &database.database, false, error);
            }
        }
        // What mends several is said once.
        for at in 1..told.len() {
            let (before, rest) = told.split_at_mut(at);
            if let [this, ..] = rest
                && before.iter().any(|one| one.trouble.fix == this.trouble.fix)
            {
                this.trouble.fix.clear();
            }
        }
        told
    }

    /// Says in the log what failed, one cause once, and when the next round is.
    pub(super) fn log(&self, next: Duration) {
        let next = ago(next.as_secs());
        for told in self.failures() {
            let (databases, error) = (told.databases.join(", "), &told.trouble);
            let of_it = self.databases.iter().find(|d| [d.database.as_str()] == *told.databases);
            let newest = of_it.and_then(|d| d.newest.as_ref()).map(|newest| newest.version);
            let published = of_it.and_then(|d| d.published);
            let held = match (of_it, published) {
                (_, Some(version)) => format!("; {version} is served"),
                (Some(_), None) => "; nothing is served of it".into(),
                // What is held of each stays served.
                (None, None) => String::new(),
            };
            tracing::warn!(
                database = databases,
                published,
                newest,
                error = %error,
                what = %error.what,
                why = %error.why,
                fix = %error.fix,
                "{databases}: checked and failed{held}; tried again in {next}"
            );
        }
        tracing::debug!("the next check is in {next}");
    }

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

impl fmt::Display for RoundReport {
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
        self.failures().iter().try_for_each(|told| f.write_str(&told.lines("error: ")))
    }
}

impl fmt::Display for DatabaseReport {
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
        for doubt in self.newest.iter().flat_map(|newest| &newest.doubts) {
            writeln!(f, "  note: {}", Trouble::from(doubt))?;
        }
        for file in &self.files {
            let wanted = file.wanted.to_string();
            write!(f, "  {wanted:<28} {:<7} {:>9}", file.outcome, size(file.bytes))?;
            let detail = file.detail.to_string();
            let beside = "  header of daily-28110.cvd    refused  9.26 KiB  ".len();
            let (below, beside) = match beside + detail.chars().count() {
                _ if detail.is_empty() => (String::new(), String::new()),
                ..=COLUMNS => (String::new(), format!("  {detail}")),
                // As words, since it may have come from a server.
                _ => (Trouble::from(detail).lines("", COLUMNS - 4), String::new()),
            };
            f.write_str(&beside)?;
            for (name, value) in &file.via {
                write!(f, "  {name}: {value}")?;
            }
            writeln!(f)?;
            below.lines().try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_row_is_written_as_people_read_it_and_reads_back() {
        for text in ["header of daily-9.cvd", "header of daily.cvd", "daily-9.cvd", "daily-9.cdiff.sign"] {
            let wanted: Wanted = text.parse().unwrap();
            assert_eq!(wanted.to_string(), text);
            assert_eq!(matches!(wanted, Wanted::Cvd(..)), text == "daily-9.cvd");
        }
        assert!("header of daily".parse::<Wanted>().is_err() && "daily.cvd".parse::<Wanted>().is_err());
    }
}
