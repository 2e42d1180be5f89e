//! Certificates: which are trusted, and whether a signer's chain leads to one.
//!
//! Follows what OpenSSL 3 does for the purpose `smime_sign` with a plain store (`x509_vfy.c`, `v3_purp.c`): the chain
//! ends at a self-issued trusted certificate, every certificate is valid now, every issuer is a CA, path lengths hold,
//! and key usages allow it. No CRLs. Stricter in what no signer of ClamAV uses: certificates that are no DER, name
//! constraints, RSA keys under 2048 or over 8192 bits, curves other than P-256 and P-384, hashes below SHA-256.
//!
//! Not `rustls-webpki` (0.103), whose verdicts differ from OpenSSL's where a client is then harmed: it takes an expired
//! root and a signer whose key usage or nsCertType forbids signing, and refuses a trusted signer that is a CA.
use cms::cert::x509::{
    Certificate,
    ext::pkix::{AuthorityKeyIdentifier, BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectKeyIdentifier},
    spki::{AlgorithmIdentifierOwned, SubjectPublicKeyInfoOwned},
};
use der::{
    Decode, Encode,
    asn1::{BitString, ObjectIdentifier},
    oid::db::{rfc5280, rfc5912},
};
use ring::signature::{self as ring_signature, UnparsedPublicKey};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest as _, Sha256};

/// A chain of more certificates than this is not tried.
const MAX_DEPTH: usize = 10;
/// How many links may be tried in all, so that certificates that all name each other end too.
const MAX_TRIES: usize = 100;

const NS_CERT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.113730.1.1");
const NS_SSL_CLIENT: u8 = 0x80;
const NS_SMIME: u8 = 0x20;
const EMAIL_PROTECTION: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.4");
/// Critical extensions that are understood here; ClamAV's OpenSSL understands some more.
const UNDERSTOOD: [ObjectIdentifier; 5] = [
    rfc5280::ID_CE_BASIC_CONSTRAINTS,
    rfc5280::ID_CE_KEY_USAGE,
    rfc5280::ID_CE_EXT_KEY_USAGE,
    rfc5280::ID_CE_SUBJECT_ALT_NAME,
    NS_CERT_TYPE,
];

/// The certificates an operator trusts.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Anchors(Vec<Certificate>);

/// Why a text holds no certificates.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("certificate {number} cannot be read: {why}")]
pub struct AnchorError {
    number: usize,
    why: String,
}

/// Why a signer is not trusted.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("certificate {subject}: {rule}")]
pub struct ChainError {
    /// The certificate that breaks the rule.
    pub subject: String,
    /// Which one.
    pub rule: ChainRule,
}

/// What a certificate in a chain can break.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ChainRule {
    /// No certificate of its issuer, or the chain ends at a root that is not trusted.
    #[error("its issuer is not among the trusted certificates, or the chain is too long")]
    Issuer,
    #[error("not yet valid")]
    NotYetValid,
    #[error("expired")]
    Expired,
    #[error("not a CA")]
    NotCa,
    /// It may not be used to sign mail, the purpose ClamAV asks for.
    #[error("its usages do not allow S/MIME signing")]
    Purpose,
    #[error("path length exceeded")]
    PathLength,
    /// A critical extension that is not understood here, or name constraints.
    #[error("extension {0} is not supported")]
    Extension(ObjectIdentifier),
    #[error("signature of its issuer does not verify")]
    Signature,
    #[error("malformed: {0}")]
    Malformed(String),
}

impl Anchors {
    /// Adds every certificate of a PEM text, such as `/etc/clamav/certs/clamav.crt`.
    pub fn add_pem(&mut self, text: &[u8]) -> Result<(), AnchorError> {
        for (number, item) in (1..).zip(CertificateDer::pem_slice_iter(text)) {
            let error = |why: String| AnchorError { number, why };
            let der = item.map_err(|e| error(e.to_string()))?;
            self.0.push(Certificate::from_der(&der).map_err(|e| error(e.to_string()))?);
        }
        Ok(())
    }

