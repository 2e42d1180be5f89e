//! Makes the newest version of a database out of what is held and what the mirror has.
//!
//! Guarantees: what is staged is verified as if its maker were a stranger. A CVD has Talos' signature over every byte; a
//! CLD is written here from members that Talos' list names, and read back. The cheapest way is taken: CDIFFs from what
//! is held, as long as they cost less than the whole.
use super::{
    Pull, PullError, Remark,
    directory::{Directory, Staged},
    fetch::FetchError,
    local::{Form, Held, Local},
    site::SiteFault,
};
use crate::{
    clock::epoch_s,
    cvd::{
        Database, FileKind, FileName, HEADER_BYTES, Header, Rebuild, RebuildError, VerifyError, check_cld,
        verify_cdiff, verify_cvd, verify_header, verify_sign,
    },
};
use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Seek, Write},
    path::{Path, PathBuf},
};

/// More patches than this are not tried one after the other: the CDN itself keeps about 90 days of them.
const MAX_PATCHES: u32 = 1000;

/// How a version was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// From what was held, by so many CDIFFs; none where only the form changed.
    Patches(u32),
    /// From a full CVD, and so many CDIFFs after it.
    Full(u32),
}

/// A version that was made, and what it cost.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) staged: Staged,
    pub(super) way: Way,
    pub(super) bytes: u64,
}

/// What is held and verified.
#[derive(Clone, Copy)]
pub(super) struct Base<'a> {
    pub(super) held: &'a Held,
    /// Whether it is what libclamav loads, and need not be replaced by the same version.
    pub(super) sound: bool,
}

/// The full CVD that the mirror offers.
struct Offer {
    /// Its name there.
    name: String,
    bytes: [u8; HEADER_BYTES],
    version: u32,
    /// Its size; none where the mirror does not say.
    size: Option<u64>,
}

/// Why patches are of no use here. Then the full CVD is taken.
#[derive(Debug, thiserror::Error)]
pub enum NoPatch {
    /// One cannot be had.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// One is not what its name says, or not Talos'.
    #[error("{name}: {source}")]
    Verify {
        /// Its name.
        name: FileName,
        /// The rule it breaks.
        source: VerifyError,
    },
    /// What comes of them is not what was signed.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// There would be too many of them.
    #[error("{0} versions behind")]
    Far(u32),
    /// The site's CA signed something else than what comes of them.
    #[error("the CLD that comes of the patches is not the one that the site's CA has signed")]
    OtherCld,
    /// They would cost more than the full CVD.
    #[error("the patches cost more than the full CVD")]
    Dearer,
}

/// Makes one database.
pub(super) struct Maker<'a> {
    pub(super) pull: &'a Pull,
    pub(super) directory: &'a Directory,
    pub(super) database: &'a Database,
    pub(super) remarks: &'a mut Vec<Remark>,
    /// Bytes that came from the mirror.
    pub(super) bytes: u64,
}

