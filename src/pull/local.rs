//! What the database directory holds of one database, and which of it libclamav takes.
//!
//! libclamav loads every file with a database's suffix. Of `X.cvd` and `X.cld` it takes the higher version, of equal ones
//! the CLD; a name with a version, as `X-9.cvd`, is loaded beside both of them.
use crate::cvd::{
    Database, FileKind, FileName, HEADER_BYTES, Header, Limits, TrustKeys, VerifyError, verify_cld,
    verify_cvd,
};
use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// How a database's body is stored.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// Compressed, under Talos' signature as a whole.
    Cvd,
    /// Raw, as freshclam writes it after a CDIFF: only what is in it is signed.
    Cld,
}

impl Form {
    /// Every one.
    pub const BOTH: [Self; 2] = [Self::Cvd, Self::Cld];

    /// The name under which libclamav takes a database in this form.
    pub(super) fn name(self, database: &Database) -> String {
        format!("{database}.{}", self.suffix())
    }

    /// The name of the sign file of a version.
    pub(super) fn sign_name(self, database: &str, version: u32) -> String {
        format!("{database}-{version}.{}.sign", self.suffix())
    }

    /// The suffix of its files.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Cvd => "cvd",
            Self::Cld => "cld",
        }
    }
}

/// What tells that a file is still the one that was looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
pub(super) struct Stamp {
    ino: u64,
    size: u64,
    mtime: (i64, i64),
}

impl Stamp {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let meta = path.symlink_metadata()?;
        Ok(Self { ino: meta.ino(), size: meta.size(), mtime: (meta.mtime(), meta.mtime_nsec()) })
    }
}

/// A file of a database.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) path: PathBuf,
    pub(super) form: Form,
    /// As its header says; none where it has no proper header.
    pub(super) version: Option<u32>,
    pub(super) stamp: Stamp,
}

/// Everything that the directory holds of one database.
#[derive(Clone, Debug, Default)]
pub(super) struct Local {
    /// Under the names that libclamav chooses between, the one it takes first.
    pub(super) files: Vec<Held>,
    /// Names that libclamav loads beside them.
    pub(super) copies: Vec<PathBuf>,
    /// Sign files.
    pub(super) signs: Vec<Sign>,
}

/// A sign file.
#[derive(Clone, Debug)]
pub(super) struct Sign {
    pub(super) path: PathBuf,
    /// The version that it is for, in the form that it is for.
    pub(super) of: (u32, Form),
}

impl Local {
    pub(super) fn scan(dir: &Path, database: &Database) -> io::Result<Self> {
        let mut local = Self::default();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
            let Some(rest) = name.strip_prefix(database.as_str()) else { continue };
            match rest {
                ".cvd" => local.files.push(Held::read(&path, Form::Cvd)?),
                ".cld" => local.files.push(Held::read(&path, Form::Cld)?),
                _ if !rest.starts_with('-') => {}
                _ => match name.parse::<FileName>() {
                    Ok(FileName { kind: FileKind::CvdSign, version, .. }) => {
                        local.signs.push(Sign { of: (version, Form::Cvd), path });
                    }
                    Ok(FileName { kind: FileKind::Cvd, .. }) => local.copies.push(path),
                    _ if rest.ends_with(".cld") => local.copies.push(path),
                    _ => {
                        let cld = name.strip_suffix(".sign").and_then(FileName::of_cld);
                        local.signs.extend(cld.map(|cvd| Sign { of: (cvd.version, Form::Cld), path }));
                    }
                },
            }
        }
        local.files.sort_by_key(|held| std::cmp::Reverse((held.version, held.form)));
        local.copies.sort();
        Ok(local)
    }
}

impl Held {
    pub(super) fn read(path: &Path, form: Form) -> io::Result<Self> {
        let stamp = Stamp::read(path)?;
        let mut head = Vec::new();
        // Anything but a plain file (a directory, a link that leads nowhere) is held, and is no database.
        let read = File::open(path).and_then(|file| file.take(HEADER_BYTES as u64).read_to_end(&mut head));
        let header = read.ok().and_then(|_| Header::parse(&head).ok());
        Ok(Self { path: path.into(), form, version: header.map(|header| header.version), stamp })
    }

    /// Its file name.
    pub(super) fn name(&self) -> String {
        self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// Opens it to be read from its start.
    pub(super) fn open(&self) -> io::Result<BufReader<File>> {
        Ok(BufReader::with_capacity(1 << 18, File::open(&self.path)?))
    }

    /// Verifies it whole.
    pub(super) fn verify(
        &self,
        database: &Database,
        keys: &TrustKeys,
        limits: &Limits,
    ) -> Result<(), VerifyError> {
        let file = self.open().map_err(VerifyError::Read)?;
        match self.form {
            Form::Cvd => {
                let name = FileName::new(database, self.version.unwrap_or_default(), FileKind::Cvd);
                verify_cvd(&name, file, keys, limits).map(drop)
            }
            Form::Cld => verify_cld(database, file, keys, limits).map(drop),
        }
    }
}
