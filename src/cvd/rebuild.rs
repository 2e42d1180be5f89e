//! CVD N from an older one and the CDIFFs between.
//!
//! [`Rebuild::check`] proves that the CDIFFs lead a client to version N, which a mirror must know before it advertises N.
//! With the 512-byte header of N, [`Rebuild::write`] packs the same members into Talos' file, byte for byte. Nothing
//! may depend on that succeeding: should Talos pack in another way than today's sigtool, it fails, and the full file
//! must be fetched.
use super::{
    apply::{ApplyError, apply},
    body_writer::BodyWriter,
    cdiff::Cdiff,
    container::{ContainerError, Form},
    draft::Draft,
    error::VerifyError,
    header::{HEADER_BYTES, Header, HeaderError},
    info::{Info, Member},
    limits::Limits,
    name::{Database, FileName},
    pass::{Content, is_list},
    signature::TrustKeys,
    verify::{Cvd, Verified, check_header, verify_cld, verify_content, verify_header},
};
use md5::{Digest as _, Md5};
use sha2::Sha256;
use std::{
    fs::File,
    io::{self, Read, Write},
};

const COPYING: &str = "COPYING";
const CHUNK_BYTES: usize = 256 << 10;

/// The members of a CVD with CDIFFs applied to them, one after the other.
///
/// Memory grows with the largest CDIFF and the number of edits, not with the database.
pub struct Rebuild<'a> {
    database: &'a Database,
    draft: Draft<'a>,
    version: u32,
    keys: &'a TrustKeys,
    limits: &'a Limits,
}