impl Maker<'_> {
    /// Makes the newest version that can be had, of which `version` is said to be there; from `base` where there is one.
    /// None: that is not newer than what is held.
    pub(super) async fn make(
        mut self,
        version: u32,
        base: Option<Base<'_>>,
        local: &Local,
    ) -> Result<Option<Made>, PullError> {
        let offer = self.offer(version).await?;
        let reached = |form| match form {
            // A CVD needs its signed header. A CLD does not: CDIFFs may lead it past the newest full CVD, of which alone
            // the mirror makes, and signs, a CLD.
            Form::Cld if self.pull.ca.is_none() => version.max(offer.version),
            Form::Cvd | Form::Cld => offer.version,
        };
        let form = self.form(local, reached);
        let newest = reached(form);
        let held = base.and_then(|base| base.held.version);
        let sound = base.is_some_and(|base| base.sound);
        let base = base.map(|base| base.held);
        let wanted = |target: u32| match held {
            None => true,
            Some(held) if held > target => self.pull.allow_older,
            // What is damaged is replaced, even by the same version.
            Some(held) => held < target || !sound,
        };
        if !wanted(newest) {
            return Ok(None);
        }
        let demanded = self.demand(local, newest, form).await?;
        let (file, path) = self.directory.create(&format!("{}-{newest}", self.database))?;
        let signs_other =
            |sign: &Vec<u8>| matches!(self.pull.vouches(sign, &file), Err(SiteFault::OtherFile));
        let mut no_patch = None;
        let mut made = None;
        if let Some((base, held)) = base.zip(held).filter(|(_, held)| *held <= newest) {
            match self.patch(base, held, newest, form, &offer, &file).await? {
                // Something that Talos does not sign, the copyright notice, may have come along from long ago.
                Ok(()) if demanded.as_ref().is_some_and(signs_other) => {
                    no_patch = Some(NoPatch::OtherCld);
                }
                Ok(()) => made = Some((newest, Way::Patches(newest - held))),
                Err(why) => no_patch = Some(why),
            }
        }
        let (target, way) = match made {
            Some(made) => made,
            None => {
                // CDIFFs may lead past the newest full CVD; where they do not, that is the newest there is.
                let after = match self.cdiffs(offer.version, newest, None).await {
                    Ok(after) => after,
                    Err(_) if wanted(offer.version) => Vec::new(),
                    Err(_) => return Ok(None),
                };
                let target = offer.version + after.len() as u32;
                if let Some(why) = no_patch {
                    self.remarks.push(Remark::NoPatch { database: self.database.clone(), why });
                }
                self.full(&offer, &after, target, form, &file).await?;
                (target, Way::Full(target - offer.version))
            }
        };
        if let Some(sign) = &demanded {
            let name = form.sign_name(self.database.as_str(), target);
            let site = |why| PullError::Site { url: self.pull.mirror.shown(&name), why };
            self.pull.vouches(sign, &file).map_err(site)?;
        }
        self.directory.finish(&file, &path)?;
        let sign = match (form, demanded) {
            (Form::Cvd, _) => self.sign(target, &path).await?,
            (Form::Cld, sign) => sign
                .map(|sign| self.keep(&form.sign_name(self.database.as_str(), target), &sign))
                .transpose()?,
        };
        let staged = Staged {
            database: self.database.clone(),
            version: target,
            form,
            file: path,
            sign,
            replaces: local.clone(),
        };
        Ok(Some(Made { staged, way, bytes: self.bytes }))
    }

    /// The form in which a version is installed: the one that is held, unless another is asked for.
    ///
    /// libclamav lists the directory, and looks only later which of two forms is newer. A reader that listed the old name
    /// before the new one was there, and looks after that, takes neither. Within one name there is no such moment, so
    /// that forms are changed only when somebody asks for it; and never to a version that libclamav would not prefer,
    /// since the file that it prefers would have to go first.
    fn form(&self, local: &Local, reached: impl Fn(Form) -> u32) -> Form {
        let Some(held) = local.files.first() else { return self.pull.form.unwrap_or(Form::Cvd) };
        let wished = self.pull.form.unwrap_or(held.form);
        let target = reached(wished);
        match held.version {
            Some(version) if version > target || version == target && wished == Form::Cvd => held.form,
            _ => wished,
        }
    }

    fn named(&self, version: u32, kind: FileKind) -> FileName {
        FileName::new(self.database, version, kind)
    }

    /// Asks for the header of the full CVD: by its version, or as `<db>.cvd` where the mirror does not have that name.
    async fn offer(&mut self, version: u32) -> Result<Offer, PullError> {
        let named = self.named(version, FileKind::Cvd).to_string();
        match self.header(&named).await {
            Ok(offer) if offer.version == version => Ok(offer),
            Ok(offer) => Err(PullError::OtherVersion {
                url: self.pull.mirror.shown(&named),
                expected: version,
                found: offer.version,
            }),
            Err(PullError::Fetch(FetchError::Absent { .. })) => {
                self.header(&format!("{}.cvd", self.database)).await
            }
            Err(e) => Err(e),
        }
    }

    async fn header(&mut self, name: &str) -> Result<Offer, PullError> {
        let (bytes, got) = self.pull.mirror.first(name, HEADER_BYTES as u64).await?;
        self.bytes += got.bytes;
        let url = || self.pull.mirror.shown(name);
        let header = Header::parse(&bytes).map_err(|source| PullError::Header { url: url(), source })?;
        verify_header(&header, &self.pull.keys)
            .map_err(|source| PullError::Verify { url: url(), source: Box::new(source) })?;
        let mut fixed = [0; HEADER_BYTES];
        fixed.copy_from_slice(&bytes);
        Ok(Offer { name: name.to_owned(), bytes: fixed, version: header.version, size: got.total })
    }

    /// Patches what is held up to `target`. The inner error says why the full CVD is needed.
    async fn patch(
        &mut self,
        base: &Held,
        held: u32,
        target: u32,
        form: Form,
        offer: &Offer,
        out: &File,
    ) -> Result<Result<(), NoPatch>, PullError> {
        let cdiffs = match self.cdiffs(held, target, offer.size).await {
            Ok(cdiffs) => cdiffs,
            // A mirror that cannot be reached, or a full disk, will not be mended by asking for more.
            Err(NoPatch::Fetch(
                e @ (FetchError::Unreachable { .. }
                | FetchError::Disk { .. }
                | FetchError::TooSlow { .. }
                | FetchError::Dripping { .. }
                | FetchError::Elsewhere { .. }),
            )) => return Err(e.into()),
            Err(why) => return Ok(Err(why)),
        };
        let old = base.open().map_err(|source| PullError::Read { path: base.path.clone(), source })?;
        self.build(old, &cdiffs, target, form, &offer.bytes, out)
    }

    /// Fetches and verifies the CDIFFs that lead from one version to another, as long as they cost less than `full`.
    async fn cdiffs(&mut self, from: u32, to: u32, full: Option<u64>) -> Result<Vec<Cdiff>, NoPatch> {
        if to - from > MAX_PATCHES {
            return Err(NoPatch::Far(to - from));
        }
        let most = self.pull.limits.max_cdiff_bytes;
        let mut left = full.unwrap_or(u64::MAX);
        let mut cdiffs = Vec::new();
        for version in from + 1..=to {
            let name = self.named(version, FileKind::Cdiff);
            let disk = |source| FetchError::Disk { path: self.directory.path.clone(), source };
            let mut file = self.directory.scratch().map_err(|e| disk(io::Error::other(e)))?;
            let limit = most.min(left);
            let got = match self.pull.mirror.get(&name.to_string(), limit, &mut file).await {
                Err(FetchError::TooLarge { .. }) if limit < most => return Err(NoPatch::Dearer),
                got => got?,
            };
            self.bytes += got.bytes;
            left = left.saturating_sub(got.bytes);
            let cdiff = Cdiff { name, file };
            drop(cdiff.verified(self.pull)?);
            cdiffs.push(cdiff);
        }
        Ok(cdiffs)
    }

    /// Applies CDIFFs to a database and writes what comes of it. The inner error says why that is of no use; the outer
    /// one, that nothing here can be written.
    fn build(
        &self,
        old: impl io::Read,
        cdiffs: &[Cdiff],
        target: u32,
        form: Form,
        header: &[u8; HEADER_BYTES],
        out: &File,
    ) -> Result<Result<(), NoPatch>, PullError> {
        let scratch = self.directory.scratch()?;
        match self.rebuild(old, cdiffs, &scratch, target, (form, header), out) {
            Err(NoPatch::Rebuild(RebuildError::Write(source) | RebuildError::Scratch(source))) => {
                Err(PullError::Disk { path: self.directory.path.clone(), source })
            }
            built => Ok(built),
        }
    }

    fn rebuild(
        &self,
        old: impl io::Read,
        cdiffs: &[Cdiff],
        scratch: &File,
        target: u32,
        (form, header): (Form, &[u8; HEADER_BYTES]),
        mut out: &File,
    ) -> Result<(), NoPatch> {
        let Pull { keys, limits, .. } = self.pull;
        let mut rebuild = Rebuild::new(self.database, old, scratch, keys, limits)?;
        for cdiff in cdiffs {
            rebuild = rebuild.apply(&cdiff.verified(self.pull)?)?;
        }
        out.set_len(0).and_then(|()| out.rewind()).map_err(RebuildError::Write)?;
        let mut buffered = BufWriter::with_capacity(1 << 18, out);
        match form {
            Form::Cvd => drop(rebuild.write(header, &mut buffered)?),
            Form::Cld => drop(rebuild.write_cld(&mut buffered)?),
        }
        buffered.flush().map_err(RebuildError::Write)?;
        drop(buffered);
        if form == Form::Cvd {
            return Ok(());
        }
        out.rewind().map_err(RebuildError::Write)?;
        check_cld(&self.named(target, FileKind::Cvd), BufReader::new(out), keys, limits)?;
        Ok(())
    }

    /// Takes the full CVD, and patches it up to `target`.
    async fn full(
        &mut self,
        offer: &Offer,
        after: &[Cdiff],
        target: u32,
        form: Form,
        mut out: &File,
    ) -> Result<(), PullError> {
        let url = self.pull.mirror.shown(&offer.name);
        let disk = |source| PullError::Disk { path: self.directory.path.clone(), source };
        let whole = match form {
            Form::Cvd => out.try_clone().map_err(disk)?,
            Form::Cld => self.directory.scratch()?,
        };
        out.set_len(0).and_then(|()| out.rewind()).map_err(disk)?;
        let mut buffered = BufWriter::with_capacity(1 << 18, &whole);
        let got = self.pull.mirror.get(&offer.name, self.pull.limits.max_cvd_bytes, &mut buffered).await?;
        self.bytes += got.bytes;
        buffered.flush().map_err(disk)?;
        drop(buffered);
        (&whole).rewind().map_err(disk)?;
        let name = self.named(offer.version, FileKind::Cvd);
        verify_cvd(&name, BufReader::with_capacity(1 << 18, &whole), &self.pull.keys, &self.pull.limits)
            .map_err(|source| PullError::Verify { url, source: Box::new(source) })?;
        if form == Form::Cvd {
            return Ok(());
        }
        (&whole).rewind().map_err(disk)?;
        let old = BufReader::with_capacity(1 << 18, &whole);
        self.build(old, after, target, form, &offer.bytes, out)?.map_err(|why| PullError::NoWay {
            database: self.database.clone(),
            version: target,
            why: Box::new(why),
        })
    }

    /// Takes the sign file of a CVD, where there are certificates to verify it with.
    ///
    /// One that does not vouch for the file is left out: an engine that looked at it would refuse the whole database.
    async fn sign(&mut self, version: u32, cvd: &Path) -> Result<Option<PathBuf>, PullError> {
        let Some(anchors) = &self.pull.anchors else { return Ok(None) };
        let name = self.named(version, FileKind::CvdSign);
        let limits = &self.pull.limits;
        let bytes = match self.pull.mirror.small(&name.to_string(), limits.max_sign_bytes).await {
            Ok(bytes) => bytes,
            Err(FetchError::Absent { .. }) => return Ok(None),
            Err(why) => {
                self.remarks.push(Remark::NoSign { name, why: why.to_string() });
                return Ok(None);
            }
        };
        self.bytes += bytes.len() as u64;
        let read = |source| PullError::Read { path: cvd.to_owned(), source };
        let signed = BufReader::with_capacity(1 << 18, File::open(cvd).map_err(read)?);
        if let Err(e) = verify_sign(bytes.as_slice(), signed, Some(anchors), epoch_s(), limits) {
            self.remarks.push(Remark::NoSign { name, why: e.to_string() });
            return Ok(None);
        }
        self.keep(&name.to_string(), &bytes).map(Some)
    }

    /// Puts a sign file beside what was made.
    fn keep(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, PullError> {
        let (mut file, path) = self.directory.create(name)?;
        file.write_all(bytes).map_err(|source| PullError::Disk { path: path.clone(), source })?;
        self.directory.finish(&file, &path)?;
        Ok(path)
    }

    /// Fetches the sign file of the site's CA, where one is demanded; before the work, which is in vain without it.
    async fn demand(
        &mut self,
        local: &Local,
        version: u32,
        form: Form,
    ) -> Result<Option<Vec<u8>>, PullError> {
        if self.pull.ca.is_none() {
            return Ok(None);
        }
        if form == Form::Cvd {
            let held = local.files.first().and_then(|held| held.version).unwrap_or_default();
            return Err(PullError::OnlyCvd { database: self.database.clone(), held, offered: version });
        }
        let name = form.sign_name(self.database.as_str(), version);
        let bytes = self.pull.demanded(&name).await?;
        self.bytes += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

/// A CDIFF on the disk, which was verified once when it came.
struct Cdiff {
    name: FileName,
    file: File,
}

impl Cdiff {
    /// Reads it; so that only one is in memory at a time.
    fn verified(&self, pull: &Pull) -> Result<crate::cvd::Verified<crate::cvd::Cdiff>, NoPatch> {
        let wrong = |source| NoPatch::Verify { name: self.name.clone(), source };
        (&self.file).rewind().map_err(|e| wrong(VerifyError::Read(e)))?;
        let cdiff = verify_cdiff(&self.name, BufReader::new(&self.file), &pull.keys, &pull.limits);
        cdiff.map_err(wrong)
    }
}
