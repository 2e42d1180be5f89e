//! A LAN mirror of ClamAV's databases that no cache can make lie.
pub mod config;
pub mod cvd;
pub mod http;
pub mod mirror;
pub mod source;
