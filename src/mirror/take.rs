//! Taking what comes: read once, verified by its content, whatever was asked for, and put into the batch where it is fit.
use super::{
    bench::NotApplied,
    core::Mirror,
    doubts::Doubts,
    inflow::{Inflow, Pull, Tee},
    reading::{Reading, Unheld},
    report::{Detail, FileReport, Outcome},
    verify::{Proof, Unfit},
    work::{Round, RoundError},
};
use crate::{
    cvd::{
        self, Cdiff, Database, FileKind, FileName, HEADER_BYTES, Header, Verified, VerifyError,
        cdiff::{CDIFF_MAGIC, CdiffError},
    },
    source::{FetchError, Wanted, http::WrongPart},
    trouble::Trouble,
};
use cvdmirror_store::{NameRecord, ObjectId, ObjectWriter, Proof as Level};
use std::io::{self, Read};

/// What became of what was asked for.
pub(super) enum Taken {
    /// It is in the batch, under this name.
    Stored(FileName, ObjectId),
    /// It is an empty CDIFF, which came from there and is not believed yet.
    Unknown(FileName, String),
    /// It came and does not verify.
    Refused,
    /// It did not come, or is not to be kept.
    Nothing,
}

/// What came of a file that is not at fault.
pub(super) struct Accepted {
    outcome: Outcome,
    detail: Detail,
    /// What was stored, under this name.
    stored: Option<(FileName, ObjectId)>,
}

impl Accepted {
    /// Fetched for what it says, not to be kept.
    fn used(asked: u32, found: u32) -> Self {
        let outcome = if found < asked { Outcome::Stale } else { Outcome::Used };
        Self { outcome, detail: Detail::asked(asked, found), stored: None }
    }
}

/// Why a file is not taken.
enum Refusal {
    /// It does not verify.
    Unfit(Unfit),
    /// It is a full CVD of this version, older than the one held.
    Older { found: u32, held: u32 },
    /// It is an empty CDIFF, seen for the first time.
    Empty(FileName),
    /// It is a CDIFF, and something of ours is in the way of proving it.
    Unproved(NotApplied),
    /// It did not come, or not to its end.
    Fetch(FetchError),
    /// No fault of the file's.
    Ours(RoundError),
}

impl<E: Into<Unfit>> From<E> for Refusal {
    fn from(e: E) -> Self {
        Self::Unfit(e.into())
    }
}

impl From<RoundError> for Refusal {
    fn from(e: RoundError) -> Self {
        match e {
            // Reading a directory that fails would fail with every file.
            RoundError::Fetch(e) if !matches!(e, FetchError::Io { .. }) => Self::Fetch(e),
            e => Self::Ours(e),
        }
    }
}

