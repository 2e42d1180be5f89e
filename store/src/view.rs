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
    /// Without the quarantined copies.
    objects: Objects,
    quarantined: BTreeSet<(PackId, ObjectId)>,
    cache: Arc<HotCache>,
}

/// Where a binding is: its pack's place in `packs`, and its own among the names of that pack.
#[derive(Clone, Copy)]
struct Bound {
    pack: u32,
    place: u32,
}

/// An object in a pack.
struct Held {
    id: ObjectId,
    size: u64,
    /// The pack's place in `packs`.
    pack: u32,
}

/// The objects of all packs by id, a copy in several packs in the order of these.
struct Objects {
    sorted: Vec<Held>,
    /// For each value of an id's first bits where its objects begin, and in the end how many there are. Ids are hashes: few
    /// share these bits. To search all objects for each of many names would take longer than to read the names.
    starts: Vec<u32>,
    bits: u32,
}

impl Objects {
    fn of(packs: &[Pack], quarantined: &BTreeSet<(PackId, ObjectId)>) -> Self {
        let mut sorted = Vec::with_capacity(packs.iter().map(|pack| pack.objects().len()).sum());
        for (pack, place) in packs.iter().zip(0..) {
            let held = pack.objects().map(|(id, size)| Held { id, size, pack: place });
            if quarantined.iter().any(|(bad, _)| bad == pack.id()) {
                sorted.extend(held.filter(|held| !quarantined.contains(&(pack.id().clone(), held.id))));
            } else {
                sorted.extend(held);
            }
        }
        // Stable, and quick: each pack's objects are in order already.
        sorted.sort_by_key(|held| held.id);
        // Two to four objects for each value.
        let bits = (sorted.len() / 2).max(1).ilog2();
        let mut starts = vec![0; (1 << bits) + 1];
        for held in &sorted {
            starts[first_bits(&held.id, bits) + 1] += 1;
        }
        for i in 1..starts.len() {
            starts[i] += starts[i - 1];
        }
        Self { sorted, starts, bits }
    }

    fn copies(&self, id: &ObjectId) -> &[Held] {
        let first = first_bits(id, self.bits);
        let near = &self.sorted[self.starts[first] as usize..self.starts[first + 1] as usize];
        let from = near.partition_point(|held| held.id < *id);
        let rest = &near[from..];
        &rest[..rest.partition_point(|held| held.id == *id)]
    }
}

/// The first bits of an id, at most 32 of them.
fn first_bits(id: &ObjectId, bits: u32) -> usize {
    let [a, b, c, d, ..] = *id.as_bytes();
    (u64::from(u32::from_be_bytes([a, b, c, d])) >> (32 - bits)) as usize
}

impl View {
    pub(crate) fn build(
        packs: Vec<Pack>,
        quarantined: BTreeSet<(PackId, ObjectId)>,
        cache: Arc<HotCache>,
    ) -> (Self, Vec<Finding>) {
        let objects = Objects::of(&packs, &quarantined);
        let mut view = Self { packs, names: Vec::new(), left_out: Vec::new(), objects, quarantined, cache };
        let findings = view.bind_names();
        (view, findings)
    }

    fn bind_names(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let all = |(pack, at): (&Pack, u32)| {
            (0..pack.names().len() as u32).map(move |place| Bound { pack: at, place })
        };
        let mut names: Vec<Bound> = self.packs.iter().zip(0..).flat_map(all).collect();
        // Each pack's names are in order already, and of one name the most trusted pack's binding stays in front.
        names.sort_by(|a, b| self.name(a).0.cmp(self.name(b).0));
        // First who wins, whether or not the object is there: a less trusted pack must not fill the gap with other content.
        names.dedup_by(|other, bound| {
            let ((name, kept), (other_name, refused)) = (self.name(bound), self.name(other));
            if name != other_name {
                return false;
            }
            if kept.object != refused.object {
                findings.push(Finding::NameConflict {
                    name: name.to_owned(),
                    kept_pack: self.pack(bound).id().clone(),
                    kept: kept.object,
                    refused_pack: self.pack(other).id().clone(),
                    refused: refused.object,
                });
            }
            true
        });
        let is_left_out = |bound: &mut Bound| {
            let (name, &NameRecord { object, size: claimed, .. }) = self.name(bound);
            let found = self.size_of(&object);
            if found == Some(claimed) {
                return false;
            }
            let (name, pack) = (name.to_owned(), self.pack(bound).id().clone());
            findings.push(match found {
                Some(held) => Finding::WrongSize { name, pack, object, held, claimed },
                None => Finding::ObjectMissing { name, pack, object },
            });
            true
        };
        let left_out = names.extract_if(.., is_left_out).collect();
        (self.names, self.left_out) = (names, left_out);
        findings
    }

    fn pack(&self, bound: &Bound) -> &Pack {
        &self.packs[bound.pack as usize]
    }

    fn name(&self, bound: &Bound) -> (&str, &NameRecord) {
        self.pack(bound).name_at(bound.place)
    }

    fn find(&self, sorted: &[Bound], name: &str) -> Option<Bound> {
        let at = sorted.binary_search_by(|bound| self.name(bound).0.cmp(name)).ok()?;
        sorted.get(at).copied()
    }

    /// Every name, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = (&str, &NameRecord)> {
        self.names.iter().map(|bound| self.name(bound))
    }

    /// Every name, in order, with the pack whose binding of it holds.
    pub fn bindings(&self) -> impl ExactSizeIterator<Item = (&str, &NameRecord, &Pack)> {
        self.names.iter().map(|bound| {
            let (name, record) = self.name(bound);
            (name, record, self.pack(bound))
        })
    }

    /// What a name is bound to.
    pub fn lookup(&self, name: &str) -> Option<&NameRecord> {
        Some(self.name(&self.find(&self.names, name)?).1)
    }

    /// As `lookup`, with the names that are left out because their object is not held.
    pub(crate) fn binding(&self, name: &str) -> Option<&NameRecord> {
        let bound = self.find(&self.names, name).or_else(|| self.find(&self.left_out, name))?;
        Some(self.name(&bound).1)
    }

    /// The pack whose binding of a name holds.
    pub fn pack_of(&self, name: &str) -> Option<&Pack> {
        Some(self.pack(&self.find(&self.names, name)?))
    }

    /// The packs, the most trusted first.
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// Every object once, by id, with its length in bytes.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, u64)> {
        let first_of_each = self.objects.sorted.chunk_by(|a, b| a.id == b.id);
        first_of_each.filter_map(|copies| copies.first().map(|held| (held.id, held.size)))
    }

    /// The length of an object in bytes; `None` if it is not held.
    pub fn size_of(&self, id: &ObjectId) -> Option<u64> {
        self.objects.copies(id).first().map(|held| held.size)
    }

    /// The packs that hold an object whole, as far as is known.
    pub fn holders(&self, id: &ObjectId) -> impl Iterator<Item = &Pack> {
        self.objects.copies(id).iter().map(|held| &self.packs[held.pack as usize])
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
}

impl std::fmt::Debug for View {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View")
            .field("packs", &self.packs)
            .field("names", &self.names.len())
            .finish_non_exhaustive()
    }
}
