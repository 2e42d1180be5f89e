//! What is kept of the installations that asked: by the hash of their UUID, and nothing that could be undone.
use super::{Readable, State, StateError, VALUES, json};
use crate::clients::{Id, Known};
use redb::{ReadableTable, TableDefinition};

/// Installations that asked, by their hash in hex.
pub(super) const CLIENTS: TableDefinition<&str, &str> = TableDefinition::new("clients-0");
const CLIENTS_KEY: &str = "clients-key";

impl State {
    /// The key under which clients are hashed, made at the first call.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn clients_key(&self) -> Result<[u8; 32], StateError> {
        if let Some(key) = self.get(VALUES, CLIENTS_KEY)? {
            return Ok(key);
        }
        let key: [u8; 32] = rand::random();
        self.put(VALUES, CLIENTS_KEY, &key)?;
        Ok(key)
    }

    /// Keeps what is known of clients, and drops those that are gone.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save_clients(&self, changed: &[(Id, Known)], gone: &[Id]) -> Result<(), StateError> {
        self.write(|txn| {
            let mut clients = txn.open_table(CLIENTS)?;
            for id in gone {
                clients.remove(hex(id).as_str())?;
            }
            for (id, known) in changed {
                clients.insert(hex(id).as_str(), json(known).as_str())?;
            }
            Ok(())
        })
    }

    /// Forgets every client, and the key with which they were hashed.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn forget_clients(&self) -> Result<(), StateError> {
        let key: Option<[u8; 32]> = self.get(VALUES, CLIENTS_KEY)?;
        if key.is_none() {
            // Nobody was ever remembered, and nothing need be written.
            return Ok(());
        }
        self.write(|txn| {
            txn.delete_table(CLIENTS)?;
            txn.open_table(CLIENTS)?;
            txn.open_table(VALUES)?.remove(CLIENTS_KEY)?;
            Ok(())
        })
    }
}

impl<D: Readable> State<D> {
    /// What is known of clients; an entry that does not read is as good as lost.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn clients(&self) -> Result<Vec<(Id, Known)>, StateError> {
        let all = self.database.read(&self.path, |txn| {
            let table = match txn.open_table(CLIENTS) {
                // Its last writer did not know of clients.
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                other => other?,
            };
            let mut found = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                let id = u128::from_str_radix(key.value(), 16).ok().map(u128::to_be_bytes);
                found.extend(id.zip(serde_json::from_str(value.value()).ok()));
            }
            Ok(found)
        });
        all.map_err(|source| StateError { path: self.path.clone(), source })
    }
}

fn hex(id: &Id) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}
