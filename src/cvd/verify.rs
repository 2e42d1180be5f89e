//! Where bytes become facts one may publish: the only maker of `Verified`.
//!
//! Guarantees for a verified CVD: legacy signature, `.info` signature, and that header, `.info` and members agree in
//! both directions, so no byte of it is outside a signature. Does not say that a version is new, or the newest.
use super::{
    cdiff::{Cdiff, CdiffError, Patch},
    chain::Anchors,
    container::{ContainerError, Form},
    header::{Header, HeaderError},
    info::{Info, InfoError},
    limits::Limits,
    name::{Database, FileKind, FileName},
    pass::{Content, Pass},
    sign_file::SignFile,
    sign_verify::{self, SignError},
    signature::{SignatureError, TrustKeys},
};
use std::{
    io::{self, Read},
    ops::Deref,
};

/// Something the verifier has checked; it cannot be made elsewhere.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verified<T>(T);

impl<T> Deref for Verified<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Verified<T> {
    /// Takes the value out; it is then no longer known to be verified.
    pub fn into_inner(self) -> T {
        self.0
    }
}

/// What was found in a CVD or CLD.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cvd {
    /// Which database it is.
    pub database: Database,
    /// Its header.
    pub header: Header,
    /// How its body is stored.
    pub form: Form,
    /// Its members, in order.
    pub members: Vec<Member>,
    /// Its whole size in bytes.
    pub bytes: u64,
}

impl Cvd {
    /// The name that these bytes, and no others, have.
    pub fn name(&self) -> FileName {
        FileName::new(&self.database, self.header.version, FileKind::Cvd)
    }
}

