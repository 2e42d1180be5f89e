//! How what is not kept comes off the disk.
//!
//! Guarantees: a download that runs goes on, because its pack stays open; a file of a retired pack stays for the grace
//! period, so that a copy of the store that is under way finds every file it listed.
use super::{OpenError, holdings::Holdings, retention::Retention};
use crate::{
    cvd::FileName,
    units::{count, size},
};
use cvdmirror_store::{Error, Pack, PackId, PackSize, View, merges};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

/// What a gc did, or would do.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Collected {
    /// Names that go.
    pub dropped: Vec<String>,
    /// Packs that are replaced by merged ones, or go.
    pub retired: Vec<String>,
    /// Bytes that come back once the retired packs' grace period is over, beyond what the merged ones take.
    pub saved_bytes: u64,
    /// Bytes of the files of packs retired earlier that are removed now.
    pub freed_bytes: u64,
    /// Bytes of files that wait for the end of the grace period.
    pub waiting_bytes: u64,
}

/// What is to be done to the packs.
struct Groups {
    /// Packs of which nothing is needed.
    gone: Vec<PackId>,
    /// Packs to rewrite together.
    merged: Vec<Vec<PackId>>,
    /// Bytes of all their files beyond what of them is needed.
    saved_bytes: u64,
}

impl Groups {
    fn new(view: &View, keep: &dyn Fn(&str) -> bool) -> Self {
        let sizes: BTreeMap<PackId, PackSize> =
            view.sizes(keep).into_iter().map(|size| (size.id.clone(), size)).collect();
        let mut merged = merges(&sizes.values().cloned().collect::<Vec<_>>());
        // A corrupt copy that another one has replaced is not worth a look at every start, nor is what did not hold.
        let withdrawn =
            |pack: &&Pack| pack.names().any(|(name, record)| view.is_withdrawn(name, &record.object));
        let unsound = view.packs().iter().filter(withdrawn).map(Pack::id);
        for pack in view.quarantined().iter().map(|(pack, _)| pack).chain(unsound) {
            let healed = sizes.get(pack).is_some_and(|size| !size.troubled);
            if healed && !merged.iter().flatten().any(|id| id == pack) {
                merged.push(vec![pack.clone()]);
            }
        }
        let all = || merged.iter().flatten().filter_map(|id| sizes.get(id));
        let saved_bytes = all().map(|size| size.bytes.saturating_sub(size.kept)).sum();
        let gone = |id: &PackId| sizes.get(id).is_some_and(|size| size.kept == 0 && size.kept_names == 0);
        let (gone, merged): (Vec<_>, Vec<_>) = merged.into_iter().partition(|group| group.iter().all(gone));
        Self { gone: gone.into_iter().flatten().collect(), merged, saved_bytes }
    }
}

/// Whether a name stays; a sign file, held or withdrawn, goes with what it signs.
fn keeps(drops: &BTreeSet<FileName>, name: &str) -> bool {
    let Ok(name) = name.parse::<FileName>() else { return true };
    !drops.contains(&name) && name.signed().is_none_or(|signed| !drops.contains(&signed))
}

impl Holdings {
    /// Removes retired files whose grace period is over, drops what is to go, and merges small packs. What fails
    /// does not keep the rest from being done: on a full disk it is the removing that helps.
    ///
    /// # Errors
    /// The first, when the store or the state file refuses; what is published stays as it is.
    pub(super) fn gc(&mut self, retention: &Retention) -> Result<Collected, OpenError> {
        let now_s = self.clock.epoch_s();
        let mut collected = self.would_gc(retention);
        collected.freed_bytes = self.remove_over(retention, now_s)?;
        let drops = retention.drops(&self.snapshot.files, now_s);
        let keep = |name: &str| keeps(&drops, name);
        let groups = Groups::new(&self.store.view(), &keep);
        let mut failed = None;
        if !groups.gone.is_empty() {
            failed = self.retire(&groups.gone, now_s).err();
        }
        for group in &groups.merged {
            if let Err(e) = self.merge(group, &keep, now_s) {
                failed.get_or_insert(e);
            }
        }
        if !collected.retired.is_empty() {
            self.publish();
        }
        // Without a grace period the space comes back at once.
        collected.freed_bytes += self.remove_over(retention, now_s)?;
        collected.waiting_bytes = self.bytes_of(self.state.retired()?.keys());
        failed.map_or(Ok(collected), Err)
    }

