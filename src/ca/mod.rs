//! A site's own certificate authority. Its signer makes sign files in ClamAV's form, for what nobody else signs as a whole.
//!
//! DIR/ca.crt is what clients trust, DIR/ca.key its key, needed for the next signer alone, and DIR/signer.key the signer's
//! key and certificate in one file, so that a renewal is one rename. The authority lasts ten years and is never replaced:
//! its successor gets a directory of its own, and clients trust both for a while. The signer lasts two, and each `init`
//! in the same directory makes the next one.
mod signer;

pub use signer::Signer;

use crate::cvd::{AnchorError, Anchors, VerifyError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use std::{
    fs::{self, DirBuilder, File, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown},
    path::{Path, PathBuf},
    time::Duration,
};

const AUTHORITY: &str = "ca.crt";
const AUTHORITY_KEY: &str = "ca.key";
// Not `.pem` or `.crt`: ClamAV trusts each of those in a directory of certificates.
const SIGNER: &str = "signer.key";
const DAY_S: u64 = 86_400;
const AUTHORITY_LIFE_S: u64 = 3652 * DAY_S;
const SIGNER_LIFE_S: u64 = 730 * DAY_S;
/// Certificates are valid from so long ago, for machines whose clock is behind.
const SLACK_S: u64 = 3600;
/// Nothing to be renewed is left to less than this.
pub const SOON_S: u64 = 30 * DAY_S;

/// What goes wrong with a CA. Nothing was changed then.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// It.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// There is something else.
    #[error("{}: is not empty and holds no CA; name a directory that is not there yet", dir.display())]
    Occupied {
        /// The directory.
        dir: PathBuf,
    },
    /// There is no CA.
    #[error("{}: there is no CA; `cvdmirror ca init {}` makes one", dir.display(), dir.display())]
    Absent {
        /// The directory.
        dir: PathBuf,
    },
    /// A certificate cannot be read.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: AnchorError,
    },
    /// A file that should hold one certificate holds none, or several.
    #[error("{}: has {count} certificates, not one", path.display())]
    NotOne {
        /// The file.
        path: PathBuf,
        /// How many.
        count: usize,
    },
    /// A key cannot be read.
    #[error("{}: has no private key that can be read: {why}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// The cause.
        why: String,
    },
    /// The authority ends too soon to make another signer.
    #[error(
        "{}: the CA has ended, or does within 30 days; make another one with `cvdmirror ca init` in another directory, \
         and add its ca.crt to the file that clients trust before it is used",
        path.display()
    )]
    Ended {
        /// The certificate's file.
        path: PathBuf,
    },
    /// A certificate or a signature cannot be made.
    #[error("cannot make a certificate or signature: {0}")]
    Make(#[from] rcgen::Error),
    /// A sign file cannot be put together.
    #[error("cannot put a sign file together: {0}")]
    Encode(#[from] der::Error),
    /// What is to be signed cannot be read.
    #[error("cannot read what is to be signed: {0}")]
    Read(#[source] io::Error),
    /// What the signer signs does not verify.
    #[error(
        "{}: what the signer signs does not verify: {source}; `cvdmirror ca init` in that directory makes another one",
        path.display()
    )]
    Unfit {
        /// The signer's file.
        path: PathBuf,
        /// The rule that is broken.
        source: Box<VerifyError>,
    },
}

/// How long a certificate is valid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Term {
    /// Its file.
    pub path: PathBuf,
    /// When it ends, epoch seconds.
    pub ends_s: u64,
}

/// What a CA is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Site {
    /// Whether it was there before, and only the signer is new.
    pub renewed: bool,
    /// The authority's certificate: what clients trust.
    pub authority: Term,
    /// The signer's.
    pub signer: Term,
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::Io { path, source }
}

/// Makes a CA in a directory, or a new signer for the one that is there.
///
/// # Errors
/// See [`CaError`].
pub fn init(dir: &Path, now_s: u64) -> Result<Site, CaError> {
    let renewed = dir.join(AUTHORITY).exists();
    match renewed {
        true => renew(dir, now_s)?,
        false => make(dir, now_s)?,
    }
    let [authority, signer] = terms(dir)?;
    Ok(Site { renewed, authority, signer })
}

/// How long authority and signer are valid, in this order.
///
/// # Errors
/// When either cannot be read.
pub fn terms(dir: &Path) -> Result<[Term; 2], CaError> {
    let term = |name| -> Result<Term, CaError> {
        let path = dir.join(name);
        let only = certificate(&path)?;
        let ends_s = only.ends().map(|(ends_s, _)| ends_s).min().unwrap_or_default();
        Ok(Term { path, ends_s })
    };
    Ok([term(AUTHORITY)?, term(SIGNER)?])
}

/// The authority's certificate: what clients trust.
///
/// # Errors
/// When it cannot be read.
pub fn authority(dir: &Path) -> Result<Anchors, CaError> {
    certificate(&dir.join(AUTHORITY))
}

