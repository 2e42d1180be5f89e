//! Trouble as a value: what is wrong, why, and what mends it. Every word that people read of it is put together here.
//!
//! Below it stand the typed errors of `cvd`, `store`, `source` and `state`, which say what happened; above it
//! everything that tells people: log, status, report, history, /health, the page, /metrics and doctor.
mod mirror;
mod source;
mod start;
mod store;

pub use cvdmirror_store::Severity;
pub use source::NOTHING_NEWER;
pub use start::{PRIVILEGED_PORT, see_who_holds};
pub use store::disk;

use serde::{Deserialize, Serialize};
use std::fmt;

/// Something that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "Written")]
pub struct Trouble {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of trouble it is: what code decides by.
    pub kind: TroubleKind,
    /// What is wrong: the thing, and what happened to it.
    pub what: String,
    /// The cause, where it is known beside that; else empty.
    pub why: String,
    /// The line to write or the thing to do; empty where it mends itself.
    pub fix: String,
}

/// The kinds of trouble. They outlive a build: a kind that another build wrote reads as unknown.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TroubleKind {
    /// The source does not have a file.
    Absent,
    /// The source refuses this client.
    Denied,
    /// The source limits this client.
    Limited,
    /// The source is left alone for now.
    CoolDown,
    /// The source answers with an error.
    Answer,
    /// A file is larger than its kind may be.
    TooLarge,
    /// A body broke off.
    Truncated,
    /// A body came too slowly.
    TooSlow,
    /// What answers speaks another protocol.
    WrongScheme,
    /// The source cannot be reached.
    Unreachable,
    /// No client for the source can be made.
    Client,
    /// An entry of a directory source is no plain file.
    NotAFile,
    /// A file changed while it was read.
    Changed,
    /// The source redirects to where it may not.
    Redirect,
    /// What the source offers is no CVD.
    NotACvd,
    /// The TXT record cannot be had or read.
    TxtRecord,
    /// What the source says does not agree.
    Doubt,
    /// What came does not verify.
    Refused,
    /// The source has gone back to an older version.
    Older,
    /// The newest version cannot be had yet.
    Behind,
    /// A full CVD could not be rebuilt.
    Rebuild,
    /// The clock is wrong.
    Clock,
    /// The certificates cannot be read.
    Certificates,
    /// The operating system refuses a file.
    Disk,
    /// A file is of a newer build's format.
    NewerFormat,
    /// A pack cannot be used.
    Unusable,
    /// A pack was altered after it was sealed.
    Altered,
    /// Something in the store that is no pack.
    Foreign,
    /// A name whose content does not hold, and is not published.
    Withdrawn,
    /// A name bound to two contents.
    NameConflict,
    /// A name whose object is not held.
    ObjectMissing,
    /// Stored bytes do not match their hash.
    Corrupt,
    /// Space that nothing uses.
    Unused,
    /// The store refuses for another reason.
    Store,
    /// The state file.
    State,
    /// A pack that is not admitted, or not yet.
    Pack,
    /// The data directory is in use.
    Locked,
    /// There is no data directory.
    NoStore,
    /// Old packs cannot be removed.
    Gc,
    /// An address cannot be bound.
    Address,
    /// The data directory cannot be used.
    DataDir,
    /// The source gives nothing, or not what it should.
    Source,
    /// A client's settings lead it elsewhere, or cost more than they need.
    ClientConf,
    /// The server cannot start.
    Start,
    /// Nothing is held.
    Empty,
    /// What is published was not confirmed for too long.
    Stale,
    /// The newest version there is was built too long ago.
    Frozen,
    /// The downloader that is run does not do its work.
    Downloader,
    /// A kind of another build.
    #[serde(other)]
    Unknown,
}

impl TroubleKind {
    /// Whether it concerns the whole source, the disk or this machine rather than one file.
    fn is_shared(self) -> bool {
        matches!(
            self,
            Self::Denied
                | Self::Limited
                | Self::CoolDown
                | Self::WrongScheme
                | Self::Unreachable
                | Self::Client
                | Self::Redirect
                | Self::Disk
                | Self::Clock
                | Self::Downloader
        )
    }
}

/// The advice, on a line of its own, where only another user may read; empty for any other error.
pub(crate) fn sudo(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::PermissionDenied => "\n  fix: it is another user's: put sudo before the command",
        _ => "",
    }
}

/// How wide what people read is, characters.
pub const COLUMNS: usize = 100;

impl Trouble {
    /// Something is wrong.
    pub fn new(kind: TroubleKind, what: impl Into<String>) -> Self {
        let (why, fix) = (String::new(), String::new());
        Self { severity: Severity::Error, kind, what: what.into(), why, fix }
    }

    /// Adds the cause.
    pub fn because(self, why: impl fmt::Display) -> Self {
        Self { why: why.to_string(), ..self }
    }

    /// Adds what mends it.
    pub fn mend(self, fix: impl Into<String>) -> Self {
        Self { fix: fix.into(), ..self }
    }

    /// Nothing is lost by it.
    pub fn warning(self) -> Self {
        Self { severity: Severity::Warning, ..self }
    }

    /// What is wrong and why, without what mends it.
    pub fn said(&self) -> String {
        match &*self.why {
            "" => self.what.clone(),
            why => format!("{}: {why}", self.what),
        }
    }

