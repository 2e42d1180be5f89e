//! One round: ask what is newest, do what the plan says, publish as soon as something is whole.
//!
//! Whatever fails, the round goes on with the next thing that makes sense, and its report says what happened.
use super::{
    History, Mirror, SyncError,
    plan::{self, Answers, Held, Step},
    report::{DatabaseRound, FileRound, Outcome, Round},
    state::DatabaseState,
    verify::{Proof, Reading, Verifier},
};
use crate::{
    clock::epoch_s,
    cvd::{self, Database, FileKind, FileName, HEADER_BYTES, Header},
    source::{Evidence, FetchError, Fetched, Newest, Staged, Staging, Wanted},
};
use cvdmirror_store::{NameRecord, PackWriter};
use std::{io::Read as _, sync::Arc, time::Instant};

/// What one database's round has gathered and not yet sealed.
pub(super) struct Work<'a> {
    pub(super) database: &'a Database,
    batch: Option<PackWriter>,
    /// What is held, with what the batch will add.
    pub(super) held: Held,
    answers: Answers,
    header: Option<[u8; HEADER_BYTES]>,
    report: DatabaseRound,
    /// Rows of the report that are settled: what they say was stored is sealed.
    settled: usize,
}

/// The file that a sign file is to sign.
pub(super) enum Signed<'a> {
    /// It came in this round.
    Staged(&'a Staged),
    /// It is held.
    Held(Reading),
}

impl Mirror {
    /// Does one round over every database; a second call waits for the first.
    pub async fn round(&self) -> Round {
        let _one_at_a_time = self.round.lock().await;
        let started = Instant::now();
        let mut round = Round { started_at_s: epoch_s(), ..Round::default() };
        // Packs put in by hand, and objects found rotten since, change what is to be fetched.
        if let Err(e) = tokio::task::block_in_place(|| self.look_again()) {
            self.find(format!("the store could not be looked at: {e}"));
        }
        for database in &self.databases {
            let report = self.round_of(database).await;
            report.log();
            self.tallied().database(&report);
            round.databases.push(report);
        }
        match tokio::task::block_in_place(|| self.tidy(epoch_s())) {
            Ok(_) => {}
            Err(e) => {
                tracing::warn!("old packs are not tidied up: {e}; the next round tries again");
                self.find(format!("old packs are not tidied up: {e}"));
            }
        }
        round.findings.extend(self.findings());
        round.remarks = self.surroundings();
        for remark in &round.remarks {
            tracing::warn!("{remark}");
        }
        round.took_ms = started.elapsed().as_millis() as u64;
        tokio::task::block_in_place(|| self.note(&round));
        self.tallied().round(&round);
        self.last_round.store(Arc::new(Some(round.clone())));
        round
    }

    /// Notes what a round did. What cannot be saved is known until the next start all the same.
    fn note(&self, round: &Round) {
        let before = self.history.load_full();
        let mut history = History::clone(&before);
        history.note(round, &self.published.load(), epoch_s());
        if history == *before {
            return;
        }
        if let Err(e) = self.state.set_history(&history) {
            tracing::warn!("what this round did is forgotten at the next start: {e}");
        }
        self.history.store(Arc::new(history));
    }

    async fn round_of(&self, database: &Database) -> DatabaseRound {
        let snapshot = self.published.load_full();
        let mut work = Work {
            database,
            batch: None,
            held: Held::of(&snapshot.files, database),
            answers: Answers::default(),
            header: None,
            report: DatabaseRound {
                database: database.to_string(),
                before: snapshot.databases.get(database).map(|p| p.version),
                ..DatabaseRound::default()
            },
            settled: 0,
        };
        let result = self.follow(&mut work).await;
        if let Err(e) = &result {
            work.report.unsettle(work.settled, &e.to_string());
        }
        let snapshot = self.published.load();
        let published = snapshot.databases.get(database);
        let mut report = work.report;
        report.published = published.map(|p| p.version);
        report.cvd = published.map(|p| p.cvd);
        report.error = match (result, &report.newest, report.published) {
            (Err(e), _, _) => Some(e.to_string()),
            (Ok(()), Some(newest), published) if published.is_none_or(|v| v < newest.version) => {
                Some(format!(
                    "the source speaks of version {}, which cannot be had from it yet; {} stays published",
                    newest.version,
                    published.map_or("nothing".into(), |v| v.to_string())
                ))
            }
            _ => None,
        };
        if let Err(e) = self.conclude(database, &report) {
            report.error.get_or_insert(e.to_string());
        }
        report
    }

