//! The union of the packs' names and objects at one moment.
//!
//! Guarantees: every name leads to an object that some pack here holds with the stated length; a name leads to one object,
//! that of the most trusted pack that binds it; a view never changes, and what it shows stays readable also when the files
//! of its packs are unlinked.
use crate::{Error, Finding, NameRecord, ObjectId, ObjectReader, Pack, PackId, reader::HotCache};
use std::{collections::BTreeSet, sync::Arc};

/// The union of the packs' names and objects at one moment.
pub struct View {
    /// The most trusted first.
    packs: Vec<Pack>,
    /// By name.
    names: Vec<Bound>,
    /// Names whose object is missing or of another size: not shown, but not free for other content either.
    left_out: Vec<Bound>,
    /// By object, then by the holding pack's place in `packs`: a pack for each copy, quarantined ones left out.
    objects: Vec<(ObjectId, u64, u32)>,
    quarantined: BTreeSet<(PackId, ObjectId)>,
    cache: Arc<HotCache>,
}

struct Bound {
    name: Arc<str>,
    record: Arc<NameRecord>,
    /// Place of the binding pack in `packs`.
    pack: u32,
}

impl View {
    pub(crate) fn build(
        packs: Vec<Pack>,
        quarantined: BTreeSet<(PackId, ObjectId)>,
        cache: Arc<HotCache>,
    ) -> (Self, Vec<Finding>) {
        let mut objects = Vec::with_capacity(packs.iter().map(|p| p.objects().len()).sum());
        for (place, pack) in packs.iter().enumerate() {
            let held = pack.objects().map(|(id, size)| (id, size, place as u32));
            if quarantined.iter().any(|(bad, _)| bad == pack.id()) {
                let whole = |id: ObjectId| !quarantined.contains(&(pack.id().clone(), id));
                objects.extend(held.filter(|(id, ..)| whole(*id)));
            } else {
                objects.extend(held);
            }
        }
        objects.sort_unstable_by_key(|(id, _, place)| (*id, *place));
        let mut view = Self { packs, names: Vec::new(), left_out: Vec::new(), objects, quarantined, cache };
        let findings = view.bind_names();
        (view, findings)
    }

    fn bind_names(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let bindings = self.packs.iter().enumerate().flat_map(|(place, pack)| {
            let bound = move |(name, record): &(Arc<str>, Arc<NameRecord>)| Bound {
                name: name.clone(),
                record: record.clone(),
                pack: place as u32,
            };
            pack.shared_names().iter().map(bound)
        });
        let mut names: Vec<Bound> = bindings.collect();
        // Each pack's names are in order already, and of one name the most trusted pack's binding stays in front.
        names.sort_by(|a, b| a.name.cmp(&b.name));
        // First who wins, whether or not the object is there: a less trusted pack must not fill the gap with other content.
        names.dedup_by(|other, bound| {
            if other.name != bound.name {
                return false;
            }
            if other.record.object != bound.record.object {
                findings.push(Finding::NameConflict {
                    name: bound.name.to_string(),
                    kept_pack: self.packs[bound.pack as usize].id().clone(),
                    kept: bound.record.object,
                    refused_pack: self.packs[other.pack as usize].id().clone(),
                    refused: other.record.object,
                });
            }
            true
        });
        let is_left_out = |bound: &mut Bound| {
            let (object, claimed) = (bound.record.object, bound.record.size);
            let pack = || self.packs[bound.pack as usize].id().clone();
            match self.size_of(&object) {
                Some(held) if held == claimed => false,
                Some(held) => {
                    findings.push(Finding::WrongSize {
                        name: bound.name.to_string(),
                        pack: pack(),
                        object,
                        held,
                        claimed,
                    });
                    true
                }
                None => {
                    findings.push(Finding::ObjectMissing {
                        name: bound.name.to_string(),
                        pack: pack(),
                        object,
                    });
                    true
                }
            }
        };
        let left_out = names.extract_if(.., is_left_out).collect();
        (self.names, self.left_out) = (names, left_out);
        findings
    }

