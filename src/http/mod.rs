//! The HTTP server: versioned names that never change, aliases that point to them, all from one published snapshot.
//!
//! Guaranteed: a connection holds at most a bounded head and two chunks of one object, and many
//! together no more chunks than [`crate::hot::Cold`] allows; it ends in bounded time if its
//! client does nothing; errors of accept neither stop the server nor make it spin; on shutdown running answers have
//! [`Limits::drain`] to finish. Not offered: HTTP/2, compression (every object is compressed).
mod access;
mod access_log;
mod body;
mod conditional;
mod demand;
mod guard;
mod handler;
mod metrics;
mod pace;
mod page;
mod pages;
mod proxy;
mod range;
mod refusal;
mod seen;
mod send_queue;
mod socket;
mod target;
mod tls;

pub use access_log::AccessLog;
pub use body::BodyError;
pub use demand::Demands;
pub use metrics::Metrics;
pub use proxy::Proxy;
pub use tls::{Tls, TlsError, TlsFiles};

use crate::{
    clients::Clients,
    connections::{Connections, SharedPulse},
    hot::HotSet,
    mirror::Handle,
};
use guard::{Course, Guarded, HeadTimer};
use hyper::{
    Request,
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proxy::Way;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

/// Everything a request may read.
pub struct Site {
    /// Gives what is published, and is told of corrupt objects.
    pub mirror: Handle,
    /// What `/<db>.cvd` answers.
    pub aliases: Aliases,
    /// Objects that are sent from memory.
    pub hot: Arc<HotSet>,
    /// What this server counts.
    pub metrics: Arc<Metrics>,
    /// Where requests are logged; `None`: nowhere.
    pub access_log: Option<Arc<AccessLog>>,
    /// Remembers clients; `None`: none is remembered.
    pub clients: Option<Arc<Clients>>,
    /// Where files come from, for the page.
    pub source: String,
    /// Where clients reach this mirror, as its settings say; the page prefers the name that it is asked by.
    pub url: String,
    /// The hosts for which this server stands as a client's proxy; `None`: it is none.
    pub proxy: Option<Proxy>,
    /// Fetches what is not held for a client that asks; `None`: that is not done.
    pub demands: Option<Arc<Demands>>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("aliases", &self.aliases).finish_non_exhaustive()
    }
}

/// What `/<db>.cvd` answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Aliases {
    /// 302 to the versioned name: caches only ever keep content that does not change.
    #[default]
    Redirect,
    /// 200 with the content, which every cache has to revalidate.
    Direct,
}

/// The bounds of the server and of each connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections served at a time. When there are more, an idle one, or one of the address that has the most, is closed
    /// for a newcomer.
    pub connections: usize,
    /// How long a request head may take; the first one's time begins with the connection.
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// How long a client may read nothing of its answer; what it reads gives it more time.
    pub stall_window: Duration,
    /// The slowest pace that is served, bytes a second.
    pub min_bytes_per_s: u64,
    /// How long running answers may go on after shutdown.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 1024,
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(60),
            stall_window: Duration::from_secs(30),
            min_bytes_per_s: 1024,
            drain: Duration::from_secs(60),
        }
    }
}

/// The first and the longest pause after an error of accept: most often descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest request head, request line and fields together, in bytes; hyper answers 431 to a longer one.
const HEAD_BYTES: usize = 16 * 1024;
/// How much the kernel may hold for a client that is not yet sent, bytes. Without this it is megabytes: the progress of a
/// slow client would not show for minutes, and a thousand that read nothing would use up the kernel's memory for TCP.
const UNSENT_BYTES: u32 = 128 * 1024;
/// Bounds hyper's read and write buffers.
const BUFFER_BYTES: usize = 4 * HEAD_BYTES;