    /// Remembers how a round ended, and lets the snapshot say when it was confirmed.
    fn conclude(&self, database: &Database, report: &DatabaseRound) -> Result<(), SyncError> {
        let before = self.remembered().remove(database).unwrap_or_default();
        let now_s = epoch_s();
        let newest = report.newest.as_ref().map(|n| n.version);
        let at_s = report.newest.as_ref().and_then(|n| n.at_s).map_or(now_s, |at_s| at_s.min(now_s));
        let at_s = before.confirmed_at_s.max(Some(at_s));
        // A source that has gone back confirms nothing.
        let confirmed = report.error.is_none() && newest >= report.published && newest.is_some();
        self.remember(
            database,
            DatabaseState {
                newest: newest.or(before.newest),
                checked_at_s: Some(now_s),
                confirmed_at_s: if confirmed { at_s } else { before.confirmed_at_s },
                last_error: report.error.clone(),
                succeeded_at_s: if report.error.is_none() { Some(now_s) } else { before.succeeded_at_s },
                failed_at_s: if report.error.is_some() { Some(now_s) } else { before.failed_at_s },
            },
        )?;
        let remembered = self.remembered();
        let confirmed_at = |d: &Database| remembered.get(d).and_then(|s| s.confirmed_at_s);
        self.published.store(Arc::new(self.published.load().reconfirmed(confirmed_at)));
        Ok(())
    }

    /// Follows the plan to its end.
    async fn follow(&self, work: &mut Work<'_>) -> Result<(), SyncError> {
        let newest = self.newest(work).await?;
        let version = newest.version;
        work.report.newest = Some(newest);
        while let Some(step) = plan::next(&work.held, version, &work.answers, self.backfill) {
            if step.publish_before() {
                self.seal(work)?;
            }
            work.answers.done.insert(step);
            let wanted = match step {
                Step::Cdiff(v) | Step::Backfill(v) => {
                    Wanted::Named(FileName::new(work.database, v, FileKind::Cdiff))
                }
                Step::Header(v) => Wanted::Header(work.database.clone(), Some(v)),
                Step::Cvd(v) => Wanted::Cvd(work.database.clone(), v),
                Step::Rebuild(v) => {
                    self.rebuild(work, v).await?;
                    continue;
                }
            };
            self.fetch(work, &wanted).await?;
        }
        self.seal(work)?;
        self.fetch_late_signs(work).await?;
        self.seal(work)
    }

    /// What the source says is newest; a version far past what is held is believed only of the file itself.
    async fn newest(&self, work: &Work<'_>) -> Result<Newest, SyncError> {
        let mut newest = self.source.newest(work.database).await?;
        if newest.evidence != Evidence::Header && plan::absurd(&work.held, newest.version) {
            newest.remarks.push(format!(
                "the {} says {}, absurdly far ahead; the file itself is asked",
                newest.evidence, newest.version
            ));
            newest.version = self.source.probe(work.database).await?;
            newest.evidence = Evidence::Header;
            newest.at_s = None;
        }
        if let Some(held) = work.held.reachable().filter(|held| newest.version < *held) {
            newest.remarks.push(format!("{} is older than {held} that is held", newest.version));
        }
        Ok(newest)
    }

    /// Fetches a file, and its sign file with it, so that both become visible together.
    async fn fetch(&self, work: &mut Work<'_>, wanted: &Wanted) -> Result<(), SyncError> {
        let result = self.source.fetch(wanted).await;
        let mut taken = self.take(work, wanted, result, None)?;
        let refused = work.report.files.last().is_some_and(|row| row.outcome == Outcome::Refused);
        if refused && self.source.has_another(wanted) {
            let result = self.source.fetch(wanted).await;
            taken = self.take(work, wanted, result, None)?;
        }
        match taken {
            Some((name, file)) => self.fetch_sign(work, &name, &file).await,
            None => Ok(()),
        }
    }

    /// Fetches the sign file of a file that is in the batch.
    async fn fetch_sign(&self, work: &mut Work<'_>, of: &FileName, file: &Staged) -> Result<(), SyncError> {
        if let Some(sign) = of.sign() {
            self.signs.asked(&sign, epoch_s());
            let wanted = Wanted::Named(sign);
            let result = self.source.fetch(&wanted).await;
            self.take(work, &wanted, result, Some(Signed::Staged(file)))?;
        }
        Ok(())
    }

