//! The union of the packs' names and objects at one moment.
//!
//! Guarantees: every name leads to an object that some pack here holds with the stated length; a name leads to one object or
//! to none, whatever the order of the packs; a view never changes, and what it shows stays readable also when the files of its
//! packs are unlinked.
//! Where packs bind a name to different objects, content beats an empty object, since nothing proves an empty one. Of several
//! with content none is shown: the caller says which of them is wrong ([`Withdrawn`]), or somebody takes a pack out.
use crate::{Error, Finding, NameRecord, ObjectId, ObjectReader, Pack, PackId};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Bindings that do not count, whichever pack has them: by name, the objects that are not what the name says.
pub type Withdrawn = BTreeMap<String, BTreeSet<ObjectId>>;

/// What of the packs does not count.
#[derive(Clone, Default)]
pub(crate) struct Excluded {
    pub(crate) copies: BTreeSet<(PackId, ObjectId)>,
    pub(crate) bindings: Arc<Withdrawn>,
}

impl Excluded {
    fn binding(&self, name: &str, object: &ObjectId) -> bool {
        self.bindings.get(name).is_some_and(|objects| objects.contains(object))
    }
}

/// The union of the packs' names and objects at one moment.
pub struct View {
    packs: Vec<Pack>,
    /// By name.
    names: Vec<Bound>,
    /// Names whose object is missing, of another size, or disputed: not shown, but not free for other content either.
    left_out: Vec<Bound>,
    /// By id, copies in the order of their packs; without the quarantined ones.
    objects: Vec<Held>,
    excluded: Excluded,
}

/// Where a binding is: its pack's place in `packs`, and its own among the names of that pack.
#[derive(Clone, Copy)]
struct Bound {
    pack: usize,
    place: usize,
}

/// An object in a pack.
struct Held {
    id: ObjectId,
    size: u64,
    /// The pack's place in `packs`.
    pack: usize,
}

impl View {
    pub(crate) fn build(packs: Vec<Pack>, excluded: Excluded) -> (Self, Vec<Finding>) {
        let mut objects = Vec::new();
        for (pack, place) in packs.iter().zip(0..) {
            let held = pack.objects().filter(|(id, _)| !excluded.copies.contains(&(pack.id().clone(), *id)));
            objects.extend(held.map(|(id, size)| Held { id, size, pack: place }));
        }
        // Stable, and quick: each pack's objects are in order already.
        objects.sort_by_key(|held| held.id);
        let mut view = Self { packs, names: Vec::new(), left_out: Vec::new(), objects, excluded };
        let findings = view.bind_names();
        (view, findings)
    }

    fn bind_names(&mut self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let all =
            |(pack, at): (&Pack, usize)| (0..pack.names().len()).map(move |place| Bound { pack: at, place });
        let mut all: Vec<Bound> = self.packs.iter().zip(0..).flat_map(all).collect();
        // Each pack's names are in order already. Of bindings to one object the one stored last stays in front.
        all.sort_by(|a, b| {
            let ((name, one), (other_name, other)) = (self.name(a), self.name(b));
            let right = |record: &NameRecord| self.size_of(&record.object) == Some(record.size);
            let detail = |record: &NameRecord| Reverse((right(record), record.stored_at_s));
            name.cmp(other_name)
                .then_with(|| one.object.cmp(&other.object))
                .then_with(|| detail(one).cmp(&detail(other)))
                .then_with(|| {
                    (one.modified_s, &one.origin, one.proof).cmp(&(
                        other.modified_s,
                        &other.origin,
                        other.proof,
                    ))
                })
        });
        let (mut names, mut left_out) = (Vec::with_capacity(all.len()), Vec::new());
        let mut counted: Vec<Bound> = Vec::new();
        for alike in all.chunk_by(|a, b| self.name(a).0 == self.name(b).0) {
            let record = |bound: &Bound| self.name(bound).1;
            counted.clear();
            counted.extend(alike.iter().filter(|bound| {
                let (name, record) = self.name(bound);
                !self.excluded.binding(name, &record.object)
            }));
            counted.dedup_by_key(|bound| record(bound).object);
            if counted.iter().any(|bound| record(bound).size > 0) {
                counted.retain(|bound| record(bound).size > 0);
            }
            let Some(&first) = counted.first() else { continue };
            let (name, &NameRecord { object, size: claimed, .. }) = self.name(&first);
            let (name, pack) = (|| name.to_owned(), || self.pack(&first).id().clone());
            let held = self.size_of(&object);
            if counted.len() > 1 {
                let binding = |bound: &Bound| (self.pack(bound).id().clone(), record(bound).object);
                findings.push(Finding::NameConflict {
                    name: name(),
                    bindings: counted.iter().map(binding).collect(),
                });
            } else if held == Some(claimed) {
                names.push(first);
                continue;
            } else if let Some(held) = held {
                findings.push(Finding::WrongSize { name: name(), pack: pack(), object, held, claimed });
            } else {
                findings.push(Finding::ObjectMissing { name: name(), pack: pack(), object });
            }
            // First who wins, whether or not the object is there: other content must not fill the gap.
            left_out.push(first);
        }
        (self.names, self.left_out) = (names, left_out);
        findings
    }