    /// A digest of all of them, in whatever order they were added.
    pub fn digest(&self) -> [u8; 32] {
        let mut all: Vec<Vec<u8>> = self.0.iter().filter_map(|one| one.to_der().ok()).collect();
        all.sort_unstable();
        all.dedup();
        Sha256::digest(all.concat()).into()
    }

    /// How many certificates are trusted.
    pub fn len(&self) -> usize {
        self.0.len()
    }
    /// Says whether nothing is trusted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of these has issued a certificate, in force or not.
    pub(super) fn issued(&self, certificate: &Certificate) -> bool {
        let did = |issuer: &Certificate| {
            may_have_issued(issuer, certificate) && check_issued(issuer, certificate).is_ok()
        };
        self.0.iter().any(did)
    }

    /// When each ends, epoch seconds, and its subject.
    pub fn ends(&self) -> impl Iterator<Item = (u64, String)> {
        self.0.iter().map(|certificate| {
            let tbs = certificate.tbs_certificate();
            (tbs.validity().not_after.to_unix_duration().as_secs(), tbs.subject().to_string())
        })
    }

    /// Those that are not valid at `now_s` (epoch), and why.
    pub fn invalid_at(&self, now_s: u64) -> Vec<ChainError> {
        let check = |certificate: &Certificate| {
            let validity = certificate.tbs_certificate().validity();
            if now_s < validity.not_before.to_unix_duration().as_secs() {
                Some(error(certificate, ChainRule::NotYetValid))
            } else if now_s > validity.not_after.to_unix_duration().as_secs() {
                Some(error(certificate, ChainRule::Expired))
            } else {
                None
            }
        };
        self.0.iter().filter_map(check).collect()
    }

    /// Checks that a signer's certificate leads to a trusted one, over `bundle` where needed, at `now_s` (epoch).
    pub(super) fn check(
        &self,
        leaf: &Certificate,
        bundle: &[Certificate],
        now_s: u64,
    ) -> Result<(), ChainError> {
        let mut tries = 0;
        let mut chain = vec![leaf];
        if !self.extend(&mut chain, bundle, &mut tries) {
            let last = chain.last().copied().unwrap_or(leaf);
            return Err(error(last, ChainRule::Issuer));
        }
        check_chain(&chain, now_s)
    }

    /// Completes a chain up to a self-issued trusted certificate. On failure leaves it as it was.
    fn extend<'c>(
        &'c self,
        chain: &mut Vec<&'c Certificate>,
        bundle: &'c [Certificate],
        tries: &mut usize,
    ) -> bool {
        let Some(&last) = chain.last() else { return false };
        if is_self_issued(last) {
            return self.0.contains(last);
        }
        if chain.len() == MAX_DEPTH {
            return false;
        }
        for issuer in self.0.iter().chain(bundle) {
            *tries += 1;
            if *tries > MAX_TRIES {
                return false;
            }
            if chain.contains(&issuer) || !may_have_issued(issuer, last) {
                continue;
            }
            chain.push(issuer);
            if self.extend(chain, bundle, tries) {
                return true;
            }
            chain.pop();
        }
        false
    }
}

fn error(certificate: &Certificate, rule: ChainRule) -> ChainError {
    ChainError { subject: certificate.tbs_certificate().subject().to_string(), rule }
}

fn is_self_issued(certificate: &Certificate) -> bool {
    let tbs = certificate.tbs_certificate();
    tbs.subject() == tbs.issuer()
}

/// Compares names and, where both are there, key identifiers.
fn may_have_issued(issuer: &Certificate, subject: &Certificate) -> bool {
    let (issuer, subject) = (issuer.tbs_certificate(), subject.tbs_certificate());
    let wanted = match subject.get_extension::<AuthorityKeyIdentifier>() {
        Ok(Some((_, identifier))) => identifier.key_identifier,
        _ => None,
    };
    let own = match issuer.get_extension::<SubjectKeyIdentifier>() {
        Ok(Some((_, identifier))) => Some(identifier.0),
        _ => None,
    };
    let keys_agree = match (wanted, own) {
        (Some(wanted), Some(own)) => wanted == own,
        _ => true,
    };
    issuer.subject() == subject.issuer() && keys_agree
}

