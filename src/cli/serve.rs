//! `cvdmirror serve`
use super::{Failure, Outcome, print, progress, runtime, signals::Signals};
use crate::{
    config::Config,
    cvd::Database,
    http::{AccessLog, Tls},
    mirror::DataDir,
    service::{self, Service},
};
use std::sync::{Arc, Weak};
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(super) fn run(config: Config) -> Outcome {
    let databases: Vec<&str> = config.databases.iter().map(Database::as_str).collect();
    tracing::info!(
        "{} {}, source {}{}",
        env!("CARGO_PKG_NAME"),
        env!("CARGO_PKG_VERSION"),
        config.source,
        config.source_reason()
    );
    tracing::info!("mirrors {}", databases.join(", "));
    tracing::info!("data directory {}", config.data_dir.display());
    let lock = DataDir::new(&config.data_dir).lock()?;
    let runtime = runtime()?;
    let io = |e: std::io::Error| Failure::Failed(format!("cannot serve: {e}"));
    // Before anything that takes long, so that a signal in between is not lost.
    let entered = runtime.enter();
    let signals = Signals::listen().map_err(io)?;
    let hangups = signal(SignalKind::hangup()).map_err(io)?;
    drop(entered);
    let opened = service::open(&config, lock, progress::to_log(), runtime.handle())?;
    runtime.block_on(async {
        let service = Service::bind(config, opened).await?;
        let (log, tls) = (service.access_log(), service.tls());
        tokio::spawn(reopen(log.as_ref().map(Arc::downgrade), tls.as_ref().map(Arc::downgrade), hangups));
        drop((log, tls));
        for address in service.addresses() {
            print(format!("listening on http://{address}\n"))?;
        }
        if let Some(address) = service.tls_address() {
            print(format!("listening on https://{address}\n"))?;
        }
        if let Some(address) = service.dns_address() {
            print(format!("answering DNS on udp+tcp {address}\n"))?;
        }
        let shutdown = async move {
            signals.first().await;
            tracing::info!("stopping: running downloads may finish; a second signal ends at once");
        };
        service.run(shutdown).await.map_err(io)
    })
}

/// Opens the access log anew at each SIGHUP, which is what says that it was rotated, and reads the certificate again; without
/// either the signal is ignored.
async fn reopen(log: Option<Weak<AccessLog>>, tls: Option<Weak<Tls>>, mut hangups: Signal) {
    while hangups.recv().await.is_some() {
        if let Some(log) = log.as_ref().and_then(Weak::upgrade) {
            log.reopen().await;
            tracing::info!("the access log is opened anew");
        }
        if let Some(tls) = tls.as_ref().and_then(Weak::upgrade) {
            tls.reload();
        }
    }
}
