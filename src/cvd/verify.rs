//! Verification: the only place that makes a `Verified`, which publishing needs.
//!
//! Guarantees for a verified CVD: legacy signature, `.info` signature, and that header, `.info` and members agree in
//! both directions, so no byte of it is outside a signature. Does not say that a version is new, or the newest.
use super::{
    cdiff::{Cdiff, Patch},
    chain::Anchors,
    container::{BLOCK_BYTES, Form},
    error::VerifyError,
    header::{HEADER_BYTES, Header},
    info::{Info, Member},
    limits::Limits,
    name::{Database, FileKind, FileName},
    pass::{Content, Opened, read_bounded},
    sign_file::SignFile,
    sign_verify::{self, SignError},
    signature::TrustKeys,
};
use std::{io::Read, ops::Deref};

/// A value that was verified; only this module can make one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Verified<T> {
    /// Takes the value out.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// What was found in a CVD or CLD.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cvd {
    /// The database, as its `.info` member is named.
    pub database: Database,
    /// The header; of a CVD every field of it is signed, here or in `.info`.
    pub header: Header,
    /// How its body is stored.
    pub form: Form,
    /// Its members, in order.
    pub members: Vec<Member>,
    /// Its whole size in bytes.
    pub bytes: u64,
}

impl Cvd {
    /// The one name that these bytes have.
    pub fn name(&self) -> FileName {
        FileName::new(&self.database, self.header.version, FileKind::Cvd)
    }
}

/// A CVD whose header was read and whose body is still to come.
///
/// The header alone gives a CVD's version. So a caller can learn it before the body is read and written, and every byte is
/// read once.
pub struct CvdVerifier<R>(Opened<R>);

impl<R: Read> CvdVerifier<R> {
    /// Reads the header, exactly 512 bytes, and nothing more.
    pub fn new(reader: R, limits: &Limits) -> Result<Self, VerifyError> {
        let opened = Opened::new(reader, limits)?;
        if opened.header.version == 0 { Err(VerifyError::VersionZero) } else { Ok(Self(opened)) }
    }

    /// What the header says; nothing of it is verified yet.
    pub fn header(&self) -> &Header {
        &self.0.header
    }

    /// Reads the body to the end of the file and verifies everything.
    pub fn verify(self, database: &Database, keys: &TrustKeys) -> Result<Verified<Cvd>, VerifyError> {
        self.finish(database, Outer::Signed, keys)
    }

    fn finish(
        self,
        database: &Database,
        outer: Outer,
        keys: &TrustKeys,
    ) -> Result<Verified<Cvd>, VerifyError> {
        let pass = self.0.read()?;
        if outer == Outer::Signed {
            check_signature(&pass.header, pass.md5, keys)?;
        }
        let content = pass.content?;
        let info = verify_content(database, &content, keys)?;
        check_header(&pass.header, &info)?;
        Ok(Verified::from_parts(database, pass.header, content, pass.bytes))
    }
}

/// Whether the header must carry a signature of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outer {
    Signed,
    Unsigned,
}

impl Verified<Cvd> {
    fn from_parts(database: &Database, header: Header, content: Content, bytes: u64) -> Self {
        let Content { form, members, .. } = content;
        Self(Cvd { database: database.clone(), header, form, members, bytes })
    }

    /// A CVD that was built here from content that `verify_content` has passed and a header that fits it; its MD5 still has to
    /// show that the body is the signed one.
    pub(super) fn rebuilt(
        database: &Database,
        header: Header,
        content: Content,
        (md5, bytes): ([u8; 16], u64),
        keys: &TrustKeys,
    ) -> Result<Self, VerifyError> {
        check_signature(&header, md5, keys)?;
        Ok(Self::from_parts(database, header, content, bytes))
    }

    /// A CLD that was put together here, of content that `verify_content` has passed with this list.
    pub(super) fn patched(database: &Database, content: Content, info: &Verified<Info>) -> Self {
        let block = BLOCK_BYTES as u64;
        let tar = content.members.iter().map(|member| block + member.size.next_multiple_of(block));
        let bytes = HEADER_BYTES as u64 + tar.sum::<u64>();
        Self::from_parts(database, info.header.clone(), content, bytes)
    }
}

/// Verifies a CVD under the name it has, in one pass.
pub fn verify_cvd(
    name: &FileName,
    reader: impl Read,
    keys: &TrustKeys,
    limits: &Limits,
) -> Result<Verified<Cvd>, VerifyError> {
    if name.kind != FileKind::Cvd {
        return Err(VerifyError::Kind(name.clone()));
    }
    let verifier = CvdVerifier::new(reader, limits)?;
    let found = verifier.header().version;
    if found != name.version {
        return Err(VerifyError::Version { expected: name.version, found });
    }
    verifier.verify(&name.database, keys)
}

