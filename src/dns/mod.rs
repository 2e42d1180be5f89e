//! The TXT responder: advertises over UDP and TCP exactly what the published snapshot can deliver, and nothing else.
//!
//! Guaranteed: `current.cvd.<zone>` and `<db>.cvd.<zone>` are answered from the one snapshot that HTTP serves, with
//! the time at which the source last confirmed it: when the source cannot be reached, the record ages, and clients notice.
//! Everything else is REFUSED. A query costs no memory that outlives it, a TCP connection ends in bounded time,
//! and errors of single packets or connections end nothing else. Not offered: recursion, zone transfers, negative
//! answers, DNSSEC. On a host with several addresses, do not listen on a wildcard address: a UDP answer would leave from
//! the address that routing picks, which may not be the one that was asked.
//!
//! Why not a DNS server library: those we looked at do not cap connections, allocate by the counts a query claims, log
//! each query, and stop accepting after some errors of accept.
mod answer;

pub use answer::Responder;

use crate::connections::{Connections, SharedPulse};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    time::{sleep, timeout},
};

/// The longest query that is read: a name has at most 255 bytes, the rest is EDNS options and padding.
const MAX_QUERY_BYTES: usize = 4096;
/// How many ports are tried, for port 0, until one is free for both UDP and TCP.
const BIND_ATTEMPTS: u32 = 32;
/// The pause after an error of accept or receive, which mostly means that descriptors or memory ran out.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// The bounds of TCP; UDP needs none, as every packet is answered before the next is read.
#[derive(Clone, Debug)]
pub struct TcpLimits {
    /// Connections served at a time. When they are all taken, one that waits between queries or one of the address
    /// that has the most gives way to a newcomer.
    pub connections: usize,
    /// How long a client may take for a query, or to take its answer.
    pub idle_timeout: Duration,
    /// How long a connection may last.
    pub lifetime: Duration,
}

impl Default for TcpLimits {
    fn default() -> Self {
        Self { connections: 64, idle_timeout: Duration::from_secs(10), lifetime: Duration::from_secs(60) }
    }
}

/// What the responder counts. All but `open` only grow.
#[derive(Default, Debug)]
pub struct Metrics {
    /// Answers with a TXT record.
    pub answered: AtomicU64,
    /// Queries refused: for other names or types, or because nothing is published yet.
    pub refused: AtomicU64,
    /// Queries answered FORMERR.
    pub malformed: AtomicU64,
    /// Messages without an answer: shorter than a header, or not queries.
    pub ignored: AtomicU64,
    /// Connections accepted.
    pub accepted: AtomicU64,
    /// Connections open now.
    pub open: AtomicU64,
    /// Errors of the sockets.
    pub errors: AtomicU64,
}

/// A UDP and a TCP socket on one address.
#[derive(Debug)]
pub struct Sockets {
    udp: UdpSocket,
    tcp: TcpListener,
    address: SocketAddr,
}

impl Sockets {
    /// Binds both; port 0 takes one that is free for both.
    ///
    /// # Errors
    /// When either cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut attempt = 1;
        loop {
            let tcp = TcpListener::bind(address).await?;
            let bound = tcp.local_addr()?;
            match UdpSocket::bind(bound).await {
                Ok(udp) => return Ok(Self { udp, tcp, address: bound }),
                // Free for TCP does not mean free for UDP.
                Err(e)
                    if e.kind() == io::ErrorKind::AddrInUse
                        && address.port() == 0
                        && attempt < BIND_ATTEMPTS =>
                {
                    attempt += 1;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// The address both are bound to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Answers on both sockets until `shutdown`.
pub async fn serve(
    sockets: Sockets,
    responder: Responder,
    metrics: Arc<Metrics>,
    limits: TcpLimits,
    shutdown: impl Future<Output = ()>,
) {
    let responder = Arc::new(responder);
    tokio::select! {
        () = shutdown => {}
        () = serve_udp(&sockets.udp, &responder, &metrics) => {}
        () = serve_tcp(&sockets.tcp, &responder, &metrics, &limits) => {}
    }
}

async fn serve_udp(socket: &UdpSocket, responder: &Responder, metrics: &Metrics) {
    let mut buffer = [0; MAX_QUERY_BYTES];
    loop {
        // What is longer is cut here, and then malformed.
        let (length, client) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                failed(metrics, &error, "cannot receive a query");
                sleep(ERROR_PAUSE).await;
                continue;
            }
        };
        let Some(answer) = responder.answer(&buffer[..length]) else { continue };
        if let Err(error) = socket.send_to(&answer, client).await {
            failed(metrics, &error, "cannot send an answer");
        }
    }
}

async fn serve_tcp(
    listener: &TcpListener,
    responder: &Arc<Responder>,
    metrics: &Arc<Metrics>,
    limits: &TcpLimits,
) {
    // Ends with this function, and every connection with it.
    let mut connections = Connections::new(limits.connections, |socket, _, pulse| {
        let (responder, metrics, limits) = (responder.clone(), metrics.clone(), limits.clone());
        async move {
            let _open = Open::new(&metrics);
            // Why a connection ended is its client's business.
            let _ = timeout(limits.lifetime, converse(socket, &responder, limits.idle_timeout, &pulse)).await;
        }
    });
    loop {
        tokio::select! {
            Some(()) = connections.ended() => {}
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => _ = connections.arrive(socket, Some(peer.ip())),
                Err(error) => {
                    failed(metrics, &error, "cannot accept a connection");
                    connections.give_way();
                    sleep(ERROR_PAUSE).await;
                }
            },
        }
    }
}

/// Answers a connection's queries in turn (RFC 7766): each is preceded by its length in two bytes.
async fn converse(
    mut socket: TcpStream,
    responder: &Responder,
    idle_timeout: Duration,
    pulse: &SharedPulse,
) -> io::Result<()> {
    let mut query = Vec::new();
    loop {
        timeout(idle_timeout, async {
            let length: usize = socket.read_u16().await?.into();
            if length > MAX_QUERY_BYTES {
                return Err(io::ErrorKind::InvalidData.into());
            }
            query.resize(length, 0);
            socket.read_exact(&mut query).await
        })
        .await??;
        pulse.lock().asks();
        let Some(answer) = responder.answer(&query) else { return Ok(()) };
        // Length and message together, in one segment. An answer is far shorter than 64 KiB.
        let mut framed = u16::try_from(answer.len()).unwrap_or_default().to_be_bytes().to_vec();
        framed.extend_from_slice(&answer);
        timeout(idle_timeout, socket.write_all(&framed)).await??;
        pulse.lock().waits();
    }
}

fn failed(metrics: &Metrics, error: &io::Error, what: &str) {
    metrics.errors.fetch_add(1, Relaxed);
    tracing::debug!(%error, "DNS: {what}: {error}");
}

/// Counts a connection while it lives.
struct Open<'a>(&'a Metrics);
impl<'a> Open<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.accepted.fetch_add(1, Relaxed);
        metrics.open.fetch_add(1, Relaxed);
        Self(metrics)
    }
}
impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
    }
}
