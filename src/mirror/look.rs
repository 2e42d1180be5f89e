//! A look at everything in a store, admitted or not, from outside and beside a running server.
use super::{DataDir, OpenError, memory::KnownPacks};
use cvdmirror_store::{Finding, Pack, Store, View, Withdrawn};
use std::sync::Arc;

/// Everything in the store, trusted or not: what is published is another question.
#[derive(Debug)]
pub struct Look {
    /// What is not retired, without the names' bindings that the mirror found not to hold.
    pub view: Arc<View>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
    /// Packs that were merged or dropped and wait to be removed; they are not in the view.
    pub retired: Vec<Pack>,
    /// What the mirror knows of the packs. `None` if that cannot be had: a sync that runs keeps it to itself.
    pub known: Option<KnownPacks>,
}

impl Look {
    /// Looks. What is known of the packs is to be asked before: a pack that is merged later is still in the view then,
    /// and what it was merged into may not be.
    ///
    /// # Errors
    /// When the directory cannot be read, or a pack is of a newer format.
    pub fn at(dir: &DataDir, known: Option<KnownPacks>) -> Result<Self, OpenError> {
        let scan = Store::scan(&dir.store())?;
        let is_retired =
            |pack: &Pack| known.as_ref().is_some_and(|known| known.retired.contains(pack.id().as_str()));
        let (retired, packs): (Vec<_>, Vec<_>) = scan.packs.into_iter().partition(is_retired);
        let (store, conflicts) = Store::assemble(&dir.store(), &dir.tmp(), packs)?;
        let mut withdrawn = Withdrawn::new();
        for (name, object) in known.iter().flat_map(|known| &known.withdrawn) {
            if let Ok(object) = object.parse() {
                withdrawn.entry(name.clone()).or_default().insert(object);
            }
        }
        let conflicts = if withdrawn.is_empty() { conflicts } else { store.withdraw(withdrawn) };
        let findings = scan.findings.into_iter().chain(conflicts).collect();
        Ok(Self { view: store.view(), findings, retired, known })
    }
}
