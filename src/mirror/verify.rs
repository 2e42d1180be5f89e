//! What makes a file fit to be stored under a name: the one place where sync and the door agree on it.
use crate::{
    clock::epoch_s,
    cvd::{self, AnchorError, Anchors, Cdiff, FileKind, FileName, TrustKeys},
};
use cvdmirror_store::{Hasher, ObjectId, ObjectReader, Pack};
use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Verifies files by their names.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// Keys that sign databases.
    pub keys: TrustKeys,
    /// Bounds on what a file may hold.
    pub limits: cvd::Limits,
    /// CA certificates against which sign files are verified; `None`: they need only be well-formed.
    pub anchors: Option<Anchors>,
}

/// Why a directory of CA certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// The directory or a file in it cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A file holds something that is no certificate.
    #[error("{}: {source}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: AnchorError,
    },
    /// There is nothing to trust.
    #[error("{}: no certificate in any *.pem or *.crt; ClamAV's own are in /etc/clamav/certs", dir.display())]
    None {
        /// The directory.
        dir: PathBuf,
    },
}

/// Reads every certificate of every `*.pem` and `*.crt` in a directory, as ClamAV does.
///
/// # Errors
/// See [`CertsError`].
pub fn anchors_in(dir: &Path) -> Result<Anchors, CertsError> {
    let read = |path: &Path| {
        let path = path.to_owned();
        move |source| CertsError::Read { path, source }
    };
    let mut anchors = Anchors::default();
    for entry in std::fs::read_dir(dir).map_err(read(dir))? {
        let path = entry.map_err(read(dir))?.path();
        if path.extension().is_some_and(|ending| ending == "pem" || ending == "crt") {
            let text = std::fs::read(&path).map_err(read(&path))?;
            anchors.add_pem(&text).map_err(|source| CertsError::Certificate { path, source })?;
        }
    }
    if anchors.is_empty() { Err(CertsError::None { dir: dir.into() }) } else { Ok(anchors) }
}

/// That a file is what its name says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// The content's own date, epoch seconds.
    pub modified_s: Option<u64>,
    /// How it was verified, in words.
    pub text: String,
}

impl Verifier {
    /// Verifies a CVD or CDIFF under its name.
    ///
    /// # Errors
    /// The rule that failed, in words.
    pub fn verify(&self, name: &FileName, bytes: impl Read) -> Result<Proof, String> {
        match name.kind {
            FileKind::Cvd => {
                let cvd =
                    cvd::verify_cvd(name, bytes, &self.keys, &self.limits).map_err(|e| e.to_string())?;
                Ok(Proof {
                    modified_s: Some(cvd.header.stime_s),
                    text: format!("MD5, signature, .info and {} members", cvd.members.len()),
                })
            }
            FileKind::Cdiff => {
                let cdiff =
                    cvd::verify_cdiff(name, bytes, &self.keys, &self.limits).map_err(|e| e.to_string())?;
                let text = match &*cdiff {
                    Cdiff::Empty => "empty: take the full CVD",
                    Cdiff::Patch(_) => "signature and script",
                };
                Ok(Proof { modified_s: None, text: text.into() })
            }
            FileKind::CvdSign | FileKind::CdiffSign => {
                Err("a sign file is verified with the file it signs".into())
            }
        }
    }

    /// Verifies what a CVD's header alone shows: whose it is, and that its MD5 was signed. The body is known to be the one that
    /// this MD5 was checked against.
    ///
    /// # Errors
    /// The rule that failed, in words.
    pub fn verify_header(&self, name: &FileName, mut bytes: impl Read) -> Result<(), String> {
        let mut header = [0; cvd::HEADER_BYTES];
        bytes.read_exact(&mut header).map_err(|e| e.to_string())?;
        let header = cvd::Header::parse(&header).map_err(|e| e.to_string())?;
        if header.version != name.version {
            return Err(
                cvd::VerifyError::Version { expected: name.version, found: header.version }.to_string()
            );
        }
        cvd::verify_header(&header, &self.keys).map_err(|e| e.to_string())
    }

