//! The signer of a site's CA, and the PKCS#7 structures it makes: detached, over a whole file, as ClamAV verifies them.
use super::{CaError, SIGNER, at, authority, certificate, key};
use crate::cvd::{Anchors, Limits, SignFile, verify_sign};
use cms::{
    cert::{
        CertificateChoices, IssuerAndSerialNumber,
        x509::{Certificate, attr::Attribute, spki::AlgorithmIdentifierOwned},
    },
    content_info::{CmsVersion, ContentInfo},
    signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo},
};
use der::{
    Any, Decode as _, Encode as _,
    asn1::{ObjectIdentifier, OctetString, SetOfVec},
    oid::db::{rfc5911, rfc5912},
};
use rcgen::{KeyPair, SigningKey as _};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::{self, Read},
    path::Path,
};

/// A signer that is in force.
pub struct Signer {
    key: KeyPair,
    certificate: Certificate,
    authority: Anchors,
}

impl Signer {
    /// Opens the signer of the CA in a directory. What it signs verifies at `now_s` (epoch seconds): it was tried.
    ///
    /// # Errors
    /// See [`CaError`].
    pub fn open(dir: &Path, now_s: u64) -> Result<Self, CaError> {
        let path = dir.join(SIGNER);
        certificate(&path)?;
        Self::read(&path, &fs::read(&path).map_err(at(&path))?, authority(dir)?, now_s)
    }

    /// Reads the key and the certificate that a file holds or is to hold, and tries them.
    pub(super) fn read(path: &Path, text: &[u8], authority: Anchors, now_s: u64) -> Result<Self, CaError> {
        let der = CertificateDer::from_pem_slice(text)
            .map_err(|e| CaError::Io { path: path.into(), source: io::Error::other(e) })?;
        let signer = Self { key: key(path, text)?, certificate: Certificate::from_der(&der)?, authority };
        let tried = signer.sign(io::empty())?;
        let found =
            verify_sign(tried.as_bytes(), io::empty(), Some(&signer.authority), now_s, &Limits::default());
        match found {
            Ok(_) => Ok(signer),
            Err(source) => Err(CaError::Unfit { path: path.into(), source: Box::new(source) }),
        }
    }

    /// The authority's certificate: what clients trust.
    pub fn authority(&self) -> &Anchors {
        &self.authority
    }

    /// What tells one signer from the next.
    pub fn serial(&self) -> &[u8] {
        self.certificate.tbs_certificate().serial_number().as_bytes()
    }

    /// Makes the sign file of a whole file, its header included.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn sign(&self, mut file: impl Read) -> Result<String, CaError> {
        let mut hasher = Sha256::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(got) => hasher.update(&buffer[..got]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(CaError::Read(e)),
            }
        }
        Ok(SignFile::text(&self.pkcs7(&hasher.finalize())?))
    }

    fn pkcs7(&self, digest: &[u8]) -> Result<Vec<u8>, CaError> {
        let algorithm = |oid| AlgorithmIdentifierOwned { oid, parameters: None };
        // RFC 5652, section 5.4: the attributes are signed, and one of them is the content's digest.
        let attributes = SetOfVec::try_from(vec![
            attribute(rfc5911::ID_CONTENT_TYPE, Any::encode_from(&rfc5911::ID_DATA)?)?,
            attribute(rfc5911::ID_MESSAGE_DIGEST, Any::encode_from(&OctetString::new(digest)?)?)?,
        ])?;
        let signature = self.key.sign(&attributes.to_der()?)?;
        let own = self.certificate.tbs_certificate();
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: own.issuer().clone(),
                serial_number: own.serial_number().clone(),
            }),
            digest_alg: algorithm(rfc5912::ID_SHA_256),
            signed_attrs: Some(attributes),
            signature_algorithm: algorithm(rfc5912::ECDSA_WITH_SHA_256),
            signature: OctetString::new(signature)?,
            unsigned_attrs: None,
        };
        let signed = SignedData {
            version: CmsVersion::V1,
            digest_algorithms: SetOfVec::try_from(vec![algorithm(rfc5912::ID_SHA_256)])?,
            encap_content_info: EncapsulatedContentInfo { econtent_type: rfc5911::ID_DATA, econtent: None },
            certificates: Some(vec![CertificateChoices::Certificate(self.certificate.clone())].try_into()?),
            crls: None,
            signer_infos: vec![signer].try_into()?,
        };
        let content = Any::encode_from(&signed)?;
        Ok(ContentInfo { content_type: rfc5911::ID_SIGNED_DATA, content }.to_der()?)
    }
}

fn attribute(oid: ObjectIdentifier, value: Any) -> Result<Attribute, der::Error> {
    Ok(Attribute { oid, values: SetOfVec::try_from(vec![value])? })
}
