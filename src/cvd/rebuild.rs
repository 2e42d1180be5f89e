//! CVD N from CVD N-1, the CDIFFs between, and the 512-byte header of N: byte for byte the file Talos signed.
//!
//! Guarantees that what is accepted passed every check a downloaded CVD passes: MD5 and legacy signature of its header,
//! `.info` signature, and each member. Nothing may depend on a rebuild succeeding: whoever packs a database in another
//! way than sigtool does today makes it fail, and the full file must then be fetched.
use super::{
    apply::{ApplyError, apply},
    body_writer::BodyWriter,
    cdiff::Cdiff,
    container::{ContainerError, Form},
    draft::Draft,
    hashing::{Feed, Hashing},
    header::{HEADER_BYTES, Header, HeaderError},
    info::Info,
    limits::Limits,
    name::Database,
    pass::Content,
    signature::TrustKeys,
    verify::{Cvd, Member, Verified, VerifyError, check_list, judge, verify_header},
};
use std::{
    fs::File,
    io::{self, Read, Write},
};

const COPYING: &str = "COPYING";
const CHUNK_BYTES: usize = 64 << 10;

/// What a rebuild needs besides the old CVD and a place for the new one.
#[derive(Clone, Copy)]
pub struct Rebuild<'a> {
    /// Which database it is.
    pub database: &'a Database,
    /// The CDIFFs from the old version to the new, one a version, in order.
    pub patches: &'a [Verified<Cdiff>],
    /// The first bytes of the new CVD; they carry its signature and cannot be computed.
    pub header: &'a [u8; HEADER_BYTES],
    /// An empty file, open for reading and writing and nobody else's. Takes the inflated members.
    pub scratch: &'a File,
    /// Whose signatures count.
    pub keys: &'a TrustKeys,
    /// The bounds.
    pub limits: &'a Limits,
}