/// Serves on every listener until `shutdown`, then drains.
///
/// # Errors
/// When an acceptor has ended, which should not happen: the process must be restarted. Errors of single connections and of
/// accept are counted and logged, and serving goes on.
pub async fn serve(
    listeners: impl Into<Listeners>,
    site: Arc<Site>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    raise_descriptor_limit();
    let ((drain, draining), metrics) = (watch::channel(()), site.metrics.clone());
    let listeners: Listeners = listeners.into();
    let (accepted, mut arrivals) = mpsc::channel(listeners.0.len().max(1));
    let mut acceptors = JoinSet::new();
    for listener in listeners.0 {
        acceptors.spawn(accept(listener, metrics.clone(), accepted.clone()));
    }
    drop(accepted);
    let mut connections = Connections::new(limits.connections, |socket, peer, pulse| {
        connection(socket, peer, site.clone(), limits.clone(), draining.clone(), pulse)
    });
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = acceptors.join_next() => {
                return Err(io::Error::other("a listener has stopped accepting"));
            }
            // Reaped as they end, so that their results never pile up.
            Some(()) = connections.ended() => {}
            Some(arrival) = arrivals.recv() => match arrival {
                Some(socket) => {
                    let peer = socket.0.peer_addr().ok().map(|address| address.ip());
                    if connections.arrive(socket, peer) {
                        metrics.full.fetch_add(1, Relaxed);
                    }
                }
                None => connections.give_way(),
            }
        }
    }
    // Closes the listening sockets.
    acceptors.shutdown().await;
    drop(arrivals);
    let mut running = connections.into_tasks();
    // Each connection holds a receiver until it ends.
    drop(draining);
    let _ = drain.send(());
    if timeout(limits.drain, drain.closed()).await.is_err() {
        while running.try_join_next().is_some() {}
        let left = running.len();
        tracing::warn!(left, "{left} downloads were cut off, {:?} after shutdown began", limits.drain);
    }
    running.shutdown().await;
    Ok(())
}

/// Raises the soft limit of descriptors to the hard one: the usual 1024, made for select(2), is less than the connections
/// served.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays at {:?}: {error}", limit.current);
    }
}

/// Where connections come from.
trait Listener: Send + 'static {
    type Socket: Send;
    fn next(&mut self) -> impl Future<Output = io::Result<Self::Socket>> + Send;
}
/// Where connections come from; some speak TLS.
#[derive(Debug, Default)]
pub struct Listeners(Vec<(TcpListener, Option<Arc<Tls>>)>);

impl Listeners {
    /// Adds one, which speaks TLS or not.
    pub fn add(&mut self, listener: TcpListener, tls: Option<Arc<Tls>>) {
        self.0.push((listener, tls));
    }
}

impl From<Vec<TcpListener>> for Listeners {
    fn from(plain: Vec<TcpListener>) -> Self {
        Self(plain.into_iter().map(|listener| (listener, None)).collect())
    }
}

/// A connection, and the TLS that it is to speak.
type Socket = (TcpStream, Option<Arc<Tls>>);

impl Listener for (TcpListener, Option<Arc<Tls>>) {
    type Socket = Socket;
    async fn next(&mut self) -> io::Result<Socket> {
        let (socket, _) = self.0.accept().await?;
        // Answers are written in whole frames: waiting to fill a segment only costs time.
        socket.set_nodelay(true)?;
        SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES)?;
        Ok((socket, self.1.clone()))
    }
}

/// Accepts connections until the receiver is gone. Sends `None` when descriptors or memory ran out.
async fn accept<L: Listener>(
    mut listener: L,
    metrics: Arc<Metrics>,
    accepted: mpsc::Sender<Option<L::Socket>>,
) {
    let mut pause = ACCEPT_PAUSE;
    loop {
        let arrival = match listener.next().await {
            Ok(socket) => Some(socket),
            Err(error) => {
                metrics.accept_errors.fetch_add(1, Relaxed);
                tracing::warn!(
                    %error,
                    "cannot accept a connection: {error}; if too many files are open, raise the limit (LimitNOFILE= of the \
                     service)"
                );
                if concerns_one_connection(&error) {
                    continue;
                }
                None
            }
        };
        let exhausted = arrival.is_none();
        if accepted.send(arrival).await.is_err() {
            return;
        }
        if exhausted {
            sleep(pause).await;
            pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
        } else {
            pause = ACCEPT_PAUSE;
        }
    }
}

/// Whether an error of accept concerns only the connection it would have returned (accept(2)).
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | ConnectionRefused | InvalidInput | NotConnected
    )
}

/// Where the requests of a connection come from, and what became of its `CONNECT`.
#[derive(Debug, Default)]
struct Line {
    peer: Option<IpAddr>,
    /// The address of this host that was called.
    own: Option<IpAddr>,
    /// Inside a tunnel there is no other one.
    inside: AtomicBool,
    /// The tunnel that the last answer promised.
    way: Mutex<Option<Way>>,
}