    /// Removes retired files whose grace period is over; the bytes they had.
    fn remove_over(&mut self, retention: &Retention, now_s: u64) -> Result<u64, OpenError> {
        let retired = self.state.retired()?;
        self.waiting.retain(|id, _| retired.contains_key(id));
        for (id, at_s) in retired {
            let waited = Duration::from_secs(now_s.saturating_sub(at_s));
            self.waiting.entry(id).or_insert((self.clock.monotonic(), waited));
        }
        let over = self.over(retention);
        if over.is_empty() {
            return Ok(0);
        }
        let freed_bytes = self.store.remove_retired(&over)?;
        self.state.forget_retired(&over)?;
        Ok(freed_bytes)
    }

    /// Takes packs out of the store that nothing needs. Writes no pack: it works on a full disk.
    fn retire(&self, gone: &[PackId], now_s: u64) -> Result<(), OpenError> {
        self.store.retire(gone)?;
        Ok(self.state.retire(gone, None, now_s)?)
    }

    fn merge(&mut self, group: &[PackId], keep: &dyn Fn(&str) -> bool, now_s: u64) -> Result<(), OpenError> {
        match self.store.merge(group, keep, now_s) {
            Ok(merged) => Ok(self.state.retire(&merged.retired, merged.pack.as_ref(), now_s)?),
            // Found on the way: the next round fetches it anew, and then they merge.
            Err(Error::Corrupt { pack, object, .. }) => {
                self.quarantine(&pack, object);
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Retired packs whose grace period is over: no step of the wall clock ends or prolongs one.
    fn over(&self, retention: &Retention) -> Vec<PackId> {
        let (now, grace) = (self.clock.monotonic(), Duration::from_secs(retention.grace_s));
        let over = self.waiting.iter().filter(|(_, (since, waited))| *waited + (now - *since) >= grace);
        over.map(|(id, _)| id.clone()).collect()
    }

    /// What a gc would do now.
    pub(super) fn would_gc(&self, retention: &Retention) -> Collected {
        let now_s = self.clock.epoch_s();
        let drops = retention.drops(&self.snapshot.files, now_s);
        let keep = |name: &str| keeps(&drops, name);
        let Groups { gone, merged, saved_bytes } = Groups::new(&self.store.view(), &keep);
        let freed_bytes = self.bytes_of(&self.over(retention));
        let waiting_bytes = self.state.retired().map_or(0, |waiting| self.bytes_of(waiting.keys()));
        Collected {
            dropped: drops.iter().map(ToString::to_string).collect(),
            retired: gone.iter().chain(merged.iter().flatten()).map(ToString::to_string).collect(),
            saved_bytes,
            freed_bytes,
            waiting_bytes: waiting_bytes.saturating_sub(freed_bytes),
        }
    }

    fn bytes_of<'a>(&self, packs: impl IntoIterator<Item = &'a PackId>) -> u64 {
        let len =
            |id: &PackId| self.store.dir().join(id.file_name()).symlink_metadata().map_or(0, |m| m.len());
        packs.into_iter().map(len).sum()
    }
}

impl fmt::Display for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for name in &self.dropped {
            writeln!(f, "drops {name}")?;
        }
        for pack in &self.retired {
            writeln!(f, "retires {pack}")?;
        }
        writeln!(
            f,
            "{} dropped; {} retired, which gives {} back when their grace period is over\n\
             {} freed now; {} waits for the end of the grace period",
            count(self.dropped.len(), "name"),
            count(self.retired.len(), "pack"),
            size(self.saved_bytes),
            size(self.freed_bytes),
            size(self.waiting_bytes)
        )
    }
}
