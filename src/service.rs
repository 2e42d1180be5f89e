//! The running mirror: a schedule of rounds beside the HTTP server and the control socket.
use crate::{
    client_config::own_url,
    clients::Clients,
    clock::{Clock, epoch_s},
    config::{AccessLogTo, Config, SourceSpec},
    control::{Control, Desk},
    dns,
    hot::HotSet,
    http::{self, AccessLog, Limits, Listeners, Metrics, Site, Tls, TlsError},
    mirror::{DataDir, Handle, Mirror, OpenError, Settings, Verifier, data_dir::Lock, verify::site_in},
    notify,
    source::{
        Activity, ClientError, FetchLimits, Intake, Progress, Source,
        directory::DirectorySource,
        downloader::Downloader,
        http::{HttpSource, Upstream},
        ledger::Ledger,
        txt::TxtResolver,
    },
    state::{State, StateError},
    telemetry,
    trouble::Trouble,
    units::os,
};
use cvdmirror_store::Store;
use std::{future::Future, io, net::SocketAddr, sync::Arc};
use tokio::{
    net::TcpListener,
    runtime,
    sync::{oneshot, watch},
};

/// How the mirror names itself to its source; it never pretends to be another program.
pub(crate) const PRODUCT: &str = concat!("cvdmirror/", env!("CARGO_PKG_VERSION"));

/// Why a mirror cannot be started.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The data directory cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// No client for the source can be made.
    #[error("source: {0}")]
    Source(#[from] ClientError),
    /// An HTTP address cannot be bound.
    #[error("cannot listen on {address}: {}", os(source))]
    Listen { address: SocketAddr, source: io::Error },
    /// The TXT responder's address cannot be bound.
    #[error("cannot answer DNS on {address}: {}", os(source))]
    DnsListen { address: SocketAddr, source: io::Error },
    /// The TXT responder's zone is no domain name.
    #[error("dns_zone {zone:?}: {source}")]
    DnsZone { zone: String, source: hickory_proto::ProtoError },
    /// The certificate or key of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The access log cannot be opened.
    #[error("access_log {to}: {source}")]
    AccessLog { to: String, source: io::Error },
    /// The control socket cannot be bound.
    #[error("control socket in {}: {source}", dir.display())]
    Control { dir: std::path::PathBuf, source: io::Error },
}

impl From<&StartError> for Trouble {
    fn from(e: &StartError) -> Self {
        match e {
            StartError::Open(e) => e.into(),
            StartError::Source(e) => e.into(),
            StartError::Listen { address, source } => {
                Self::unbound(e, *address, source.kind(), "listen = [\"ADDR:PORT\"]")
            }
            StartError::DnsListen { address, source } => {
                Self::unbound(e, *address, source.kind(), "dns_listen = \"ADDR:PORT\"")
            }
            StartError::DnsZone { .. } => Self::start(e),
            StartError::Tls(_) => {
                Self::start(e).mend("give a certificate and its own key in PEM, which this service may read")
            }
            StartError::AccessLog { .. } => {
                Self::start(e).mend("give a file that can be written, or - for standard output")
            }
            StartError::Control { .. } => Self::start(e),
        }
    }
}

impl From<cvdmirror_store::Error> for StartError {
    fn from(e: cvdmirror_store::Error) -> Self {
        OpenError::from(e).into()
    }
}

impl From<StateError> for StartError {
    fn from(e: StateError) -> Self {
        OpenError::from(e).into()
    }
}

/// An opened mirror with its handles.
#[derive(Debug)]
pub(crate) struct Opened {
    /// Does the rounds, on the thread that owns it.
    pub(crate) mirror: Mirror,
    /// Reads it and sends it commands, from any thread.
    pub(crate) handle: Handle,
    /// Its state file.
    pub(crate) state: Arc<State>,
    /// Stops it, wherever it waits, when set to true or dropped.
    pub(crate) stop: watch::Sender<bool>,
}