/// Runs one connection to its end, and the tunnel that it may become.
async fn connection(
    (socket, tls): Socket,
    peer: Option<IpAddr>,
    site: Arc<Site>,
    limits: Limits,
    mut drain: watch::Receiver<()>,
    pulse: SharedPulse,
) {
    let metrics = site.metrics.clone();
    metrics.accepted.fetch_add(1, Relaxed);
    let _open = Open::new(&metrics.open);
    let course = Course::new(limits.clone(), pulse);
    let own = socket.local_addr().ok().map(|address| address.ip());
    let line = Arc::new(Line { peer, own, ..Line::default() });
    let Some(tls) = tls else {
        return serve_on(
            Guarded::new(socket, course.clone(), metrics.clone(), peer),
            course,
            line,
            site,
            drain,
        )
        .await;
    };
    let shake = TlsAcceptor::from(tls.config()).accept(socket);
    let shaken = tokio::select! {
        shaken = timeout(limits.head_timeout, shake) => shaken,
        _ = drain.changed() => return,
    };
    match shaken {
        Ok(Ok(socket)) => {
            serve_on(Guarded::new(socket, course.clone(), metrics.clone(), peer), course, line, site, drain)
                .await;
        }
        Ok(Err(error)) => {
            metrics.malformed.fetch_add(1, Relaxed);
            tracing::debug!(%error, "no TLS with a client: {error}");
        }
        Err(_) => _ = metrics.head_timeouts.fetch_add(1, Relaxed),
    }
}

/// Answers what is asked on a connection, and in the tunnel that it may become.
async fn serve_on<T: socket::Socket + Send + 'static>(
    mut io: Guarded<T>,
    course: Arc<Course>,
    line: Arc<Line>,
    site: Arc<Site>,
    mut drain: watch::Receiver<()>,
) {
    let metrics = &site.metrics;
    loop {
        let answer = service_fn(|request: Request<Incoming>| {
            course.asked(!request.body().is_end_stream());
            let (site, line, course) = (site.clone(), line.clone(), course.clone());
            async move {
                let answer = handler::answer(&site, &line, request).await;
                course.answers(answer.body().memory());
                Ok::<_, Infallible>(answer)
            }
        });
        let mut served = http1::Builder::new()
            // A client may close its sending side after its request.
            .half_close(true)
            .max_header_size(HEAD_BYTES)
            .max_buf_size(BUFFER_BYTES)
            .timer(HeadTimer(course.clone()))
            .header_read_timeout(course.head_timeout())
            .serve_connection(TokioIo::new(io), answer);
        let ended = tokio::select! {
            ended = &mut served => ended,
            _ = drain.changed() => {
                std::pin::Pin::new(&mut served).graceful_shutdown();
                (&mut served).await
            }
        };
        if let Err(error) = ended {
            let ended_by = match error {
                _ if error.is_timeout() && course.in_head() => Some(&metrics.head_timeouts),
                _ if error.is_timeout() => Some(&metrics.idle_timeouts),
                _ if error.is_parse() => Some(&metrics.malformed),
                _ => None,
            };
            ended_by.into_iter().for_each(|count| _ = count.fetch_add(1, Relaxed));
            tracing::debug!(%error, "a connection ended: {error}");
            return;
        }
        // Without a tunnel hyper has closed the socket.
        let Some(way) = line.way.lock().take() else { return };
        let parts = served.into_parts();
        io = parts.io.into_inner().unread(parts.read_buf);
        match way {
            Way::Here => line.inside.store(true, Relaxed),
            Way::Beyond(upstream) => return proxy::relay(io, upstream).await,
        }
    }
}

/// Counts an open connection while it lives.
struct Open<'a>(&'a std::sync::atomic::AtomicU64);
impl<'a> Open<'a> {
    fn new(count: &'a std::sync::atomic::AtomicU64) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}
impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::collections::VecDeque;
    use tokio::time::Instant;

    /// Gives these errors, one a call, then a connection.
    struct Failing(VecDeque<io::Error>);
    impl Listener for Failing {
        type Socket = ();
        async fn next(&mut self) -> io::Result<()> {
            self.0.pop_front().map_or(Ok(()), Err)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn running_out_of_descriptors_pauses_accepting_and_does_not_end_it() {
        let emfile = || io::Error::from_raw_os_error(24);
        let aborted = || io::Error::from(io::ErrorKind::ConnectionAborted);
        let errors = (0..8).map(|_| emfile()).chain([aborted()]).collect();
        let metrics = Arc::new(Metrics::default());
        let (accepted, mut arrivals) = mpsc::channel(1);
        let began = Instant::now();
        let accepting = tokio::spawn(accept(Failing(errors), metrics.clone(), accepted));
        let mut exhausted = 0;
        while arrivals.recv().await.unwrap().is_none() {
            exhausted += 1;
        }
        // 50 + 100 + 200 + 400 + 800 ms, then 1 s each; nothing for a connection that broke by itself.
        assert_eq!(began.elapsed(), Duration::from_millis(1550 + 3 * 1000));
        assert_eq!((exhausted, metrics.accept_errors.load(Relaxed)), (8, 9));
        drop(arrivals);
        accepting.await.unwrap();
    }
}
