//! Judgement: which names of the packs may be published, by what their content proves.
//!
//! Each binding of a name to an object is judged once by the rules, keys and certificates in force, and again when those
//! change, or for a sign file when what it signs is another. A verdict belongs to the content: not to the pack, its place, or
//! what its record says. So neither the order of packs, nor their files' names, nor the loss of state.redb changes what is
//! published. A binding that does not hold is withdrawn alone: the rest of its pack is served, its name is free for what does
//! hold, and it stays in the store until something has taken its place.
use super::{
    reading::Reading,
    trust::Trust,
    verify::{Unfit, Verifier, versions},
};
use crate::{
    cvd::{FileKind, FileName, NameError},
    state::{Readable, State, StateError},
    trouble::Trouble,
};
use cvdmirror_store::{Error, NameRecord, ObjectId, Pack, PackId, Store, View, Withdrawn};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
};

/// What was found of a name's binding to an object.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Verdict {
    /// By which rules, keys and certificates: their digest.
    by: String,
    /// Of a sign file, the object it was judged with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signed: Option<String>,
    /// Why the object is not what the name says; none where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
}

/// Names that cannot be read are findings up to this many: a hostile pack may have thousands.
const MOST_UNREAD: usize = 8;

/// A name and an object.
pub(super) type Binding = (String, ObjectId);
/// What is known of bindings.
pub(super) type Verdicts = BTreeMap<Binding, Verdict>;

/// Says of a pack whether what was not judged yet counts, as it did for the build that admitted it.
pub(super) type Presumed<'a> = &'a dyn Fn(&PackId) -> bool;

#[derive(Debug, Default)]
pub(super) struct Judgement(Verdicts);

/// What a judgement came to.
#[derive(Default)]
pub(super) struct Judged {
    /// What is wrong with the store.
    pub(super) findings: Vec<Trouble>,
    /// Copies that were found corrupt.
    pub(super) corrupt: BTreeSet<(PackId, ObjectId)>,
}

/// Why a binding is withdrawn.
#[derive(Clone)]
enum Why {
    Refused(String),
    /// It was never judged: what it signs is not held, or it cannot be read.
    Unknown,
}

/// A binding of a pack.
struct Bound<'v> {
    pack: &'v Pack,
    file: Result<FileName, NameError>,
    name: &'v str,
    record: &'v NameRecord,
}

impl Bound<'_> {
    fn key(&self) -> Binding {
        (self.name.to_owned(), self.record.object)
    }
}

fn bindings(view: &View) -> Vec<Bound<'_>> {
    let mut all = Vec::new();
    for pack in view.packs() {
        all.extend(pack.names().map(|(name, record)| Bound { pack, file: name.parse(), name, record }));
    }
    all
}

impl Judgement {
    /// What was found before.
    pub(super) fn remembered<D: Readable>(state: &State<D>) -> Result<Self, StateError> {
        Ok(Self(state.verdicts()?))
    }

