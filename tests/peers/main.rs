//! Beside the programs of others: freshclam, cvdupdate, resolvers, systemd, and what the pages for people tell to type.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod client_recipe;
mod dns_freshclam;
mod docs;
mod downloader;
mod first_hour;
mod interop_cvdupdate;
mod interop_freshclam;
mod package_docker;
mod package_install;
mod package_service;
mod proxy;
mod pull_unit;
mod tls;
