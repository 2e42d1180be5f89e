//! A LAN mirror of ClamAV's databases that no cache can make lie.
pub mod cli;
pub mod clients;
pub mod clock;
pub mod config;
pub mod control;
pub mod cvd;
pub mod dns;
pub mod doctor;
pub mod exposition;
pub mod http;
pub mod mirror;
pub mod notify;
pub mod port_holder;
pub mod service;
pub mod source;
pub mod telemetry;