/// Why CDIFFs do not lead to a version, or not to the file of this header. Whatever was written must be thrown away.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum RebuildError {
    #[error("header: {0}")]
    Header(#[from] HeaderError),
    /// Another CDIFF than the next one, or (`None`) an empty one, or no more although the header is of a later version.
    #[error("the CDIFF to version {expected} is needed, and there is {}", came(*found))]
    Chain { expected: u32, found: Option<u32> },
    #[error("old version: {0}")]
    Old(#[from] ContainerError),
    #[error("cannot read the old version")]
    ReadOld(#[source] io::Error),
    /// A CDIFF does not fit: it is for another database, or for other content of this version.
    #[error("CDIFF to version {version}: {source}")]
    Apply { version: u32, source: ApplyError },
    /// The CDIFFs claim one version, but the `.info` that they produce is of another.
    #[error("the CDIFFs are said to lead to version {expected}, but lead to {found}")]
    Version { expected: u32, found: u32 },
    #[error("the result is not what was signed: {0}")]
    Mismatch(#[source] VerifyError),
    #[error("scratch file: {0}")]
    Scratch(#[source] io::Error),
    #[error("cannot write the new version")]
    Write(#[source] io::Error),
}

fn came(version: Option<u32>) -> String {
    version.map_or("none".to_owned(), |version| format!("one to {version}"))
}

impl<'a> Rebuild<'a> {
    /// Takes in a CVD, which must be verified; `old` starts at its first byte.
    ///
    /// `scratch` is an empty file, open for reading and writing, that nothing else uses. It takes the inflated members.
    pub fn new(
        database: &'a Database,
        mut old: impl Read,
        scratch: &'a File,
        keys: &'a TrustKeys,
        limits: &'a Limits,
    ) -> Result<Self, RebuildError> {
        let mut header = [0; HEADER_BYTES];
        old.read_exact(&mut header).map_err(RebuildError::ReadOld)?;
        let version = Header::parse(&header)?.version;
        let mut draft = Draft::new(scratch);
        draft.load(old, limits)?;
        Ok(Self { database, draft, version, keys, limits })
    }

    /// The version reached so far.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Applies the next CDIFF. After an error the rebuild is useless.
    pub fn apply(mut self, cdiff: &Verified<Cdiff>) -> Result<Self, RebuildError> {
        let expected = self.version.saturating_add(1);
        let (version, script) = match &**cdiff {
            Cdiff::Patch(patch) if patch.version == expected => (patch.version, &patch.script),
            Cdiff::Patch(patch) => return Err(RebuildError::Chain { expected, found: Some(patch.version) }),
            Cdiff::Empty => return Err(RebuildError::Chain { expected, found: None }),
        };
        apply(&mut self.draft, script, self.limits)
            .map_err(|source| RebuildError::Apply { version, source })?;
        self.version = version;
        Ok(self)
    }

    /// Proves that the CDIFFs applied lead to this version: the signed list they leave is this version's and this
    /// database's, and it names every member with its size and SHA-256.
    ///
    /// The result is what the version's header says, but for MD5 and signature. After several CDIFFs one check proves
    /// the whole way from the old version, for a client applies them all before it looks. It does not prove that a
    /// client may start in between: a version that is itself advertised takes a check when it is reached.
    pub fn check(&self) -> Result<Verified<Info>, RebuildError> {
        Ok(self.checked()?.1)
    }

    fn checked(&self) -> Result<(Content, Verified<Info>), RebuildError> {
        let (mut members, mut info) = (Vec::new(), Vec::new());
        let mismatch = RebuildError::Mismatch;
        for (name, size) in self.draft.members() {
            let name = name.to_owned();
            if is_list(&name) {
                if size > self.limits.max_info_bytes {
                    let limit = self.limits.max_info_bytes;
                    return Err(mismatch(ContainerError::MemberTooLarge { name, size, limit }.into()));
                }
                info.clear();
            }
            let mut sha256 = Sha256::new();
            self.read(&name, |chunk| {
                sha256.update(chunk);
                if is_list(&name) {
                    info.extend_from_slice(chunk);
                }
                Ok(())
            })?;
            members.push(Member { name, size, sha256: sha256.finalize().into() });
        }
        let content = Content::new(Form::Gzip, members, info).map_err(mismatch)?;
        let info = verify_content(self.database, &content, self.keys).map_err(mismatch)?;
        let found = info.header.version;
        if found == self.version {
            Ok((content, info))
        } else {
            Err(RebuildError::Version { expected: self.version, found })
        }
    }

    /// Packs the members behind the header of this version, which carries its signature and cannot be computed.
    ///
    /// What is accepted has passed every check that a downloaded CVD passes.
    pub fn write(
        &self,
        header: &[u8; HEADER_BYTES],
        mut new: impl Write,
    ) -> Result<Verified<Cvd>, RebuildError> {
        let mismatch = RebuildError::Mismatch;
        let parsed = Header::parse(header)?;
        if parsed.version != self.version {
            return Err(RebuildError::Chain { expected: self.version.saturating_add(1), found: None });
        }
        // First, because it is cheap: without a genuine signature no body can match.
        verify_header(&parsed, self.keys).map_err(mismatch)?;
        let (content, info) = self.checked()?;
        check_header(&parsed, &info).map_err(mismatch)?;
        let content = sorted(content, &info).map_err(mismatch)?;

        new.write_all(header).map_err(RebuildError::Write)?;
        let new = Digesting { out: new, md5: Md5::new(), bytes: HEADER_BYTES as u64 };
        let mut body = BodyWriter::new(new).map_err(RebuildError::Write)?;
        for Member { name, size, .. } in &content.members {
            body.member(name, *size).map_err(RebuildError::Write)?;
            self.read(name, |chunk| body.write_all(chunk).map_err(RebuildError::Write))?;
        }
        let Digesting { mut out, md5, bytes } = body.finish().map_err(RebuildError::Write)?;
        out.flush().map_err(RebuildError::Write)?;
        let md5 = md5.finalize().into();
        Verified::rebuilt(self.database, parsed, content, (md5, bytes), self.keys).map_err(mismatch)
    }

    /// Writes the members as a CLD, as freshclam does: a raw tar behind the header that `.info` carries.
    ///
    /// One version has one CLD, whatever way led to it. It is under no signature but `.info`'s, which is checked here.
    pub fn write_cld(&self, mut new: impl Write) -> Result<Verified<Cvd>, RebuildError> {
        let mismatch = RebuildError::Mismatch;
        let (content, info) = self.checked()?;
        let mut content = sorted(content, &info).map_err(mismatch)?;
        content.form = Form::Tar;
        let header = info.header.to_bytes().ok_or(HeaderError::Long)?;
        new.write_all(&header).map_err(RebuildError::Write)?;
        let mut body = BodyWriter::raw(new);
        for Member { name, size, .. } in &content.members {
            body.member(name, *size).map_err(RebuildError::Write)?;
            self.read(name, |chunk| body.write_all(chunk).map_err(RebuildError::Write))?;
        }
        let mut out = body.finish().map_err(RebuildError::Write)?;
        out.flush().map_err(RebuildError::Write)?;
        Ok(Verified::patched(self.database, content, &info))
    }

    /// Hands a member's content on, chunk by chunk.
    fn read(
        &self,
        name: &str,
        mut each: impl FnMut(&[u8]) -> Result<(), RebuildError>,
    ) -> Result<(), RebuildError> {
        let Some(mut reader) = self.draft.read(name) else { return Ok(()) };
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match reader.read(&mut chunk).map_err(RebuildError::Scratch)? {
                0 => return Ok(()),
                got => each(&chunk[..got])?,
            }
        }
    }
}

/// Reads back a CLD that lies under the name of this version: it has no signature as a whole, so that it counts only as
/// far as each member of it is on the list that Talos signed.
pub fn check_cld(
    name: &FileName,
    cld: impl Read,
    keys: &TrustKeys,
    limits: &Limits,
) -> Result<Verified<Cvd>, RebuildError> {
    let cld = verify_cld(&name.database, cld, keys, limits).map_err(RebuildError::Mismatch)?;
    let (expected, found) = (name.version, cld.header.version);
    if found == expected { Ok(cld) } else { Err(RebuildError::Version { expected, found }) }
}

/// Sorts the members as sigtool packs them.
fn sorted(mut content: Content, info: &Info) -> Result<Content, VerifyError> {
    content.members.sort_by_cached_key(|member| match member.name.as_str() {
        COPYING => 0,
        name if is_list(name) => 1,
        name => 2 + info.members.iter().take_while(|listed| listed.name != name).count(),
    });
    match content.members.first() {
        Some(first) if first.name == COPYING => Ok(content),
        _ => Err(VerifyError::Missing(COPYING.to_owned())),
    }
}

/// A writer that digests what passes through.
struct Digesting<W> {
    out: W,
    md5: Md5,
    bytes: u64,
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.md5.update(&bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
