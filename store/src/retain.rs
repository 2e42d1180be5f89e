//! Dropping and merging: what goes, and how a set of packs becomes a smaller one without a moment in which anything is missing.
//!
//! Guarantees: a view is swapped only after the merged pack is durable; an object that any staying name needs goes along;
//! retired files stay until [`Store::remove_retired`], so that copies under way and open readers are not disturbed; meeting a
//! retired pack and the merged one together changes nothing but dropped names coming back.
use crate::{Error, MAX_ROWS, NameRecord, ObjectReader, Pack, PackId, PackWriter, Store, View, disk};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

/// A pack as the decision to merge sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PackSize {
    /// The pack.
    pub id: PackId,
    /// Length of its file in bytes.
    pub bytes: u64,
    /// Length of those of its objects that staying names need, in bytes.
    pub kept: u64,
    /// How many of its names stay; not counted are those that another pack's binding to the same object stands for.
    pub kept_names: u64,
    /// It has a name that is disputed or whose object is missing: that must be looked into, not swept away.
    pub troubled: bool,
}

/// Packs from this size on are not merged: such a pack is a CVD, which is dropped whole before long, or is merged already.
const LARGE: u64 = 8 << 20;
/// Small packs are of one of two tiers, below this size or not.
const TIER: u64 = 512 << 10;
/// As many packs of one tier become one of the next.
const FAN_IN: usize = 16;

fn tier(bytes: u64) -> Option<usize> {
    [TIER, LARGE].iter().position(|below| bytes < *below)
}

/// Decides which packs to rewrite together; each group is for one [`Store::merge`]. Pure.
///
/// A pack goes when none of its names stays; is rewritten when more than half of it is not needed; and small packs are merged
/// when sixteen of a size have come together. So there are at most 30 small packs, and a byte is rewritten twice
/// by merging and once more each time that as many bytes beside it were dropped.
pub fn merges(packs: &[PackSize]) -> Vec<Vec<PackId>> {
    let mut groups = Vec::new();
    let mut tiers: [Vec<&PackSize>; 2] = Default::default();
    for pack in packs.iter().filter(|pack| !pack.troubled) {
        if pack.kept_names == 0 && pack.kept == 0 {
            groups.push(vec![pack.id.clone()]);
        } else if let Some(tier) = tier(pack.kept) {
            tiers[tier].push(pack);
        } else if pack.kept < pack.bytes / 2 {
            groups.push(vec![pack.id.clone()]);
        }
    }
    for tier in tiers {
        if tier.len() >= FAN_IN {
            // All of them, as far as their names fit into one pack.
            let mut names = 0;
            let together = tier.iter().take_while(|pack| {
                names += pack.kept_names;
                names <= MAX_ROWS
            });
            groups.push(together.map(|pack| pack.id.clone()).collect());
            continue;
        }
        // A small pack has a fixed overhead of some 40 KiB, which is no reason to rewrite it.
        let mostly_dead = |p: &&&PackSize| p.kept < (p.bytes / 2).saturating_sub(64 << 10);
        let dead: Vec<_> = tier.iter().filter(mostly_dead).map(|pack| pack.id.clone()).collect();
        if !dead.is_empty() {
            groups.push(dead);
        }
    }
    groups
}

/// What a merge did.
#[derive(Debug)]
pub struct Merged {
    /// The new pack; `None` if nothing was kept.
    pub pack: Option<Pack>,
    /// The packs it replaces; their files are still there.
    pub retired: Vec<PackId>,
}

impl View {
    /// How much of each pack the names that stay need. An object held twice counts for the first pack that holds it.
    pub fn sizes(&self, keep: &dyn Fn(&str) -> bool) -> Vec<PackSize> {
        let mut sizes: BTreeMap<&PackId, PackSize> = BTreeMap::new();
        for pack in self.packs() {
            let mut size = PackSize {
                id: pack.id().clone(),
                bytes: pack.file_len(),
                kept: 0,
                kept_names: 0,
                troubled: false,
            };
            for (name, record) in pack.names() {
                let shown = self.lookup(name);
                let ours = self.pack_of(name).is_some_and(|p| p.id() == pack.id());
                size.kept_names += u64::from(ours && keep(name));
                // What gave way to other content has done its service; what gave way to nothing is kept.
                let withdrawn = self.is_withdrawn(name, &record.object);
                size.troubled |= match shown {
                    None => !withdrawn || keep(name),
                    Some(shown) => shown.object != record.object && record.size > 0 && !withdrawn,
                };
            }
            sizes.insert(pack.id(), size);
        }
        let needed = self.names().filter(|(name, _)| keep(name));
        let needed: HashSet<_> = needed.map(|(_, record)| (record.object, record.size)).collect();
        for (object, bytes) in needed {
            let holder = self.holders(&object).next();
            if let Some(size) = holder.and_then(|pack| sizes.get_mut(pack.id())) {
                size.kept += bytes;
            }
        }
        let order = self.packs().iter();
        order.filter_map(|pack| sizes.get(pack.id()).cloned()).collect()
    }
}

