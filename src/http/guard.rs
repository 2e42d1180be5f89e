//! The socket as hyper sees it: bounds what a client may send as a request head and how long it may take.
//!
//! Guaranteed: a request head above [`HEAD_BYTES`] or [`HEAD_LINES`] is answered 400, in order, after the answers
//! before it; a head not finished within `head_timeout`, a connection idle for `idle_timeout`, and a client that
//! takes answers slower than `min_bytes_per_s` end the connection with [`io::ErrorKind::TimedOut`].
//! Not guaranteed: exact heads where a request carries a body (the body is scanned as if it were the next head);
//! the server closes such a connection after its answer.
//!
//! Why heads are spoilt here and not refused by hyper: hyper answers 414 or 431 for them, and an error of the
//! socket would cut answers that are still being written. So the byte that crosses the limit becomes NUL, which
//! no part of a head may hold (RFC 9112, 2.2 and RFC 9110, 5.5), and hyper's own parser answers 400 at the right
//! moment.
use super::{Limits, Metrics, heads::TLS_HANDSHAKE};
use std::{
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

/// The longest request head, request line and fields together, in bytes.
pub(super) const HEAD_BYTES: usize = 16 * 1024;
/// The most lines of a request head: the request line and 100 fields, the most hyper's parser takes by default.
pub(super) const HEAD_LINES: usize = 101;
/// How much a client that is being turned away may still send, in bytes, and for how long, before it is cut off.
/// Closing with bytes unread would reset the connection and could destroy the answer on its way.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// A socket with the limits of one connection.
pub(super) struct Guarded<T> {
    io: T,
    limits: Limits,
    metrics: Arc<Metrics>,
    head: HeadScan,
    /// When the head that is being waited for must be complete; the first head's clock starts with the connection.
    head_deadline: Option<Instant>,
    first_head: bool,
    /// Since when the connection waits for the next request.
    idle_since: Option<Instant>,
    read_alarm: Alarm,
    pace: Pace,
    write_alarm: Alarm,
    linger: Option<(Instant, usize)>,
    peer: Option<IpAddr>,
}

impl<T> Guarded<T> {
    pub(super) fn new(io: T, limits: Limits, metrics: Arc<Metrics>, peer: Option<IpAddr>) -> Self {
        Self {
            io,
            head_deadline: Some(Instant::now() + limits.head_timeout),
            limits,
            metrics,
            head: HeadScan::default(),
            first_head: true,
            idle_since: None,
            read_alarm: Alarm::default(),
            pace: Pace::default(),
            write_alarm: Alarm::default(),
            linger: None,
            peer,
        }
    }

    /// Whether the client has kept the connection waiting for a request too long.
    fn poll_read_overdue(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        let now = Instant::now();
        if self.first_head || self.head.begun() {
            let deadline = *self.head_deadline.get_or_insert(now + self.limits.head_timeout);
            if self.read_alarm.poll_past(cx, deadline) {
                self.metrics.head_timeouts.fetch_add(1, Relaxed);
                return Some(timed_out("the request head was not complete in time"));
            }
        } else {
            // The end of an answer may still be on its way while hyper already waits for the next request.
            let since = *self.idle_since.get_or_insert(now);
            let since = self.pace.last_progress.map_or(since, |written| written.max(since));
            if self.read_alarm.poll_past(cx, since + self.limits.idle_timeout) {
                self.metrics.idle_timeouts.fetch_add(1, Relaxed);
                return Some(timed_out("no request came in time"));
            }
        }
        None
    }

    fn after_write(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let overdue = match &wrote {
            Poll::Ready(Ok(n)) => {
                self.pace.wrote(*n);
                false
            }
            Poll::Ready(Err(_)) => false,
            Poll::Pending => loop {
                match self.pace.blocked(&self.limits) {
                    Err(TooSlow) => break true,
                    Ok(again) if !self.write_alarm.poll_past(cx, again) => break false,
                    Ok(_) => {}
                }
            },
        };
        if overdue {
            self.metrics.write_timeouts.fetch_add(1, Relaxed);
            return Poll::Ready(Err(timed_out("the client took the answer too slowly")));
        }
        wrote
    }
}

fn timed_out(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, why)
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.head.spoilt {
            // hyper looks at a partial head again only once it sees a blank line.
            let n = buf.remaining().min(2);
            buf.put_slice(&b"\n\n"[..n]);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        match Pin::new(&mut this.io).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {
                if this.first_head && !this.head.begun() && buf.filled().get(before) == Some(&TLS_HANDSHAKE) {
                    this.metrics.spoke_tls(this.peer);
                }
                let heads = this.head.scan(buf.filled_mut().get_mut(before..).unwrap_or_default());
                if heads > 0 {
                    this.first_head = false;
                    this.head_deadline = None;
                }
                this.idle_since = None;
                Poll::Ready(Ok(()))
            }
            Poll::Pending => match this.poll_read_overdue(cx) {
                Some(overdue) => Poll::Ready(Err(overdue)),
                None => Poll::Pending,
            },
            error => error,
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write(cx, buf);
        this.after_write(cx, wrote)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let wrote = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.after_write(cx, wrote)
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            if !this.head.begun() && !this.head.spoilt {
                return Poll::Ready(Ok(()));
            }
        }
        let (until, taken) = this.linger.get_or_insert((Instant::now() + LINGER, 0));
        let mut scratch = [0u8; 4096];
        while *taken < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => *taken += buf.filled().len(),
                Poll::Pending if !this.read_alarm.poll_past(cx, *until) => return Poll::Pending,
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Finds where request heads end and spoils one that is too long.
#[derive(Default)]
struct HeadScan {
    bytes: usize,
    lines: usize,
    line_bytes: usize,
    /// Anything but the blank lines that may come before a request line (RFC 9112, 2.2) has come.
    started: bool,
    spoilt: bool,
}

impl HeadScan {
    /// Whether part of a head has come.
    fn begun(&self) -> bool {
        self.bytes > 0
    }

    /// Takes the next bytes from the client; returns how many heads ended in them.
    fn scan(&mut self, bytes: &mut [u8]) -> usize {
        let mut heads = 0;
        for byte in bytes {
            if self.spoilt {
                *byte = b'\n';
                continue;
            }
            self.bytes += 1;
            match *byte {
                b'\n' if self.started && self.line_bytes == 0 && self.bytes <= HEAD_BYTES => {
                    *self = Self::default();
                    heads += 1;
                    continue;
                }
                b'\n' => {
                    self.lines += usize::from(self.started);
                    self.line_bytes = 0;
                }
                b'\r' => {}
                _ => {
                    self.started = true;
                    self.line_bytes += 1;
                }
            }
            if self.bytes > HEAD_BYTES || self.lines > HEAD_LINES {
                self.spoilt = true;
                *byte = 0;
            }
        }
        heads
    }
}

/// How fast the client takes what is written. The window's clock runs only while a write waits for the client, so
/// a slow disk is never held against it.
#[derive(Default)]
struct Pace {
    /// Written since the window began with a first write that had to wait.
    bytes: u64,
    /// Waited in this window, up to the last write that went through.
    waited: Duration,
    blocked_since: Option<Instant>,
    last_progress: Option<Instant>,
}
struct TooSlow;

impl Pace {
    fn wrote(&mut self, n: usize) {
        if let Some(since) = self.blocked_since.take() {
            let now = Instant::now();
            self.waited += now - since;
            self.last_progress = Some(now);
        }
        // What fits into the kernel's buffers before the first wait says nothing about the client.
        if !self.waited.is_zero() {
            self.bytes += n as u64;
        }
    }

    /// While a write waits: when to look again.
    fn blocked(&mut self, limits: &Limits) -> Result<Instant, TooSlow> {
        let now = Instant::now();
        let waited = self.waited + (now - *self.blocked_since.get_or_insert(now));
        if waited < limits.stall_window {
            return Ok(now + (limits.stall_window - waited));
        }
        let least = (limits.min_bytes_per_s as f64 * limits.stall_window.as_secs_f64()) as u64;
        if self.bytes < least.max(1) {
            return Err(TooSlow);
        }
        *self = Self { blocked_since: Some(now), last_progress: self.last_progress, ..Self::default() };
        Ok(now + limits.stall_window)
    }
}

/// A timer for deadlines that mostly move on: it is set anew only when it fires or the deadline comes nearer.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Whether `deadline` has passed; if not, the task is woken no later than then.
    fn poll_past(&mut self, cx: &mut Context<'_>, deadline: Instant) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        loop {
            if Instant::now() >= deadline {
                return true;
            }
            if sleep.deadline() > deadline || sleep.is_elapsed() {
                sleep.as_mut().reset(deadline);
            }
            if sleep.as_mut().poll(cx).is_pending() {
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;
    use std::future::poll_fn;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::{advance, sleep, timeout},
    };

    const FOR_EVER: Duration = Duration::from_secs(100_000);

    fn guarded(buffer: usize, limits: Limits) -> (Guarded<DuplexStream>, DuplexStream, Arc<Metrics>) {
        let (server, client) = duplex(buffer);
        let metrics = Arc::new(Metrics::default());
        (Guarded::new(server, limits, metrics.clone(), None), client, metrics)
    }
    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }
    fn is_timeout<T: std::fmt::Debug>(result: io::Result<T>) -> bool {
        result.unwrap_err().kind() == io::ErrorKind::TimedOut
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_has_its_time_from_its_first_byte() {
        let (mut server, mut client, metrics) = guarded(64, Limits::default());
        let began = Instant::now();
        let trickle = tokio::spawn(async move {
            while client.write_all(b"G").await.is_ok() {
                sleep(secs(1)).await;
            }
        });
        let mut sink = Vec::new();
        assert!(is_timeout(server.read_to_end(&mut sink).await));
        assert_eq!(began.elapsed().as_secs(), Limits::default().head_timeout.as_secs());
        assert_eq!(metrics.head_timeouts.load(Relaxed), 1);
        drop(server);
        trickle.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn between_requests_the_longer_time_counts_and_an_answer_on_its_way_is_no_idleness() {
        let limits = Limits { min_bytes_per_s: 0, ..Limits::default() };
        let (mut server, mut client, metrics) = guarded(64, limits);
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut head = [0; 18];
        server.read_exact(&mut head).await.unwrap();
        // An answer that the client takes a little at a time, longer than the idle time; hyper waits for the next
        // request meanwhile.
        let reader = tokio::spawn(async move {
            let mut bit = [0; 64];
            for _ in 0..9 {
                sleep(secs(20)).await;
                client.read_exact(&mut bit).await.unwrap();
            }
            client
        });
        let mut left = &[7u8; 640][..];
        poll_fn(|cx| {
            while !left.is_empty() {
                match Pin::new(&mut server).poll_write(cx, left) {
                    Poll::Ready(n) => left = &left[n.unwrap()..],
                    Poll::Pending => break,
                }
            }
            let mut buf = [0; 8];
            assert!(Pin::new(&mut server).poll_read(cx, &mut ReadBuf::new(&mut buf)).is_pending());
            if left.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        let _client = reader.await.unwrap();
        let finished = Instant::now();
        assert!(is_timeout(server.read_u8().await));
        assert_eq!(finished.elapsed().as_secs(), 60);
        assert_eq!(metrics.idle_timeouts.load(Relaxed), 1);
        assert_eq!(metrics.head_timeouts.load(Relaxed), 0);
    }

    /// Has a client take `bytes` every `every` seconds of an endless answer; returns when it was cut off.
    async fn cut_off_after(bytes: usize, every: u64) -> Option<Duration> {
        let (mut server, mut client, metrics) = guarded(512, Limits::default());
        let reader = tokio::spawn(async move {
            let mut bit = vec![0; bytes];
            loop {
                sleep(secs(every)).await;
                if client.read_exact(&mut bit).await.is_err() {
                    break;
                }
            }
        });
        let began = Instant::now();
        let ended = timeout(secs(1000), async { while server.write_all(&[7; 512]).await.is_ok() {} }).await;
        let elapsed = began.elapsed();
        assert_eq!(metrics.write_timeouts.load(Relaxed), u64::from(ended.is_ok()));
        drop(server);
        reader.await.unwrap();
        ended.ok().map(|()| elapsed)
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_below_the_least_pace_is_cut_off_and_one_above_is_not() {
        // 1024 bytes a second over windows of 30 seconds.
        assert_eq!(cut_off_after(1, 100_000).await.unwrap().as_secs(), 30);
        assert!(cut_off_after(512, 1).await.unwrap() <= secs(62));
        assert_eq!(cut_off_after(4096, 3).await, None);
        assert_eq!(cut_off_after(2048, 1).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_slow_itself_holds_nothing_against_its_client() {
        let (mut server, mut client, _) = guarded(512, Limits::default());
        let reader = tokio::spawn(async move {
            let mut sink = Vec::new();
            client.read_to_end(&mut sink).await.unwrap();
            sink.len()
        });
        for _ in 0..20 {
            server.write_all(&[7; 513]).await.unwrap();
            advance(secs(50)).await;
        }
        drop(server);
        assert_eq!(reader.await.unwrap(), 20 * 513);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_turned_away_is_heard_out_for_a_bounded_time_only() {
        let (mut server, mut client, _) = guarded(1 << 21, Limits::default());
        client.write_all(&vec![b'a'; HEAD_BYTES + 100_000]).await.unwrap();
        let mut head = vec![0; HEAD_BYTES + 1];
        server.read_exact(&mut head).await.unwrap();
        assert_eq!(head.last(), Some(&0));
        let began = Instant::now();
        timeout(FOR_EVER, server.shutdown()).await.unwrap().unwrap();
        assert_eq!(began.elapsed(), LINGER);
        // One that goes on sending is heard no further than this.
        let (mut server, mut client, _) = guarded(1 << 16, Limits::default());
        let flood = tokio::spawn(async move { client.write_all(&vec![b'a'; 4 << 20]).await });
        server.read_exact(&mut head).await.unwrap();
        timeout(FOR_EVER, server.shutdown()).await.unwrap().unwrap();
        drop(server);
        assert!(flood.await.unwrap().is_err());
    }

    #[test]
    fn blank_lines_before_a_request_belong_to_its_head() {
        let mut scan = HeadScan::default();
        assert_eq!(scan.scan(&mut b"\r\n\r\nGET / HTTP/1.1\r\n".to_vec()), 0);
        assert_eq!(scan.scan(&mut b"\r\n\r\n".to_vec()), 1);
        assert_eq!(scan.scan(&mut b"\n\nGET /\n\nGET /\r\n\n".to_vec()), 2);
        assert!(scan.bytes == 0 && !scan.spoilt);
    }

    proptest! {
        #[test]
        fn heads_are_found_however_the_bytes_are_cut(
            heads in proptest::collection::vec("[a-z]{1,5}(\r?\n[a-z:]{1,5}){0,3}\r?\n\r?\n", 0..6),
            cuts in proptest::collection::vec(0usize..200, 0..8),
        ) {
            let mut stream = heads.concat().into_bytes();
            let original = stream.clone();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let mut scan = HeadScan::default();
            let found: usize = cuts.windows(2).map(|w| scan.scan(&mut stream[w[0]..w[1]])).sum();
            prop_assert_eq!(found, heads.len());
            prop_assert_eq!(stream, original);
        }

        #[test]
        fn no_head_above_a_limit_passes_unspoilt(
            line in 1usize..400, lines in 1usize..200, cut in 1usize..5000,
        ) {
            let mut stream = format!("{}\r\n", "a".repeat(line)).repeat(lines).into_bytes();
            stream.extend_from_slice(b"\r\n");
            let too_long = stream.len() > HEAD_BYTES || lines > HEAD_LINES;
            let mut scan = HeadScan::default();
            let heads: usize = stream.chunks_mut(cut).map(|part| scan.scan(part)).sum();
            prop_assert_eq!(heads, usize::from(!too_long));
            prop_assert_eq!(scan.spoilt, too_long);
            prop_assert_eq!(stream.contains(&0), too_long);
        }
    }
}
