//! What makes a file fit to be stored under a name: the one place where sync and admission agree on it.
use super::{
    plan::Held,
    reading::{Reading, Unheld},
};
use crate::{
    ca,
    clock::Clock,
    cvd::{self, AnchorError, Anchors, Cdiff, FileKind, FileName, NameError, TrustKeys, VerifyError},
    trouble::Trouble,
};
use cvdmirror_store::{Finding, Hasher, NameRecord, Pack, Proof as Level, View, check_pack};
use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Path, PathBuf},
};

/// Counts up when a rule for what may be held gets stricter, so that what is held is judged once more.
const RULES: u32 = 1;

/// Verifies files by their names.
#[derive(Clone, Debug)]
pub struct Verifier {
    /// Keys that sign databases.
    pub keys: TrustKeys,
    /// Bounds on what a file may hold.
    pub limits: cvd::Limits,
    /// CA certificates that the signers of sign files must lead to; `None`: anybody may have signed, but for that file.
    pub anchors: Option<Anchors>,
    /// The site's own CA, whose sign files are not taken: clients would refuse a Talos CVD with one.
    pub site: Option<Anchors>,
    /// By which the validity of certificates is judged.
    pub clock: Clock,
}

/// The rule that a file or a pack breaks.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It does not verify.
    #[error(transparent)]
    Content(#[from] VerifyError),
    /// A CDIFF does not lead to its version from the one before: it is another database's.
    #[error(transparent)]
    Leads(#[from] cvd::RebuildError),
    /// So it was found before.
    #[error("it was applied before, and does not lead to its version")]
    LeadsElsewhere,
    /// It has fewer bytes than a CVD's header.
    #[error("has {0} bytes, fewer than a CVD's header")]
    Short(u64),
    /// A sign file beside a Talos CVD that Talos did not make.
    #[error("the site's own CA made it, and clients refuse Talos' files with such a sign file")]
    Site,
    /// A sign file without the file it signs.
    #[error("a sign file is verified with the file it signs")]
    SignAlone,
    /// A name that is no ClamAV file's.
    #[error(transparent)]
    Name(#[from] NameError),
    /// What a name is bound to cannot be read.
    #[error(transparent)]
    Unheld(#[from] Unheld),
    /// The bytes cannot be read.
    #[error(transparent)]
    Read(#[from] io::Error),
    /// The pack is not what it was sealed as, or an object not what its id says.
    #[error("{0}")]
    Damaged(Box<Finding>),
    /// A pack's record of a name says another length than its object has.
    #[error("its record says {claimed} bytes, its object has {held}")]
    Size {
        /// In bytes.
        claimed: u64,
        /// In bytes.
        held: u64,
    },
    /// Nothing shows that there is such a version: a CDIFF may be empty, and then nobody signed it.
    #[error("its version is absurdly far from the database's others")]
    Stray,
    /// A pack binds a name to other content than is held.
    #[error("it binds {0} to other content than is held")]
    Conflict(String),
    /// One name of a pack.
    #[error("{name}: {source}")]
    In {
        /// The name.
        name: String,
        /// The rule that it breaks.
        source: Box<Unfit>,
    },
}

impl Unfit {
    fn in_name(name: &str) -> impl FnOnce(Self) -> Self {
        let name = name.to_owned();
        move |source| Self::In { name, source: Box::new(source) }
    }
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
    /// A file has nothing to trust.
    #[error("{}: no certificate in it; give the ca.crt that `cvdmirror ca init` made", path.display())]
    Bare {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing to trust.
    #[error("{}: no certificate in any *.pem or *.crt; ClamAV's own are in /etc/clamav/certs", dir.display())]
    None {
        /// The directory.
        dir: PathBuf,
    },
}

impl From<&CertsError> for Trouble {
    fn from(e: &CertsError) -> Self {
        Self::certificates(e)
    }
}

/// Reads every certificate of a file.
///
/// # Errors
/// See [`CertsError`].
pub fn anchors_of(path: &Path) -> Result<Anchors, CertsError> {
    let mut anchors = Anchors::default();
    let text = std::fs::read(path).map_err(|source| CertsError::Read { path: path.into(), source })?;
    anchors.add_pem(&text).map_err(|source| CertsError::Certificate { path: path.into(), source })?;
    if anchors.is_empty() { Err(CertsError::Bare { path: path.into() }) } else { Ok(anchors) }
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

/// The site's own CA in this directory, where the databases are Talos'. Where a site has keys of its own, the databases are
/// its own too, and its CA may sign them. A CA that cannot be read has signed nothing that anybody trusts.
pub fn site_in(dir: Option<&Path>, keys: &TrustKeys) -> Option<Anchors> {
    dir.filter(|_| *keys == TrustKeys::talos()).and_then(|dir| ca::authority(dir).ok())
}

/// That a file is what its name says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proof {
    /// The content's own date, epoch seconds.
    pub modified_s: Option<u64>,
    /// How it was verified.
    pub level: Level,
}

impl Verifier {
    /// Verifies a CVD or CDIFF under its name.
    ///
    /// # Errors
    /// The rule that failed.
    pub fn verify(&self, name: &FileName, bytes: impl Read) -> Result<Proof, Unfit> {
        match name.kind {
            FileKind::Cvd => {
                let cvd = cvd::verify_cvd(name, bytes, &self.keys, &self.limits)?;
                Ok(Proof { modified_s: Some(cvd.header.stime_s), level: Level::Signed })
            }
            FileKind::Cdiff => {
                let cdiff = cvd::verify_cdiff(name, bytes, &self.keys, &self.limits)?;
                let level = match &*cdiff {
                    Cdiff::Empty => Level::Empty,
                    Cdiff::Patch(_) => Level::Signed,
                };
                Ok(Proof { modified_s: None, level })
            }
            FileKind::CvdSign | FileKind::CdiffSign => Err(Unfit::SignAlone),
        }
    }

    /// Verifies what a CVD's header alone shows: whose it is, and that its MD5 was signed. The body is known to be the one that
    /// this MD5 was checked against.
    ///
    /// # Errors
    /// The rule that failed.
    pub fn verify_header(&self, name: &FileName, mut bytes: impl Read) -> Result<(), Unfit> {
        let mut header = [0; cvd::HEADER_BYTES];
        bytes.read_exact(&mut header)?;
        let header = cvd::Header::parse(&header).map_err(VerifyError::from)?;
        if header.version != name.version {
            return Err(VerifyError::Version { expected: name.version, found: header.version }.into());
        }
        Ok(cvd::verify_header(&header, &self.keys)?)
    }

    /// Verifies a sign file with the file it signs, and its signer's chain where certificates are known.
    ///
    /// # Errors
    /// The rule that failed.
    pub fn verify_sign(&self, sign: impl Read, signed: impl Read) -> Result<Proof, Unfit> {
        let anchors = self.anchors.as_ref();
        let sign = cvd::verify_sign(sign, signed, anchors, self.clock.epoch_s(), &self.limits)?;
        if self.site.as_ref().is_some_and(|site| sign.is_under(site)) {
            return Err(Unfit::Site);
        }
        let level = if anchors.is_some() { Level::Chained } else { Level::Signed };
        Ok(Proof { modified_s: None, level })
    }

    /// A digest of what judges a file, or of a sign file (`certificates`): what was judged by another is judged again.
    pub fn digest(&self, certificates: bool) -> String {
        let mut hasher = Hasher::new();
        hasher.update(&RULES.to_le_bytes());
        if !certificates {
            hasher.update(&serde_json::to_vec(&self.keys).unwrap_or_default());
        } else {
            for anchors in [&self.anchors, &self.site].into_iter().flatten() {
                hasher.update(&anchors.digest());
            }
        }
        hasher.finish().to_string()[..16].to_owned()
    }

    /// Verifies a pack that was not sealed here: its file, its objects, and its names by their content. `all` shows the
    /// packs beside it and itself: an object may lie in another one.
    ///
    /// # Errors
    /// The first rule that fails.
    pub fn verify_pack(
        &self,
        pack: &Pack,
        all: &View,
        held: &BTreeMap<cvd::Database, Held>,
    ) -> Result<(), Unfit> {
        check_whole(pack)?;
        for (name, record) in pack.names() {
            self.verify_bound(pack, all, held, name, record).map_err(Unfit::in_name(name))?;
        }
        Ok(())
    }

    fn verify_bound(
        &self,
        pack: &Pack,
        all: &View,
        held: &BTreeMap<cvd::Database, Held>,
        name: &str,
        record: &NameRecord,
    ) -> Result<(), Unfit> {
        let file: FileName = name.parse()?;
        if file.kind == FileKind::Cdiff
            && held.get(&file.database).is_some_and(|held| held.is_stray(file.version))
        {
            return Err(Unfit::Stray);
        }
        let open = |name: &str, record: &NameRecord| {
            let object = all.open(&record.object).map_err(Unheld::from)?;
            Ok::<_, Unheld>(Reading::new(object.ok_or_else(|| Unheld::Name(name.to_owned()))?))
        };
        if let Some(held) = all.size_of(&record.object).filter(|held| *held != record.size) {
            return Err(Unfit::Size { claimed: record.size, held });
        }
        let bytes = open(name, record)?;
        let Some(signed) = file.signed().map(|signed| signed.to_string()) else {
            return self.verify(&file, bytes).map(drop);
        };
        let record = pack.lookup(&signed).or_else(|| all.lookup(&signed));
        let record = record.ok_or_else(|| Unheld::Name(signed.clone()))?;
        self.verify_sign(bytes, open(&signed, record)?).map(drop)
    }
}

/// Checks that a pack's file is what its name says, and each object what its id says.
///
/// # Errors
/// The first thing that is not.
pub fn check_whole(pack: &Pack) -> Result<(), Unfit> {
    let mut found = None;
    check_pack(pack, false, &|_| {}, &mut |finding| {
        found.get_or_insert(finding);
    });
    found.map_or(Ok(()), |finding| Err(Unfit::Damaged(Box::new(finding))))
}

/// The versions that names speak of.
pub fn versions<'a>(names: impl Iterator<Item = &'a FileName>) -> BTreeMap<cvd::Database, Held> {
    let mut held: BTreeMap<_, Held> = BTreeMap::new();
    for file in names {
        held.entry(file.database.clone()).or_default().insert(file, true);
    }
    held
}
