//! What a name is bound to, and how its bytes were verified.
use crate::{Error, ObjectId};
use std::fmt;

/// What a name is bound to, and how it came here.
#[derive(Clone, PartialEq, Eq, Debug, serde::Serialize)]
pub struct NameRecord {
    /// The object.
    pub object: ObjectId,
    /// Its length in bytes.
    pub size: u64,
    /// The content's own date (HTTP's Last-Modified), epoch seconds, where it has one.
    pub modified_s: Option<u64>,
    /// When this installation stored it, epoch seconds.
    pub stored_at_s: u64,
    /// Where the bytes came from: a URL or a path.
    pub origin: String,
    /// How they were verified.
    pub proof: Proof,
}

impl NameRecord {
    /// Refuses another object, or another length of the same one; says whether the one offered takes its place: content
    /// that of an empty object.
    pub(crate) fn gives_way_to(&self, name: &str, offered: &Self) -> Result<bool, Error> {
        if self.object == offered.object {
            return same_size(self.object, self.size, offered.size).map(|()| false);
        }
        if self.size == 0 && offered.size > 0 {
            return Ok(true);
        }
        Err(Error::NameConflict { name: name.to_owned(), held: self.object, offered: offered.object })
    }
}

pub(crate) fn same_size(object: ObjectId, held: u64, claimed: u64) -> Result<(), Error> {
    if held == claimed {
        return Ok(());
    }
    Err(Error::WrongSize { object, held, claimed })
}

/// How the bytes under a name were verified before they were stored. The store keeps it and decides nothing by it.
/// `Display` and `Serialize` give it in words.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Proof {
    /// Not recorded, or in a way that this build does not know.
    #[default]
    Unknown,
    /// There are no bytes to verify.
    Empty,
    /// The form alone; nobody vouches for the content.
    Form,
    /// A signature over the content.
    Signed,
    /// A signature over the content, and the signer's certificates up to a trusted root.
    Chained,
    /// Made here from verified parts, and a signature over the result.
    Rebuilt,
}

impl Proof {
    /// The number it has in a pack.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Empty => 1,
            Self::Form => 2,
            Self::Signed => 3,
            Self::Chained => 4,
            Self::Rebuilt => 5,
        }
    }

    /// A later build may know more of them: what is not known here is no reason to refuse the pack.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Empty,
            2 => Self::Form,
            3 => Self::Signed,
            4 => Self::Chained,
            5 => Self::Rebuilt,
            _ => Self::Unknown,
        }
    }

    /// What the texts in packs of format 0 say.
    pub(crate) fn from_format_0(text: &str) -> Self {
        match text {
            "empty: take the full CVD" => Self::Empty,
            "well-formed" => Self::Form,
            "signature and script" => Self::Signed,
            "signer, digest and chain" => Self::Chained,
            _ if text.starts_with("rebuilt; ") => Self::Rebuilt,
            _ if text.starts_with("MD5, signature, .info and ") => Self::Signed,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Unknown => "not recorded",
            Self::Empty => "empty",
            Self::Form => "form only",
            Self::Signed => "signature",
            Self::Chained => "signature and certificates",
            Self::Rebuilt => "rebuilt, signature",
        })
    }
}

impl serde::Serialize for Proof {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_proof_has_its_code_and_texts_of_old_packs_are_known() {
        use Proof::{Chained, Empty, Form, Rebuilt, Signed, Unknown};
        for (code, proof) in (0..).zip([Unknown, Empty, Form, Signed, Chained, Rebuilt]) {
            assert_eq!((proof.code(), Proof::from_code(code)), (code, proof));
        }
        assert_eq!(Proof::from_code(6), Unknown);
        assert_eq!(Proof::from_code(255), Unknown);
        for (text, proof) in [
            ("MD5, signature, .info and 12 members", Signed),
            ("signature and script", Signed),
            ("empty: take the full CVD", Empty),
            ("well-formed", Form),
            ("signer, digest and chain", Chained),
            ("rebuilt; MD5, signature, .info and 12 members", Rebuilt),
            ("well-formed, perhaps", Unknown),
            ("", Unknown),
        ] {
            assert_eq!(Proof::from_format_0(text), proof, "{text}");
        }
    }
}