    /// Withdraws what does not hold, of what is known; says what is wrong with the names.
    pub(super) fn apply(&self, store: &Store, presumed: Presumed<'_>) -> Vec<Trouble> {
        let view = store.view();
        let all = bindings(&view);
        let mut withdrawn: BTreeMap<Binding, Why> = BTreeMap::new();
        let mut counted = Vec::new();
        for bound in &all {
            let verdict = self.0.get(&bound.key());
            let why = match (&bound.file, verdict) {
                (Err(e), _) => Why::Refused(e.to_string()),
                (Ok(_), Some(Verdict { refused: Some(why), .. })) => Why::Refused(why.clone()),
                (Ok(_), None) if !presumed(bound.pack.id()) => Why::Unknown,
                (Ok(file), _) => {
                    counted.push(file);
                    continue;
                }
            };
            withdrawn.insert(bound.key(), why);
        }
        let held = versions(counted.into_iter());
        for bound in &all {
            if let Ok(file) = &bound.file
                && file.kind == FileKind::Cdiff
                && held.get(&file.database).is_some_and(|held| held.is_stray(file.version))
            {
                withdrawn.insert(bound.key(), Why::Refused(Unfit::Stray.to_string()));
            }
        }
        let mut bindings = Withdrawn::new();
        for (name, object) in withdrawn.keys() {
            bindings.entry(name.clone()).or_default().insert(*object);
        }
        let conflicts = store.withdraw(bindings);
        let mut findings: Vec<Trouble> = conflicts.iter().map(Trouble::from).collect();
        // One for each pack: a hostile one may have thousands of names.
        let mut of_packs: BTreeMap<&PackId, Vec<(&str, &str)>> = BTreeMap::new();
        for bound in &all {
            if let Some(Why::Refused(why)) = withdrawn.get(&bound.key()) {
                of_packs.entry(bound.pack.id()).or_default().push((bound.name, why));
            }
        }
        findings.extend(of_packs.into_iter().map(|(pack, names)| Trouble::withdrawn(pack, &names)));
        findings
    }

    /// Judges what is not judged yet by the rules, keys and certificates in force, but for what is presumed; then withdraws
    /// what does not hold. What is newly found not to hold is said in the log.
    pub(super) fn judge(
        &mut self,
        store: &Store,
        trust: &Trust,
        state: &State,
        presumed: Presumed<'_>,
    ) -> Judged {
        let (mut judged, mut fresh) = (Judged::default(), Verdicts::new());
        let (mut new, mut unread) = (BTreeSet::new(), Vec::new());
        let verifier = &trust.verifier;
        let by = [verifier.digest(false), verifier.digest(true)];
        // Files first: a sign file is judged with what its file's name leads to then.
        for signs in [false, true] {
            let view = store.view();
            for bound in bindings(&view) {
                let Ok(file) = &bound.file else { continue };
                if file.signed().is_some() != signs || presumed(bound.pack.id()) {
                    continue;
                }
                // What cannot be judged now stays as it was found before.
                let signed = file.signed().map(|signed| view.lookup(&signed.to_string()));
                if signs && trust.fault.is_some() || matches!(signed, Some(None)) {
                    continue;
                }
                let signed = signed.flatten();
                let verdict = Verdict::new(&by[usize::from(signs)], signed.map(|signed| signed.object));
                let known = self.0.get(&bound.key());
                if known.is_some_and(|known| (&known.by, &known.signed) == (&verdict.by, &verdict.signed)) {
                    continue;
                }
                let refused = match verify(verifier, &view, &bound, file, signed) {
                    Ok(()) => None,
                    Err(Failed::Unfit(why)) => Some(why.to_string()),
                    // A corrupt copy is a finding of its own.
                    Err(Failed::Corrupt(pack, object)) => {
                        judged.corrupt.insert((pack, object));
                        continue;
                    }
                    Err(Failed::Unread(why)) => {
                        unread.extend(
                            known.is_none().then(|| Trouble::unread(bound.pack.id(), bound.name, &why)),
                        );
                        continue;
                    }
                };
                if refused.is_some() && known.is_none_or(|known| known.refused.is_none()) {
                    new.insert(bound.key());
                }
                let verdict = Verdict { refused, ..verdict };
                fresh.insert(bound.key(), verdict.clone());
                self.0.insert(bound.key(), verdict);
            }
            judged.findings = self.apply(store, presumed);
        }
        unread.truncate(MOST_UNREAD);
        judged.findings.append(&mut unread);
        let view = store.view();
        self.log(&view, &new);
        let held: BTreeSet<Binding> = bindings(&view).iter().map(Bound::key).collect();
        let gone: Vec<Binding> = self.0.keys().filter(|binding| !held.contains(*binding)).cloned().collect();
        self.0.retain(|binding, _| held.contains(binding));
        if (!fresh.is_empty() || !gone.is_empty())
            && let Err(e) = state.set_verdicts(&fresh, gone.iter())
        {
            judged.findings.push(Trouble::forgotten("which names hold", &e));
        }
        judged
    }

