//! The mint's signers: a root, an intermediate and a leaf, as ClamAV's own are, and the sign files they make.
//!
//! Their keys are new in every process, unlike the mint's other keys.
use base64::{Engine as _, engine::general_purpose::STANDARD};
use cms::{
    cert::{
        CertificateChoices, IssuerAndSerialNumber, x509::Certificate, x509::spki::AlgorithmIdentifierOwned,
    },
    content_info::{CmsVersion, ContentInfo},
    signed_data::{EncapsulatedContentInfo, SignedData, SignerIdentifier, SignerInfo},
};
use der::{
    Any, Decode, Encode,
    asn1::{ObjectIdentifier, OctetString, SetOfVec},
    oid::db::{rfc5911, rfc5912},
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SigningKey,
};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

/// What the certificates of a chain say, before they are made.
pub struct Plan {
    pub root: CertificateParams,
    pub intermediate: CertificateParams,
    pub leaf: CertificateParams,
}

/// A chain and the leaf's key.
pub struct Signer {
    /// The trusted root, PEM.
    pub root_pem: String,
    pub intermediate_pem: String,
    bundle: Vec<Vec<u8>>,
    leaf: Certificate,
    key: KeyPair,
}

/// What may be wrong with a sign file besides its certificates.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    NoAttributes,
    WrongDigest,
    WrongSignature,
    NoLeaf,
    NoIntermediate,
    Attached,
}

/// The mint's own signer.
pub fn signer() -> &'static Signer {
    static SIGNER: OnceLock<Signer> = OnceLock::new();
    SIGNER.get_or_init(|| Signer::of(Plan::proper()))
}

impl Plan {
    /// A chain that everybody accepts.
    pub fn proper() -> Self {
        let ca = |name: &str, constraints| {
            let mut params = named(name);
            params.is_ca = IsCa::Ca(constraints);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            params
        };
        let mut leaf = named("Mint signer");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        Self {
            root: ca("Mint root", BasicConstraints::Unconstrained),
            intermediate: ca("Mint intermediate", BasicConstraints::Constrained(0)),
            leaf,
        }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2060, 1, 1);
    params.use_authority_key_identifier_extension = true;
    params
}

impl Signer {
    pub fn of(plan: Plan) -> Self {
        let [root_key, intermediate_key, key] = [(); 3].map(|()| KeyPair::generate().unwrap());
        let root = plan.root.self_signed(&root_key).unwrap();
        let root_issuer = Issuer::new(plan.root, root_key);
        let intermediate = plan.intermediate.signed_by(&intermediate_key, &root_issuer).unwrap();
        let intermediate_issuer = Issuer::new(plan.intermediate, intermediate_key);
        let leaf = plan.leaf.signed_by(&key, &intermediate_issuer).unwrap();
        Self {
            root_pem: root.pem(),
            intermediate_pem: intermediate.pem(),
            bundle: vec![leaf.der().to_vec(), intermediate.der().to_vec()],
            leaf: Certificate::from_der(leaf.der()).unwrap(),
            key,
        }
    }

    /// The sign file of a whole CVD or CDIFF.
    pub fn sign(&self, data: &[u8]) -> Vec<u8> {
        sign_file(&self.pkcs7(data, Fault::None))
    }

    /// The PKCS#7 structure.
    pub fn pkcs7(&self, data: &[u8], fault: Fault) -> Vec<u8> {
        let attribute = |oid: ObjectIdentifier, value: Any| cms::cert::x509::attr::Attribute {
            oid,
            values: SetOfVec::try_from(vec![value]).unwrap(),
        };
        let digest = match fault {
            Fault::WrongDigest => Sha256::digest(b"something else"),
            _ => Sha256::digest(data),
        };
        let attributes = SetOfVec::try_from(vec![
            attribute(rfc5911::ID_CONTENT_TYPE, Any::encode_from(&rfc5911::ID_DATA).unwrap()),
            attribute(
                rfc5911::ID_MESSAGE_DIGEST,
                Any::encode_from(&OctetString::new(digest.to_vec()).unwrap()).unwrap(),
            ),
        ])
        .unwrap();
        let message = match fault {
            Fault::NoAttributes => data.to_vec(),
            Fault::WrongSignature => b"something else".to_vec(),
            _ => attributes.to_der().unwrap(),
        };
        let algorithm = |oid| AlgorithmIdentifierOwned { oid, parameters: None };
        let leaf = self.leaf.tbs_certificate();
        let signer = SignerInfo {
            version: CmsVersion::V1,
            sid: SignerIdentifier::IssuerAndSerialNumber(IssuerAndSerialNumber {
                issuer: leaf.issuer().clone(),
                serial_number: leaf.serial_number().clone(),
            }),
            digest_alg: algorithm(rfc5912::ID_SHA_256),
            signed_attrs: (fault != Fault::NoAttributes).then_some(attributes),
            signature_algorithm: algorithm(rfc5912::ECDSA_WITH_SHA_256),
            signature: OctetString::new(self.key.sign(&message).unwrap()).unwrap(),
            unsigned_attrs: None,
        };
        let bundle = match fault {
            Fault::NoLeaf => &self.bundle[1..],
            Fault::NoIntermediate => &self.bundle[..1],
            _ => &self.bundle[..],
        };
        let certificates: Vec<CertificateChoices> = bundle
            .iter()
            .map(|der| CertificateChoices::Certificate(Certificate::from_der(der).unwrap()))
            .collect();
        let content = OctetString::new(data.to_vec()).unwrap();
        let signed = SignedData {
            version: CmsVersion::V1,
            digest_algorithms: SetOfVec::try_from(vec![algorithm(rfc5912::ID_SHA_256)]).unwrap(),
            encap_content_info: EncapsulatedContentInfo {
                econtent_type: rfc5911::ID_DATA,
                econtent: (fault == Fault::Attached).then(|| Any::encode_from(&content).unwrap()),
            },
            certificates: Some(certificates.try_into().unwrap()),
            crls: None,
            signer_infos: vec![signer].try_into().unwrap(),
        };
        let outer = ContentInfo {
            content_type: rfc5911::ID_SIGNED_DATA,
            content: Any::encode_from(&signed).unwrap(),
        };
        outer.to_der().unwrap()
    }
}

/// Puts a PKCS#7 structure into a sign file, as Talos' are.
pub fn sign_file(pkcs7: &[u8]) -> Vec<u8> {
    format!("#clamsign-1.0\n230::pkcs7-pem:{}\n", STANDARD.encode(pkcs7)).into_bytes()
}
