//! The running mirror: a schedule of rounds beside the HTTP server and the control socket.
use crate::{
    clients::Clients,
    clock::epoch_s,
    config::{AccessLogTo, Config, SourceSpec},
    control::Control,
    dns,
    http::{self, AccessLog, Freshness, Health, Limits, Metrics, Overview, Site},
    mirror::{DataDir, Mirror, OpenError, Settings, Verifier, data_dir::Lock, state::State, status},
    notify, port_holder,
    source::{
        FetchLimits, Intake, Progress, Source, budget::Ledger, directory::DirectorySource, http::HttpSource,
        txt::TxtResolver,
    },
    telemetry,
};
use cvdmirror_store::Store;
use rand::Rng as _;
use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};

/// How the mirror presents itself to its source: under its own name, never a borrowed one.
pub(crate) const PRODUCT: &str = concat!("cvdmirror/", env!("CARGO_PKG_VERSION"));
/// The first pause after a round that failed; it doubles until it reaches the interval.
const FIRST_RETRY: Duration = Duration::from_secs(30);

/// How a port below 1024 is had.
pub(crate) const PRIVILEGED_PORT: &str = "ports below 1024 are root's: let the service bind them as \
     /usr/share/doc/cvdmirror/examples/port-53.conf does";

/// Why a mirror cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The source.
    #[error("source: {0}")]
    Source(String),
    /// An address.
    #[error(
        "cannot listen on {address}: {source}{}, or write another port: listen = [\"ADDR:PORT\"]",
        mended(address, source)
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The address of the TXT responder.
    #[error(
        "cannot answer DNS on {address}: {source}{}, or write another port: dns_listen = \"ADDR:PORT\"",
        mended(address, source)
    )]
    DnsListen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The zone of the TXT responder.
    #[error("dns_zone {zone:?}: {source}")]
    DnsZone {
        /// The zone.
        zone: String,
        /// What is wrong with it.
        source: hickory_proto::ProtoError,
    },
    /// The access log.
    #[error("access_log {to}: {source}; give a file that can be written, or - for standard output")]
    AccessLog {
        /// Where it was to go.
        to: String,
        /// The cause.
        source: io::Error,
    },
    /// The control socket.
    #[error("control socket in {}: {source}", dir.display())]
    Control {
        /// The data directory.
        dir: std::path::PathBuf,
        /// The cause.
        source: io::Error,
    },
}

/// Who holds an address, if anybody, and what to do about it.
fn mended(address: &SocketAddr, source: &io::Error) -> String {
    match (source.kind(), port_holder::of(*address)) {
        (io::ErrorKind::PermissionDenied, _) => format!("; {PRIVILEGED_PORT}"),
        (io::ErrorKind::AddrNotAvailable, _) => "; this host has no such address".to_owned(),
        (_, Some(holder)) => format!(": {holder} holds it; stop that"),
        (_, None) => "; see who holds it".to_owned(),
    }
}

/// Opens the mirror that a configuration describes.
///
/// # Errors
/// See [`StartError`].
pub fn open(config: &Config, lock: Lock, progress: Arc<dyn Progress>) -> Result<Mirror, StartError> {
    let dir = DataDir::new(&config.data_dir);
    let limits = FetchLimits { stall: config.stall_timeout, ..FetchLimits::default() };
    let intake = Intake { dir: dir.tmp(), limits, progress };
    Store::empty_tmp(&dir.tmp()).map_err(OpenError::from)?;
    let state = Arc::new(State::open(&dir.state())?);
    let source = match &config.source {
        SourceSpec::Directory(path) => Source::Directory(DirectorySource::new(path.clone(), intake)),
        SourceSpec::Http(url) => {
            let txt = config.txt_record.as_ref().map(|name| TxtResolver::new(name, config.nameserver));
            let ledger = {
                let state = state.clone();
                let book = state.book().map_err(OpenError::from)?;
                Ledger::new(book, move |book| {
                    if let Err(e) = state.set_book(book) {
                        tracing::warn!(
                            "what was asked of the upstream is not noted for the time after a restart: {e}"
                        );
                    }
                })
            };
            let id = state.installation().map_err(OpenError::from)?;
            let user_agent = format!("{PRODUCT} (UUID: {id})");
            let source =
                HttpSource::new(url.clone(), config.source_login.clone(), txt, intake, ledger, &user_agent);
            Source::Http(Box::new(source.map_err(StartError::Source)?))
        }
    };
    let settings = Settings {
        databases: config.databases.clone(),
        backfill: config.backfill,
        retention: config.retention.clone(),
        source,
        verifier: Verifier {
            keys: config.trust_keys.clone(),
            limits: crate::cvd::Limits::default(),
            anchors: None,
        },
        certs_dir: config.certs_dir.clone(),
    };
    Ok(Mirror::open(&dir, lock, state, settings)?)
}

