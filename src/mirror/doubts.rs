//! What is remembered of a database's files between rounds: which CDIFFs were proved, and what is not believed yet, or
//! not at all. It may be lost: CDIFFs are then proved again at the start, and the rest costs another round.
use crate::{
    cvd::Database,
    state::{Readable, State, StateError},
};
use cvdmirror_store::ObjectId;
use redb::TableDefinition;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

const DOUBTS: TableDefinition<&str, &str> = TableDefinition::new("doubts-0");
/// Of each kind so many are remembered at most; the lowest versions go first, and the oldest refusals.
const MOST: usize = 256;

/// One database's.
#[derive(Clone, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Doubts {
    /// CDIFFs past the newest CVD that were applied: each leads to its version.
    proved: BTreeMap<u32, String>,
    /// CDIFFs that were applied and lead elsewhere.
    disproved: BTreeMap<u32, String>,
    /// CDIFFs that came empty in one round.
    empty: BTreeSet<u32>,
    /// Bodies that came under a header of another version than their `.info`'s: MD5 in hex, `.info`'s version.
    bodies: Vec<(String, u32)>,
}

impl Doubts {
    /// Reads what is remembered.
    pub(super) fn remembered<D: Readable>(state: &State<D>, database: &Database) -> Result<Self, StateError> {
        Ok(state.get(DOUBTS, database.as_str())?.unwrap_or_default())
    }

    pub(super) fn save(&self, state: &State, database: &Database) -> Result<(), StateError> {
        state.put(DOUBTS, database.as_str(), self)
    }

    /// A CDIFF was applied, and led to its version or elsewhere; `base` is the newest CVD.
    pub(super) fn applied(&mut self, version: u32, cdiff: ObjectId, leads: bool, base: u32) {
        self.proved.retain(|proved, _| *proved > base);
        self.empty.remove(&version);
        let found = if leads { &mut self.proved } else { &mut self.disproved };
        found.insert(version, cdiff.to_string());
        while found.len() > MOST {
            found.pop_first();
        }
    }

    pub(super) fn is_proved(&self, version: u32, cdiff: &ObjectId) -> bool {
        self.proved.get(&version).is_some_and(|proved| *proved == cdiff.to_string())
    }

    pub(super) fn is_disproved(&self, version: u32, cdiff: &ObjectId) -> bool {
        self.disproved.get(&version).is_some_and(|disproved| *disproved == cdiff.to_string())
    }

    /// A CDIFF came empty. Says whether it did so before.
    pub(super) fn came_empty(&mut self, version: u32) -> bool {
        let again = !self.empty.insert(version);
        while self.empty.len() > MOST {
            self.empty.pop_first();
        }
        again
    }

    /// A body came under a header of another version than its signed `.info`'s.
    pub(super) fn refuse(&mut self, md5: [u8; 16], info: u32) {
        self.bodies.retain(|(known, _)| *known != hex(md5));
        self.bodies.push((hex(md5), info));
        let excess = self.bodies.len().saturating_sub(MOST);
        self.bodies.drain(..excess);
    }

    /// The version in the `.info` of a body that came under a header of another.
    pub(super) fn version_of(&self, md5: [u8; 16]) -> Option<u32> {
        let known = self.bodies.iter().find(|(known, _)| *known == hex(md5))?;
        Some(known.1)
    }

    /// Whether a header may spare a full file.
    pub(super) fn knows_bodies(&self) -> bool {
        !self.bodies.is_empty()
    }
}

fn hex(md5: [u8; 16]) -> String {
    md5.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut doubts = Doubts::default();
        for version in 1..1000_u32 {
            let (object, mut md5) = (ObjectId::of(&version.to_be_bytes()), [0; 16]);
            md5[..4].copy_from_slice(&version.to_be_bytes());
            doubts.applied(version, object, true, 0);
            doubts.applied(version, object, false, 0);
            assert!(!doubts.came_empty(version) && doubts.came_empty(version));
            doubts.refuse(md5, version);
            assert!(doubts.is_proved(version, &object) && doubts.is_disproved(version, &object));
            assert_eq!(doubts.version_of(md5), Some(version));
        }
        let Doubts { proved, disproved, empty, bodies } = doubts;
        assert_eq!([proved.len(), disproved.len(), empty.len(), bodies.len()], [MOST; 4]);
    }
}
