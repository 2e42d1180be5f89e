//! The HTTP server: immutable names for ever, aliases that only point, all from one published snapshot.
//!
//! Guaranteed: no request makes it hold more than a bounded head and two chunks of one object; every connection
//! ends in bounded time if its client does nothing; errors of accept neither end nor spin it; on shutdown running
//! answers may finish for [`Limits::drain`]. Not offered: TLS, HTTP/2, compression (every object is compressed).
mod access;
mod access_log;
mod body;
mod conditional;
mod guard;
mod handler;
mod heads;
mod metrics;
mod page;
mod pages;
mod range;
mod target;

pub use access_log::AccessLog;
pub use body::BodyError;
pub use metrics::Metrics;

use crate::{
    clients::{Clients, Report},
    mirror::{History, Snapshot, status::Status},
};
use arc_swap::ArcSwap;
use hyper::{
    Request,
    body::Incoming,
    header::{CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use std::{
    convert::Infallible,
    fmt,
    future::Future,
    io,
    net::IpAddr,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

/// Everything a request may read.
pub struct Site {
    /// What is published.
    pub published: Arc<ArcSwap<Snapshot>>,
    /// What `/<db>.cvd` answers.
    pub aliases: Aliases,
    /// What this server counts.
    pub metrics: Arc<Metrics>,
    /// Where requests are logged; none: nowhere.
    pub access_log: Option<Arc<AccessLog>>,
    /// Remembers who asked; none: nobody is remembered.
    pub clients: Option<Arc<Clients>>,
    /// Judges whether a snapshot is fresh now. Called by requests: it must not block.
    pub health: Box<dyn Fn(&Snapshot) -> Health + Send + Sync>,
    /// Says what the status page shows beside it. Called by requests: it must not block.
    pub overview: Box<dyn Fn(&Snapshot) -> Overview + Send + Sync>,
    /// Told of every object that could not be read, so that it can be repaired. Called by requests: it must not block.
    pub unreadable: Box<dyn Fn(&cvdmirror_store::Error) + Send + Sync>,
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("aliases", &self.aliases).finish_non_exhaustive()
    }
}

/// What `/<db>.cvd` answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Aliases {
    /// 302 to the versioned name: a cache can only ever hold what is true for ever.
    #[default]
    Redirect,
    /// 200 with the content, which every cache has to revalidate.
    Direct,
}

/// What `/health` says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Health {
    /// The verdict.
    pub freshness: Freshness,
    /// What goes wrong now, a line each, for people; what is published can be fresh all the same.
    pub remarks: Vec<String>,
}

/// What the status page shows beside what is published.
#[derive(Clone, Debug, Default)]
pub struct Overview {
    /// How the mirror is.
    pub status: Status,
    /// What its rounds did.
    pub history: Arc<History>,
    /// Who asked lately; none where nobody is remembered.
    pub clients: Option<Report>,
}

/// Whether what is published is fresh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Freshness {
    /// It is.
    Fresh,
    /// It is not.
    Stale {
        /// Why, in words.
        why: String,
    },
}

/// The bounds of the server and of each connection.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections open at a time. When they are all taken, those that wait between requests are closed, and
    /// nothing more is accepted until one ends.
    pub connections: usize,
    /// How long a request head may take; the first one's time begins with the connection.
    pub head_timeout: Duration,
    /// How long a connection may wait for its next request.
    pub idle_timeout: Duration,
    /// The time over which a client's pace is judged while the server waits for it to take an answer.
    pub stall_window: Duration,
    /// The least pace, bytes a second.
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

/// The first and the longest pause after an error of accept, which mostly means that descriptors or memory ran out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);
/// Above the longest head, so that hyper never finds one too long by itself; bounds its read and write buffers.
const BUFFER_BYTES: usize = 4 * guard::HEAD_BYTES;

/// What connections are told.
#[derive(Clone, Copy, Debug, Default)]
struct Order {
    /// How many acceptors wait because connections or descriptors are all taken. While any does, connections that
    /// wait between requests go, and the others go once they have their answer.
    full: usize,
    /// Finish what runs, then go.
    drain: bool,
}

/// Serves on every listener until `shutdown`, then drains.
///
/// # Errors
/// When an acceptor has ended by itself, which none should: whoever started this server is to start another. Errors of
/// single connections and of accept are counted and logged, and serving goes on.
pub async fn serve(
    listeners: Vec<TcpListener>,
    site: Arc<Site>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let (orders, heard) = watch::channel(Order::default());
    // Each acceptor holds a permit while it waits: one listener without work must not starve another.
    let permits = Arc::new(Semaphore::new(limits.connections.max(1) + listeners.len().saturating_sub(1)));
    let (open, mut opened) = tokio::sync::mpsc::channel(listeners.len().max(1));
    let mut acceptors = JoinSet::new();
    for listener in listeners {
        acceptors.spawn(accept(
            listener,
            permits.clone(),
            orders.clone(),
            site.metrics.clone(),
            open.clone(),
        ));
    }
    drop(open);
    let heads = heads::Heads::new(limits.connections);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            biased;
            () = &mut shutdown => break,
            Some(_) = acceptors.join_next() => {
                return Err(io::Error::other("a listener is no longer attended to"));
            }
            // Reaped as they end, so that their results never pile up.
            Some(_) = connections.join_next() => {}
            Some((socket, permit)) = opened.recv() => {
                let peer = socket.peer_addr().ok().map(|address| address.ip());
                let crowded = permits.available_permits() < limits.connections / 2;
                let Some(head) = heads.begin(peer, crowded) else {
                    site.metrics.full.fetch_add(1, Relaxed);
                    continue;
                };
                connections.spawn(connection(socket, peer, site.clone(), limits.clone(), heard.clone(), (permit, head)));
            }
        }
    }
    // Closes the listening sockets.
    acceptors.shutdown().await;
    drop(opened);
    orders.send_modify(|order| order.drain = true);
    let drained = timeout(limits.drain, async { while connections.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        let left = connections.len();
        tracing::warn!(
            left,
            "{left} downloads were cut off at shutdown, {:?} after its beginning",
            limits.drain
        );
        connections.shutdown().await;
    }
    Ok(())
}

