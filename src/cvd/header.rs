//! The 512-byte header of a CVD or CLD.
//!
//! Guarantees that a header that parses prints back to the same bytes, so that it can be compared with its signed copy in
//! the `.info` member. Verifies no signature.
use std::fmt;

/// The size of a header, which its text is padded to with spaces.
pub const HEADER_BYTES: usize = 512;
const MAGIC: &str = "ClamAV-VDB";

/// The facts of a CVD's header.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// When it was built, as text: `%d %b %Y %H-%M %z`.
    pub build_time: String,
    /// The version; only `.info` signs it.
    pub version: u32,
    /// How many signatures the database holds.
    pub signatures: u32,
    /// The functionality level an engine needs.
    pub functionality_level: u32,
    /// The MD5 of the body; `None` where the header says `X` or anything that is not 32 characters.
    pub md5: Option<[u8; 16]>,
    /// The legacy signature's text; `None` where it is at most one character.
    pub dsig: Option<String>,
    /// Who built it.
    pub builder: String,
    /// When it was built, epoch seconds.
    pub stime_s: u64,
}

/// Why bytes are no header.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum HeaderError {
    #[error("not a ClamAV database: it does not start with \"ClamAV-VDB:\"")]
    Magic,
    #[error("header has more than 512 bytes")]
    Long,
    #[error("header cut short: {0} bytes, not 512")]
    Short(usize),
    #[error("header byte {offset} is {byte:#04x}, not printable ASCII")]
    NotPrintable { offset: usize, byte: u8 },
    #[error("header has {0} fields, not 9")]
    Fields(usize),
    /// A field that is empty, no number, out of range, or not spelled as sigtool does.
    #[error("header field {field} is not valid: {text:?}")]
    Field { field: &'static str, text: String },
}

impl Header {
    /// Parses the first 512 bytes of a CVD or CLD; what follows them is not looked at.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if !bytes.starts_with(b"ClamAV-VDB:") {
            return Err(HeaderError::Magic);
        }
        let bytes = bytes.get(..HEADER_BYTES).ok_or(HeaderError::Short(bytes.len()))?;
        Self::parse_line(printable(bytes)?.trim_end_matches(' '))
    }

    /// Parses a header's text without its padding, as line 1 of a `.info` member has it.
    pub fn parse_line(line: &str) -> Result<Self, HeaderError> {
        let fields: Vec<&str> = line.split(':').collect();
        let &[magic, build_time, version, signatures, level, md5, dsig, builder, stime] = fields.as_slice()
        else {
            return Err(if fields[0] == MAGIC {
                HeaderError::Fields(fields.len())
            } else {
                HeaderError::Magic
            });
        };
        if magic != MAGIC {
            return Err(HeaderError::Magic);
        }
        printable(line.as_bytes())?;
        Ok(Self {
            build_time: text("build time", build_time)?,
            version: number("version", version)?,
            signatures: number("signatures", signatures)?,
            functionality_level: number("functionality level", level)?,
            md5: if md5.len() == 32 { Some(hex("md5", md5)?) } else { None },
            dsig: (dsig.len() > 1).then(|| dsig.to_owned()),
            builder: text("builder", builder)?,
            stime_s: number("stime", stime)?,
        })
    }

    /// The same header as the `.info` member has it: without MD5 and signature.
    pub fn unsigned(&self) -> Self {
        Self { md5: None, dsig: None, ..self.clone() }
    }

    /// The 512 bytes; `None` if the text is longer than that.
    pub fn to_bytes(&self) -> Option<[u8; HEADER_BYTES]> {
        let line = self.to_string();
        let mut bytes = [b' '; HEADER_BYTES];
        bytes.get_mut(..line.len())?.copy_from_slice(line.as_bytes());
        Some(bytes)
    }
}

/// Writes the text without padding; absent fields as `X`.
impl fmt::Display for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { build_time, version, signatures, functionality_level, md5, dsig, builder, stime_s } = self;
        write!(f, "{MAGIC}:{build_time}:{version}:{signatures}:{functionality_level}:")?;
        match md5 {
            Some(md5) => md5.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?,
            None => f.write_str("X")?,
        }
        write!(f, ":{}:{builder}:{stime_s}", dsig.as_deref().unwrap_or("X"))
    }
}

fn printable(bytes: &[u8]) -> Result<&str, HeaderError> {
    match bytes.iter().position(|byte| !(0x20..0x7f).contains(byte)) {
        Some(offset) => Err(HeaderError::NotPrintable { offset, byte: bytes[offset] }),
        // Printable ASCII is always UTF-8, so nothing is lost.
        None => std::str::from_utf8(bytes).map_err(|_| HeaderError::Magic),
    }
}

fn bad(field: &'static str, text: &str) -> HeaderError {
    HeaderError::Field { field, text: text.chars().take(64).collect() }
}

fn text(field: &'static str, value: &str) -> Result<String, HeaderError> {
    if value.is_empty() { Err(bad(field, value)) } else { Ok(value.to_owned()) }
}

/// Digits without a sign or leading zeros, in range.
pub(super) fn number<T: std::str::FromStr>(field: &'static str, value: &str) -> Result<T, HeaderError> {
    let canonical = value.bytes().all(|b| b.is_ascii_digit()) && (value == "0" || !value.starts_with('0'));
    value.parse().ok().filter(|_| canonical).ok_or_else(|| bad(field, value))
}

/// Lower-case hex of exactly `N` bytes: ClamAV compares digests as text, so upper case never matches.
pub(super) fn hex<const N: usize>(field: &'static str, value: &str) -> Result<[u8; N], HeaderError> {
    let digit = |b: u8| match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if value.len() != 2 * N {
        return Err(bad(field, value));
    }
    for (byte, pair) in bytes.iter_mut().zip(value.as_bytes().chunks_exact(2)) {
        let (Some(high), Some(low)) = (digit(pair[0]), digit(pair[1])) else { return Err(bad(field, value)) };
        *byte = high << 4 | low;
    }
    Ok(bytes)
}
