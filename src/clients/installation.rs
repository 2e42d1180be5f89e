//! Installations, from the User-Agent of ClamAV's clients.
//!
//! freshclam: `ClamAV/1.4.6 (OS: Linux, ARCH: x86_64, CPU: x86_64, UUID: <uuid>)`; cvdupdate: `CVDUPDATE/1.1 (<uuid>)`.

/// The longest User-Agent that is read, in bytes.
const MAX_AGENT_BYTES: usize = 512;
/// The longest name of an engine, in bytes.
const MAX_ENGINE_BYTES: usize = 40;
/// The engine of a client that names none, or in no known form.
pub(super) const UNKNOWN: &str = "unknown";

/// An installation as a request names it. It is never stored, nor is its UUID.
pub struct Installation {
    pub(super) engine: String,
    pub(super) uuid: Option<[u8; 16]>,
}

/// The name of an engine, if it is short and plain.
pub(super) fn product(name: &str) -> Option<&str> {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+_~/-".contains(c);
    ((1..=MAX_ENGINE_BYTES).contains(&name.len()) && name.chars().all(plain)).then_some(name)
}

impl Installation {
    /// Reads a User-Agent.
    pub fn from_agent(agent: &[u8]) -> Self {
        let agent = String::from_utf8_lossy(&agent[..agent.len().min(MAX_AGENT_BYTES)]);
        let product = agent.split(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
        let uuid = agent
            .split(|c: char| !(c.is_ascii_hexdigit() || c == '-'))
            .filter(|word| word.len() == uuid::fmt::Hyphenated::LENGTH)
            .find_map(|word| uuid::Uuid::try_parse(word).ok())
            // What stands for no UUID at all is nobody's.
            .filter(|uuid| !uuid.is_nil());
        Self {
            engine: self::product(product).unwrap_or(UNKNOWN).to_owned(),
            uuid: uuid.map(|uuid| *uuid.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    const UUID: &str = "6f1c2f0e-8a44-4c1a-9b1e-0123456789ab";

    #[test]
    fn clients_are_read_as_they_name_themselves() {
        let is = |agent: &str| {
            let Installation { engine, uuid } = Installation::from_agent(agent.as_bytes());
            (engine, uuid.map(|uuid| uuid::Uuid::from_bytes(uuid).to_string()))
        };
        let someone = Some(UUID.to_owned());
        for (agent, engine, uuid) in [
            (
                "ClamAV/1.4.6 (OS: Linux, ARCH: x86_64, CPU: x86_64, UUID: {})",
                "ClamAV/1.4.6",
                someone.clone(),
            ),
            ("CVDUPDATE/1.1 ({})", "CVDUPDATE/1.1", someone.clone()),
            ("ClamAV/1.6.0-beta+deb~1(UUID: {})", "ClamAV/1.6.0-beta+deb~1", someone.clone()),
            ("ClamAV/1.4.6 (UUID: {}0)", "ClamAV/1.4.6", None),
            ("ClamAV/1.4.6 (UUID: 6f1c2f0e8a444c1a9b1e0123456789ab)", "ClamAV/1.4.6", None),
            ("ClamAV/1.4.6 (UUID: 00000000-0000-0000-0000-000000000000)", "ClamAV/1.4.6", None),
            ("curl/8.0", "curl/8.0", None),
            ("", UNKNOWN, None),
            (" ClamAV/1.4.6", UNKNOWN, None),
            ("<script>alert(1)</script>", UNKNOWN, None),
            ("ClamAV/é", UNKNOWN, None),
        ] {
            assert_eq!(is(&agent.replace("{}", UUID)), (engine.to_owned(), uuid), "{agent}");
        }
        assert_eq!(is(&UUID.to_uppercase()).1, someone);
        assert_eq!(is(&"x".repeat(MAX_ENGINE_BYTES + 1)).0, UNKNOWN);
        assert_eq!(is(&format!("{} {UUID}", "x".repeat(1 << 20))).1, None);
    }

    proptest! {
        #[test]
        fn an_engine_is_short_and_plain(agent: Vec<u8>) {
            let engine = Installation::from_agent(&agent).engine;
            prop_assert!((1..=MAX_ENGINE_BYTES).contains(&engine.len()));
            prop_assert!(engine.bytes().all(|b| b.is_ascii_alphanumeric() || b".+_~/-".contains(&b)));
        }
    }
}
