//! Delays, lies and kills: networks and syncs that go wrong.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod delays;
mod kills;
mod side_by_side;