/// Where connections come from.
trait Listener: Send + 'static {
    type Socket: Send;
    fn next(&mut self) -> impl Future<Output = io::Result<Self::Socket>> + Send;
}
impl Listener for TcpListener {
    type Socket = TcpStream;
    async fn next(&mut self) -> io::Result<TcpStream> {
        let (socket, _) = self.accept().await?;
        // Answers are written in whole frames: waiting to fill a segment only costs time.
        socket.set_nodelay(true)?;
        Ok(socket)
    }
}

/// Accepts connections, each with its permit, until nobody takes them.
async fn accept<L: Listener>(
    mut listener: L,
    permits: Arc<Semaphore>,
    orders: watch::Sender<Order>,
    metrics: Arc<Metrics>,
    open: tokio::sync::mpsc::Sender<(L::Socket, OwnedSemaphorePermit)>,
) {
    let mut pause = ACCEPT_PAUSE;
    loop {
        let permit = match permits.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                metrics.full.fetch_add(1, Relaxed);
                orders.send_modify(|order| order.full += 1);
                let permit = permits.clone().acquire_owned().await;
                orders.send_modify(|order| order.full -= 1);
                let Ok(permit) = permit else { return };
                permit
            }
        };
        let socket = loop {
            match listener.next().await {
                Ok(socket) => break socket,
                Err(error) => {
                    metrics.accept_errors.fetch_add(1, Relaxed);
                    tracing::warn!(
                        %error,
                        "cannot accept a connection: {error}; if files are too many, raise their limit (LimitNOFILE= \
                         of a service)"
                    );
                    if of_one_connection(&error) {
                        continue;
                    }
                    // Out of descriptors or memory: let go what waits, and try again a little later.
                    orders.send_modify(|order| order.full += 1);
                    sleep(pause).await;
                    orders.send_modify(|order| order.full -= 1);
                    pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
                }
            }
        };
        pause = ACCEPT_PAUSE;
        if open.send((socket, permit)).await.is_err() {
            return;
        }
    }
}

/// Whether an error of accept concerns only the connection it would have returned (accept(2)).
fn of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, InvalidInput, NotConnected};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | ConnectionRefused | InvalidInput | NotConnected
    )
}

/// Runs one connection to its end.
async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    socket: S,
    peer: Option<IpAddr>,
    site: Arc<Site>,
    limits: Limits,
    mut orders: watch::Receiver<Order>,
    (_permit, head): (OwnedSemaphorePermit, heads::Head),
) {
    let metrics = site.metrics.clone();
    metrics.accepted.fetch_add(1, Relaxed);
    let _open = Open::new(&metrics.open);
    let served = AtomicBool::new(false);
    let head = Mutex::new(Some(head));
    let standing = orders.clone();
    let answer = service_fn(|request: Request<Incoming>| {
        if !served.swap(true, Relaxed) {
            drop(head.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
        let (site, standing) = (site.clone(), standing.clone());
        async move {
            let mut answer = handler::answer(&site, peer, request).await;
            if standing.borrow().full > 0 {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer)
        }
    });
    let io = TokioIo::new(guard::Guarded::new(socket, limits, metrics.clone(), peer));
    let mut connection = pin!(
        http1::Builder::new()
            // A client may close its writing half once it has asked.
            .half_close(true)
            .max_buf_size(BUFFER_BYTES)
            .serve_connection(io, answer)
    );
    // Whoever comes while orders stand has yet to hear them.
    orders.mark_changed();
    let mut leaving = false;
    let ended = loop {
        tokio::select! {
            ended = connection.as_mut() => break ended,
            Ok(()) = orders.changed(), if !leaving => {
                let order = *orders.borrow_and_update();
                // A connection whose first request is still on its way is not one that waits between requests.
                leaving = order.drain || (order.full > 0 && served.load(Relaxed));
                if leaving {
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    };
    if let Err(error) = ended {
        if error.is_parse() {
            metrics.malformed.fetch_add(1, Relaxed);
        }
        tracing::debug!(%error, "a connection ended: {error}");
    }
}

/// Counts one more while it lives.
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
    use tokio::{sync::mpsc, time::Instant};

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
        let (orders, heard) = watch::channel(Order::default());
        let metrics = Arc::new(Metrics::default());
        let (open, mut opened) = mpsc::channel(1);
        let began = Instant::now();
        let permits = Arc::new(Semaphore::new(1));
        let accepting = tokio::spawn(accept(Failing(errors), permits, orders, metrics.clone(), open));
        let (_, permit) = opened.recv().await.unwrap();
        // 50 + 100 + 200 + 400 + 800 ms, then 1 s each; nothing for a connection that broke by itself.
        assert_eq!(began.elapsed(), Duration::from_millis(1550 + 3 * 1000));
        assert_eq!(metrics.accept_errors.load(Relaxed), 9);
        // The one connection is taken: who waits between requests is told to go.
        let mut heard = heard;
        heard.wait_for(|order| order.full == 1).await.unwrap();
        assert_eq!(metrics.full.load(Relaxed), 1);
        drop(permit);
        drop(opened.recv().await.unwrap());
        drop(opened);
        accepting.await.unwrap();
    }
}
