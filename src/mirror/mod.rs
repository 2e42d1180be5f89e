//! What the mirror holds, publishes and plans.
pub mod snapshot;
pub use snapshot::{Published, Snapshot};