/// Why a rebuild failed. What was written to the output is then worthless.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// A header that is none, of the old or the new version.
    #[error("header: {0}")]
    Header(#[from] HeaderError),
    /// The CDIFFs do not lead from the old version to the header's.
    #[error("a CDIFF to version {expected} is due, not to {found:?}")]
    Chain {
        /// The version that must come next.
        expected: u32,
        /// What came: another version, nothing more, or an empty CDIFF.
        found: Option<u32>,
    },
    /// The old CVD cannot be read.
    #[error("old version: {0}")]
    Old(#[from] ContainerError),
    /// The old CVD's header cannot be read.
    #[error("cannot read the old version")]
    ReadOld(#[source] io::Error),
    /// A CDIFF does not fit.
    #[error("CDIFF to version {version}: {source}")]
    Apply {
        /// The version it leads to.
        version: u32,
        /// Why not.
        source: ApplyError,
    },
    /// The result is not the file the header was made for.
    #[error("the result is not the signed file: {0}")]
    Mismatch(#[source] VerifyError),
    /// The scratch file failed.
    #[error("scratch file: {0}")]
    Scratch(#[source] io::Error),
    /// The output failed.
    #[error("cannot write the new version")]
    Write(#[source] io::Error),
}

impl Rebuild<'_> {
    /// Rebuilds; `old` starts at the old CVD's first byte, `new` receives the whole new file.
    pub fn run(self, mut old: impl Read, new: impl Write) -> Result<Verified<Cvd>, RebuildError> {
        let header = Header::parse(self.header)?;
        // Before any work: a header nobody signed can match nothing.
        verify_header(&header, self.keys).map_err(RebuildError::Mismatch)?;

        let mut old_header = [0; HEADER_BYTES];
        old.read_exact(&mut old_header).map_err(RebuildError::ReadOld)?;
        self.check_chain(Header::parse(&old_header)?.version, header.version)?;

        let mut draft = Draft::new(self.scratch);
        draft.load(old, self.limits)?;
        for cdiff in self.patches {
            if let Cdiff::Patch(patch) = &**cdiff {
                let version = patch.version;
                apply(&mut draft, &patch.script, self.limits)
                    .map_err(|source| RebuildError::Apply { version, source })?;
            }
        }
        self.write(header, &draft, new)
    }

    fn check_chain(&self, old: u32, new: u32) -> Result<(), RebuildError> {
        let mut version = old;
        for cdiff in self.patches {
            let expected = version.saturating_add(1);
            let found = match &**cdiff {
                Cdiff::Patch(patch) => Some(patch.version),
                Cdiff::Empty => None,
            };
            if found != Some(expected) {
                return Err(RebuildError::Chain { expected, found });
            }
            version = expected;
        }
        if version == new { Ok(()) } else { Err(RebuildError::Chain { expected: version + 1, found: None }) }
    }

    fn write(
        &self,
        header: Header,
        draft: &Draft<'_>,
        new: impl Write,
    ) -> Result<Verified<Cvd>, RebuildError> {
        let mismatch = RebuildError::Mismatch;
        let info_name = format!("{}.info", self.database);
        let info = self.read_list(draft, &info_name)?;
        let list = Info::parse(&info).map_err(|error| mismatch(error.into()))?;
        check_list(&header, &list, self.keys).map_err(mismatch)?;

        let mut new = new;
        new.write_all(self.header).map_err(RebuildError::Write)?;
        let hashing = Hashing::start().map_err(RebuildError::Write)?;
        let new = Digesting { out: new, feed: hashing.feed(), bytes: HEADER_BYTES as u64 };
        let mut body = BodyWriter::new(new).map_err(RebuildError::Write)?;
        let mut members = Vec::new();
        let listed = list.members.iter().map(|listed| listed.name.as_str());
        for name in [COPYING, &info_name].into_iter().chain(listed) {
            members.push(copy_member(draft, name, &mut body, &hashing.feed())?);
        }
        if let Some(extra) = draft.names().find(|name| !members.iter().any(|member| member.name == **name)) {
            return Err(mismatch(VerifyError::Unlisted(extra.to_owned())));
        }
        let Digesting { mut out, feed, bytes } = body.finish().map_err(RebuildError::Write)?;
        drop(feed);
        out.flush().map_err(RebuildError::Write)?;
        let digests = hashing.finish().map_err(RebuildError::Write)?;
        for (member, sha256) in members.iter_mut().zip(digests.members) {
            member.sha256 = sha256;
        }
        let content = Content { form: Form::Gzip, members, info_name, info };
        judge(self.database, header, Some(digests.md5), content, bytes, self.keys).map_err(mismatch)
    }

    fn read_list(&self, draft: &Draft<'_>, name: &str) -> Result<Vec<u8>, RebuildError> {
        let reader = draft.read(name).ok_or(RebuildError::Mismatch(VerifyError::NoInfo))?;
        let mut bytes = Vec::new();
        reader.take(self.limits.max_info_bytes).read_to_end(&mut bytes).map_err(RebuildError::Scratch)?;
        Ok(bytes)
    }
}

/// Writes a member and has it digested.
fn copy_member(
    draft: &Draft<'_>,
    name: &str,
    body: &mut BodyWriter<impl Write>,
    feed: &Feed,
) -> Result<Member, RebuildError> {
    let missing = || RebuildError::Mismatch(VerifyError::Missing(name.to_owned()));
    let size = draft.size(name).ok_or_else(missing)?;
    let mut reader = draft.read(name).ok_or_else(missing)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    body.member(name, size).map_err(RebuildError::Write)?;
    loop {
        match reader.read(&mut chunk).map_err(RebuildError::Scratch)? {
            0 => break,
            got => {
                feed.member(&chunk[..got]);
                body.write_all(&chunk[..got]).map_err(RebuildError::Write)?;
            }
        }
    }
    feed.end_member();
    Ok(Member { name: name.to_owned(), size, sha256: [0; 32] })
}

/// A writer that has what passes digested.
struct Digesting<W> {
    out: W,
    feed: Feed,
    bytes: u64,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.feed.file(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
