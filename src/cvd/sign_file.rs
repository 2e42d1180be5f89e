//! A `.sign` file: a detached PKCS#7 signature over a whole CVD or CDIFF, for ClamAV 1.5 and later.
//!
//! Guarantees that a parsed one is safe to hand to a client: several malformed kinds abort the client's process or cost
//! it a full download. `sign_verify` checks the signatures.
use super::header;
use base64::{Engine as _, engine::general_purpose::STANDARD};

const MAGIC: &str = "#clamsign-1.0";
/// The functionality level of ClamAV 1.5, the first that knows sign files.
const FIRST_LEVEL: u32 = 230;

/// A well-formed sign file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SignFile {
    /// Its signatures, at least one. Engines of different levels may use different ones.
    pub signatures: Vec<Signature>,
}

/// One signature of a sign file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// The lowest functionality level that is to use it, if it says.
    pub min_level: Option<u32>,
    /// The highest functionality level that is to use it, if it says.
    pub max_level: Option<u32>,
    /// The PKCS#7 structure, DER.
    pub pkcs7: Vec<u8>,
}

/// Why bytes are no well-formed sign file.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SignFileError {
    #[error("sign file is not ASCII text with newlines")]
    NotText,
    #[error("sign file does not start with #clamsign-1.0")]
    Magic,
    #[error("sign file holds no signature")]
    NoSignature,
    #[error("sign file line {0} is not <minfl>:<maxfl>:pkcs7-pem:<base64>")]
    Line(usize),
    /// The signature is no DER sequence of the length it says.
    #[error("sign file holds no PKCS#7 structure")]
    Pkcs7,
}

impl SignFile {
    /// A whole sign file with one signature, as Talos' are: for every engine that knows sign files.
    pub fn text(pkcs7: &[u8]) -> String {
        format!("{MAGIC}\n{FIRST_LEVEL}::pkcs7-pem:{}\n", STANDARD.encode(pkcs7))
    }

    /// Parses a whole sign file.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignFileError> {
        // No carriage returns: readers differ on whether they belong to a newline.
        let is_text = bytes.iter().all(|&b| b == b'\n' || (0x20..0x7f).contains(&b));
        let text = std::str::from_utf8(bytes).ok().filter(|_| is_text).ok_or(SignFileError::NotText)?;
        let mut lines = (1..).zip(text.lines());
        if lines.next().is_none_or(|(_, line)| line != MAGIC) {
            return Err(SignFileError::Magic);
        }
        let signatures = lines
            .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
            .map(|(number, line)| parse_line(number, line))
            .collect::<Result<Vec<_>, _>>()?;
        if signatures.is_empty() { Err(SignFileError::NoSignature) } else { Ok(Self { signatures }) }
    }
}

fn parse_line(number: usize, line: &str) -> Result<Signature, SignFileError> {
    let err = SignFileError::Line(number);
    let mut fields = line.splitn(4, ':');
    let (Some(min), Some(max), Some("pkcs7-pem"), Some(base64)) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(err);
    };
    let level = |text: &str| match text {
        "" => Ok(None),
        _ => header::number("level", text).map(Some).map_err(|_| err.clone()),
    };
    let pkcs7 = STANDARD.decode(base64).map_err(|_| err.clone())?;
    if !is_one_der_sequence(&pkcs7) {
        return Err(SignFileError::Pkcs7);
    }
    Ok(Signature { min_level: level(min)?, max_level: level(max)?, pkcs7 })
}

/// Checks the outermost tag and length alone (X.690 section 8.1).
fn is_one_der_sequence(der: &[u8]) -> bool {
    let &[0x30, first, ref rest @ ..] = der else { return false };
    let count = usize::from(first & 0x7f);
    if first & 0x80 == 0 {
        return rest.len() == count;
    }
    if !(1..=4).contains(&count) || rest.len() < count {
        return false;
    }
    let (length, content) = rest.split_at(count);
    length.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)) == content.len()
}