/// Opens the mirror that a configuration describes; it waits for the network on `runtime`.
///
/// # Errors
/// See [`StartError`].
pub(crate) fn open(
    config: &Config,
    lock: Lock,
    progress: Arc<dyn Progress>,
    runtime: &runtime::Handle,
) -> Result<Opened, StartError> {
    let dir = DataDir::new(&config.data_dir);
    let limits = FetchLimits { stall: config.stall_timeout, ..FetchLimits::default() };
    let activity = Arc::new(Activity::new(progress));
    let intake = Intake { limits, progress: activity.clone() };
    Store::empty_tmp(&dir.tmp())?;
    let state = Arc::new(State::open(&dir.state())?);
    let clock = Clock::system();
    let upstream = |base: &reqwest::Url, login, txt| {
        let is_downloader = matches!(config.source, SourceSpec::Downloader(_));
        let ledger = {
            let state = state.clone();
            Ledger::new(state.book()?.asked_by(is_downloader), clock.clone(), move |book| {
                if let Err(e) = state.set_book(book) {
                    tracing::warn!("{}", Trouble::forgotten("what was asked of the upstream", &e));
                }
            })
        };
        let upstream = Upstream {
            base: base.clone(),
            redirect_hosts: config.redirect_hosts.clone(),
            login,
            user_agent: format!("{PRODUCT} (UUID: {})", state.installation()?),
        };
        Ok::<_, StartError>(HttpSource::new(upstream, txt, intake.clone(), ledger)?)
    };
    let txt = || config.txt_record.as_ref().map(|name| TxtResolver::new(name, config.nameserver));
    let source = match &config.source {
        SourceSpec::Directory(path) => {
            Source::Directory(DirectorySource::new(path.clone(), intake.clone(), clock.clone()))
        }
        SourceSpec::Http(url) => Source::Http(Box::new(upstream(url, config.source_login.clone(), txt())?)),
        SourceSpec::Downloader(_) => {
            let setup = config.downloader.clone();
            let upstream = upstream(&setup.upstream, None, None)?;
            Source::Downloader(Box::new(Downloader::new(setup, &config.data_dir, upstream, txt())))
        }
    };
    let settings = Settings {
        databases: config.databases.clone(),
        backfill: config.backfill,
        retention: config.retention.clone(),
        publish_cld: config.publish_cld,
        site_ca: config.site_ca.clone(),
        source,
        verifier: Verifier {
            keys: config.trust_keys.clone(),
            limits: crate::cvd::Limits::default(),
            anchors: None,
            site: site_in(config.site_ca.as_deref(), &config.trust_keys),
            clock: clock.clone(),
        },
        certs_dir: config.certs_dir.clone(),
        max_age: config.max_age,
        max_build_age_s: config.max_build_age_s.clone(),
        activity,
        clock,
    };
    let (stop, stopped) = watch::channel(false);
    let (mirror, handle) = Mirror::open(&dir, lock, state.clone(), settings, runtime.clone(), stopped)?;
    Ok(Opened { mirror, handle, state, stop })
}