/// A mirror with its addresses bound, ready to run.
#[derive(Debug)]
pub struct Service {
    mirror: Arc<Mirror>,
    dir: DataDir,
    listeners: Vec<TcpListener>,
    dns: Option<Dns>,
    control: Control,
    access_log: Option<Arc<AccessLog>>,
    clients: Option<Arc<Clients>>,
    config: Config,
}

/// The TXT responder, ready to run.
#[derive(Debug)]
struct Dns {
    sockets: dns::Sockets,
    responder: dns::Responder,
    metrics: Arc<dns::Metrics>,
}

impl Dns {
    async fn bind(address: SocketAddr, zone: &str, mirror: &Mirror) -> Result<Self, StartError> {
        let metrics = Arc::new(dns::Metrics::default());
        let responder = dns::Responder::new(zone, mirror.published(), metrics.clone())
            .map_err(|source| StartError::DnsZone { zone: zone.to_owned(), source })?;
        let sockets = dns::Sockets::bind(address).await;
        let sockets = sockets.map_err(|source| StartError::DnsListen { address, source })?;
        Ok(Self { sockets, responder, metrics })
    }
}

impl Service {
    /// Binds every address.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn bind(config: Config, mirror: Mirror) -> Result<Self, StartError> {
        if config.may_ask_itself() {
            tracing::warn!(
                "the TXT record is looked up under the name that is served here: if the system's resolver forwards \
                 it to this mirror, it will believe its own answers; set nameserver to one that does not"
            );
        }
        let dir = DataDir::new(&config.data_dir);
        let mut listeners = Vec::new();
        for address in &config.listen {
            let listener = TcpListener::bind(address).await;
            listeners.push(listener.map_err(|source| StartError::Listen { address: *address, source })?);
        }
        let dns = match &config.dns {
            Some((address, zone)) => Some(Dns::bind(*address, zone, &mirror).await?),
            None => None,
        };
        let access_log = access_log(&config.access_log)?;
        let clients = Clients::keep(&mirror.state(), config.remember_clients).map(Arc::new);
        let control = Control::bind(&dir)
            .map_err(|source| StartError::Control { dir: config.data_dir.clone(), source })?;
        Ok(Self { mirror: Arc::new(mirror), dir, listeners, dns, control, access_log, clients, config })
    }

    /// The access log, for whoever is told that it was rotated.
    pub fn access_log(&self) -> Option<Arc<AccessLog>> {
        self.access_log.clone()
    }

    /// The addresses that are bound.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The address on which DNS is answered, over UDP and TCP.
    pub fn dns_address(&self) -> Option<SocketAddr> {
        self.dns.as_ref().map(|dns| dns.sockets.address())
    }

    /// Runs until `shutdown`; downloads that run then may finish.
    ///
    /// # Errors
    /// When the server cannot go on.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self { mirror, dir, listeners, dns, control, access_log, clients, config } = self;
        let max_age = config.max_age;
        let (stop, stopped) = watch::channel(false);
        let until_stopped = |mut stopped: watch::Receiver<bool>| async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let control = tokio::spawn(control.serve(
            mirror.clone(),
            clients.clone(),
            dir.clone(),
            max_age,
            until_stopped(stopped.clone()),
        ));
        let rounds =
            tokio::spawn(rounds(mirror.clone(), config.check_interval, until_stopped(stopped.clone())));
        let saver = clients.clone().map(|clients| {
            let state = mirror.state();
            let stopped = until_stopped(stopped.clone());
            tokio::spawn(async move { clients.save_until(&state, stopped).await })
        });
        let started_at_s = epoch_s();
        let metrics = Metrics::default().with({
            let (mirror, clients, access_log) = (mirror.clone(), clients.clone(), access_log.clone());
            let (dir, dns) = (dir.clone(), dns.as_ref().map(|dns| dns.metrics.clone()));
            move |out| {
                telemetry::mirror(out, &mirror);
                telemetry::disk(out, &dir);
                dns.iter().for_each(|dns| telemetry::dns(out, dns));
                clients.iter().for_each(|clients| telemetry::clients(out, clients, &mirror));
                access_log.iter().for_each(|log| telemetry::access_log(out, log));
                telemetry::process(out, started_at_s);
            }
        });
        let dns = tokio::spawn({
            let stopped = until_stopped(stopped.clone());
            async move {
                if let Some(Dns { sockets, responder, metrics }) = dns {
                    dns::serve(sockets, responder, metrics, dns::Limits::default(), stopped).await;
                }
            }
        });
        let (judge, healer) = (mirror.clone(), mirror.clone());
        let (teller, announcer) = (mirror.clone(), mirror.clone());
        let known = clients.clone();
        let site = Site {
            published: mirror.published(),
            aliases: config.aliases,
            metrics: Arc::new(metrics),
            access_log,
            clients,
            health: Box::new(move |snapshot| {
                let why = status::stale_because(snapshot, &judge.remembered(), max_age);
                let freshness = match why.is_empty() {
                    true => Freshness::Fresh,
                    false => Freshness::Stale { why: why.join("; ") },
                };
                // What is published may be fresh, and the next version not to be had all the same.
                let remembered = judge.remembered().into_iter();
                let failing = remembered.filter_map(|(database, state)| {
                    Some(format!("{database}: the last check failed: {}", state.last_error?))
                });
                Health {
                    freshness,
                    remarks: failing.chain(judge.remarks()).chain(judge.findings()).collect(),
                }
            }),
            overview: Box::new(move |snapshot| Overview {
                status: teller.status(&dir, snapshot, max_age),
                history: teller.history(),
                clients: known.as_ref().map(|clients| clients.report(&snapshot.versions())),
            }),
            unreadable: Box::new(move |error| {
                let cvdmirror_store::Error::Rotten { pack, object, .. } = error else { return };
                let (healer, pack, object) = (healer.clone(), pack.clone(), *object);
                tokio::task::spawn_blocking(move || {
                    if let Err(e) = healer.quarantine(&pack, object) {
                        tracing::warn!("the quarantine is forgotten at the next start: {e}");
                    }
                });
            }),
        };
        let result = http::serve(listeners, Arc::new(site), Limits::default(), async {
            // Awaited by the loop that hands out connections, so the manager hears from that very loop.
            notify::until(shutdown, || status_line(&announcer, max_age)).await;
            // Rounds stop at once, downloads from us may finish.
            let _ = stop.send(true);
        })
        .await;
        // A round is dropped wherever it waits for the network; a pack being sealed is finished.
        rounds.abort();
        let _ = rounds.await;
        let _ = control.await;
        let _ = dns.await;
        if let Some(saver) = saver {
            let _ = saver.await;
        }
        result
    }
}