    /// Verifies a sign file's form alone.
    ///
    /// # Errors
    /// The rule that failed, in words.
    pub fn verify_sign_form(&self, sign: impl Read) -> Result<(), String> {
        cvd::parse_sign(sign, &self.limits).map(drop).map_err(|e| e.to_string())
    }

    /// Verifies a sign file with the file it signs: well-formed, and by a signer that is trusted where that is asked.
    ///
    /// # Errors
    /// The rule that failed, in words.
    pub fn verify_sign(&self, sign: impl Read, signed: impl Read) -> Result<Proof, String> {
        let text = match &self.anchors {
            Some(anchors) => {
                cvd::verify_sign(sign, signed, anchors, epoch_s(), &self.limits)
                    .map_err(|e| e.to_string())?;
                "signer, digest and chain"
            }
            // Its signed file may be anything then: only what would crash a client is looked for.
            None => {
                cvd::parse_sign(sign, &self.limits).map_err(|e| e.to_string())?;
                "well-formed"
            }
        };
        Ok(Proof { modified_s: None, text: text.into() })
    }

    /// Verifies a pack that was not sealed here: its file, its objects, and its names by their content.
    /// `all` are the packs beside it: a name's object may lie in another one.
    ///
    /// # Errors
    /// The first rule that fails, in words.
    pub fn verify_pack(&self, pack: &Pack, all: &[Pack]) -> Result<(), String> {
        pack.check_file_hash(&mut |_| {}).map_err(|e| e.to_string())?;
        let open = |name: &str, id: &ObjectId| -> Result<Reading, String> {
            for holder in std::iter::once(pack).chain(all) {
                if let Some(object) = holder.open(id).map_err(|e| e.to_string())? {
                    return Ok(Reading::new(object));
                }
            }
            Err(format!("{name}: its object is in no pack"))
        };
        for (name, record) in pack.names() {
            let file: FileName = name.parse().map_err(|e: cvd::NameError| e.to_string())?;
            let mut hashing = Hashing { inner: open(name, &record.object)?, hasher: Hasher::new() };
            let verified = match file.signed() {
                None => self.verify(&file, &mut hashing),
                Some(signed) => {
                    let signed = signed.to_string();
                    let bound = |pack: &Pack| pack.names().find(|(n, _)| *n == signed).map(|(_, r)| r.object);
                    let object = std::iter::once(pack).chain(all).find_map(bound);
                    let object = object.ok_or_else(|| format!("{name}: {signed} is in no pack"))?;
                    self.verify_sign(&mut hashing, open(&signed, &object)?)
                }
            };
            verified.map_err(|why| format!("{name}: {why}"))?;
            io::copy(&mut hashing, &mut io::sink()).map_err(|e| format!("{name}: {e}"))?;
            if hashing.hasher.finish() != record.object {
                return Err(format!("{name}: its content does not hash to its object's id"));
            }
        }
        Ok(())
    }
}

/// Hashes what is read through it.
struct Hashing<R> {
    inner: R,
    hasher: Hasher,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(out)?;
        self.hasher.update(&out[..n]);
        Ok(n)
    }
}

/// An object of the store as a stream.
#[derive(Debug)]
pub struct Reading {
    object: ObjectReader,
    chunk: bytes::Bytes,
    offset: u64,
}

impl Reading {
    /// Reads from the start.
    pub fn new(object: ObjectReader) -> Self {
        Self { object, chunk: bytes::Bytes::new(), offset: 0 }
    }
}

impl Read for Reading {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.chunk.is_empty() && self.offset < self.object.size() {
            self.chunk = self.object.chunk_at(self.offset).map_err(io::Error::other)?;
            self.offset += self.chunk.len() as u64;
        }
        let n = out.len().min(self.chunk.len());
        out[..n].copy_from_slice(&self.chunk.split_to(n));
        Ok(n)
    }
}
