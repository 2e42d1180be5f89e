//! `--ca`: what is installed was signed by the site's own CA, each time it is looked at.
//!
//! Talos signs the members of a CLD but for COPYING, and nobody the whole; the CA that a site trusts does. What it signed
//! is byte for byte what the mirror made of the CVD, and so what must come out here.
use super::{
    Form, Pull, PullError, Remark,
    fetch::FetchError,
    local::{Held, Local},
};
use crate::{
    clock::epoch_s,
    cvd::{ChainError, ChainRule, Database, SignError, VerifyError, verify_sign},
};
use std::{
    fs::{self, File},
    io::{BufReader, Seek as _},
};

/// Why a CLD counts as not signed by the site's CA.
#[derive(Debug, thiserror::Error)]
pub enum SiteFault {
    /// There is no sign file.
    #[error("is not there; the mirror signs its CLDs with publish_cld and site_ca")]
    Absent,
    /// Somebody else signed it.
    #[error("is not of the CA that --ca names: {0}")]
    OtherCa(ChainError),
    /// The signer's time, or the CA's, has not come or is over.
    #[error("is of a signer that is not in force: {0}; `cvdmirror ca init` at the mirror makes the next one")]
    NotInForce(ChainError),
    /// It signs something else.
    #[error("signs another file or version, not this CLD")]
    OtherFile,
    /// It is no sign file, or not one that may be used.
    #[error("is no proper sign file: {0}")]
    Broken(VerifyError),
}

impl From<VerifyError> for SiteFault {
    fn from(e: VerifyError) -> Self {
        match e {
            VerifyError::Sign(SignError::Digest) => Self::OtherFile,
            VerifyError::Sign(SignError::Chain(e)) => match e.rule {
                ChainRule::Expired | ChainRule::NotYetValid => Self::NotInForce(e),
                _ => Self::OtherCa(e),
            },
            e => Self::Broken(e),
        }
    }
}

impl Pull {
    /// Fetches the sign file of a CLD.
    pub(super) async fn demanded(&self, name: &str) -> Result<Vec<u8>, PullError> {
        match self.mirror.small(name, self.limits.max_sign_bytes).await {
            Ok(bytes) => Ok(bytes),
            Err(FetchError::Absent { url }) => Err(PullError::Site { url, why: SiteFault::Absent }),
            Err(e) => Err(e.into()),
        }
    }

    /// Checks a sign file with the CLD that was made.
    pub(super) fn vouches(&self, sign: &[u8], mut cld: &File) -> Result<(), SiteFault> {
        cld.rewind().map_err(VerifyError::Read)?;
        let cld = BufReader::with_capacity(1 << 18, cld);
        Ok(verify_sign(sign, cld, self.ca.as_ref(), epoch_s(), &self.limits).map(drop)?)
    }

    /// Whether the site's CA stands by what is held, where it must. A signer's time ends, so that is asked each time.
    pub(super) fn is_vouched(
        &self,
        database: &Database,
        base: Option<&Held>,
        local: &Local,
        remarks: &mut Vec<Remark>,
    ) -> bool {
        let (Some(_), Some(held)) = (&self.ca, base) else { return true };
        let (Form::Cld, Some(version)) = (held.form, held.version) else { return false };
        let sign = local.signs.iter().find(|sign| sign.of == (version, Form::Cld));
        let vouched = match sign {
            None => Err(SiteFault::Absent),
            Some(sign) => {
                let both = fs::read(&sign.path).and_then(|sign| Ok((sign, File::open(&held.path)?)));
                both.map_err(|e| SiteFault::Broken(VerifyError::Read(e)))
                    .and_then(|(sign, cld)| self.vouches(&sign, &cld))
            }
        };
        match vouched {
            Ok(()) => true,
            Err(why) => {
                let name = Form::Cld.sign_name(database.as_str(), version);
                remarks.push(Remark::Unvouched { path: self.into.join(name), why });
                false
            }
        }
    }
}