/// A member of a CVD.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// Which rule a file breaks.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The bytes could not be read.
    #[error("cannot read the file")]
    Read(#[source] io::Error),
    /// The name is of another kind than the check.
    #[error("{0} is not the name of such a file")]
    Kind(FileName),
    /// More bytes than the limit.
    #[error("larger than the limit of {0} bytes")]
    TooLarge(u64),
    /// Not a proper header.
    #[error("header: {0}")]
    Header(#[from] HeaderError),
    /// Another version than the name says.
    #[error("named version {expected}, but its header says {found}")]
    Version {
        /// The name's.
        expected: u32,
        /// The file's.
        found: u32,
    },
    /// A version 0, which no name can have.
    #[error("header says version 0")]
    VersionZero,
    /// Another database than the name says.
    #[error("named as database {expected}, but holds {found}")]
    Database {
        /// The name's.
        expected: Database,
        /// The file's.
        found: Database,
    },
    /// The header has no MD5.
    #[error("header has no MD5 of the body")]
    NoMd5,
    /// The body is not the one the header was made for.
    #[error("MD5 of the body is not the header's: truncated or altered")]
    Md5,
    /// The header has no signature.
    #[error("header has no signature")]
    NoSignature,
    /// The header's signature does not hold.
    #[error("signature in the header: {0}")]
    Signature(#[source] SignatureError),
    /// The body cannot be read as members.
    #[error("body: {0}")]
    Container(#[from] ContainerError),
    /// No `.info` member.
    #[error("no <database>.info member")]
    NoInfo,
    /// Two `.info` members.
    #[error("a second .info member: {0}")]
    SecondInfo(String),
    /// The `.info` member is no list.
    #[error("{0}")]
    Info(#[from] InfoError),
    /// The `.info` member's signature does not hold.
    #[error("signature of the .info member: {0}")]
    InfoSignature(#[source] SignatureError),
    /// The header is not the one that `.info` carries.
    #[error("header and line 1 of .info differ: {header:?} and {info:?}")]
    HeaderDiffers {
        /// The header, without MD5 and signature.
        header: String,
        /// Line 1 of `.info`.
        info: String,
    },
    /// A member that `.info` does not list.
    #[error("member {0} is not listed in .info")]
    Unlisted(String),
    /// A listed member that is not there. No ClamAV notices this.
    #[error("member {0} is listed in .info but missing")]
    Missing(String),
    /// A member of another size than listed.
    #[error("member {name} has {found} bytes, .info says {listed}")]
    Size {
        /// The member.
        name: String,
        /// What `.info` says.
        listed: u64,
        /// What is there.
        found: u64,
    },
    /// A member with other content than listed.
    #[error("SHA-256 of member {0} is not the one in .info")]
    Sha256(String),
    /// Not a proper sign file, or not for this file, or not by a trusted signer.
    #[error("{0}")]
    Sign(#[from] SignError),
    /// Not a proper or genuine CDIFF.
    #[error("{0}")]
    Cdiff(#[from] CdiffError),
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
    verify_body(&name.database, Some(name.version), Outer::Signed, reader, keys, limits)
}

/// Verifies a CVD of a database whose version its header tells, in one pass; its name is then [`Cvd::name`].
pub fn verify_cvd_any(
    database: &Database,
    reader: impl Read,
    keys: &TrustKeys,
    limits: &Limits,
) -> Result<Verified<Cvd>, VerifyError> {
    verify_body(database, None, Outer::Signed, reader, keys, limits)
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
    verify_body(database, None, Outer::Unsigned, reader, keys, limits)
}

/// Verifies a CDIFF under the name it has. Holds it in memory, within the limits.
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

/// Verifies a sign file against the file it signs, at `now_s` (epoch seconds).
pub fn verify_sign(
    sign: impl Read,
    signed: impl Read,
    anchors: &Anchors,
    now_s: u64,
    limits: &Limits,
) -> Result<Verified<SignFile>, VerifyError> {
    let sign = parse_sign(sign, limits)?;
    sign_verify::check(&sign, signed, anchors, now_s)?;
    Ok(Verified(sign))
}

/// Reads a sign file and checks that it is well-formed, which needs no certificates.
pub fn parse_sign(sign: impl Read, limits: &Limits) -> Result<SignFile, VerifyError> {
    let bytes = read_bounded(sign, limits.max_sign_bytes)?;
    Ok(SignFile::parse(&bytes).map_err(SignError::from)?)
}

/// Reads a small file whole.
pub(super) fn read_bounded(reader: impl Read, limit: u64) -> Result<Vec<u8>, VerifyError> {
    let mut bytes = Vec::new();
    reader.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(VerifyError::Read)?;
    if bytes.len() as u64 > limit { Err(VerifyError::TooLarge(limit)) } else { Ok(bytes) }
}

/// Whether the header must carry a signature of the body.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outer {
    Signed,
    Unsigned,
}

fn verify_body(
    database: &Database,
    version: Option<u32>,
    outer: Outer,
    reader: impl Read,
    keys: &TrustKeys,
    limits: &Limits,
) -> Result<Verified<Cvd>, VerifyError> {
    let Pass { header, md5, bytes, content } = Pass::over(reader, limits, |header| match version {
        Some(expected) if expected != header.version => {
            Err(VerifyError::Version { expected, found: header.version })
        }
        _ if header.version == 0 => Err(VerifyError::VersionZero),
        _ => Ok(()),
    })?;
    let md5 = (outer == Outer::Signed).then_some(md5);
    check_signature(&header, md5, keys)?;
    judge(database, header, md5, content?, bytes, keys)
}

/// Checks what a CVD's header alone can show: that its MD5 was signed. Its other fields are under no signature here.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify_header(header: &Header, keys: &TrustKeys) -> Result<(), VerifyError> {
    check_signature(header, Some(header.md5.ok_or(VerifyError::NoMd5)?), keys)
}

/// Checks the header's MD5 and legacy signature against the body's MD5; a CLD has neither.
pub(super) fn check_signature(
    header: &Header,
    md5: Option<[u8; 16]>,
    keys: &TrustKeys,
) -> Result<(), VerifyError> {
    let Some(md5) = md5 else { return Ok(()) };
    if header.md5.ok_or(VerifyError::NoMd5)? != md5 {
        return Err(VerifyError::Md5);
    }
    let dsig = header.dsig.as_deref().ok_or(VerifyError::NoSignature)?;
    keys.legacy.verify_legacy(&md5, dsig).map_err(VerifyError::Signature)
}

/// Checks everything there is to check about a CVD that was read whole; `md5` is none for a CLD.
pub(super) fn judge(
    database: &Database,
    header: Header,
    md5: Option<[u8; 16]>,
    content: Content,
    bytes: u64,
    keys: &TrustKeys,
) -> Result<Verified<Cvd>, VerifyError> {
    check_signature(&header, md5, keys)?;
    let found = content.database()?;
    if found != *database {
        return Err(VerifyError::Database { expected: database.clone(), found });
    }
    let info = Info::parse(&content.info)?;
    check_list(&header, &info, keys)?;
    if let Some(error) = content.differences(&info).next() {
        return Err(error);
    }
    Ok(Verified(Cvd { database: found, header, form: content.form, members: content.members, bytes }))
}

/// Checks the signature of `.info`, and that it was made for this header.
///
/// ClamAV compares four of the header's fields; the others are under no signature but through this comparison.
pub(super) fn check_list(header: &Header, info: &Info, keys: &TrustKeys) -> Result<(), VerifyError> {
    info.verify(&keys.info).map_err(VerifyError::InfoSignature)?;
    if header.unsigned() != info.header {
        let (header, info) = (header.unsigned().to_string(), info.header.to_string());
        return Err(VerifyError::HeaderDiffers { header, info });
    }
    Ok(())
}