/// A mirror with its addresses bound, ready to run.
#[derive(Debug)]
pub(crate) struct Service {
    opened: Opened,
    dir: DataDir,
    listeners: Vec<TcpListener>,
    tls: Option<(TcpListener, Arc<Tls>)>,
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
    async fn bind(address: SocketAddr, zone: &str, mirror: &Handle) -> Result<Self, StartError> {
        let metrics = Arc::new(dns::Metrics::default());
        let responder = dns::Responder::new(zone, mirror.shared(), metrics.clone())
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
    pub(crate) async fn bind(config: Config, opened: Opened) -> Result<Self, StartError> {
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
        let tls = match &config.tls {
            None => None,
            Some((address, files)) => {
                let tls = Arc::new(Tls::read(files.clone())?);
                let listener = TcpListener::bind(address).await;
                Some((listener.map_err(|source| StartError::Listen { address: *address, source })?, tls))
            }
        };
        let dns = match &config.dns {
            Some((address, zone)) => Some(Dns::bind(*address, zone, &opened.handle).await?),
            None => None,
        };
        let access_log = access_log(&config.access_log)?;
        let clients = Clients::keep(&opened.state, config.remember_clients)
            .map(|clients| Arc::new(clients.taking_reports(config.client_reports)));
        let control = Control::bind(&dir)
            .map_err(|source| StartError::Control { dir: config.data_dir.clone(), source })?;
        Ok(Self { opened, dir, listeners, tls, dns, control, access_log, clients, config })
    }

    /// The access log, to be reopened after a rotation.
    pub(crate) fn access_log(&self) -> Option<Arc<AccessLog>> {
        self.access_log.clone()
    }

    /// What https is served with, to be read again.
    pub(crate) fn tls(&self) -> Option<Arc<Tls>> {
        self.tls.as_ref().map(|(_, tls)| tls.clone())
    }

    /// Where https is served.
    pub(crate) fn tls_address(&self) -> Option<SocketAddr> {
        self.tls.as_ref().and_then(|(listener, _)| listener.local_addr().ok())
    }

    /// The addresses that are bound.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// The address on which DNS is answered, over UDP and TCP.
    pub(crate) fn dns_address(&self) -> Option<SocketAddr> {
        self.dns.as_ref().map(|dns| dns.sockets.address())
    }

    /// Runs until `shutdown`; downloads that run then may finish.
    ///
    /// # Errors
    /// When the server cannot go on.
    pub(crate) async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self { opened, dir, listeners, tls, dns, control, access_log, clients, config } = self;
        let Opened { mirror, handle, state, stop } = opened;
        let stopped = stop.subscribe();
        let until_stopped = |mut stopped: watch::Receiver<bool>| async move {
            // An error means that the sender is gone, which is a stop as well.
            let _ = stopped.wait_for(|stop| *stop).await;
        };
        let hot = HotSet::new(config.hot_memory);
        let desk =
            Desk { mirror: handle.clone(), state: state.clone(), clients: clients.clone(), hot: hot.clone() };
        let control = tokio::spawn(control.serve(desk, until_stopped(stopped.clone())));
        // Dropped when the mirror's thread ends, even by a panic: a server that can no longer update must stop.
        let (alive, ended) = oneshot::channel::<()>();
        let worker = std::thread::Builder::new().name("mirror".into()).spawn(move || {
            let _alive = alive;
            mirror.run(config.check_interval);
        })?;
        let saver = clients.clone().map(|clients| {
            let stopped = until_stopped(stopped.clone());
            tokio::spawn(async move { clients.save_until(state, stopped).await })
        });
        let metrics = Metrics::default().with({
            let (handle, clients, access_log) = (handle.clone(), clients.clone(), access_log.clone());
            let hot = hot.clone();
            let (dns, started_at_s) = (dns.as_ref().map(|dns| dns.metrics.clone()), epoch_s());
            move |out| {
                let standing = handle.standing();
                telemetry::mirror(out, &standing);
                telemetry::disk(out, &dir);
                dns.iter().for_each(|dns| telemetry::dns(out, dns));
                clients.iter().for_each(|clients| telemetry::clients(out, clients, &standing));
                access_log.iter().for_each(|log| telemetry::access_log(out, log));
                telemetry::hot(out, hot.figures());
                telemetry::process(out, started_at_s);
            }
        });
        let dns = tokio::spawn({
            let stopped = until_stopped(stopped.clone());
            async move {
                if let Some(Dns { sockets, responder, metrics }) = dns {
                    dns::serve(sockets, responder, metrics, dns::TcpLimits::default(), stopped).await;
                }
            }
        });
        let announcer = handle.clone();
        let demands =
            config.pull_through.then(|| Arc::new(http::Demands::new(handle.clone(), config.stall_timeout)));
        let site = Site {
            mirror: handle,
            aliases: config.aliases,
            hot,
            metrics: Arc::new(metrics),
            access_log,
            clients,
            source: config.source.to_string(),
            url: own_url(&config),
            proxy: config.proxy.clone(),
            demands,
        };
        let mut listeners = Listeners::from(listeners);
        let following = tls.map(|(listener, tls)| {
            listeners.add(listener, Some(tls.clone()));
            tokio::spawn(async move { tls.follow().await })
        });
        let result = http::serve(listeners, Arc::new(site), Limits::default(), async {
            // Polled by the loop that hands out connections, so a watchdog ping proves that this loop runs.
            let until = async {
                tokio::select! {
                    () = shutdown => {}
                    _ = ended => tracing::error!("the mirror's thread ended: stopping"),
                }
            };
            notify::until(until, || {
                let standing = announcer.standing();
                standing.line(standing.now_s())
            })
            .await;
            // A round stops at its next wait for the network; clients' downloads may finish.
            let _ = stop.send(true);
        })
        .await;
        // When the server itself failed, nothing has been told to stop yet.
        let _ = stop.send(true);
        // A pack that is being sealed is finished first.
        let worked = tokio::task::spawn_blocking(move || worker.join()).await;
        following.iter().for_each(tokio::task::JoinHandle::abort);
        let _ = control.await;
        let _ = dns.await;
        if let Some(saver) = saver {
            let _ = saver.await;
        }
        match worked {
            Ok(Ok(())) => result,
            _ => Err(io::Error::other("the mirror's thread panicked")),
        }
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