    fn pack(&self, bound: &Bound) -> &Pack {
        &self.packs[bound.pack]
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

    /// The packs.
    pub fn packs(&self) -> &[Pack] {
        &self.packs
    }

    /// Every object once, by id, with its length in bytes.
    pub fn objects(&self) -> impl Iterator<Item = (ObjectId, u64)> {
        let first_of_each = self.objects.chunk_by(|a, b| a.id == b.id);
        first_of_each.filter_map(|copies| copies.first().map(|held| (held.id, held.size)))
    }

    /// The length of an object in bytes; `None` if it is not held.
    pub fn size_of(&self, id: &ObjectId) -> Option<u64> {
        self.copies(id).first().map(|held| held.size)
    }

    /// The packs that hold an object whole, as far as is known.
    pub fn holders(&self, id: &ObjectId) -> impl Iterator<Item = &Pack> {
        self.copies(id).iter().map(|held| &self.packs[held.pack])
    }

    fn copies(&self, id: &ObjectId) -> &[Held] {
        let from = self.objects.partition_point(|held| held.id < *id);
        let rest = &self.objects[from..];
        &rest[..rest.partition_point(|held| held.id == *id)]
    }

    /// Opens an object for reading; `None` if it is not held. A copy that turns out corrupt gives way to another pack's.
    pub fn open(&self, id: &ObjectId) -> Result<Option<ObjectReader>, Error> {
        Ok(self.reader(id))
    }

    pub(crate) fn reader(&self, id: &ObjectId) -> Option<ObjectReader> {
        let mut holders = self.holders(id);
        let reader = holders.next()?.reader(id)?;
        Some(reader.with_others(holders.cloned().collect()))
    }

    /// The view of some of the packs.
    pub(crate) fn part(&self, packs: Vec<Pack>) -> Self {
        Self::build(packs, self.excluded.clone()).0
    }

    /// The objects whose hash in hex begins with `prefix`, at most `limit` of them.
    pub fn find_prefix(&self, prefix: &str, limit: usize) -> Vec<ObjectId> {
        let matching = self.objects().map(|(id, _)| id);
        let matching = matching.filter(|id| id.to_string().starts_with(prefix));
        matching.take(limit).collect()
    }

    /// The copies of objects that were reported corrupt.
    pub fn quarantined(&self) -> &BTreeSet<(PackId, ObjectId)> {
        &self.excluded.copies
    }

    /// Whether a binding does not count.
    pub fn is_withdrawn(&self, name: &str, object: &ObjectId) -> bool {
        self.excluded.binding(name, object)
    }

    pub(crate) fn excluded(&self) -> &Excluded {
        &self.excluded
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
