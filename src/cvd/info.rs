//! The `.info` member: the signed list of what a CVD holds.
//!
//! Guarantees that every byte of a list that parses is either under its signature or the signature itself.
use super::{
    container::is_member_name,
    header::{self, Header, HeaderError},
    signature::{PublicKey, SignatureError},
};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// A parsed `.info` member; not yet checked against a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Info {
    /// The header of the CVD, without MD5 and signature.
    pub header: Header,
    /// The members listed, in order.
    pub members: Vec<Member>,
    /// The SHA-256 of the signed part.
    signed_sha256: [u8; 32],
    dsig: String,
}

/// A member of a CVD, as it is listed or as it was found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its name in the tar, without a path.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// Why bytes are no `.info` member.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum InfoError {
    /// The last line is not `DSIG:` and a signature, ended by a newline.
    #[error(".info does not end with a DSIG line")]
    NoSignature,
    #[error(".info line {0} is not ASCII text")]
    NotText(usize),
    #[error(".info line 1: {0}")]
    Header(#[from] HeaderError),
    #[error(".info line 1 has an MD5 or signature where X:X belongs")]
    HeaderSigned,
    #[error(".info line {0} is not name:size:sha256")]
    Line(usize),
    #[error(".info lists {0} twice")]
    Duplicate(String),
}

impl Info {
    /// Parses the member's whole content.
    pub fn parse(bytes: &[u8]) -> Result<Self, InfoError> {
        let body = bytes.strip_suffix(b"\n").ok_or(InfoError::NoSignature)?;
        let start = body.iter().rposition(|&b| b == b'\n').ok_or(InfoError::NoSignature)? + 1;
        let dsig = body[start..].strip_prefix(b"DSIG:").ok_or(InfoError::NoSignature)?;
        let text = |number, line| match std::str::from_utf8(line) {
            Ok(line) if line.is_ascii() => Ok(line),
            _ => Err(InfoError::NotText(number)),
        };
        let dsig = text(body.split(|&b| b == b'\n').count(), dsig)?.to_owned();

        let mut lines = (1..).zip(body[..start - 1].split(|&b| b == b'\n'));
        let first = lines.next().map_or(&b""[..], |(_, line)| line);
        let header = Header::parse_line(text(1, first)?)?;
        if header.to_string().as_bytes() != first || header != header.unsigned() {
            return Err(InfoError::HeaderSigned);
        }
        let mut seen = BTreeSet::new();
        let mut members = Vec::new();
        for (number, line) in lines {
            let member = parse_line(text(number, line)?).ok_or(InfoError::Line(number))?;
            if !seen.insert(member.name.clone()) {
                return Err(InfoError::Duplicate(member.name));
            }
            members.push(member);
        }
        let signed_sha256 = Sha256::digest(&bytes[..start]).into();
        Ok(Self { header, members, signed_sha256, dsig })
    }

    /// Checks the signature.
    pub fn verify(&self, key: &PublicKey) -> Result<(), SignatureError> {
        key.verify_pss(&self.signed_sha256, &self.dsig)
    }
}

fn parse_line(line: &str) -> Option<Member> {
    let mut fields = line.split(':');
    let (name, size, sha256) = (fields.next()?, fields.next()?, fields.next()?);
    let size = header::number("size", size).ok()?;
    let sha256 = header::hex("sha256", sha256).ok()?;
    let whole = fields.next().is_none() && is_member_name(name);
    whole.then(|| Member { name: name.to_owned(), size, sha256 })
}
