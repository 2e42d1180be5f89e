//! What did not agree on the way to the newest version, as facts; `trouble` words it.
use super::Evidence;
use serde::{Deserialize, Serialize};

/// Something that did not agree while a source said what is newest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doubt {
    /// A record could not be had or read.
    Unrecorded {
        /// Which, and why.
        why: String,
    },
    /// The TXT record does not name the database.
    Unnamed,
    /// The TXT record does not say when it was made.
    Undated {
        /// The version it says.
        version: u32,
    },
    /// A record was made in the future, so many seconds behind which this machine's clock is.
    Early {
        /// How far this machine's clock is ahead, seconds: negative.
        off_s: i64,
        /// Whether it is dns.txt of a directory.
        in_directory: bool,
    },
    /// The TXT record is too old.
    Old {
        /// The version it says.
        version: u32,
        /// Its age, seconds.
        age_s: u64,
    },
    /// The file's header could not be had or read.
    Unread {
        /// Where, and why.
        why: String,
    },
    /// The file is newer than the TXT record says.
    Ahead {
        /// The version in the record.
        recorded: u32,
        /// The version in the file.
        found: u32,
    },
    /// The version is too far ahead of what is held to be believed.
    Absurd {
        /// What said it.
        evidence: Evidence,
        /// The version.
        version: u32,
    },
    /// The version is older than what is held.
    Older {
        /// The version.
        version: u32,
        /// The version held.
        held: u32,
    },
}