    /// Judges what the source answered, and puts it into the batch where it is fit; the file, under the
    /// name it then has. `signed` is the file that a sign file is to sign.
    ///
    /// Only what must end the round is an error here: the store or the disk, not the source.
    pub(super) fn take(
        &self,
        work: &mut Work<'_>,
        wanted: &Wanted,
        result: Result<Fetched, FetchError>,
        signed: Option<Signed<'_>>,
    ) -> Result<Option<(FileName, Staged)>, SyncError> {
        let mut report = FileRound::of(wanted.to_string());
        let mut stored = None;
        match result {
            Err(e @ FetchError::Io { .. }) => return Err(e.into()),
            Err(e) => {
                if matches!(e, FetchError::Absent { .. }) {
                    report.outcome = Outcome::Absent;
                }
                report.detail = e.to_string();
            }
            Ok(fetched) => {
                report.bytes = fetched.staged.len();
                report.origin = fetched.origin.clone();
                report.via = fetched.via.clone();
                match tokio::task::block_in_place(|| self.accept(work, wanted, &fetched, signed)) {
                    Ok(accepted) => {
                        (report.outcome, report.detail) = (accepted.outcome, accepted.detail);
                        // A source may answer with another version than was asked for.
                        if let Some(name) = &accepted.stored {
                            report.wanted = name.to_string();
                        }
                        stored = accepted.stored.map(|name| (name, fetched.staged));
                    }
                    Err(e @ (SyncError::Refused { .. } | SyncError::Older { .. })) => {
                        let older = matches!(e, SyncError::Older { .. });
                        report.outcome = if older { Outcome::Stale } else { Outcome::Refused };
                        report.detail = e.to_string();
                        tracing::warn!("{e}; what is held stays as it is");
                    }
                    Err(e) => return Err(e),
                }
            }
        }
        work.report.files.push(report);
        Ok(stored)
    }

    /// Verifies what came and puts it into the batch.
    fn accept(
        &self,
        work: &mut Work<'_>,
        wanted: &Wanted,
        fetched: &Fetched,
        signed: Option<Signed<'_>>,
    ) -> Result<Accepted, SyncError> {
        let refused = |why: String| SyncError::Refused {
            name: wanted.to_string(),
            origin: fetched.origin.clone(),
            why,
        };
        let read = |e: std::io::Error| refused(e.to_string());
        let (name, asked) = match wanted {
            Wanted::Named(name) => (name.clone(), name.version),
            Wanted::Cvd(database, asked) | Wanted::Header(database, Some(asked)) => {
                let mut bytes = [0; HEADER_BYTES];
                let mut reader = fetched.staged.reader().map_err(read)?;
                reader.read_exact(&mut bytes).map_err(|_| {
                    refused(format!("has {} bytes, fewer than a CVD's header", fetched.staged.len()))
                })?;
                let header = Header::parse(&bytes).map_err(|e| refused(e.to_string()))?;
                if matches!(wanted, Wanted::Header(..)) {
                    // One that lies would cost a rebuild, and then a full file to find that out.
                    cvd::verify_header(&header, &self.trust.verifier().keys)
                        .map_err(|e| refused(e.to_string()))?;
                    work.answers.header = Some(header.version);
                    work.header = Some(bytes);
                    return Ok(Accepted::used(*asked, header.version));
                }
                // Bound to what it is, whatever was asked.
                (FileName::new(database, header.version, FileKind::Cvd), *asked)
            }
            Wanted::Header(_, None) => return Ok(Accepted::used(0, 0)),
        };
        if name.kind == FileKind::Cvd
            && let Some(held) = work.held.newest_cvd()
            && name.version <= held
        {
            return match name.version == held {
                true => Ok(Accepted::used(asked, held)),
                false => Err(SyncError::Older { origin: fetched.origin.clone(), found: name.version, held }),
            };
        }
        let bytes = fetched.staged.reader().map_err(read)?;
        let verifier = self.trust.verifier();
        let proof = match signed {
            Some(Signed::Staged(file)) => verifier.verify_sign(bytes, file.reader().map_err(read)?),
            Some(Signed::Held(file)) => verifier.verify_sign(bytes, file),
            None => verifier.verify(&name, bytes),
        };
        let proof = proof.map_err(refused)?;
        self.put(work, &name, &fetched.staged, &fetched.origin, proof)?;
        Ok(Accepted { outcome: Outcome::Stored, detail: behind(asked, name.version), stored: Some(name) })
    }

    /// Puts a verified file into the batch.
    fn put(
        &self,
        work: &mut Work<'_>,
        name: &FileName,
        staged: &Staged,
        origin: &str,
        proof: Proof,
    ) -> Result<(), SyncError> {
        let batch = match &mut work.batch {
            Some(batch) => batch,
            none => none.insert(self.store.batch()?),
        };
        let mut reader = staged
            .reader()
            .map_err(|source| FetchError::Io { path: self.source.intake().dir.clone(), source })?;
        batch.put(staged.id(), staged.len(), &mut reader)?;
        let record = NameRecord {
            object: staged.id(),
            size: staged.len(),
            modified_s: proof.modified_s,
            stored_at_s: epoch_s(),
            origin: origin.to_owned(),
            proof: proof.text,
        };
        batch.bind(&name.to_string(), record)?;
        match name.kind {
            FileKind::Cvd => {
                work.held.cvds.insert(name.version);
            }
            FileKind::Cdiff => {
                work.held.cdiffs.insert(name.version, !staged.is_empty());
            }
            FileKind::CvdSign | FileKind::CdiffSign => {}
        }
        Ok(())
    }

