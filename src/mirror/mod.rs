//! The mirror: what it holds, what it publishes, and how it gets what is newer.
//!
//! Three parts: [`holdings`] (store, admission of packs, state, what is published), [`round`] (one database's work) and
//! [`record`] (history, counters, the last round). One thread has them all, so that one thing at a time is done; it
//! blocks where it works and waits for nothing but the network. Everybody else reads one [`Standing`] that is swapped
//! at once, and sends commands through a [`Handle`].
//!
//! Guarantees: bytes are verified, then sealed in a pack, then published in one swap, in that order; a version
//! that is published stays so, whatever the source answers later.
mod admission;
mod advert;
mod asked;
mod bench;
pub mod cld;
pub mod cld_sign;
pub mod copies;
mod core;
pub mod counters;
pub mod data_dir;
mod demand;
mod doubts;
mod downloading;
mod error;
mod fetch;
pub mod gc;
pub mod handle;
pub mod history;
mod holdings;
mod inflow;
mod judgement;
pub mod look;
pub mod memory;
pub mod plan;
mod proving;
pub mod reading;
mod rebuild;
mod record;
pub mod report;
pub mod reported;
pub mod retention;
mod round;
mod schedule;
pub mod snapshot;
pub mod standing;
pub mod status;
mod take;
mod trust;
pub mod verify;
mod work;

pub use self::core::{Mirror, Settings, Stopped};
pub use data_dir::DataDir;
pub use demand::{Demand, Demanded};
pub use error::OpenError;
pub use handle::{Command, Handle};
pub use history::History;
pub use report::RoundReport;
pub use snapshot::{Published, Snapshot};
pub use standing::{Health, Standing};
pub use verify::Verifier;
