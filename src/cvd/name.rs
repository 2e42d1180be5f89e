//! The closed grammar of names: `<db>-<version>.cvd`, `.cdiff`, and their `.sign`.
use std::{fmt, str::FromStr};

/// A database's name: what stands before the first `-` or `.` of its files; ASCII letters, digits, `_`, at most 32.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Database(String);

/// What kind of file a versioned name names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FileKind {
    /// `<db>-<N>.cvd`: the whole database.
    Cvd,
    /// `<db>-<N>.cdiff`: the step from N-1 to N.
    Cdiff,
    /// `<db>-<N>.cvd.sign`: a detached signature of the CVD.
    CvdSign,
    /// `<db>-<N>.cdiff.sign`: a detached signature of the CDIFF.
    CdiffSign,
}

/// A name that never changes its content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct FileName {
    /// The part before the `-`.
    pub database: Database,
    /// The version, 1 or more.
    pub version: u32,
    /// What the suffix says.
    pub kind: FileKind,
}

/// Why a text is no database or file name.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a database or versioned file name: {0:?}")]
pub struct NameError(pub String);

impl Database {
    /// The name as it stands in file names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for Database {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let ok = (1..=32).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if ok { Ok(Self(s.into())) } else { Err(NameError(s.chars().take(64).collect())) }
    }
}
impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FileKind {
    /// The ending, with its dot.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Cvd => ".cvd",
            Self::Cdiff => ".cdiff",
            Self::CvdSign => ".cvd.sign",
            Self::CdiffSign => ".cdiff.sign",
        }
    }
    /// The kind of its sign file; `None` for a sign file.
    pub fn sign(self) -> Option<Self> {
        match self {
            Self::Cvd => Some(Self::CvdSign),
            Self::Cdiff => Some(Self::CdiffSign),
            Self::CvdSign | Self::CdiffSign => None,
        }
    }
}

impl FileName {
    /// Puts a name together.
    pub fn new(database: &Database, version: u32, kind: FileKind) -> Self {
        Self { database: database.clone(), version, kind }
    }
    /// The name of the file that this sign file signs; `None` for any other file.
    pub fn signed(&self) -> Option<Self> {
        let kind = match self.kind {
            FileKind::CvdSign => FileKind::Cvd,
            FileKind::CdiffSign => FileKind::Cdiff,
            FileKind::Cvd | FileKind::Cdiff => return None,
        };
        Some(Self { kind, ..self.clone() })
    }
    /// The name of the CLD of this version.
    pub fn cld(&self) -> String {
        format!("{}-{}.cld", self.database, self.version)
    }
    /// The name of that one's sign file, which only a site's own CA makes.
    pub fn cld_sign(&self) -> String {
        format!("{}.sign", self.cld())
    }
    /// The name of the CVD of the version that the name of a CLD names.
    pub fn of_cld(name: &str) -> Option<Self> {
        format!("{}.cvd", name.strip_suffix(".cld")?).parse().ok()
    }
    /// The name of its sign file; `None` for a sign file.
    pub fn sign(&self) -> Option<Self> {
        Some(Self { kind: self.kind.sign()?, ..self.clone() })
    }
}
impl FromStr for FileName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        let err = || NameError(s.chars().take(64).collect());
        let (database, rest) = s.split_once('-').ok_or_else(err)?;
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (version, suffix) = rest.split_at(digits);
        // One name a version: no leading zeros (which also keeps 0 out), and nothing past u32.
        if version.starts_with('0') {
            return Err(err());
        }
        let kind = [FileKind::Cvd, FileKind::Cdiff, FileKind::CvdSign, FileKind::CdiffSign]
            .into_iter()
            .find(|kind| kind.suffix() == suffix)
            .ok_or_else(err)?;
        Ok(Self {
            database: database.parse().map_err(|_| err())?,
            version: version.parse().map_err(|_| err())?,
            kind,
        })
    }
}
impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}{}", self.database, self.version, self.kind.suffix())
    }
}
