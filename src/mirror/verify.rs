//! What makes a file fit to be stored under a name: the one place where sync and the door agree on it.
use crate::cvd::{self, Cdiff, FileKind, FileName, SignFile, TrustKeys};
use cvdmirror_store::{ObjectReader, Pack};
use std::{
    io::{self, Read},
    path::PathBuf,
};

/// Verifies files by their names.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// Keys that sign databases.
    pub keys: TrustKeys,
    /// Bounds on what a file may hold.
    pub limits: cvd::Limits,
    /// Directory of CA certificates against which sign files are verified, if any.
    pub certs_dir: Option<PathBuf>,
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
            FileKind::CvdSign | FileKind::CdiffSign => self.verify_sign(bytes),
        }
    }

    /// Verifies that a sign file is well-formed.
    fn verify_sign(&self, bytes: impl Read) -> Result<Proof, String> {
        let mut text = Vec::new();
        bytes.take(self.limits.max_sign_bytes + 1).read_to_end(&mut text).map_err(|e| e.to_string())?;
        SignFile::parse(&text).map_err(|e| e.to_string())?;
        Ok(Proof { modified_s: None, text: "well-formed".into() })
    }

    /// Verifies a pack that was not sealed here: its file, its objects, and its names by their content.
    ///
    /// # Errors
    /// The first rule that fails, in words.
    pub fn verify_pack(&self, pack: &Pack) -> Result<(), String> {
        pack.check_file_hash(&mut |_| {}).map_err(|e| e.to_string())?;
        for (name, record) in pack.names() {
            let file: FileName = name.parse().map_err(|e: cvd::NameError| e.to_string())?;
            let reader = pack.open(&record.object).map_err(|e| e.to_string())?;
            let reader = reader.ok_or_else(|| format!("{name}: its object is not in the same pack"))?;
            self.verify(&file, Reading::new(reader)).map_err(|why| format!("{name}: {why}"))?;
        }
        Ok(())
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