/// Checks a complete chain, signer first. The trusted root's own signature is not checked, as OpenSSL does not.
fn check_chain(chain: &[&Certificate], now_s: u64) -> Result<(), ChainError> {
    let mut below = 0;
    for (index, certificate) in chain.iter().enumerate() {
        let facts = Facts::new(certificate).map_err(|rule| error(certificate, rule))?;
        facts.check(index > 0, below, now_s).map_err(|rule| error(certificate, rule))?;
        if index > 0 && !is_self_issued(certificate) {
            below += 1;
        }
        if let Some(issuer) = chain.get(index + 1) {
            check_issued(issuer, certificate).map_err(|rule| error(certificate, rule))?;
        }
    }
    Ok(())
}

fn check_issued(issuer: &Certificate, certificate: &Certificate) -> Result<(), ChainRule> {
    let malformed = |why: der::Error| ChainRule::Malformed(why.to_string());
    let tbs = certificate.tbs_certificate();
    if tbs.signature() != certificate.signature_algorithm() {
        return Err(ChainRule::Malformed("two signature algorithms".into()));
    }
    let message = tbs.to_der().map_err(malformed)?;
    let signature = certificate.signature().as_bytes().ok_or(ChainRule::Signature)?;
    let hash = Hash::from_signature(certificate.signature_algorithm()).ok_or(ChainRule::Signature)?;
    let key = issuer.tbs_certificate().subject_public_key_info();
    if verify(key, hash, &message, signature) { Ok(()) } else { Err(ChainRule::Signature) }
}

/// What the extensions of one certificate say.
struct Facts {
    not_before_s: u64,
    not_after_s: u64,
    self_signed_v1: bool,
    constraints: Option<BasicConstraints>,
    key_usage: Option<KeyUsage>,
    extended: Option<ExtendedKeyUsage>,
    netscape: Option<u8>,
}

impl Facts {
    fn new(certificate: &Certificate) -> Result<Self, ChainRule> {
        let malformed = |why: der::Error| ChainRule::Malformed(why.to_string());
        let tbs = certificate.tbs_certificate();
        let mut netscape = None;
        for extension in tbs.extensions().into_iter().flatten() {
            let constrains = extension.extn_id == rfc5280::ID_CE_NAME_CONSTRAINTS;
            if constrains || (extension.critical && !UNDERSTOOD.contains(&extension.extn_id)) {
                return Err(ChainRule::Extension(extension.extn_id));
            }
            if extension.extn_id == NS_CERT_TYPE {
                let bits = BitString::from_der(extension.extn_value.as_bytes()).map_err(malformed)?;
                netscape = Some(bits.raw_bytes().first().copied().unwrap_or(0));
            }
        }
        Ok(Self {
            not_before_s: tbs.validity().not_before.to_unix_duration().as_secs(),
            not_after_s: tbs.validity().not_after.to_unix_duration().as_secs(),
            self_signed_v1: tbs.version() == cms::cert::x509::Version::V1 && is_self_issued(certificate),
            constraints: tbs.get_extension().map_err(malformed)?.map(|(_, value)| value),
            key_usage: tbs.get_extension().map_err(malformed)?.map(|(_, value)| value),
            extended: tbs.get_extension().map_err(malformed)?.map(|(_, value)| value),
            netscape,
        })
    }

    fn check(&self, issues: bool, below: u8, now_s: u64) -> Result<(), ChainRule> {
        if now_s < self.not_before_s {
            return Err(ChainRule::NotYetValid);
        }
        if now_s > self.not_after_s {
            return Err(ChainRule::Expired);
        }
        if self.extended.as_ref().is_some_and(|extended| !extended.0.contains(&EMAIL_PROTECTION)) {
            return Err(ChainRule::Purpose);
        }
        if !issues {
            return self.check_signer();
        }
        self.check_ca()?;
        match self.constraints.as_ref().and_then(|constraints| constraints.path_len_constraint) {
            Some(allowed) if below > allowed => Err(ChainRule::PathLength),
            _ => Ok(()),
        }
    }

