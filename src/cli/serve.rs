//! `cvdmirror serve`
use super::{Failure, Outcome, print, runtime};
use crate::{
    config::Config,
    http::AccessLog,
    mirror::DataDir,
    service::{self, Service},
    source::Silent,
};
use std::sync::{Arc, Weak};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) fn run(config: Config) -> Outcome {
    let lock = DataDir::new(&config.data_dir).lock()?;
    runtime()?.block_on(async {
        let io = |e: std::io::Error| Failure::Failed(format!("cannot serve: {e}"));
        // Before anything that takes long, so that a signal in between is not lost.
        let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
        let hangups = signal(SignalKind::hangup()).map_err(io)?;
        let mirror = tokio::task::block_in_place(|| service::open(&config, lock, Arc::new(Silent)))?;
        let service = Service::bind(config, mirror).await?;
        tokio::spawn(reopen(service.access_log().as_ref().map(Arc::downgrade), hangups));
        for address in service.addresses() {
            print(format!("listening on http://{address}\n"))?;
        }
        if let Some(address) = service.dns_address() {
            print(format!("answering DNS on udp+tcp {address}\n"))?;
        }
        let shutdown = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("stopping: running downloads may finish; a second signal ends at once");
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                std::process::exit(1);
            });
        };
        service.run(shutdown).await.map_err(io)
    })
}

/// Opens the access log anew at each SIGHUP, which is what says that it was rotated; without one the signal is ignored.
async fn reopen(log: Option<Weak<AccessLog>>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        if let Some(log) = log.as_ref().and_then(Weak::upgrade) {
            log.reopen().await;
            tracing::info!("the access log is opened anew");
        }
    }
}
