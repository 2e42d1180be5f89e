//! The stored installations, by the keyed hash of their UUID.
use super::{Id, Known};
use crate::state::{Readable, State, StateError, VALUES, json};
use redb::TableDefinition;

/// Installations that asked, by their hash in hex.
const CLIENTS: TableDefinition<&str, &str> = TableDefinition::new("clients-0");
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

    /// Stores changed clients, and deletes forgotten ones.
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
    /// All stored clients; an entry that cannot be parsed is left out.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn clients(&self) -> Result<Vec<(Id, Known)>, StateError> {
        self.each(CLIENTS, |key, value| {
            let id = u128::from_str_radix(key, 16).ok().map(u128::to_be_bytes);
            id.zip(serde_json::from_str(value).ok())
        })
    }
}

fn hex(id: &Id) -> String {
    format!("{:032x}", u128::from_be_bytes(*id))
}
