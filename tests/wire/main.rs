//! What the program says over HTTP and DNS: the contracts, the page and the metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod attacks;
mod cld;
mod dns_cli;
mod dns_contract;
mod hot;
mod http_contract;
mod http_hostile;
mod http_slow_links;
mod index_schema;
mod metrics_prometheus;
mod page;
mod page_browser;
mod seen;
mod tls;
