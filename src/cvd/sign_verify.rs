//! Verifies a sign file with the file it signs, and its signers with the certificates an operator trusts.
//!
//! Guarantees that what passes both, passes ClamAV's `PKCS7_verify` too: every signer's digest and signature hold, and
//! every signer's chain is trusted. Stricter where ClamAV's signer never goes: signed attributes are required, so that a
//! large file need not be held in memory to check a signature over it.
use super::{
    chain::{self, Anchors, ChainError, Hash},
    sign_file::{SignFile, SignFileError, Signature},
};
use cms::{
    cert::{CertificateChoices, x509::Certificate},
    content_info::ContentInfo,
    signed_data::{SignedData, SignerIdentifier, SignerInfo},
};
use der::{
    Decode, Encode,
    asn1::{ObjectIdentifier, OctetString},
    oid::db::{rfc5911, rfc5912},
};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::{
    io::{self, Read},
    rc::Rc,
};

/// Why a sign file does not verify with a file, or is not trusted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SignError {
    /// Not well-formed, so not safe to serve at all.
    #[error("{0}")]
    Malformed(#[from] SignFileError),
    #[error("PKCS#7: {0}")]
    Structure(#[from] der::Error),
    #[error("PKCS#7 holds no detached signature")]
    NotDetached,
    #[error("there is no signer")]
    NoSigner,
    #[error("the signer's certificate is not in the sign file")]
    NoCertificate,
    #[error("not supported: {0}")]
    Unsupported(&'static str),
    /// Signed attributes that are missing or contradict.
    #[error("signed attributes are missing or wrong")]
    Attributes,
    /// It was made for another file, such as another version.
    #[error("signed digest is not the file's")]
    Digest,
    #[error("signature does not verify")]
    Signature,
    #[error("signer is not trusted: {0}")]
    Chain(#[from] ChainError),
    #[error("cannot read the signed file")]
    Read(#[source] io::Error),
}

/// A signer whose signature holds, and the certificates that came along.
struct Signer {
    certificate: Certificate,
    bundle: Rc<[Certificate]>,
}

/// All signers, each with a valid signature.
pub(super) struct Signers(Vec<Signer>);

impl Signers {
    /// Checks that every signer leads to a trusted certificate at `now_s`, epoch seconds.
    pub(super) fn check_chains(&self, anchors: &Anchors, now_s: u64) -> Result<(), ChainError> {
        self.0.iter().try_for_each(|signer| anchors.check(&signer.certificate, &signer.bundle, now_s))
    }
}

/// Checks digests and signatures, not certificates; `signed` is the whole signed file with its CVD header.
pub(super) fn check_signed(sign: &SignFile, signed: impl Read) -> Result<Signers, SignError> {
    let digests = Digests::new(signed).map_err(SignError::Read)?;
    let mut signers = Vec::new();
    // A client's level selects the signature that it uses, so all must be valid.
    for signature in &sign.signatures {
        check_pkcs7(&signature.pkcs7, &digests, &mut signers)?;
    }
    Ok(Signers(signers))
}

impl SignFile {
    /// Whether one of these certificates issued a certificate that it carries; its signatures need not hold, nor what it
    /// signs be at hand.
    pub fn is_under(&self, anchors: &Anchors) -> bool {
        let carries = |signature: &Signature| {
            signed_data(&signature.pkcs7).is_ok_and(|data| certificates(&data).any(|one| anchors.issued(one)))
        };
        self.signatures.iter().any(carries)
    }
}

fn signed_data(pkcs7: &[u8]) -> Result<SignedData, SignError> {
    let outer = ContentInfo::from_der(pkcs7)?;
    if outer.content_type != rfc5911::ID_SIGNED_DATA {
        return Err(SignError::NotDetached);
    }
    Ok(outer.content.decode_as()?)
}

fn certificates(data: &SignedData) -> impl Iterator<Item = &Certificate> {
    data.certificates.iter().flat_map(|set| set.0.iter()).filter_map(|choice| match choice {
        CertificateChoices::Certificate(certificate) => Some(certificate),
        CertificateChoices::Other(_) => None,
    })
}

fn check_pkcs7(pkcs7: &[u8], digests: &Digests, signers: &mut Vec<Signer>) -> Result<(), SignError> {
    let data = signed_data(pkcs7)?;
    if data.encap_content_info.econtent_type != rfc5911::ID_DATA || data.encap_content_info.econtent.is_some()
    {
        return Err(SignError::NotDetached);
    }
    let bundle: Rc<[Certificate]> = certificates(&data).cloned().collect();
    if data.signer_infos.0.is_empty() {
        return Err(SignError::NoSigner);
    }
    for signer in data.signer_infos.0.iter() {
        let certificate = check_signer(signer, &bundle, digests)?.clone();
        signers.push(Signer { certificate, bundle: Rc::clone(&bundle) });
    }
    Ok(())
}

/// Checks one signer's digest and signature, and returns its certificate.
fn check_signer<'b>(
    signer: &SignerInfo,
    bundle: &'b [Certificate],
    digests: &Digests,
) -> Result<&'b Certificate, SignError> {
    let SignerIdentifier::IssuerAndSerialNumber(wanted) = &signer.sid else {
        return Err(SignError::Unsupported("a signer named by key identifier"));
    };
    let is_wanted = |certificate: &&Certificate| {
        let tbs = certificate.tbs_certificate();
        *tbs.issuer() == wanted.issuer && *tbs.serial_number() == wanted.serial_number
    };
    let certificate = bundle.iter().find(is_wanted).ok_or(SignError::NoCertificate)?;
    let hash = Hash::from_digest(&signer.digest_alg).ok_or(SignError::Unsupported("the digest algorithm"))?;
    let bare = [rfc5912::RSA_ENCRYPTION, rfc5912::ID_EC_PUBLIC_KEY].contains(&signer.signature_algorithm.oid);
    if !bare && Hash::from_signature(&signer.signature_algorithm) != Some(hash) {
        return Err(SignError::Unsupported("the signature algorithm"));
    }

    let attributes = signer
        .signed_attrs
        .as_ref()
        .ok_or(SignError::Unsupported("a signature without signed attributes"))?;
    let only = |oid: ObjectIdentifier| {
        let mut values = attributes.iter().filter(|attribute| attribute.oid == oid);
        match (values.next(), values.next()) {
            (Some(attribute), None) if attribute.values.len() == 1 => attribute.values.get(0),
            _ => None,
        }
    };
    let content_type = only(rfc5911::ID_CONTENT_TYPE).ok_or(SignError::Attributes)?;
    if content_type.decode_as::<ObjectIdentifier>()? != rfc5911::ID_DATA {
        return Err(SignError::Attributes);
    }
    let digest = only(rfc5911::ID_MESSAGE_DIGEST).ok_or(SignError::Attributes)?;
    if digest.decode_as::<OctetString>()?.as_bytes() != digests.get(hash) {
        return Err(SignError::Digest);
    }
    // RFC 5652 section 5.4: what is signed is the set with its own tag, not the implicit one it is stored under.
    let message = attributes.to_der()?;
    let key = certificate.tbs_certificate().subject_public_key_info();
    if !chain::verify(key, hash, &message, signer.signature.as_bytes()) {
        return Err(SignError::Signature);
    }
    Ok(certificate)
}

/// The file's digests by every hash a signer may have used.
struct Digests {
    sha256: [u8; 32],
    sha384: [u8; 48],
    sha512: [u8; 64],
}

impl Digests {
    fn new(mut file: impl Read) -> io::Result<Self> {
        let (mut sha256, mut sha384, mut sha512) = (Sha256::new(), Sha384::new(), Sha512::new());
        let mut buffer = vec![0; 64 << 10];
        loop {
            let got = match file.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            if got == 0 {
                break;
            }
            sha256.update(&buffer[..got]);
            sha384.update(&buffer[..got]);
            sha512.update(&buffer[..got]);
        }
        let (sha256, sha384, sha512) = (sha256.finalize(), sha384.finalize(), sha512.finalize());
        Ok(Self { sha256: sha256.into(), sha384: sha384.into(), sha512: sha512.into() })
    }

    fn get(&self, hash: Hash) -> &[u8] {
        match hash {
            Hash::Sha256 => &self.sha256,
            Hash::Sha384 => &self.sha384,
            Hash::Sha512 => &self.sha512,
        }
    }
}