    fn log(&self, view: &View, new: &BTreeSet<Binding>) {
        let mut of_packs: BTreeMap<&PackId, Vec<(&str, &str)>> = BTreeMap::new();
        let all = bindings(view);
        for bound in all.iter().filter(|bound| new.contains(&bound.key())) {
            if let Some(why) = self.0.get(&bound.key()).and_then(|verdict| verdict.refused.as_deref()) {
                of_packs.entry(bound.pack.id()).or_default().push((bound.name, why));
            }
        }
        for (pack, names) in of_packs {
            tracing::warn!("{}", Trouble::withdrawn(pack, &names));
        }
    }

    /// Notes that everything in a pack that was sealed here holds: it was verified when it came.
    pub(super) fn note(&mut self, pack: &Pack, view: &View, verifier: &Verifier) -> Verdicts {
        let by = [verifier.digest(false), verifier.digest(true)];
        let verdict = |(name, record): (&str, &NameRecord)| {
            let signed = name.parse::<FileName>().ok()?.signed();
            let signed = signed.map(|signed| view.lookup(&signed.to_string()).map(|signed| signed.object));
            let verdict = Verdict::new(&by[usize::from(signed.is_some())], signed.flatten());
            Some(((name.to_owned(), record.object), verdict))
        };
        let new: Verdicts = pack.names().filter_map(verdict).collect();
        self.0.extend(new.clone());
        new
    }
}

impl Verdict {
    /// That it holds; of a sign file with the object it signs.
    fn new(by: &str, signed: Option<ObjectId>) -> Self {
        Self { by: by.to_owned(), signed: signed.map(|object| object.to_string()), refused: None }
    }
}

/// Why a binding is not found to hold.
enum Failed {
    Unfit(Unfit),
    /// A copy of an object is corrupt.
    Corrupt(PackId, ObjectId),
    Unread(Unread),
}

/// Why an object cannot be read now.
#[derive(Debug, thiserror::Error)]
enum Unread {
    #[error("its object is in no pack that is held")]
    Absent,
    #[error("its object has another length than its record says")]
    Length,
    #[error(transparent)]
    Store(Error),
}

impl From<Error> for Failed {
    fn from(e: Error) -> Self {
        match e {
            Error::Corrupt { pack, object, .. } => Self::Corrupt(pack, object),
            e => Self::Unread(Unread::Store(e)),
        }
    }
}

fn verify(
    verifier: &Verifier,
    view: &View,
    bound: &Bound<'_>,
    file: &FileName,
    signed: Option<&NameRecord>,
) -> Result<(), Failed> {
    let open = |record: &NameRecord| {
        let object = view.open(&record.object)?.ok_or(Failed::Unread(Unread::Absent))?;
        if object.size() != record.size {
            return Err(Failed::Unread(Unread::Length));
        }
        Ok::<_, Failed>(Watched { inner: Reading::new(object), failed: None })
    };
    let mut bytes = open(bound.record)?;
    let mut signed = signed.map(open).transpose()?;
    let verified = match &mut signed {
        None => verifier.verify(file, &mut bytes).map(drop),
        Some(signed) => verifier.verify_sign(&mut bytes, signed).map(drop),
    };
    match bytes.failed.or(signed.and_then(|signed| signed.failed)) {
        Some(failed) => Err(failed),
        None => verified.map_err(Failed::Unfit),
    }
}

/// Remembers that reading failed: a verifier's own error may not say so.
struct Watched {
    inner: Reading,
    failed: Option<Failed>,
}

impl Read for Watched {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if let Err(e) = self.inner.fill() {
            let why = io::Error::other(e.to_string());
            self.failed.get_or_insert(e.into());
            return Err(why);
        }
        self.inner.read(out)
    }
}
