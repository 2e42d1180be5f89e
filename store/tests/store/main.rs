//! The store: objects and names in, out, merged, retired, copied, damaged and killed. What it costs in memory is measured in
//! `memory`, a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod copies;
mod damage;
mod fixtures;
mod kill;
mod model;
mod objects;
mod retain;
#[path = "../support/mod.rs"]
mod support;
