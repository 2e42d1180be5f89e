//! That CDIFFs lead where they say: one past the newest CVD is applied before it is bound or advertised, because its
//! signature does not say which database it is for.
//!
//! Guarantees: a version that is published past a full CVD was reached here, and its signed `.info` names every member.
use super::{
    bench::{Bench, NotApplied},
    holdings::Holdings,
    reading::Unheld,
    work::{Round, RoundError},
};
use crate::{
    cvd::{Cdiff, Database, FileKind, FileName, Rebuild, Verified},
    trouble::Trouble,
};
use cvdmirror_store::{ObjectId, View};
use std::collections::{BTreeMap, BTreeSet};

impl<'m> Round<'m> {
    /// Proves that a CDIFF leads on to its version from what is held.
    pub(super) fn prove(
        &mut self,
        version: u32,
        cdiff: &Verified<Cdiff>,
    ) -> Result<Result<(), NotApplied>, RoundError> {
        let applied = self.applied_to(version.saturating_sub(1))?;
        let proved = applied.and_then(|applied| {
            let applied = applied.apply(cdiff)?;
            applied.check()?;
            self.applied = Some(applied);
            Ok(())
        });
        Ok(proved)
    }

    /// The newest full CVD with the CDIFFs up to a version applied. Applies none again that was in this round, but where
    /// the version is an earlier one.
    pub(super) fn applied_to(&mut self, version: u32) -> Result<Result<Rebuild<'m>, NotApplied>, RoundError> {
        let Some(base) = self.held.newest_cvd() else {
            return Ok(Err(Unheld::Name(format!("{}.cvd", self.database)).into()));
        };
        let applied = self.applied.take().filter(|applied| (base..=version).contains(&applied.version()));
        if applied.is_none() {
            // What is to be read is in the store then.
            self.seal()?;
        }
        let view = self.mirror.holdings.store.view();
        let bench = self.bench;
        let loaded = applied.map_or_else(|| bench.load(&view, base), Ok);
        Ok(loaded.and_then(|loaded| bench.lead(&view, loaded, version)))
    }
}

/// The CDIFFs of each database past its newest full CVD, but for empty ones.
fn past_cvds(view: &View) -> BTreeMap<Database, (u32, BTreeMap<u32, ObjectId>)> {
    let mut newest = BTreeMap::new();
    let names = || view.names().filter_map(|(name, record)| Some((name.parse::<FileName>().ok()?, record)));
    for (name, _) in names().filter(|(name, _)| name.kind == FileKind::Cvd) {
        newest.insert(name.database, (name.version, BTreeMap::new()));
    }
    for (name, record) in names().filter(|(name, record)| name.kind == FileKind::Cdiff && record.size > 0) {
        if let Some((base, cdiffs)) = newest.get_mut(&name.database)
            && name.version > *base
        {
            cdiffs.insert(name.version, record.object);
        }
    }
    newest
}

/// The CDIFFs past the newest full CVD that are not proved.
pub(super) fn unproved(
    view: &View,
    is_proved: impl Fn(&Database, u32, &ObjectId) -> bool,
) -> BTreeSet<FileName> {
    let mut unproved = BTreeSet::new();
    for (database, (_, cdiffs)) in past_cvds(view) {
        let doubtful = cdiffs.iter().filter(|(version, cdiff)| !is_proved(&database, **version, cdiff));
        unproved.extend(doubtful.map(|(version, _)| FileName::new(&database, *version, FileKind::Cdiff)));
    }
    unproved
}

impl Holdings {
    /// The CDIFFs past the newest full CVD that do not lead on from it, as far as can be proved here and now.
    pub(super) fn unproved(&mut self) -> BTreeSet<FileName> {
        let view = self.store.view();
        for (database, (base, cdiffs)) in past_cvds(&view) {
            self.prove_held(&view, database, base, &cdiffs);
        }
        unproved(&view, |database, version, cdiff| {
            self.doubts.get(database).is_some_and(|doubts| doubts.is_proved(version, cdiff))
        })
    }

    fn prove_held(&mut self, view: &View, database: Database, base: u32, cdiffs: &BTreeMap<u32, ObjectId>) {
        let chain: Vec<(u32, ObjectId)> =
            (base + 1..).map_while(|version| Some((version, *cdiffs.get(&version)?))).collect();
        let doubts = self.doubts(&database);
        let Some(from) = chain.iter().position(|(version, cdiff)| !doubts.is_proved(*version, cdiff)) else {
            return;
        };
        let bench = Bench::new(self, database);
        let mut applied = None;
        for (version, cdiff) in &chain[from..] {
            let name = FileName::new(&bench.database, *version, FileKind::Cdiff);
            let known = self.doubts(&bench.database).is_disproved(*version, cdiff);
            let led = if known {
                Err(None)
            } else {
                let loaded = applied.take().map_or_else(|| bench.load(view, base), Ok);
                let led = loaded.and_then(|loaded| bench.lead(view, loaded, *version));
                led.and_then(|led| led.check().map(|_| led).map_err(NotApplied::from)).map_err(Some)
            };
            match led {
                Ok(led) => {
                    applied = Some(led);
                    self.doubt(&bench.database, |doubts| doubts.applied(*version, *cdiff, true, base));
                }
                Err(why) => {
                    let disproved = why.as_ref().is_none_or(NotApplied::disproves);
                    if disproved {
                        self.doubt(&bench.database, |doubts| doubts.applied(*version, *cdiff, false, base));
                    }
                    let trouble = Trouble::leads_nowhere(&name, why.as_ref().map(|why| why as _));
                    tracing::error!("{trouble}");
                    self.find(trouble);
                    return;
                }
            }
        }
    }
}
