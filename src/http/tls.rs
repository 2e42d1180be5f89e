//! The TLS of the second listener: its certificate and key, read again when their files change.
//!
//! A file that cannot be used leaves what was read before in force, and says so.
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::time::sleep;

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The files of TLS, in PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The certificate and those that lead to its authority.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// Authorities of clients; `None`: no client is asked for a certificate.
    pub client_ca: Option<PathBuf>,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One cannot be read, or holds nothing of its kind.
    #[error("{}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: rustls::pki_types::pem::Error,
    },
    /// The certificate or the key is not usable, or the key is another certificate's.
    #[error("tls_cert, tls_key: {0}")]
    Pair(rustls::Error),
    /// Nothing can be checked against the clients' authorities.
    #[error("tls_client_ca: {0}")]
    Clients(String),
}

/// TLS as it is in force.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: ArcSwap<ServerConfig>,
    /// What the files were when they were read last.
    stamps: Mutex<Vec<Stamp>>,
}

/// What changes when a file does: inode, length, and times of change.
type Stamp = Option<(u64, u64, i64, i64)>;

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn read(files: TlsFiles) -> Result<Self, TlsError> {
        let stamps = Mutex::new(files.stamps());
        let config = ArcSwap::from_pointee(files.config()?);
        Ok(Self { files, config, stamps })
    }

    /// What a new connection is to have.
    pub(super) fn config(&self) -> Arc<ServerConfig> {
        self.config.load_full()
    }

    /// Reads the files again.
    pub fn reload(&self) {
        *self.stamps.lock() = self.files.stamps();
        match self.files.config() {
            Ok(config) => {
                self.config.store(Arc::new(config));
                tracing::info!("the TLS certificate is read anew from {}", self.files.cert.display());
            }
            Err(e) => tracing::error!("{e}: the TLS certificate that was read before stays in force"),
        }
    }

    /// Reads the files again whenever they have changed.
    pub async fn follow(&self) {
        loop {
            sleep(LOOK_EVERY).await;
            if self.files.stamps() != *self.stamps.lock() {
                self.reload();
            }
        }
    }
}

impl TlsFiles {
    fn stamps(&self) -> Vec<Stamp> {
        let files = [Some(&self.cert), Some(&self.key), self.client_ca.as_ref()];
        let stamp = |path: &PathBuf| {
            let at = fs::metadata(path).ok()?;
            Some((at.ino(), at.len(), at.ctime(), at.ctime_nsec()))
        };
        files.into_iter().flatten().map(stamp).collect()
    }

    /// The certificate, then those that lead to its authority.
    ///
    /// # Errors
    /// See [`TlsError`].
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        certificates(&self.cert)
    }

    fn config(&self) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(ring::default_provider());
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|why| TlsError::Read { path: self.key.clone(), why })?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Pair)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for authority in certificates(path)? {
                    roots.add(authority).map_err(|e| TlsError::Clients(e.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| TlsError::Clients(e.to_string()))?)
            }
        };
        let mut config = builder.with_single_cert(self.chain()?, key).map_err(TlsError::Pair)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.and_then(|all| {
        if all.is_empty() { Err(rustls::pki_types::pem::Error::NoItemsFound) } else { Ok(all) }
    });
    read.map_err(|why| TlsError::Read { path: path.to_owned(), why })
}