impl Round<'_> {
    /// Asks for a file, and takes what comes. `signed` is the object that a sign file is to sign. Only what must end the
    /// round is an error here: the store or the disk, not the source.
    pub(super) fn ask(&mut self, wanted: &Wanted, signed: Option<ObjectId>) -> Result<Taken, RoundError> {
        let mut row = FileReport::new(wanted.clone());
        let mut taken = Taken::Nothing;
        let mut accepted = self.receive(wanted, &mut row, signed);
        if let Err(Refusal::Fetch(FetchError::WrongPart { what: WrongPart::Replaced, .. })) = accepted {
            // It was replaced while it came: once more, from the start.
            accepted = self.receive(wanted, &mut row, signed);
        }
        let refused = |outcome, trouble: Trouble| {
            let Trouble { what, why, fix, .. } = &trouble;
            tracing::warn!(%what, %why, %fix, "{wanted} is not taken; what is held stays as it is");
            (outcome, Detail::Trouble(trouble))
        };
        match accepted {
            Ok(Accepted { outcome, detail, stored }) => {
                (row.outcome, row.detail) = (outcome, detail);
                // A source may answer with another version than was asked for.
                if let Some((name, object)) = stored {
                    row.wanted = Wanted::from(&name);
                    taken = Taken::Stored(name, object);
                }
            }
            Err(Refusal::Ours(e)) => return Err(e),
            Err(Refusal::Fetch(e)) => {
                row = FileReport::new(wanted.clone());
                match e {
                    // The outcome says it all: a source need have neither CDIFFs nor sign files.
                    FetchError::Absent { .. } => row.outcome = Outcome::Absent,
                    e => row.detail = Detail::Trouble(Trouble::from(&e)),
                }
            }
            Err(Refusal::Empty(name)) => {
                (row.outcome, row.detail) = refused(Outcome::Absent, Trouble::empty_cdiff(&name));
                taken = Taken::Unknown(name, row.origin.clone());
            }
            Err(Refusal::Unproved(why)) => {
                let trouble = Trouble::leads_nowhere(&row.wanted, Some(&why));
                (row.outcome, row.detail) = refused(Outcome::Failed, trouble);
            }
            Err(Refusal::Older { found, held }) => {
                (row.outcome, row.detail) = refused(Outcome::Stale, Trouble::older(&row.origin, found, held));
            }
            Err(Refusal::Unfit(why)) => {
                let trouble = Trouble::refused(&row.wanted, &row.origin, &why);
                (row.outcome, row.detail) = refused(Outcome::Refused, trouble);
                taken = Taken::Refused;
            }
        }
        self.report.files.push(row);
        // What was asked of the upstream shows before the next thing is asked.
        self.mirror.show();
        Ok(taken)
    }

    /// Reads what the source answers, verifies it, and puts it into the batch.
    fn receive(
        &mut self,
        wanted: &Wanted,
        row: &mut FileReport,
        signed: Option<ObjectId>,
    ) -> Result<Accepted, Refusal> {
        let source = self.mirror.source.clone();
        let incoming = self.mirror.wait(source.open(wanted)).map_err(RoundError::from)?;
        let mut incoming = incoming.map_err(RoundError::from)?;
        (row.origin, row.via) = (incoming.origin.clone(), std::mem::take(&mut incoming.via));
        let mut inflow = Inflow::new(incoming, &*source.intake().progress);
        if let Wanted::Named(name) = wanted {
            // These are verified in memory, which junk is not to fill.
            let magic = CDIFF_MAGIC.len() as u64;
            let mut bytes = inflow.read(self.mirror, magic)?;
            row.bytes = inflow.got;
            if name.kind == FileKind::Cdiff && !bytes.is_empty() && bytes != CDIFF_MAGIC {
                return Err(VerifyError::from(CdiffError::Magic).into());
            }
            bytes.extend(inflow.read(self.mirror, u64::MAX)?);
            row.bytes = inflow.got;
            return self.accept_named(name, &bytes, &row.origin, signed);
        }
        let bytes = inflow.read(self.mirror, HEADER_BYTES as u64)?;
        row.bytes = inflow.got;
        if bytes.len() < HEADER_BYTES {
            return Err(Unfit::Short(row.bytes).into());
        }
        let header = Header::parse(&bytes).map_err(VerifyError::from)?;
        match wanted {
            Wanted::Header(database, Some(asked)) => self.accept_header(database, *asked, &header, &bytes),
            Wanted::Header(_, None) | Wanted::Named(_) => Ok(Accepted::used(0, 0)),
            Wanted::Cvd(database, asked) => {
                if let Some(held) = self.held.newest_cvd().filter(|held| header.version <= *held) {
                    return match header.version == held {
                        true => Ok(Accepted::used(*asked, held)),
                        false => Err(Refusal::Older { found: header.version, held }),
                    };
                }
                // Bound to what it is, whatever was asked.
                let name = FileName::new(database, header.version, FileKind::Cvd);
                let accepted = self.accept_cvd(&name, &header, &bytes, &mut inflow);
                row.bytes = inflow.got;
                let proof = Proof { modified_s: Some(header.stime_s), level: Level::Signed };
                Ok(self.bind(name, accepted?, *asked, &row.origin, &proof)?)
            }
        }
    }

    /// Takes a header for what it says, if it may be true.
    fn accept_header(
        &mut self,
        database: &Database,
        asked: u32,
        header: &Header,
        bytes: &[u8],
    ) -> Result<Accepted, Refusal> {
        // One that lies would cost a rebuild, and then a full file to find that out.
        cvd::verify_header(header, &self.bench.keys)?;
        let md5 = header.md5.ok_or(VerifyError::NoMd5)?;
        if let Some(info) = self.mirror.holdings.doubts(database).version_of(md5)
            && info != header.version
        {
            return Err(VerifyError::InfoVersion { header: header.version, info }.into());
        }
        self.answers.header = Some(header.version);
        self.header = bytes.try_into().ok();
        Ok(Accepted::used(asked, header.version))
    }

    /// Writes a CVD into the batch while it is verified; what is refused leaves nothing there.
    fn accept_cvd(
        &mut self,
        name: &FileName,
        header: &Header,
        head: &[u8],
        inflow: &mut Inflow<'_>,
    ) -> Result<(ObjectId, u64), Refusal> {
        let bench = self.bench;
        self.write(|mirror, mut object| {
            let reader = head.chain(Pull { mirror, inflow });
            let mut tee = Tee { reader, object: &mut object, failed: None };
            let verified = cvd::verify_cvd(name, &mut tee, &bench.keys, &bench.limits);
            tee.failed.take().map_or(Ok(()), |e| Err(RoundError::from(e)))?;
            inflow.failed.take().map_or(Ok(()), Err)?;
            match verified {
                Ok(_) => Ok(object.finish().map_err(RoundError::from)?),
                Err(e) => {
                    if let (VerifyError::InfoVersion { info, .. }, Some(md5)) = (&e, header.md5) {
                        mirror.holdings.doubt(&name.database, |doubts| doubts.refuse(md5, *info));
                    }
                    Err(e.into())
                }
            }
        })
    }

    /// Takes a CDIFF, or a sign file for the object that it is to sign.
    fn accept_named(
        &mut self,
        name: &FileName,
        bytes: &[u8],
        origin: &str,
        signed: Option<ObjectId>,
    ) -> Result<Accepted, Refusal> {
        let proof = match (name.kind, signed) {
            (FileKind::Cdiff, _) => {
                let cdiff = cvd::verify_cdiff(name, bytes, &self.bench.keys, &self.bench.limits)?;
                match self.accept_cdiff(name, &cdiff, ObjectId::of(bytes))? {
                    Some(level) => Proof { modified_s: None, level },
                    None => return Ok(Accepted::used(name.version, name.version)),
                }
            }
            (_, Some(signed)) => {
                self.mirror.holdings.trust.verifier.verify_sign(bytes, self.open(&signed)?)?
            }
            (_, None) => return Err(Unfit::SignAlone.into()),
        };
        Ok(self.keep(name, bytes, origin, &proof)?)
    }

    /// Accepts a CDIFF by what it leads to: one past the newest CVD is applied, and one that is empty must be so in two
    /// rounds. Nothing is to be stored of one that is held and still empty.
    fn accept_cdiff(
        &mut self,
        name: &FileName,
        cdiff: &Verified<Cdiff>,
        object: ObjectId,
    ) -> Result<Option<Level>, Refusal> {
        let (database, version) = (&name.database, name.version);
        let Cdiff::Patch(_) = &**cdiff else {
            if self.held.cdiffs.contains_key(&version) {
                return Ok(None);
            }
            let again = self.mirror.holdings.doubt(database, |doubts| doubts.came_empty(version));
            return if again { Ok(Some(Level::Empty)) } else { Err(Refusal::Empty(name.clone())) };
        };
        if self.mirror.holdings.doubts(database).is_disproved(version, &object) {
            return Err(Unfit::LeadsElsewhere.into());
        }
        // One that led to what is held spares clients a full file, or else they take that.
        let Some(base) = self.held.newest_cvd().filter(|base| *base < version) else {
            return Ok(Some(Level::Signed));
        };
        let proved = self.prove(version, cdiff).map_err(Refusal::Ours)?;
        if proved.as_ref().err().is_none_or(NotApplied::disproves) {
            let leads = proved.is_ok();
            let note = |doubts: &mut Doubts| doubts.applied(version, object, leads, base);
            self.mirror.holdings.doubt(database, note);
        }
        match proved {
            Ok(()) => Ok(Some(Level::Signed)),
            Err(NotApplied::Rebuild(e)) if NotApplied::is_fault(&e) => Err(Unfit::Leads(e).into()),
            Err(why) => Err(Refusal::Unproved(why)),
        }
    }

    /// Puts a small file that was verified into the batch.
    pub(super) fn keep(
        &mut self,
        name: &FileName,
        bytes: &[u8],
        origin: &str,
        proof: &Proof,
    ) -> Result<Accepted, RoundError> {
        let object = self.write::<_, RoundError>(|_, mut object| {
            object.append(bytes)?;
            Ok(object.finish()?)
        })?;
        self.bind(name.clone(), object, name.version, origin, proof)
    }

    /// Binds a name to an object of the batch.
    pub(super) fn bind(
        &mut self,
        name: FileName,
        (object, size): (ObjectId, u64),
        asked: u32,
        origin: &str,
        proof: &Proof,
    ) -> Result<Accepted, RoundError> {
        let record = NameRecord {
            object,
            size,
            modified_s: proof.modified_s,
            stored_at_s: self.mirror.holdings.clock.epoch_s(),
            origin: origin.to_owned(),
            proof: proof.level,
        };
        if let Some(batch) = &mut self.batch {
            batch.bind(&name.to_string(), record)?;
        }
        self.held.insert(&name, size > 0);
        let detail = Detail::asked(asked, name.version);
        Ok(Accepted { outcome: Outcome::Stored, detail, stored: Some((name, object)) })
    }

    /// Writes an object into the batch.
    pub(super) fn write<T, E: From<RoundError>>(
        &mut self,
        write: impl FnOnce(&mut Mirror, ObjectWriter<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let batch = match &mut self.batch {
            Some(batch) => batch,
            none => none.insert(self.mirror.holdings.store.batch().map_err(RoundError::from)?),
        };
        write(self.mirror, batch.object().map_err(RoundError::from)?)
    }

    /// Opens an object of the batch, or of the store.
    fn open(&self, object: &ObjectId) -> Result<Box<dyn Read + '_>, Unheld> {
        if let Some(reader) = self.batch.as_ref().and_then(|batch| batch.open(object)) {
            return Ok(Box::new(reader));
        }
        match self.mirror.holdings.store.view().open(object)? {
            Some(held) => Ok(Box::new(Reading::new(held))),
            None if *object == ObjectId::of(b"") => Ok(Box::new(io::empty())),
            None => Err(Unheld::Name(object.to_string())),
        }
    }
}
