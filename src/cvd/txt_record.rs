//! The TXT records that advertise versions: `current.cvd.<zone>` of the official databases, `<db>.cvd.<zone>` of others.
//!
//! As tolerant as freshclam about fields it does not need: a field that is no number counts as absent.
use super::name::Database;
use std::fmt;

/// freshclam reads replies of at most 512 bytes, and of those the first string.
const MAX_BYTES: usize = 255;
/// A record of this length still fits when it is printed, whatever its numbers.
const MAX_ENGINE_BYTES: usize = 64;
/// The fields of `current.cvd.<zone>` that hold a database's version (`libfreshclam/libfreshclam.c`).
const VERSION_FIELDS: [(&str, usize); 4] = [("main", 1), ("daily", 2), ("safebrowsing", 6), ("bytecode", 7)];

/// The record at `current.cvd.<zone>`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CurrentRecord {
    /// Field 0, the recommended ClamAV version, as text.
    pub engine: String,
    /// Field 1, main's version.
    pub main: Option<u32>,
    /// Field 2, daily's version.
    pub daily: Option<u32>,
    /// Field 3, when the record was made, epoch seconds.
    pub time_s: Option<u64>,
    /// Field 4, whether clients are to be told of a newer ClamAV.
    pub version_warning: Option<u32>,
    /// Field 5, the newest functionality level.
    pub functionality_level: Option<u32>,
    /// Field 6, a database that is no longer made.
    pub safebrowsing: Option<u32>,
    /// Field 7, bytecode's version.
    pub bytecode: Option<u32>,
}

/// The record at `<db>.cvd.<zone>`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DatabaseRecord {
    /// The newest version.
    pub version: u32,
    /// When the record was made, epoch seconds.
    pub time_s: Option<u64>,
}

/// Why a text is no record.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a record of database versions: {0:?}")]
pub struct TxtError(String);

impl CurrentRecord {
    /// Says whether a database has a field in this record.
    pub fn has_field(database: &Database) -> bool {
        Self::field_of(database).is_some()
    }

    /// The field that has its version.
    pub fn field_of(database: &Database) -> Option<usize> {
        VERSION_FIELDS.iter().find(|(name, _)| *name == database.as_str()).map(|(_, field)| *field)
    }

    /// Parses a record; an unknown field is absent, but one that names no version at all is an error.
    pub fn parse(text: &str) -> Result<Self, TxtError> {
        let fields = fields(text)?;
        let field = |index: usize| fields.get(index).copied().unwrap_or_default();
        let record = Self {
            engine: field(0).to_owned(),
            main: version(field(1)),
            daily: version(field(2)),
            time_s: number(field(3)),
            version_warning: number(field(4)),
            functionality_level: number(field(5)),
            safebrowsing: version(field(6)),
            bytecode: version(field(7)),
        };
        if record.engine.len() > MAX_ENGINE_BYTES {
            return Err(error(text));
        }
        let any = record.main.or(record.daily).or(record.safebrowsing).or(record.bytecode);
        if any.is_some() { Ok(record) } else { Err(error(text)) }
    }

    /// The version of a database, if this record has a field for it and the field a version.
    pub fn version(&self, database: &Database) -> Option<u32> {
        match database.as_str() {
            "main" => self.main,
            "daily" => self.daily,
            "safebrowsing" => self.safebrowsing,
            "bytecode" => self.bytecode,
            _ => None,
        }
    }

    /// Sets the version of a database that has a field; false for others.
    pub fn set_version(&mut self, database: &Database, version: u32) -> bool {
        let field = match database.as_str() {
            "main" => &mut self.main,
            "daily" => &mut self.daily,
            "safebrowsing" => &mut self.safebrowsing,
            "bytecode" => &mut self.bytecode,
            _ => return false,
        };
        *field = Some(version);
        true
    }
}

/// Absent numbers are written as 0, as the field of a dead database is.
impl fmt::Display for CurrentRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let or_zero = Option::unwrap_or_default;
        let (main, daily, time_s): (u32, u32, u64) =
            (or_zero(self.main), or_zero(self.daily), self.time_s.unwrap_or(0));
        let (warning, level) = (or_zero(self.version_warning), or_zero(self.functionality_level));
        let (safebrowsing, bytecode) = (or_zero(self.safebrowsing), or_zero(self.bytecode));
        write!(f, "{}:{main}:{daily}:{time_s}:{warning}:{level}:{safebrowsing}:{bytecode}", self.engine)
    }
}

impl DatabaseRecord {
    /// Parses a record.
    pub fn parse(text: &str) -> Result<Self, TxtError> {
        let fields = fields(text)?;
        let version = version(fields[0]).ok_or_else(|| error(text))?;
        Ok(Self { version, time_s: fields.get(1).and_then(|field| number(field)) })
    }
}
impl fmt::Display for DatabaseRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.version, self.time_s.unwrap_or_default())
    }
}

fn fields(text: &str) -> Result<Vec<&str>, TxtError> {
    let text = text.trim_matches(|c: char| c == '"' || c.is_ascii_whitespace());
    let proper = text.len() <= MAX_BYTES && text.bytes().all(|b| (0x20..0x7f).contains(&b));
    if proper { Ok(text.split(':').map(str::trim).collect()) } else { Err(error(text)) }
}

fn error(text: &str) -> TxtError {
    TxtError(text.chars().take(64).collect())
}

fn number<T: std::str::FromStr>(field: &str) -> Option<T> {
    if field.bytes().all(|b| b.is_ascii_digit()) { field.parse().ok() } else { None }
}

/// A version; there is no version 0.
fn version(field: &str) -> Option<u32> {
    number(field).filter(|&version| version > 0)
}
