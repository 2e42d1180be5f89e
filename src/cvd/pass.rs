//! One pass over a CVD or CLD: its header first, then what its body holds and the digests of it.
//!
//! Verifies nothing. A body that cannot be parsed is still digested to its end, so that a wrong MD5 is reported first: errors
//! inside bytes that are not the signed ones say little.
use super::{
    container::{ContainerError, Entry, Form, Members},
    error::VerifyError,
    hashing::{Feed, Hashing},
    header::{HEADER_BYTES, Header},
    info::{Info, Member},
    limits::Limits,
    name::Database,
};
use std::io::{self, Read, Take};

const CHUNK_BYTES: usize = 64 << 10;

/// A file whose header was read, and nothing more.
pub(super) struct Opened<R> {
    pub(super) header: Header,
    rest: Take<R>,
    limits: Limits,
}

/// What a whole file holds.
pub(super) struct Pass {
    pub(super) header: Header,
    /// The MD5 of everything after the header.
    pub(super) md5: [u8; 16],
    /// The size of the whole file.
    pub(super) bytes: u64,
    pub(super) content: Result<Content, VerifyError>,
}

/// What a body holds.
pub(super) struct Content {
    pub(super) form: Form,
    pub(super) members: Vec<Member>,
    /// The one `.info` member.
    pub(super) info: Vec<u8>,
    info_name: String,
}

impl<R: Read> Opened<R> {
    pub(super) fn new(reader: R, limits: &Limits) -> Result<Self, VerifyError> {
        let mut rest = reader.take(limits.max_cvd_bytes.saturating_add(1));
        let header = read_bounded((&mut rest).take(HEADER_BYTES as u64), HEADER_BYTES as u64)?;
        Ok(Self { header: Header::parse(&header)?, rest, limits: *limits })
    }

    /// Reads the body to the end of the file.
    pub(super) fn read(self) -> Result<Pass, VerifyError> {
        let Self { header, rest, limits } = self;
        let hashing = Hashing::start().map_err(VerifyError::Read)?;
        let mut reader = Digesting { reader: rest, feed: hashing.feed(), bytes: HEADER_BYTES as u64 };
        let mut content = Content::read(&mut reader, &hashing.feed(), &limits);
        io::copy(&mut reader, &mut io::sink()).map_err(VerifyError::Read)?;
        let bytes = reader.bytes;
        drop(reader);
        let digests = hashing.finish().map_err(VerifyError::Read)?;
        if bytes > limits.max_cvd_bytes {
            return Err(VerifyError::TooLarge(limits.max_cvd_bytes));
        }
        if let Ok(content) = &mut content {
            for (member, sha256) in content.members.iter_mut().zip(digests.members) {
                member.sha256 = sha256;
            }
        }
        Ok(Pass { header, md5: digests.md5, bytes, content })
    }
}

impl Content {
    /// Refuses members without a `.info`, or with two.
    pub(super) fn new(form: Form, members: Vec<Member>, info: Vec<u8>) -> Result<Self, VerifyError> {
        let mut lists = members.iter().filter(|member| is_list(&member.name));
        let info_name = lists.next().ok_or(VerifyError::NoInfo)?.name.clone();
        if let Some(second) = lists.next() {
            return Err(VerifyError::SecondInfo(second.name.clone()));
        }
        Ok(Self { form, members, info, info_name })
    }

    /// Reads a body to its end; the members' digests come from the thread that `feed` leads to.
    fn read(reader: impl Read, feed: &Feed, limits: &Limits) -> Result<Self, VerifyError> {
        let mut source = Members::new(reader, limits)?;
        let (mut members, mut info) = (Vec::new(), Vec::new());
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some(Entry { name, size }) = source.next_member()? {
            if is_list(&name) {
                if size > limits.max_info_bytes {
                    let limit = limits.max_info_bytes;
                    return Err(ContainerError::MemberTooLarge { name, size, limit }.into());
                }
                info = source.read_all()?;
                feed.member(&info);
            } else {
                loop {
                    match source.read(&mut chunk)? {
                        0 => break,
                        got => feed.member(&chunk[..got]),
                    }
                }
            }
            feed.end_member();
            members.push(Member { name, size, sha256: [0; 32] });
        }
        Self::new(source.form(), members, info)
    }

    /// The database, which only the name of the `.info` member says.
    pub(super) fn database(&self) -> Result<Database, VerifyError> {
        let name = self.info_name.strip_suffix(".info").and_then(|name| name.parse().ok());
        Ok(name.ok_or_else(|| ContainerError::Name(self.info_name.clone()))?)
    }

    /// Compares members and list, in both directions.
    pub(super) fn differences<'a>(&'a self, info: &'a Info) -> impl Iterator<Item = VerifyError> + 'a {
        let listed = |name: &str| info.members.iter().find(|listed| listed.name == name);
        let is_exempt = |name: &str| name == "COPYING" || name == self.info_name;
        let wrong = self.members.iter().filter_map(move |member| {
            let name = member.name.clone();
            match listed(&name) {
                None if is_exempt(&name) => None,
                None => Some(VerifyError::Unlisted(name)),
                Some(listed) if listed.size != member.size => {
                    Some(VerifyError::Size { name, listed: listed.size, found: member.size })
                }
                Some(listed) => (listed.sha256 != member.sha256).then_some(VerifyError::Sha256(name)),
            }
        });
        let is_there = |name: &str| self.members.iter().any(|member| member.name == name);
        let missing = info.members.iter().filter(move |listed| !is_there(&listed.name));
        wrong.chain(missing.map(|listed| VerifyError::Missing(listed.name.clone())))
    }
}

/// Says whether a member of this name is a database's list of members.
pub(super) fn is_list(name: &str) -> bool {
    name.ends_with(".info")
}

/// Reads a small file whole.
pub(super) fn read_bounded(reader: impl Read, limit: u64) -> Result<Vec<u8>, VerifyError> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(VerifyError::Read)?;
    if bytes.len() as u64 > limit { Err(VerifyError::TooLarge(limit)) } else { Ok(bytes) }
}

/// A reader that digests what passes through.
struct Digesting<R> {
    reader: R,
    feed: Feed,
    bytes: u64,
}

impl<R: Read> Read for Digesting<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(out)?;
        self.feed.file(&out[..got]);
        self.bytes += got as u64;
        Ok(got)
    }
}