/// What is published, in one line.
fn status_line(mirror: &Mirror, max_age: Duration) -> String {
    let snapshot = mirror.published().load_full();
    let why = status::stale_because(&snapshot, &mirror.remembered(), max_age);
    let databases =
        snapshot.databases.iter().map(|(database, published)| format!("{database} {}", published.version));
    let databases = databases.collect::<Vec<_>>().join(", ");
    match (why.is_empty(), databases.is_empty()) {
        (true, _) => format!("fresh: {databases}"),
        (false, true) => format!("nothing is published yet: {}", why.join("; ")),
        (false, false) => format!("stale: {databases}: {}", why.join("; ")),
    }
}

/// Opens the access log.
fn access_log(to: &AccessLogTo) -> Result<Option<Arc<AccessLog>>, StartError> {
    let (name, opened) = match to {
        AccessLogTo::Off => return Ok(None),
        AccessLogTo::Stdout => ("-".into(), AccessLog::to_stdout()),
        AccessLogTo::File(path) => (path.display().to_string(), AccessLog::to_file(path)),
    };
    let opened = opened.map_err(|source| StartError::AccessLog { to: name, source })?;
    Ok(Some(Arc::new(opened)))
}

/// Does rounds at jittered intervals; after one that failed, or that left a full CVD behind a stale edge, sooner,
/// and then less and less soon.
async fn rounds(mirror: Arc<Mirror>, interval: Duration, stopped: impl Future<Output = ()>) {
    let mut stopped = std::pin::pin!(stopped);
    let mut retry = FIRST_RETRY.min(interval);
    loop {
        let round = tokio::select! {
            () = &mut stopped => return,
            round = mirror.round() => round,
        };
        let pause = if round.is_complete() && !round.lags() {
            retry = FIRST_RETRY.min(interval);
            interval
        } else {
            let pause = retry;
            retry = (retry * 2).min(interval);
            pause
        };
        // A tenth either way, so that the mirrors of the world do not ask at the same second.
        let pause = pause.mul_f64(rand::rng().random_range(0.9..1.1));
        tokio::select! {
            () = &mut stopped => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