/// Verifies a CLD, which has no signature but its `.info` member's.
///
/// Its `COPYING` member is under no signature at all, which is ClamAV's design.
pub fn verify_cld(
    database: &Database,
    reader: impl Read,
    keys: &TrustKeys,
    limits: &Limits,
) -> Result<Verified<Cvd>, VerifyError> {
    CvdVerifier::new(reader, limits)?.finish(database, Outer::Unsigned, keys)
}

/// Verifies a CDIFF under the name it has. Holds it in memory, within the limits.
///
/// A CDIFF does not say for which database it is; only [`Rebuild`](super::Rebuild) finds out.
pub fn verify_cdiff(
    name: &FileName,
    reader: impl Read,
    keys: &TrustKeys,
    limits: &Limits,
) -> Result<Verified<Cdiff>, VerifyError> {
    if name.kind != FileKind::Cdiff {
        return Err(VerifyError::Kind(name.clone()));
    }
    let bytes = read_bounded(reader, limits.max_cdiff_bytes)?;
    let cdiff = Cdiff::open(&bytes, &keys.cdiff, limits)?;
    match &cdiff {
        Cdiff::Patch(Patch { version, .. }) if *version != name.version => {
            Err(VerifyError::Version { expected: name.version, found: *version })
        }
        _ => Ok(Verified(cdiff)),
    }
}

/// Verifies a sign file with the file it signs: its digest is the file's, and the signers whose certificates it carries
/// signed that. With `anchors`, each signer must also lead to one of them at `now_s` (epoch seconds).
///
/// Without anchors anybody may be the signer, but the signature is of this very file.
pub fn verify_sign(
    sign: impl Read,
    signed: impl Read,
    anchors: Option<&Anchors>,
    now_s: u64,
    limits: &Limits,
) -> Result<Verified<SignFile>, VerifyError> {
    let sign = parse_sign(sign, limits)?;
    let signers = sign_verify::check_signed(&sign, signed)?;
    if let Some(anchors) = anchors {
        signers.check_chains(anchors, now_s).map_err(SignError::from)?;
    }
    Ok(Verified(sign))
}

/// Reads a sign file and checks that it is well-formed, which needs neither certificates nor the signed file.
pub fn parse_sign(sign: impl Read, limits: &Limits) -> Result<SignFile, VerifyError> {
    let bytes = read_bounded(sign, limits.max_sign_bytes)?;
    Ok(SignFile::parse(&bytes).map_err(SignError::from)?)
}

/// Checks that a CVD's header has a signed MD5. Its other fields are not covered by that signature.
pub fn verify_header(header: &Header, keys: &TrustKeys) -> Result<(), VerifyError> {
    check_signature(header, header.md5.ok_or(VerifyError::NoMd5)?, keys)
}

/// Checks a header's MD5 and legacy signature against the body's MD5.
pub(super) fn check_signature(header: &Header, md5: [u8; 16], keys: &TrustKeys) -> Result<(), VerifyError> {
    if header.md5.ok_or(VerifyError::NoMd5)? != md5 {
        return Err(VerifyError::Md5);
    }
    let dsig = header.dsig.as_deref().ok_or(VerifyError::NoSignature)?;
    keys.legacy.verify_legacy(&md5, dsig).map_err(VerifyError::Signature)
}

/// Checks that the members are those of this database that its signed `.info` lists.
pub(super) fn verify_content(
    database: &Database,
    content: &Content,
    keys: &TrustKeys,
) -> Result<Verified<Info>, VerifyError> {
    let found = content.database()?;
    if found != *database {
        return Err(VerifyError::Database { expected: database.clone(), found });
    }
    let info = Info::parse(&content.info)?;
    info.verify(&keys.info).map_err(VerifyError::InfoSignature)?;
    let difference = content.differences(&info).next();
    difference.map_or(Ok(Verified(info)), Err)
}

/// Compares a header with the signed one of `.info`.
///
/// ClamAV compares four of the fields; the others are under no signature but through this comparison.
pub(super) fn check_header(header: &Header, info: &Info) -> Result<(), VerifyError> {
    if header.version != info.header.version {
        return Err(VerifyError::InfoVersion { header: header.version, info: info.header.version });
    }
    if header.unsigned() != info.header {
        let (header, info) = (header.unsigned().to_string(), info.header.to_string());
        return Err(VerifyError::HeaderDiffers { header, info });
    }
    Ok(())
}
