//! The body of a CVD: a tar, gzip-compressed or raw, read as a stream.
//!
//! Guarantees ClamAV's member rules (regular files, names without a path) and the given limits; a body ends where its
//! archive ends, with nothing after it. Says nothing about whether the members are genuine.
//! Source of the rules: `cli_untgz` and `cli_tgzload` in `libclamav/cvd.c`.
use super::{limits::Limits, zlib};
use std::{collections::BTreeSet, io};

/// The size of a tar block.
pub(super) const BLOCK_BYTES: usize = 512;
/// The start of a raw body: the name of its first member.
const RAW_START: &[u8] = b"COPYING";
const BUFFER_BYTES: usize = 64 << 10;

/// How a body is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// A gzip-compressed tar.
    Gzip,
    /// A raw tar, as in a CLD.
    Tar,
}

/// What a tar header says of a member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its name, without a path.
    pub name: String,
    /// Its size in bytes, as announced.
    pub size: u64,
}

/// Why a body cannot be read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ContainerError {
    #[error("cannot read the body")]
    Read(#[from] io::Error),
    /// Not gzip, damaged, or with a wrong check sum or length.
    #[error("body is no valid gzip")]
    Gzip(#[from] zlib::ZlibError),
    #[error("body cut short at inflated byte {0}")]
    Truncated(u64),
    #[error("bytes after the end of the archive, at inflated byte {0}")]
    Trailing(u64),
    /// A name with a path, or with a character no database file has.
    #[error("member name {0:?} is not allowed")]
    Name(String),
    #[error("member {name} is no regular file (type {kind:#04x})")]
    Kind { name: String, kind: u8 },
    #[error("member {0} has no valid size")]
    Size(String),
    #[error("member {0} is there twice")]
    Duplicate(String),
    #[error("member {name} has {size} bytes, more than the limit of {limit}")]
    MemberTooLarge { name: String, size: u64, limit: u64 },
    #[error("more than {0} members")]
    TooManyMembers(usize),
    #[error("body inflates to more than {0} bytes")]
    TooLarge(u64),
}

/// Reads the members of a body one after the other.
pub struct Members<R> {
    body: Body<R>,
    limits: Limits,
    seen: BTreeSet<String>,
    /// Content bytes of the current member not yet read.
    left: u64,
    /// Padding after the current member.
    padding: u64,
}

impl<R: io::Read> Members<R> {
    /// Starts at the first byte after the header (byte 512 of the file).
    pub fn new(body: R, limits: &Limits) -> Result<Self, ContainerError> {
        let body = Body::new(body, limits.max_inflated_bytes)?;
        Ok(Self { body, limits: *limits, seen: BTreeSet::new(), left: 0, padding: 0 })
    }

    /// How the body is stored.
    pub fn form(&self) -> Form {
        if self.body.inflate.is_some() { Form::Gzip } else { Form::Tar }
    }

    /// Goes to the next member, skipping what was not read of this one; `None` at the proper end of the body.
    pub fn next_member(&mut self) -> Result<Option<Entry>, ContainerError> {
        self.skip()?;
        let mut block = [0; BLOCK_BYTES];
        match self.body.fill(&mut block)? {
            0 => return Ok(None),
            BLOCK_BYTES => {}
            _ => return Err(ContainerError::Truncated(self.body.offset)),
        }
        if block[0] == 0 {
            self.expect_only_zeros(&block)?;
            return Ok(None);
        }
        let entry = parse_block(&block)?;
        if entry.size > self.limits.max_member_bytes {
            let limit = self.limits.max_member_bytes;
            return Err(ContainerError::MemberTooLarge { name: entry.name, size: entry.size, limit });
        }
        if self.seen.len() == self.limits.max_members {
            return Err(ContainerError::TooManyMembers(self.limits.max_members));
        }
        if !self.seen.insert(entry.name.clone()) {
            return Err(ContainerError::Duplicate(entry.name));
        }
        self.left = entry.size;
        self.padding = padding(entry.size);
        Ok(Some(entry))
    }

    /// Reads content of the current member; 0 at its end.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, ContainerError> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(out.len());
        let got = self.body.fill(&mut out[..want])?;
        self.left -= got as u64;
        if got < want { Err(ContainerError::Truncated(self.body.offset)) } else { Ok(got) }
    }

    /// Reads the rest of the current member into memory; the caller has checked its size.
    pub fn read_all(&mut self) -> Result<Vec<u8>, ContainerError> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match self.read(&mut buffer)? {
                0 => return Ok(bytes),
                got => bytes.extend_from_slice(&buffer[..got]),
            }
        }
    }

    fn skip(&mut self) -> Result<(), ContainerError> {
        let mut left = std::mem::take(&mut self.left) + std::mem::take(&mut self.padding);
        let mut buffer = vec![0; BUFFER_BYTES.min(usize::try_from(left).unwrap_or(BUFFER_BYTES))];
        while left > 0 {
            let want = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let got = self.body.fill(&mut buffer[..want])?;
            if got < want {
                return Err(ContainerError::Truncated(self.body.offset));
            }
            left -= got as u64;
        }
        Ok(())
    }

    /// Only zeros may follow an end-of-archive block: anything else would be content that no reader sees.
    fn expect_only_zeros(&mut self, block: &[u8]) -> Result<(), ContainerError> {
        let mut buffer = vec![0; BUFFER_BYTES];
        buffer[..block.len()].copy_from_slice(block);
        let mut got = block.len();
        while got > 0 {
            if buffer[..got].iter().any(|&byte| byte != 0) {
                return Err(ContainerError::Trailing(self.body.offset - got as u64));
            }
            got = self.body.fill(&mut buffer)?;
        }
        Ok(())
    }
}