    /// `check_purpose_smime_sign` for the signer's own certificate.
    fn check_signer(&self) -> Result<(), ChainRule> {
        let netscape = self.netscape.is_none_or(|bits| bits & (NS_SMIME | NS_SSL_CLIENT) != 0);
        let usage =
            self.key_usage.as_ref().is_none_or(|usage| usage.digital_signature() || usage.non_repudiation());
        if netscape && usage { Ok(()) } else { Err(ChainRule::Purpose) }
    }

    /// `check_ca`: without basic constraints nothing is a CA, but a root older than extensions.
    fn check_ca(&self) -> Result<(), ChainRule> {
        let may_sign = self.key_usage.as_ref().is_none_or(KeyUsage::key_cert_sign);
        let is_ca = self.constraints.as_ref().map_or(self.self_signed_v1, |constraints| constraints.ca);
        if may_sign && is_ca { Ok(()) } else { Err(ChainRule::NotCa) }
    }
}

/// The hashes signatures are made over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(super) fn from_digest(algorithm: &AlgorithmIdentifierOwned) -> Option<Self> {
        match algorithm.oid {
            rfc5912::ID_SHA_256 => Some(Self::Sha256),
            rfc5912::ID_SHA_384 => Some(Self::Sha384),
            rfc5912::ID_SHA_512 => Some(Self::Sha512),
            _ => None,
        }
    }
    pub(super) fn from_signature(algorithm: &AlgorithmIdentifierOwned) -> Option<Self> {
        match algorithm.oid {
            rfc5912::SHA_256_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_256 => Some(Self::Sha256),
            rfc5912::SHA_384_WITH_RSA_ENCRYPTION | rfc5912::ECDSA_WITH_SHA_384 => Some(Self::Sha384),
            rfc5912::SHA_512_WITH_RSA_ENCRYPTION => Some(Self::Sha512),
            _ => None,
        }
    }
}

/// Checks a signature (RSA PKCS#1 v1.5 or ECDSA) by a certificate's key.
pub(super) fn verify(key: &SubjectPublicKeyInfoOwned, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
    let curve = || key.algorithm.parameters.as_ref().and_then(|any| any.decode_as::<ObjectIdentifier>().ok());
    let algorithm: &dyn ring_signature::VerificationAlgorithm = match (key.algorithm.oid, hash) {
        (rfc5912::RSA_ENCRYPTION, Hash::Sha256) => &ring_signature::RSA_PKCS1_2048_8192_SHA256,
        (rfc5912::RSA_ENCRYPTION, Hash::Sha384) => &ring_signature::RSA_PKCS1_2048_8192_SHA384,
        (rfc5912::RSA_ENCRYPTION, Hash::Sha512) => &ring_signature::RSA_PKCS1_2048_8192_SHA512,
        (rfc5912::ID_EC_PUBLIC_KEY, hash) => match (curve(), hash) {
            (Some(rfc5912::SECP_256_R_1), Hash::Sha256) => &ring_signature::ECDSA_P256_SHA256_ASN1,
            (Some(rfc5912::SECP_256_R_1), Hash::Sha384) => &ring_signature::ECDSA_P256_SHA384_ASN1,
            (Some(rfc5912::SECP_384_R_1), Hash::Sha256) => &ring_signature::ECDSA_P384_SHA256_ASN1,
            (Some(rfc5912::SECP_384_R_1), Hash::Sha384) => &ring_signature::ECDSA_P384_SHA384_ASN1,
            _ => return false,
        },
        _ => return false,
    };
    let bytes = key.subject_public_key.raw_bytes();
    UnparsedPublicKey::new(algorithm, bytes).verify(message, signature).is_ok()
}