    /// The same on a line of so many characters after `before`, or two where it does not fit into one, and what mends it below.
    pub fn lines(&self, before: &str, columns: usize) -> String {
        let said = self.said();
        let fits = before.chars().count() + said.chars().count() <= columns;
        let mut lines = match said.split_once(": ").filter(|_| !fits) {
            Some((what, cause)) => format!("{before}{what}:\n  {cause}\n"),
            None => format!("{before}{said}\n"),
        };
        if !self.fix.is_empty() {
            lines += &format!("  fix: {}\n", self.fix.replace('\n', "\n       "));
        }
        lines
    }

    /// Whether it is the same trouble at another moment: a wait gets shorter, a download breaks off elsewhere.
    pub fn recurs(&self, other: &Self) -> bool {
        let unknown = self.kind == TroubleKind::Unknown && self.what != other.what;
        self.kind == other.kind && self.why == other.why && !unknown
    }

    /// Whether it has the same cause as another database's trouble, so that one line says both.
    pub fn same_cause(&self, other: &Self) -> bool {
        self.recurs(other) && (self.kind.is_shared() || self.what == other.what)
    }

    /// With each text cut to so many characters.
    pub fn cut(&self, chars: usize) -> Self {
        let cut = |text: &String| match text.char_indices().nth(chars) {
            Some((at, _)) => format!("{} …", &text[..at]),
            None => text.clone(),
        };
        Self { what: cut(&self.what), why: cut(&self.why), fix: cut(&self.fix), ..*self }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said())?;
        if self.fix.is_empty() { Ok(()) } else { write!(f, "; {}", self.fix.replace('\n', " ")) }
    }
}

/// As builds wrote it: once as plain words.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Words(String),
    Value {
        severity: Severity,
        kind: TroubleKind,
        what: String,
        #[serde(default)]
        why: String,
        #[serde(default)]
        fix: String,
    },
}

impl From<Written> for Trouble {
    fn from(written: Written) -> Self {
        match written {
            Written::Words(what) => what.into(),
            Written::Value { severity, kind, what, why, fix } => Self { severity, kind, what, why, fix },
        }
    }
}

/// Words of which nothing more is known.
impl From<String> for Trouble {
    fn from(what: String) -> Self {
        Self::new(TroubleKind::Unknown, what)
    }
}

impl From<&str> for Trouble {
    fn from(what: &str) -> Self {
        what.to_owned().into()
    }
}

/// Trouble of some databases that has one cause.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Told {
    /// Whose; nobody's for the store's and this machine's.
    pub databases: Vec<String>,
    /// Whether their last check ended with it.
    pub failed: bool,
    /// It. Of several, the first one's words.
    pub trouble: Trouble,
}

impl Told {
    /// Trouble that is no single database's.
    pub fn of_all(trouble: Trouble) -> Self {
        Self { databases: Vec::new(), failed: false, trouble }
    }

    /// Whose it is, what is wrong and why, without what mends it.
    pub fn said(&self) -> String {
        format!("{}{}", self.whose(), self.trouble.said())
    }

    /// The same in lines, what mends it in one of its own.
    pub fn lines(&self, before: &str) -> String {
        self.trouble.lines(&format!("{before}{}", self.whose()), COLUMNS)
    }

    fn whose(&self) -> String {
        let whose = if self.databases.is_empty() { "" } else { ": " };
        let checked = if self.failed { "the last check failed: " } else { "" };
        format!("{}{whose}{checked}", self.databases.join(", "))
    }

    /// Adds one database's trouble: to what has the same cause, or else by itself.
    pub fn add(all: &mut Vec<Self>, database: &dyn fmt::Display, failed: bool, trouble: &Trouble) {
        let alike = |told: &&mut Self| {
            told.failed == failed && !told.databases.is_empty() && told.trouble.same_cause(trouble)
        };
        match all.iter_mut().find(alike) {
            Some(told) => told.databases.push(database.to_string()),
            None => {
                all.push(Self { databases: vec![database.to_string()], failed, trouble: trouble.clone() });
            }
        }
    }
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.said())?;
        if self.trouble.fix.is_empty() {
            Ok(())
        } else {
            write!(f, "; {}", self.trouble.fix.replace('\n', " "))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_another_build_wrote_reads() {
        let read = |json: &str| serde_json::from_str::<Trouble>(json).unwrap();
        assert_eq!(read(r#""the disk is full""#), Trouble::from("the disk is full"));
        let later = read(r#"{"severity":"warning","kind":"from_the_future","what":"x","more":1}"#);
        assert_eq!(later, Trouble::from("x").warning());
        let ours = Trouble::new(TroubleKind::Denied, "a").because("b").mend("c");
        assert_eq!(read(&serde_json::to_string(&ours).unwrap()), ours);
    }

    #[test]
    fn one_cause_is_told_once_for_all_whom_it_concerns() {
        let down =
            |file: &str| Trouble::new(TroubleKind::Unreachable, file).because("refused").mend("start it");
        let mut told = Vec::new();
        for database in ["main", "daily"] {
            Told::add(&mut told, &database, true, &down(&format!("http://x/{database}.cvd")));
            Told::add(
                &mut told,
                &database,
                true,
                &Trouble::new(TroubleKind::Absent, format!("{database}.cvd")),
            );
        }
        let lines: Vec<String> = told.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "main, daily: the last check failed: http://x/main.cvd: refused; start it",
                "main: the last check failed: main.cvd",
                "daily: the last check failed: daily.cvd",
            ]
        );
    }

    #[test]
    fn every_text_is_bounded() {
        let long = Trouble::from("ä".repeat(1000)).because("ö".repeat(1000)).mend("ü".repeat(1000));
        assert_eq!(long.cut(10).to_string().chars().count(), 3 * 12 + 4);
    }
}
