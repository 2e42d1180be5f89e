//! What the mirror holds: the store, which packs are admitted to it, what is remembered beside it, what is published.
use super::{
    DataDir, OpenError, Snapshot,
    admission::{Admission, Admitted},
    doubts::Doubts,
    judgement::{Judged, Judgement, Presumed},
    memory::DatabaseState,
    reading::Unheld,
    snapshot::UnreadableHeader,
    trust::Trust,
};
use crate::{
    clock::Clock,
    cvd::{Database, FileName},
    state::{State, StateError},
    trouble::Trouble,
};
use cvdmirror_store::{Error, ObjectId, PackId, PackWriter, Store, View};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

#[derive(Debug)]
pub(super) struct Holdings {
    pub(super) store: Store,
    pub(super) state: Arc<State>,
    pub(super) trust: Trust,
    admission: Admission,
    judgement: Judgement,
    pub(super) tmp: PathBuf,
    pub(super) doubts: BTreeMap<Database, Doubts>,
    /// Nothing of it is published until its first sync has ended.
    withheld: Option<Database>,
    /// What is remembered of each database that is mirrored.
    pub(super) databases: BTreeMap<Database, DatabaseState>,
    /// What is published.
    pub(super) snapshot: Arc<Snapshot>,
    /// What is wrong with the store.
    pub(super) findings: Vec<Trouble>,
    pub(super) clock: Clock,
    /// What the clock showed when it was last looked at.
    seen: (u64, Duration),
    /// Retired packs: since when they are known to be, by the monotonic clock, and how long they had waited then.
    pub(super) waiting: BTreeMap<PackId, (Duration, Duration)>,
}

/// Puts what is admitted together as one store, without the copies of objects that are known to be corrupt; and what
/// is wrong with it.
pub(super) fn assemble(
    dir: &DataDir,
    admitted: Admitted,
    corrupt: impl IntoIterator<Item = (PackId, ObjectId)>,
) -> Result<(Store, Vec<Trouble>), OpenError> {
    let (store, _) = Store::assemble(&dir.store(), &dir.tmp(), admitted.packs)?;
    let mut findings = admitted.findings;
    for (pack, object) in corrupt {
        store.quarantine(&pack, object);
        findings.extend(corruption(&store.view(), &pack, object));
    }
    Ok((store, findings))
}

/// Says that a copy of an object is corrupt, and whether another takes its place; nothing once its pack is gone.
fn corruption(view: &View, pack: &PackId, object: ObjectId) -> Option<Trouble> {
    view.packs().iter().find(|held| held.id() == pack)?;
    Some(Trouble::corrupt(pack, object, view.size_of(&object).is_some()))
}

/// When each database was last confirmed.
pub(super) fn confirmed(
    databases: &BTreeMap<Database, DatabaseState>,
) -> impl Fn(&Database) -> Option<u64> + use<'_> {
    |database| databases.get(database).and_then(|state| state.confirmed_at_s)
}

impl Holdings {
    /// Opens what stands in a data directory that is locked.
    pub(super) fn open(
        dir: &DataDir,
        state: Arc<State>,
        trust: Trust,
        databases: &[Database],
        clock: Clock,
    ) -> Result<Self, OpenError> {
        let mut admission = Admission::default();
        let admitted = admission.admit(Store::scan(&dir.store())?, &state)?;
        let new = admitted.new.clone();
        let (store, findings) = assemble(dir, admitted, state.corrupt()?.into_keys())?;
        let judgement = Judgement::remembered(&*state)?;
        let now_s = clock.epoch_s();
        state.retired_by(now_s)?;
        let remembered = databases
            .iter()
            .map(|database| Ok((database.clone(), state.database(database)?.plausible(now_s))));
        let databases = remembered.collect::<Result<_, StateError>>()?;
        let snapshot = Arc::new(Snapshot::empty(store.view()));
        let (tmp, doubts, withheld) = (dir.tmp(), BTreeMap::new(), None);
        let (seen, waiting) = ((now_s, clock.monotonic()), BTreeMap::new());
        let mut holdings = Self {
            store,
            state,
            trust,
            admission,
            judgement,
            tmp,
            doubts,
            withheld,
            databases,
            snapshot,
            findings,
            clock,
            seen,
            waiting,
        };
        holdings.state.retired_by(now_s)?;
        // What an earlier build admitted is served until the first look, so that a start does not wait for it.
        holdings.judge(&|pack| !new.contains(pack));
        for finding in &holdings.findings {
            tracing::error!("{finding}");
        }
        holdings.publish();
        Ok(holdings)
    }