    /// Every name, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = (&str, &NameRecord)> {
        self.names.iter().map(|bound| (&*bound.name, &*bound.record))
    }

    /// Every name, in order, with the pack whose binding of it holds.
    pub fn bindings(&self) -> impl Iterator<Item = (&str, &NameRecord, &Pack)> {
        let pack = |bound: &Bound| self.packs.get(bound.pack as usize);
        self.names.iter().filter_map(move |bound| Some((&*bound.name, &*bound.record, pack(bound)?)))
    }

    /// What a name is bound to.
    pub fn lookup(&self, name: &str) -> Option<&NameRecord> {
        find(&self.names, name).map(|bound| &*bound.record)
    }

    /// As `lookup`, with the names that are left out because their object is not held.
    pub(crate) fn binding(&self, name: &str) -> Option<&NameRecord> {
        let bound = find(&self.names, name).or_else(|| find(&self.left_out, name));
        bound.map(|bound| &*bound.record)
    }

    /// The pack whose binding of a name holds.
    pub fn pack_of(&self, name: &str) -> Option<&Pack> {
        let bound = find(&self.names, name)?;
        self.packs.get(bound.pack as usize)
    }

    /// The packs, the most trusted first.
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// Every object once, by id, with its length in bytes.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, u64)> {
        let first_of_each = self.objects.chunk_by(|a, b| a.0 == b.0);
        first_of_each.filter_map(|copies| copies.first().map(|(id, size, _)| (*id, *size)))
    }

    /// The length of an object in bytes; `None` if it is not held.
    pub fn size_of(&self, id: &ObjectId) -> Option<u64> {
        self.copies(id).first().map(|(_, size, _)| *size)
    }

    /// The packs that hold an object whole, as far as is known.
    pub fn holders(&self, id: &ObjectId) -> impl Iterator<Item = &Pack> {
        let places = self.copies(id).iter().map(|(.., place)| *place as usize);
        places.filter_map(|place| self.packs.get(place))
    }

    /// Opens an object for reading; `None` if it is not held. A copy that turns out rotten gives way to another pack's.
    pub fn open(&self, id: &ObjectId) -> Result<Option<ObjectReader>, Error> {
        self.open_any(id, Some(self.cache.clone()))
    }

    /// As `open`, without filling the hot cache.
    pub(crate) fn open_uncached(&self, id: &ObjectId) -> Result<Option<ObjectReader>, Error> {
        self.open_any(id, None)
    }

    fn open_any(&self, id: &ObjectId, cache: Option<Arc<HotCache>>) -> Result<Option<ObjectReader>, Error> {
        let mut holders = self.holders(id);
        let Some(first) = holders.next() else {
            return Ok(None);
        };
        let reader = first.open_cached(id, cache)?;
        Ok(reader.map(|reader| reader.with_others(holders.cloned().collect())))
    }

    /// The view of some of the packs.
    pub(crate) fn part(&self, packs: Vec<Pack>) -> Self {
        Self::build(packs, self.quarantined.clone(), self.cache.clone()).0
    }

    /// The objects whose hash in hex begins with `prefix`, at most `limit` of them.
    pub fn find_prefix(&self, prefix: &str, limit: usize) -> Vec<ObjectId> {
        let matching = self.objects().map(|(id, _)| id);
        let matching = matching.filter(|id| id.to_string().starts_with(prefix));
        matching.take(limit).collect()
    }

    /// The copies of objects that were reported rotten.
    pub fn quarantined(&self) -> &BTreeSet<(PackId, ObjectId)> {
        &self.quarantined
    }

    pub(crate) fn cache(&self) -> &Arc<HotCache> {
        &self.cache
    }

    fn copies(&self, id: &ObjectId) -> &[(ObjectId, u64, u32)] {
        let from = self.objects.partition_point(|copy| copy.0 < *id);
        let rest = &self.objects[from..];
        &rest[..rest.partition_point(|copy| copy.0 == *id)]
    }
}

fn find<'a>(sorted: &'a [Bound], name: &str) -> Option<&'a Bound> {
    let place = sorted.binary_search_by(|bound| (*bound.name).cmp(name)).ok()?;
    sorted.get(place)
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("packs", &self.packs)
            .field("names", &self.names.len())
            .finish_non_exhaustive()
    }
}