    /// Rebuilds a full CVD from the newest held, the CDIFFs and the header that was fetched.
    async fn rebuild(&self, work: &mut Work<'_>, version: u32) -> Result<(), SyncError> {
        let (Some(base), Some(header)) = (work.held.newest_cvd(), work.header) else { return Ok(()) };
        let name = FileName::new(work.database, version, FileKind::Cvd);
        let mut report = FileRound::of(name.to_string());
        report.origin = format!("rebuilt from version {base}");
        let rebuilt =
            tokio::task::block_in_place(|| self.rebuild_from(work.database, base, version, &header));
        match rebuilt {
            Ok((staged, proof)) => {
                report.outcome = Outcome::Rebuilt;
                (report.bytes, report.detail) = (staged.len(), report.origin.clone());
                tokio::task::block_in_place(|| self.put(work, &name, &staged, &report.origin, proof))?;
                work.report.files.push(report);
                self.fetch_sign(work, &name, &staged).await?;
            }
            // Whatever is in the way, the full file is the way round.
            Err(why) => {
                report.detail = format!("not rebuilt: {why}");
                tracing::warn!("{name} {}; the full file is fetched instead", report.detail);
                work.report.files.push(report);
            }
        }
        Ok(())
    }

    fn rebuild_from(
        &self,
        database: &Database,
        base: u32,
        version: u32,
        header: &[u8; HEADER_BYTES],
    ) -> Result<(Staged, Proof), Box<dyn std::error::Error + Send + Sync>> {
        let view = self.store.view();
        let open = |version, kind| -> Result<Reading, Box<dyn std::error::Error + Send + Sync>> {
            let name = FileName::new(database, version, kind).to_string();
            let record = view.lookup(&name).ok_or_else(|| format!("{name} is not held"))?;
            let object = view.open(&record.object)?.ok_or_else(|| format!("{name} has no object"))?;
            Ok(Reading::new(object))
        };
        let Verifier { keys, limits, .. } = &*self.trust.verifier();
        let mut patches = Vec::new();
        for version in base + 1..=version {
            let name = FileName::new(database, version, FileKind::Cdiff);
            patches.push(cvd::verify_cdiff(&name, open(version, FileKind::Cdiff)?, keys, limits)?);
        }
        let intake = self.source.intake();
        let scratch = tempfile::tempfile_in(&intake.dir)?;
        let what = format!("rebuilding {database}-{version}.cvd");
        let mut staging = Staging::create(intake, &what, intake.limits.cvd_bytes, what.clone(), None)?;
        let rebuild = cvd::Rebuild { database, patches: &patches, header, scratch: &scratch, keys, limits };
        let cvd = rebuild.run(open(base, FileKind::Cvd)?, &mut staging)?;
        let proof = Proof {
            modified_s: Some(cvd.header.stime_s),
            text: format!("rebuilt; MD5, signature, .info and {} members", cvd.members.len()),
        };
        Ok((staging.finish()?, proof))
    }

    /// Seals what was gathered and publishes it.
    fn seal(&self, work: &mut Work<'_>) -> Result<(), SyncError> {
        let Some(batch) = work.batch.take().filter(|batch| !batch.is_empty()) else { return Ok(()) };
        let settled = work.report.files.len();
        tokio::task::block_in_place(|| {
            let pack = self.store.commit(batch, epoch_s())?;
            work.settled = settled;
            let remembered = self.state.trust(&pack);
            // It was verified and sealed here: what cannot be remembered costs a verification at the next start.
            self.publish();
            Ok(remembered.map(drop)?)
        })
    }
}

/// What came of a file that is not at fault.
struct Accepted {
    outcome: Outcome,
    detail: String,
    /// The name it was stored under.
    stored: Option<FileName>,
}

impl Accepted {
    /// Fetched for what it says, not to be kept.
    fn used(asked: u32, found: u32) -> Self {
        let outcome = if found < asked { Outcome::Stale } else { Outcome::Used };
        Self { outcome, detail: behind(asked, found), stored: None }
    }
}

/// An older answer than was asked for is said, whatever else it is good for.
fn behind(asked: u32, found: u32) -> String {
    if found < asked { format!("asked for {asked}, got {found}") } else { String::new() }
}
