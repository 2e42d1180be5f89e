//! A CDIFF as a file: `ClamAV-Diff:<version>:<size>:`, a gzip-compressed script, `:` and a PSS signature.
//!
//! Guarantees that the declared version and size are the actual ones, which ClamAV does not check. `script` parses the
//! script, `apply` carries it out.
use super::{
    container::{self, ContainerError},
    header::number,
    limits::Limits,
    script::{self, ScriptError},
    signature::{PublicKey, SignatureError},
};
use sha2::{Digest, Sha256};

/// With which every CDIFF begins that is not empty.
pub const CDIFF_MAGIC: &[u8] = b"ClamAV-Diff:";
/// ClamAV looks for the signature in this many last bytes.
const SIGNATURE_ZONE_BYTES: usize = 350;
/// `ClamAV-Diff:` and two numbers of at most ten digits.
const MAX_HEADER_BYTES: usize = 40;

/// A step from one version to the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cdiff {
    /// Zero bytes, unsigned: this step has no patch, and clients must take the full CVD.
    Empty,
    /// A script that makes the next version.
    Patch(Patch),
}

/// A CDIFF that has content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Patch {
    /// The version it leads to, from the one before.
    pub version: u32,
    /// The script, inflated; every line of it parses.
    pub script: Vec<u8>,
}

/// Why bytes are no CDIFF, or not a genuine one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum CdiffError {
    #[error("not a CDIFF: it does not start with \"ClamAV-Diff:\"")]
    Magic,
    #[error("CDIFF header is not ClamAV-Diff:<version>:<size>:")]
    Header,
    /// No `:` in the last 350 bytes.
    #[error("CDIFF has no signature at its end")]
    NoSignature,
    #[error("CDIFF signature: {0}")]
    Signature(#[from] SignatureError),
    /// The script cannot be inflated, or only past the limit.
    #[error("CDIFF script cannot be read")]
    Container(#[from] ContainerError),
    #[error("CDIFF declares a script of {declared} bytes and holds {found}")]
    Size { declared: u64, found: u64 },
    #[error("CDIFF script: {0}")]
    Script(#[from] ScriptError),
}

impl Cdiff {
    /// Parses and checks a whole CDIFF. The signature comes first, so that nothing unsigned is ever inflated.
    pub(super) fn open(bytes: &[u8], key: &PublicKey, limits: &Limits) -> Result<Self, CdiffError> {
        if bytes.is_empty() {
            return Ok(Self::Empty);
        }
        let frame = Frame::parse(bytes)?;
        frame.verify(key)?;
        Ok(Self::Patch(frame.open(limits)?))
    }
}

/// The parts of a CDIFF, in place.
pub(super) struct Frame<'a> {
    pub(super) version: u32,
    declared: u64,
    gzip: &'a [u8],
    signed: &'a [u8],
    dsig: &'a str,
}

impl<'a> Frame<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, CdiffError> {
        let rest = bytes.strip_prefix(CDIFF_MAGIC).ok_or(CdiffError::Magic)?;
        let header = &rest[..rest.len().min(MAX_HEADER_BYTES)];
        let mut fields = header.splitn(3, |&b| b == b':');
        let mut field = || fields.next().and_then(|f| std::str::from_utf8(f).ok()).ok_or(CdiffError::Header);
        let (version, size) = (field()?, field()?);
        let header_bytes = version.len() + size.len() + 2;
        let declared = number("size", size).map_err(|_| CdiffError::Header)?;
        let parsed = number("version", version).map_err(|_| CdiffError::Header)?;
        let body = rest.get(header_bytes..).ok_or(CdiffError::Header)?;

        let zone = body.len().saturating_sub(SIGNATURE_ZONE_BYTES);
        let colon = body[zone..].iter().rposition(|&b| b == b':').ok_or(CdiffError::NoSignature)? + zone;
        let dsig = std::str::from_utf8(&body[colon + 1..]).map_err(|_| SignatureError::Text)?;
        let signed = &bytes[..bytes.len() - body.len() + colon];
        Ok(Self { version: parsed, declared, gzip: &body[..colon], signed, dsig })
    }

    pub(super) fn verify(&self, key: &PublicKey) -> Result<(), SignatureError> {
        key.verify_pss(&Sha256::digest(self.signed).into(), self.dsig)
    }

    pub(super) fn open(&self, limits: &Limits) -> Result<Patch, CdiffError> {
        let script = container::inflate(self.gzip, limits.max_script_bytes)?;
        let found = script.len() as u64;
        if found != self.declared {
            return Err(CdiffError::Size { declared: self.declared, found });
        }
        script::check(&script, limits)?;
        Ok(Patch { version: self.version, script })
    }
}
