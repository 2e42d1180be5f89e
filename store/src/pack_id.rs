//! A pack's name: when it was sealed, and the start of its file's hash.
use std::sync::Arc;

/// A sealed pack's id: its file stem, e.g. `20261122T205800Z-3f2a91c04d5e6b77`.
/// Ids sort by the time of sealing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PackId(Arc<str>);

impl PackId {
    const HASH_HEX: usize = 16;

    /// The last second of the year 9999: a later time has no place in an id.
    pub(crate) const MAX_TIME_S: u64 = 253_402_300_799;

    pub(crate) fn new(sealed_at_s: u64, hash: &blake3::Hash) -> Self {
        let time = sealed_at_s.min(Self::MAX_TIME_S) as i64;
        let time = jiff::Timestamp::from_second(time).unwrap_or_default();
        Self(format!("{}-{}", time.strftime("%Y%m%dT%H%M%SZ"), Self::start_of(hash)).into())
    }

    /// As much of a hash as an id has.
    pub(crate) fn start_of(hash: &blake3::Hash) -> String {
        hash.to_hex()[..Self::HASH_HEX].to_owned()
    }

    /// Takes the name of a file in `store/`; `None` if no pack is called so.
    pub fn from_file_name(name: &str) -> Option<Self> {
        let stem = name.strip_suffix(".redb")?;
        let fits = stem.len() == 33
            && stem.bytes().enumerate().all(|(i, b)| match i {
                8 => b == b'T',
                15 => b == b'Z',
                16 => b == b'-',
                0..=14 => b.is_ascii_digit(),
                _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
            });
        fits.then(|| Self(stem.into()))
    }

    /// The name of its file in `store/`.
    pub fn file_name(&self) -> String {
        format!("{}.redb", self.0)
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The start of the BLAKE3 hash of the sealed file, 16 hex digits.
    pub fn hash_start(&self) -> &str {
        &self.0[self.0.len() - Self::HASH_HEX..]
    }
}

impl serde::Serialize for PackId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl std::fmt::Display for PackId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.0)
    }
}
