//! Settings as they were given, and how one is read: its values, or the error that says where the wrong one stands.
use super::{ConfigError, Origin, ValueError, value};
use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
};

/// Reads settings out of what was given.
pub(super) struct Given<'a> {
    pub(super) given: &'a BTreeMap<&'static str, (Vec<String>, Origin)>,
    /// The file of those that came from one.
    pub(super) file: Option<PathBuf>,
}

impl Given<'_> {
    pub(super) fn all<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<Vec<T>, ConfigError> {
        let Some((values, origin)) = self.given.get(key) else { return Ok(Vec::new()) };
        values
            .iter()
            .map(|value| {
                parse(value).map_err(|why| ConfigError::Value {
                    key,
                    value: value::shown(key, value),
                    origin: *origin,
                    file: self.file.clone(),
                    why,
                })
            })
            .collect()
    }

    /// Addresses, none of them twice but for port 0, which takes another port each time.
    pub(super) fn addresses(&self, key: &'static str) -> Result<Vec<SocketAddr>, ConfigError> {
        let seen = RefCell::new(BTreeSet::new());
        self.all(key, |text| match value::socket(text)? {
            address if address.port() != 0 && !seen.borrow_mut().insert(address) => {
                Err("is given twice; write it once".into())
            }
            address => Ok(address),
        })
    }

    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<Option<T>, ConfigError> {
        Ok(self.all(key, parse)?.pop())
    }

    pub(super) fn required<T>(
        &self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, ValueError>,
    ) -> Result<T, ConfigError> {
        self.optional(key, parse)?.ok_or(ConfigError::Missing { key, why: "has no default" })
    }
}
