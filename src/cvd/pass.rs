//! One pass over a CVD or CLD: what it holds, and what must be true of that.
//!
//! Guarantees nothing is genuine; it only gathers. A body that cannot be read is digested to its end all the same, so
//! that a wrong MD5 is found first: what is wrong inside bytes nobody signed says little.
use super::{
    container::{ContainerError, Entry, Form, Members},
    hashing::{Feed, Hashing},
    header::{HEADER_BYTES, Header},
    info::Info,
    limits::Limits,
    name::Database,
    verify::{Member, VerifyError, read_bounded},
};
use std::io::{self, Read};

const CHUNK_BYTES: usize = 64 << 10;

/// What a pass found.
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
    pub(super) info_name: String,
    pub(super) info: Vec<u8>,
}

impl Pass {
    /// Reads everything, unless `early` refuses the header.
    pub(super) fn over(
        reader: impl Read,
        limits: &Limits,
        early: impl FnOnce(&Header) -> Result<(), VerifyError>,
    ) -> Result<Self, VerifyError> {
        let mut reader = reader.take(limits.max_cvd_bytes.saturating_add(1));
        let header = read_bounded((&mut reader).take(HEADER_BYTES as u64), HEADER_BYTES as u64)?;
        let header = Header::parse(&header)?;
        early(&header)?;
        let hashing = Hashing::start().map_err(VerifyError::Read)?;
        let mut reader = Digesting { reader, feed: hashing.feed(), bytes: HEADER_BYTES as u64 };
        let mut content = Content::read(&mut reader, &hashing.feed(), limits);
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
        Ok(Self { header, md5: digests.md5, bytes, content })
    }
}

impl Content {
    /// Reads a body to its end; the members' digests are left to whoever feeds on the hashing.
    fn read(reader: impl Read, feed: &Feed, limits: &Limits) -> Result<Self, VerifyError> {
        let mut source = Members::new(reader, limits)?;
        let mut members = Vec::new();
        let mut list: Option<(String, Vec<u8>)> = None;
        let mut chunk = vec![0; CHUNK_BYTES];
        while let Some(Entry { name, size }) = source.next_member()? {
            if name.ends_with(".info") {
                if list.is_some() {
                    return Err(VerifyError::SecondInfo(name));
                }
                if size > limits.max_info_bytes {
                    let limit = limits.max_info_bytes;
                    return Err(ContainerError::MemberTooLarge { name, size, limit }.into());
                }
                let (_, bytes) = list.insert((name.clone(), source.read_all()?));
                feed.member(bytes);
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
        let (info_name, info) = list.ok_or(VerifyError::NoInfo)?;
        Ok(Self { form: source.form(), members, info_name, info })
    }

    /// Which database this is: its `.info` member says so, and nothing else does.
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

/// A reader that has what passes digested.
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
