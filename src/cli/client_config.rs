//! `cvdmirror client-config`: the lines for a client's freshclam.conf, and nothing else on standard output.
use super::{Failure, Outcome, print};
use crate::{
    client_config::{self, ClientConfigError, Mode},
    config::Config,
};
use clap::ValueEnum;

/// By what a client is led here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Way {
    /// `DatabaseMirror`, without DNS
    Direct,
    /// `DatabaseMirror`, and the TXT record that this mirror answers
    Dns,
    /// `HTTPProxyServer`
    Proxy,
}

pub(super) fn run(config: &Config, way: Way, url: Option<&str>) -> Outcome {
    let mode = match way {
        Way::Direct => Mode::Direct,
        Way::Dns => Mode::Dns,
        Way::Proxy => Mode::Proxy,
    };
    if url.is_none() && config.listen.iter().all(|address| address.ip().is_loopback()) {
        eprintln!("cvdmirror: note: listen has loopback addresses alone, which no other host can reach");
    }
    print(client_config::lines(config, mode, url)?)
}

impl From<ClientConfigError> for Failure {
    fn from(e: ClientConfigError) -> Self {
        Self::Usage(e.to_string())
    }
}