/// The one certificate of a file.
fn certificate(path: &Path) -> Result<Anchors, CaError> {
    let text = fs::read(path).map_err(|source| match (source.kind(), path.parent()) {
        (io::ErrorKind::NotFound, Some(dir)) => CaError::Absent { dir: dir.into() },
        _ => at(path)(source),
    })?;
    let mut anchors = Anchors::default();
    let added = anchors.add_pem(&text);
    added.map_err(|source| CaError::Certificate { path: path.into(), source })?;
    match anchors.len() {
        1 => Ok(anchors),
        count => Err(CaError::NotOne { path: path.into(), count }),
    }
}

fn key(path: &Path, text: &[u8]) -> Result<KeyPair, CaError> {
    let wrong = |why: String| CaError::Key { path: path.into(), why };
    let der = PrivatePkcs8KeyDer::from_pem_slice(text).map_err(|e| wrong(e.to_string()))?;
    KeyPair::from_pkcs8_der_and_sign_algo(&der, &PKCS_ECDSA_P256_SHA256).map_err(|e| wrong(e.to_string()))
}

/// All of it beside the directory first, which is then there whole or not at all.
fn make(dir: &Path, now_s: u64) -> Result<(), CaError> {
    match fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
        Ok(true) => return Err(CaError::Occupied { dir: dir.into() }),
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(at(dir)(e)),
        Ok(false) | Err(_) => {}
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(".".as_ref());
    DirBuilder::new().recursive(true).mode(0o750).create(parent).map_err(at(parent))?;
    let owner = fs::metadata(parent).map_err(at(parent))?;
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let name = format!("cvdmirror site CA {:08x}", rand::random::<u32>());
    let mut params = named(&name, now_s, now_s + AUTHORITY_LIFE_S);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = params.self_signed(&key)?;
    let signer = next_signer(&name, &key, now_s, now_s + AUTHORITY_LIFE_S)?;

    let made = tempfile::Builder::new()
        .prefix(".ca-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir_in(parent)
        .map_err(at(parent))?;
    write(made.path(), AUTHORITY, 0o644, &authority.pem(), &owner)?;
    write(made.path(), AUTHORITY_KEY, 0o600, &key.serialize_pem(), &owner)?;
    write(made.path(), SIGNER, 0o600, &signer, &owner)?;
    own(made.path(), &owner)?;
    fs::rename(made.path(), dir).map_err(at(dir))?;
    let _ = made.keep();
    sync(parent)
}

fn renew(dir: &Path, now_s: u64) -> Result<(), CaError> {
    let path = dir.join(AUTHORITY);
    let authority = certificate(&path)?;
    let (ends_s, subject) = authority.ends().next().unwrap_or_default();
    if ends_s < now_s + SOON_S {
        return Err(CaError::Ended { path });
    }
    let name = subject.strip_prefix("CN=").unwrap_or(&subject);
    let (path, authority_key) = (dir.join(SIGNER), dir.join(AUTHORITY_KEY));
    let own = key(&authority_key, &fs::read(&authority_key).map_err(at(&authority_key))?)?;
    let signer = next_signer(name, &own, now_s, ends_s)?;
    // The one that is there goes only when this one does what it is for.
    Signer::read(&path, signer.as_bytes(), authority, now_s)?;
    write(dir, SIGNER, 0o600, &signer, &fs::metadata(dir).map_err(at(dir))?)?;
    sync(dir)
}

/// A signer's key and certificate, issued by the authority of this name and key, which ends then.
fn next_signer(name: &str, key: &KeyPair, now_s: u64, ends_s: u64) -> Result<String, CaError> {
    // Two authorities never have the same name, so the issuer is known by what is in the certificate.
    let issuer = Issuer::new(named(name, now_s, ends_s), key);
    let own = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = named(&format!("{name}, signer {now_s}"), now_s, ends_s.min(now_s + SIGNER_LIFE_S));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    // What ClamAV asks of a signer (OpenSSL's purpose `smime_sign`), and nothing else.
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::EmailProtection];
    let certificate = params.signed_by(&own, &issuer)?;
    Ok(own.serialize_pem() + &certificate.pem())
}

fn named(name: &str, now_s: u64, ends_s: u64) -> CertificateParams {
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = epoch + Duration::from_secs(now_s.saturating_sub(SLACK_S));
    params.not_after = epoch + Duration::from_secs(ends_s);
    params.use_authority_key_identifier_extension = true;
    params
}

/// Writes a file whole or not at all, for the user whose directory it is.
fn write(dir: &Path, name: &str, mode: u32, text: &str, owner: &fs::Metadata) -> Result<(), CaError> {
    let path = dir.join(name);
    let mut file = tempfile::Builder::new()
        .permissions(Permissions::from_mode(mode))
        .tempfile_in(dir)
        .map_err(at(&path))?;
    // Whatever the umask took.
    file.as_file().set_permissions(Permissions::from_mode(mode)).map_err(at(&path))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(at(&path))?;
    own(file.path(), owner)?;
    file.persist(&path).map_err(|e| at(&path)(e.error))?;
    Ok(())
}

/// Root makes a CA for whoever runs the server.
fn own(path: &Path, owner: &fs::Metadata) -> Result<(), CaError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    chown(path, Some(owner.uid()), Some(owner.gid())).map_err(at(path))
}

fn sync(dir: &Path) -> Result<(), CaError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}