    /// Notices a wall clock that was set back: what is remembered moves with it, so that nothing was confirmed in the
    /// future. One that was set forward changes nothing: it may have been asleep.
    pub(super) fn follow_clock(&mut self) {
        /// Clocks are slewed by less than this between two looks.
        const STEP_S: u64 = 2;
        let (now_s, now) = (self.clock.epoch_s(), self.clock.monotonic());
        let (seen_s, seen) = std::mem::replace(&mut self.seen, (now_s, now));
        let back_s = (seen_s + now.saturating_sub(seen).as_secs()).saturating_sub(now_s);
        if back_s > STEP_S {
            self.databases.values_mut().for_each(|database| database.set_back(back_s));
            self.snapshot = Arc::new(self.snapshot.reconfirmed(confirmed(&self.databases)));
        }
    }

    /// Looks at the store directory again: packs put in by hand are verified, and published if they are fit.
    pub(super) fn look(&mut self) -> Result<(), OpenError> {
        self.trust.refresh();
        let scan = Store::scan(self.store.dir())?;
        let Admitted { packs, mut findings, .. } = self.admission.admit(scan, &self.state)?;
        self.store.adopt(packs);
        let view = self.store.view();
        let corrupt = view.quarantined().iter();
        findings.extend(corrupt.filter_map(|(pack, object)| corruption(&view, pack, *object)));
        self.findings = findings;
        self.judge(&|_| false);
        self.publish();
        Ok(())
    }

    /// Judges the names, but for those of packs that are presumed to be right.
    fn judge(&mut self, presumed: Presumed<'_>) {
        let Self { store, trust, state, judgement, .. } = self;
        let Judged { findings, corrupt } = judgement.judge(store, trust, state, presumed);
        self.findings.extend(findings);
        for (pack, object) in corrupt {
            tracing::error!("object {object} in pack {pack} is corrupt: no longer served, fetched again");
            self.take_out(&pack, object);
            let finding = corruption(&self.store.view(), &pack, object);
            finding.into_iter().for_each(|finding| self.find(finding));
        }
    }

    /// Publishes what the store holds now. A copy of a CVD that shows here that it is corrupt is quarantined, so that
    /// another takes its place, or else the next round gets it anew.
    pub(super) fn publish(&mut self) {
        // Ends, because each turn but the last takes a copy out of the view.
        loop {
            let unproved = self.unproved();
            let hidden =
                |name: &FileName| unproved.contains(name) || self.withheld.as_ref() == Some(&name.database);
            let (snapshot, unreadable) = Snapshot::new(self.store.view(), hidden, confirmed(&self.databases));
            self.snapshot = Arc::new(snapshot);
            let mut again = false;
            for unreadable in unreadable {
                let trouble = Trouble::unpublished(&unreadable);
                tracing::error!("{trouble}");
                self.find(trouble);
                let UnreadableHeader::Held(Unheld::Store(Error::Corrupt { pack, object, .. })) =
                    unreadable.why
                else {
                    continue;
                };
                again = true;
                self.take_out(&pack, object);
            }
            if !again {
                return;
            }
        }
    }

    /// Takes a copy of an object that was found corrupt out of what is served; the next round gets it anew.
    pub(super) fn quarantine(&mut self, pack: &PackId, object: ObjectId) {
        tracing::error!("object {object} in pack {pack} is corrupt: no longer served, fetched again");
        self.take_out(pack, object);
        if let Some(finding) = corruption(&self.store.view(), pack, object) {
            self.find(finding);
        }
        self.publish();
    }

    fn take_out(&mut self, pack: &PackId, object: ObjectId) {
        self.store.quarantine(pack, object);
        if let Err(e) = self.state.quarantine(pack, object, self.clock.epoch_s()) {
            let trouble = Trouble::forgotten("what is corrupt", &e);
            tracing::warn!("{trouble}");
            self.find(trouble);
        }
    }

