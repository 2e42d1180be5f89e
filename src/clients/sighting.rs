//! A host's report, the content of `POST /seen`.
use super::installation;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most that is read of one, bytes.
pub const MAX_SIGHTING_BYTES: usize = 4096;
/// The longest label, bytes.
const MAX_HOST_BYTES: usize = 64;

/// A host's report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Sighting {
    /// Its name.
    pub host: String,
    /// The engine that scans there, as `ClamAV/1.4.6`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<String>,
    /// The version of each database in its directory.
    #[serde(default)]
    pub installed: BTreeMap<String, u32>,
    /// The version of each database that its clamd has loaded, as far as that tells.
    #[serde(default)]
    pub loaded: BTreeMap<String, u32>,
}

/// Why what came is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SightingError {
    /// It cannot be read.
    #[error("no report: JSON with host, engine, installed and loaded is expected")]
    Json,
    /// Its label may not stand on a page.
    #[error("host: 1 to 64 letters, digits, dots, underscores and hyphens are expected")]
    Host,
}

impl Sighting {
    /// Reads what came.
    ///
    /// # Errors
    /// See [`SightingError`].
    pub fn parse(content: &[u8]) -> Result<Self, SightingError> {
        let sighting: Self = serde_json::from_slice(content).map_err(|_| SightingError::Json)?;
        if is_label(&sighting.host) { Ok(sighting) } else { Err(SightingError::Host) }
    }

    pub(super) fn engine(&self) -> &str {
        self.engine.as_deref().and_then(installation::product).unwrap_or(installation::UNKNOWN)
    }
}

/// Whether a host may call itself so.
pub fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    (1..=MAX_HOST_BYTES).contains(&text.len()) && text.bytes().all(plain)
}

/// How this host calls itself where nothing else is set.
pub fn own_label() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let plain = |c: char| if is_label(c.encode_utf8(&mut [0; 4])) { c } else { '-' };
    let label: String = name.trim().chars().map(plain).take(MAX_HOST_BYTES).collect();
    if label.is_empty() { "unnamed".to_owned() } else { label }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn host(label: &str) -> Result<Sighting, SightingError> {
        Sighting::parse(&serde_json::to_vec(&serde_json::json!({ "host": label })).unwrap())
    }

    #[test]
    fn a_label_is_short_and_plain() {
        for label in ["web-1", "a", "Web_1.example.lan", &"x".repeat(64)] {
            assert_eq!(host(label).unwrap().host, label);
        }
        let wrong = ["", "a b", "a\nb", "\u{1b}[31m", "<b>x</b>", "a&b", "é", "a/b", "\0", &"x".repeat(65)];
        for label in wrong {
            assert_eq!(host(label), Err(SightingError::Host), "{label:?}");
        }
        assert!(is_label(&own_label()));
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let deep = "[".repeat(4096);
        for content in [
            "",
            "{}",
            "[]",
            "null",
            "\"web-1\"",
            "{\"host\":1}",
            "host=web-1",
            "{\"host\":\"a\"",
            &deep,
            "{\"host\":\"a\",\"installed\":{\"daily\":-1}}",
            "{\"host\":\"a\",\"installed\":{\"daily\":4294967296}}",
            "{\"host\":\"a\",\"loaded\":[1]}",
        ] {
            assert_eq!(Sighting::parse(content.as_bytes()), Err(SightingError::Json), "{content}");
        }
        // A later pull may tell more.
        assert!(Sighting::parse(br#"{"host":"a","more":[1]}"#).is_ok());
    }

    #[test]
    fn an_engine_that_is_none_is_unknown() {
        let engine =
            |name: &str| Sighting { engine: Some(name.into()), ..host("a").unwrap() }.engine().to_owned();
        assert_eq!(engine("ClamAV/1.4.6"), "ClamAV/1.4.6");
        for name in ["", "<script>", "ClamAV 1.4.6", &"x".repeat(41)] {
            assert_eq!(engine(name), installation::UNKNOWN, "{name}");
        }
        assert_eq!(host("a").unwrap().engine(), installation::UNKNOWN);
    }
}
