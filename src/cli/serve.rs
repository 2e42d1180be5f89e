//! `cvdmirror serve`
use super::{Failure, Outcome, print, runtime};
use crate::{
    config::Config,
    mirror::DataDir,
    service::{self, Service},
    source::Silent,
};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};

pub(super) fn run(config: Config) -> Outcome {
    let lock = DataDir::new(&config.data_dir).lock()?;
    runtime()?.block_on(async {
        let io = |e: std::io::Error| Failure::Failed(format!("cannot serve: {e}"));
        // Before anything that takes long, so that a signal in between is not lost.
        let mut terminate = signal(SignalKind::terminate()).map_err(io)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(io)?;
        let mirror = tokio::task::block_in_place(|| service::open(&config, lock, Arc::new(Silent)))?;
        let service = Service::bind(config, mirror).await?;
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