impl Store {
    /// Rewrites packs as one that has the names for which `keep` says yes, and what objects staying names need; swaps the view.
    /// The old files stay: see [`Store::remove_retired`].
    pub fn merge(&self, ids: &[PackId], keep: &dyn Fn(&str) -> bool, now_s: u64) -> Result<Merged, Error> {
        let _changing = self.change();
        let view = self.view();
        let (going, staying) = split(&view, ids)?;
        let rest = Arc::new(view.part(staying.clone()));
        let mut batch = PackWriter::create_beside(self.tmp_dir(), Some(rest.clone()))?;
        let mut needed = BTreeSet::new();
        for (name, record) in view.names() {
            let goes = view.pack_of(name).is_some_and(|pack| going.contains(pack.id()));
            if goes {
                if !keep(name) {
                    continue;
                }
                batch.take_over(name, record.clone());
            }
            if rest.size_of(&record.object).is_none() {
                needed.insert(record.object);
            }
        }
        for id in needed {
            if let Some(reader) = view.reader(&id) {
                copy(&mut batch, &reader)?;
            }
        }
        let pack = match batch.is_empty() {
            true => None,
            false => Some(self.seal(batch, now_s)?),
        };
        let place = view.packs().iter().position(|p| going.contains(p.id())).unwrap_or_default();
        let mut packs = staying;
        if let Some(pack) = &pack {
            packs.insert(place.min(packs.len()), pack.clone());
        }
        self.show(packs, view.excluded().clone());
        Ok(Merged { pack, retired: ids.to_vec() })
    }

    /// Takes packs out of the view, their names with them. The files stay: see [`Store::remove_retired`].
    /// Refused if a name of a staying pack would lose its object.
    pub fn retire(&self, ids: &[PackId]) -> Result<(), Error> {
        let _changing = self.change();
        let view = self.view();
        let (going, staying) = split(&view, ids)?;
        let rest = view.part(staying.clone());
        for (name, record) in view.names() {
            let stays = view.pack_of(name).is_some_and(|pack| !going.contains(pack.id()));
            if stays && rest.size_of(&record.object).is_none() {
                let pack = view.holders(&record.object).next();
                return Err(Error::StillNeeded {
                    pack: pack.map_or_else(|| ids[0].clone(), |pack| pack.id().clone()),
                    name: name.to_owned(),
                    object: record.object,
                });
            }
        }
        self.show(staying, view.excluded().clone());
        Ok(())
    }

    /// Removes the files of packs that were merged or retired; a file that is gone is fine. Returns the bytes freed.
    /// The caller first lets a grace period pass, so that copies that began before the packs were retired have ended.
    pub fn remove_retired(&self, ids: &[PackId]) -> Result<u64, Error> {
        let _changing = self.change();
        let view = self.view();
        let mut freed = 0;
        for id in ids {
            if view.packs().iter().any(|pack| pack.id() == id) {
                return Err(Error::InView { pack: id.clone() });
            }
            let path = self.dir().join(id.file_name());
            freed += path.symlink_metadata().map_or(0, |meta| meta.len());
            disk::unlink(&path)?;
        }
        disk::sync_dir(self.dir())?;
        Ok(freed)
    }
}

/// The ids as a set, and the packs that are not among them. Refused for what must be looked into.
fn split<'a>(view: &View, ids: &'a [PackId]) -> Result<(HashSet<&'a PackId>, Vec<Pack>), Error> {
    let going: HashSet<_> = ids.iter().collect();
    for id in ids {
        if !view.packs().iter().any(|pack| pack.id() == id) {
            return Err(Error::UnknownPack { pack: id.clone() });
        }
    }
    let (leaving, staying): (Vec<&Pack>, Vec<&Pack>) =
        view.packs().iter().partition(|pack| going.contains(pack.id()));
    for pack in leaving {
        let unsettled = |(name, record): &(&str, &NameRecord)| {
            view.lookup(name).is_none() && !view.is_withdrawn(name, &record.object)
        };
        if let Some((name, _)) = pack.names().find(unsettled) {
            return Err(Error::Unsettled { pack: pack.id().clone(), name: name.to_owned() });
        }
    }
    Ok((going.clone(), staying.into_iter().cloned().collect()))
}

/// Copies an object into a batch.
fn copy(batch: &mut PackWriter, reader: &ObjectReader) -> Result<(), Error> {
    let mut object = batch.object()?;
    while object.len() < reader.size() {
        let chunk = reader.chunk_at(object.len())?;
        object.append(&chunk)?;
    }
    object.finish_as(reader.id()).map(drop)
}