/// How many bytes follow a member of this size to fill its last block.
pub(super) fn padding(size: u64) -> u64 {
    size.next_multiple_of(BLOCK_BYTES as u64) - size
}

/// Says whether a tar or `.info` may have a member of this name: no path, not hidden, nothing special to a shell.
pub(super) fn is_member_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    (1..=99).contains(&name.len()) && !name.starts_with(['.', '-']) && name.bytes().all(allowed)
}

fn parse_block(block: &[u8; BLOCK_BYTES]) -> Result<Entry, ContainerError> {
    let until_nul =
        |field: &[u8]| String::from_utf8_lossy(field.split(|&b| b == 0).next().unwrap_or(field)).into_owned();
    let name = until_nul(&block[..100]);
    if !is_member_name(&name) {
        return Err(ContainerError::Name(name));
    }
    let kind = block[156];
    if !matches!(kind, 0 | b'0') {
        return Err(ContainerError::Kind { name, kind });
    }
    let digits = until_nul(&block[124..136]);
    let digits = digits.trim_matches(' ');
    let octal = !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0'..=b'7'));
    match u64::from_str_radix(digits, 8) {
        Ok(size) if octal => Ok(Entry { name, size }),
        _ => Err(ContainerError::Size(name)),
    }
}

/// Inflates a gzip stream that is exactly `bytes`, up to a limit.
pub(super) fn inflate(bytes: &[u8], limit: u64) -> Result<Vec<u8>, ContainerError> {
    let mut body = Body::new(bytes, limit)?;
    if body.inflate.is_none() {
        body.inflate = Some(zlib::Stream::inflate()?);
    }
    let mut out = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match body.fill(&mut buffer)? {
            0 => return Ok(out),
            got => out.extend_from_slice(&buffer[..got]),
        }
    }
}

/// The tar's bytes, whatever their form, up to a limit.
struct Body<R> {
    source: R,
    inflate: Option<zlib::Stream>,
    buffer: Box<[u8]>,
    /// The part of `buffer` not yet used.
    ready: std::ops::Range<usize>,
    ended: bool,
    /// Inflated bytes handed out.
    offset: u64,
    limit: u64,
}

impl<R: io::Read> Body<R> {
    fn new(source: R, limit: u64) -> Result<Self, ContainerError> {
        let buffer = vec![0; BUFFER_BYTES].into_boxed_slice();
        let mut body = Self { source, inflate: None, buffer, ready: 0..0, ended: false, offset: 0, limit };
        while body.ready.len() < RAW_START.len() && body.refill()? {}
        if !body.buffer[body.ready.clone()].starts_with(RAW_START) {
            body.inflate = Some(zlib::Stream::inflate()?);
        }
        Ok(body)
    }

    /// Adds bytes of the source to the buffer; false at its end. Called only while the buffer is nearly empty.
    fn refill(&mut self) -> io::Result<bool> {
        if self.ready.is_empty() {
            self.ready = 0..0;
        }
        let got = loop {
            match self.source.read(&mut self.buffer[self.ready.end..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.ready.end += got;
        Ok(got > 0)
    }

    /// Fills `out`, or as much of it as there is before the end.
    fn fill(&mut self, out: &mut [u8]) -> Result<usize, ContainerError> {
        let mut filled = 0;
        while filled < out.len() && !self.ended {
            if self.ready.is_empty() && !self.refill()? {
                // A raw tar may end anywhere, its reader checks that; gzip marks its own end.
                if self.inflate.is_some() {
                    return Err(ContainerError::Truncated(self.offset));
                }
                self.ended = true;
                break;
            }
            let ready = &self.buffer[self.ready.clone()];
            let (consumed, produced) = match &mut self.inflate {
                Some(stream) => {
                    let step = stream.run(ready, &mut out[filled..], false)?;
                    self.ended = step.ended;
                    if step.consumed + step.produced == 0 && !step.ended {
                        return Err(ContainerError::Truncated(self.offset));
                    }
                    (step.consumed, step.produced)
                }
                None => {
                    let count = ready.len().min(out.len() - filled);
                    out[filled..filled + count].copy_from_slice(&ready[..count]);
                    (count, count)
                }
            };
            self.ready.start += consumed;
            self.offset += produced as u64;
            filled += produced;
            if self.offset > self.limit {
                return Err(ContainerError::TooLarge(self.limit));
            }
        }
        if self.ended && self.inflate.is_some() && (!self.ready.is_empty() || self.refill()?) {
            return Err(ContainerError::Trailing(self.offset));
        }
        Ok(filled)
    }
}