    /// Reads a copy of an object that somebody says is corrupt, and quarantines it if it is. Says whether it is.
    pub(super) fn check(&mut self, pack: &PackId, object: &ObjectId) -> bool {
        let view = self.store.view();
        let Some(pack) = view.packs().iter().find(|held| held.id() == pack) else { return false };
        let Ok(Some(reader)) = pack.open(object) else { return false };
        let mut reading = super::reading::Reading::new(reader);
        loop {
            match reading.next_chunk() {
                Ok(chunk) if chunk.is_empty() => return false,
                Ok(_) => {}
                Err(Error::Corrupt { pack, object, .. }) => {
                    self.quarantine(&pack, object);
                    return true;
                }
                Err(_) => return false,
            }
        }
    }

    /// Seals a batch and publishes it. What cannot be remembered of it costs a verification at the next start.
    pub(super) fn seal(&mut self, batch: PackWriter) -> Result<Result<(), StateError>, Error> {
        let pack = self.store.commit(batch, self.clock.epoch_s())?;
        let verdicts = self.judgement.note(&pack, &self.store.view(), &self.trust.verifier);
        let remembered =
            self.state.trust(&pack).and_then(|()| self.state.set_verdicts(&verdicts, std::iter::empty()));
        self.publish();
        Ok(remembered)
    }

    /// Files of a database whose sign files were withdrawn, and that have no other yet; the newest first, and not too many for
    /// one round.
    pub(super) fn without_sign(&self, database: &Database) -> Vec<FileName> {
        const MOST: usize = 16;
        let view = self.store.view();
        let mut files: Vec<FileName> = Vec::new();
        for pack in view.packs() {
            for (name, _) in pack.names().filter(|(name, record)| view.is_withdrawn(name, &record.object)) {
                let Ok(sign) = name.parse::<FileName>() else { continue };
                let free = sign.database == *database && view.lookup(name).is_none();
                files.extend(
                    sign.signed().filter(|signed| free && view.lookup(&signed.to_string()).is_some()),
                );
            }
        }
        files.sort_by_key(|file| std::cmp::Reverse(file.version));
        files.dedup();
        files.truncate(MOST);
        files
    }

    /// Publishes nothing of a database until `release`.
    pub(super) fn withhold(&mut self, database: &Database) {
        self.withheld = Some(database.clone());
    }

    /// Publishes what was withheld.
    pub(super) fn release(&mut self) {
        if self.withheld.take().is_some() {
            self.publish();
        }
    }

    /// What is remembered of a database's files.
    pub(super) fn doubts(&mut self, database: &Database) -> &Doubts {
        let remembered = || Doubts::remembered(&self.state, database).unwrap_or_default();
        self.doubts.entry(database.clone()).or_insert_with(remembered)
    }

    /// Remembers more of it. What cannot be saved holds until the next start.
    pub(super) fn doubt<T>(&mut self, database: &Database, change: impl FnOnce(&mut Doubts) -> T) -> T {
        let mut doubts = self.doubts(database).clone();
        let value = change(&mut doubts);
        if let Err(e) = doubts.save(&self.state, database) {
            let trouble = Trouble::forgotten("what is known of CDIFFs", &e);
            tracing::warn!("{trouble}");
            self.find(trouble);
        }
        self.doubts.insert(database.clone(), doubts);
        value
    }

    /// Adds to what is wrong with the store.
    pub(super) fn find(&mut self, finding: Trouble) {
        if !self.findings.contains(&finding) {
            self.findings.push(finding);
        }
    }

    /// Remembers how a database's round ended. What cannot be saved holds until the next start all the same, and says
    /// so.
    pub(super) fn remember(
        &mut self,
        database: &Database,
        mut remembered: DatabaseState,
    ) -> Result<(), StateError> {
        let saved = self.state.set_database(database, &remembered);
        if let Err(e) = &saved {
            remembered.last_error.get_or_insert(e.into());
        }
        self.databases.insert(database.clone(), remembered);
        self.snapshot = Arc::new(self.snapshot.reconfirmed(confirmed(&self.databases)));
        saved
    }
}
