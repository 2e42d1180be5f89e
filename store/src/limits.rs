//! The bounds of a pack's format, which writers keep and readers demand.
use crate::Error;

/// Longest name in bytes.
pub const MAX_NAME_LEN: usize = 255;
/// Longest `origin` of a [`NameRecord`](crate::NameRecord) in bytes.
pub const MAX_TEXT_LEN: usize = 4096;
/// Most names, and most objects, in one pack.
pub const MAX_ROWS: u64 = 250_000;
/// Longest object in bytes.
pub const MAX_OBJECT_LEN: u64 = 16 << 30;
/// Most bytes of names and their records in one pack. They are held in memory.
pub(crate) const MAX_NAME_BYTES: usize = 64 << 20;

pub(crate) fn bounded(what: &'static str, found: u64, limit: u64) -> Result<(), Error> {
    if found <= limit {
        return Ok(());
    }
    Err(Error::TooMuch { what, found, limit })
}

/// Checks the form of a name: 1 to [`MAX_NAME_LEN`] bytes, no `/`, no control characters, not `.` or `..`.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let rule = if name.is_empty() || name.len() > MAX_NAME_LEN {
        "a name has 1 to 255 bytes"
    } else if name.contains('/') || name == "." || name == ".." {
        "a name is no path"
    } else if name.chars().any(char::is_control) {
        "a name has no control characters"
    } else {
        return Ok(());
    };
    Err(bad_name(name, rule))
}

pub(crate) fn bad_name(name: &str, rule: &'static str) -> Error {
    Error::BadName { name: name.chars().take(MAX_NAME_LEN).collect(), rule }
}
