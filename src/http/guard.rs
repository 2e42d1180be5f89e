//! The socket as hyper sees it: how long a client may take over its requests and its answers.
//!
//! Guaranteed: when the server waits for a client that reads less than `min_bytes_per_s`, the connection ends with
//! [`io::ErrorKind::TimedOut`] ([`Pace`]). hyper's timeout for a head ([`HeadTimer`]) runs from the head's first byte, and
//! the one between requests not before the answer is written.
use super::{
    Limits, Metrics,
    pace::Pace,
    socket::{Socket, Window, poll_send},
};
use crate::{connections::SharedPulse, hot::Sealed};
use bytes::Bytes;
use hyper::rt::{Sleep, Timer};
use parking_lot::Mutex;
use std::{
    future::Future,
    io::{self, IoSlice},
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, sleep_until},
};

/// The first byte of a TLS client (RFC 8446, 5.1), and of no request.
const TLS_HANDSHAKE: u8 = 22;
/// How much, in bytes, and how long a client may go on sending after its last answer. Closing a socket with unread bytes
/// resets the connection, which could destroy that answer on its way.
const LINGER_BYTES: usize = 1024 * 1024;
const LINGER: Duration = Duration::from_secs(2);

/// The state of one connection, shared by the socket, hyper's timer and the handler; all run in its task.
pub(super) struct Course {
    limits: Limits,
    pulse: SharedPulse,
    state: Mutex<State>,
}

struct State {
    /// When the current head began; for the first head, when the connection began.
    head_since: Option<Instant>,
    /// Bytes have come that no request was made of.
    unread: bool,
    /// When a write that had to wait last succeeded.
    progress: Option<Instant>,
    /// The memory that the answer comes out of; it lives as long as hyper holds any of it.
    memory: Weak<Sealed>,
}

impl Course {
    pub(super) fn new(limits: Limits, pulse: SharedPulse) -> Arc<Self> {
        let state =
            State { head_since: Some(Instant::now()), unread: false, progress: None, memory: Weak::new() };
        Arc::new(Self { limits, pulse, state: Mutex::new(state) })
    }

    /// A request has come. Its content, if it has one, will not be read.
    pub(super) fn asked(&self, has_content: bool) {
        let mut state = self.state.lock();
        (state.head_since, state.unread) = (None, has_content);
        self.pulse.lock().asks();
    }

    pub(super) fn head_timeout(&self) -> Duration {
        self.limits.head_timeout
    }

    /// An answer comes out of this memory.
    pub(super) fn answers(&self, memory: Option<&Arc<Sealed>>) {
        self.state.lock().memory = memory.map(Arc::downgrade).unwrap_or_default();
    }

    /// Whether a head has begun and is not complete.
    pub(super) fn in_head(&self) -> bool {
        self.state.lock().head_since.is_some()
    }

    fn heard(&self) {
        let mut state = self.state.lock();
        state.unread = true;
        state.head_since.get_or_insert_with(Instant::now);
    }

    /// The client read so much; `waited`: the write had to wait for it.
    fn wrote(&self, bytes: u64, waited: bool) {
        if waited {
            self.state.lock().progress = Some(Instant::now());
        }
        let mut pulse = self.pulse.lock();
        pulse.taken += bytes;
        pulse.blocked = false;
    }

    /// hyper begins to wait for a head.
    fn waits(&self) {
        let mut state = self.state.lock();
        let mut pulse = self.pulse.lock();
        if pulse.asked {
            state.head_since = None;
            pulse.waits();
        }
    }

    /// When the next head must be complete.
    fn head_deadline(&self) -> Instant {
        let state = self.state.lock();
        let pulse = self.pulse.lock();
        match state.head_since {
            Some(since) => since + self.limits.head_timeout,
            // The end of an answer is still being written: only its pace counts.
            None if pulse.blocked => Instant::now() + self.limits.idle_timeout,
            None => state.progress.map_or(pulse.since, |at| at.max(pulse.since)) + self.limits.idle_timeout,
        }
    }
}

/// hyper's clock for heads.
pub(super) struct HeadTimer(pub(super) Arc<Course>);

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        Box::pin(HeadSleep(self.0.clone(), Box::pin(sleep_until(self.0.head_deadline()))))
    }

    /// Called as hyper begins to wait for a head.
    fn sleep_until(&self, _: std::time::Instant) -> Pin<Box<dyn Sleep>> {
        self.0.waits();
        self.sleep(Duration::ZERO)
    }
}

struct HeadSleep(Arc<Course>, Pin<Box<tokio::time::Sleep>>);
impl Sleep for HeadSleep {}

impl Future for HeadSleep {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self(course, sleep) = self.get_mut();
        poll_past(sleep, cx, course.head_deadline())
    }
}

/// Ready once `deadline` has passed; if it has not, the task is woken no later than then.
fn poll_past(sleep: &mut Pin<Box<tokio::time::Sleep>>, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
    if Instant::now() >= deadline {
        return Poll::Ready(());
    }
    // Deadlines mostly move later: a timer that fires early is cheaper than one that is reset each time.
    while sleep.deadline() > deadline || sleep.as_mut().poll(cx).is_ready() {
        sleep.as_mut().reset(deadline);
    }
    Poll::Pending
}

/// A socket with the limits of one connection.
pub(super) struct Guarded<T> {
    pub(super) io: T,
    /// What was read of it already and is to be read first.
    ahead: Bytes,
    course: Arc<Course>,
    metrics: Arc<Metrics>,
    peer: Option<IpAddr>,
    first_byte: bool,
    pace: Pace,
    window: Window,
    alarm: Option<Pin<Box<tokio::time::Sleep>>>,
    linger: Option<(Instant, usize)>,
}

impl<T: Socket> Guarded<T> {
    pub(super) fn new(io: T, course: Arc<Course>, metrics: Arc<Metrics>, peer: Option<IpAddr>) -> Self {
        let pace = Pace::new(course.limits.stall_window, course.limits.min_bytes_per_s);
        let (window, (ahead, alarm, linger)) = (Window::new(), Default::default());
        Self { io, ahead, course, metrics, peer, first_byte: true, pace, window, alarm, linger }
    }

    /// Gives back what was read too far.
    pub(super) fn unread(mut self, ahead: Bytes) -> Self {
        self.ahead = ahead;
        self
    }

    /// Ready once the client, for which a write waits, has used up its time.
    fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.course.pulse.lock().blocked = true;
        while let Some(deadline) = self.pace.deadline(|| self.io.unacknowledged()) {
            ready!(self.poll_alarm(cx, deadline));
        }
        self.metrics.write_timeouts.fetch_add(1, Relaxed);
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client took the answer too slowly"))
    }

    fn poll_alarm(&mut self, cx: &mut Context<'_>, deadline: Instant) -> Poll<()> {
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        poll_past(alarm, cx, deadline)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match this.ahead.len().min(buf.remaining()) {
            0 => ready!(Pin::new(&mut this.io).poll_read(cx, buf))?,
            some => buf.put_slice(&this.ahead.split_to(some)),
        }
        if let Some(first) = buf.filled().get(before) {
            if std::mem::take(&mut this.first_byte) && *first == TLS_HANDSHAKE {
                this.metrics.spoke_tls(this.peer);
            }
            this.course.heard();
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: Socket> AsyncWrite for Guarded<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let memory = this.course.state.lock().memory.upgrade();
        match poll_send(&mut this.io, cx, memory.as_deref(), bufs) {
            Poll::Ready(Ok(n)) => {
                if let Some(bytes) = this.window.took(n as u64) {
                    this.io.hold(bytes);
                }
                let waited = this.pace.wrote(n as u64);
                this.course.wrote(n as u64, waited);
                Poll::Ready(Ok(n))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => this.poll_too_slow(cx).map(Err),
        }
    }
    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // TLS holds what its client has not taken, and waits here.
        let Poll::Ready(flushed) = Pin::new(&mut this.io).poll_flush(cx) else {
            return this.poll_too_slow(cx).map(Err);
        };
        if this.pace.is_blocked() {
            let waited = this.pace.wrote(0);
            this.course.wrote(0, waited);
        }
        Poll::Ready(flushed)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let Poll::Ready(shut) = Pin::new(&mut this.io).poll_shutdown(cx) else {
                return this.poll_too_slow(cx).map(Err);
            };
            shut?;
            if !this.course.state.lock().unread {
                return Poll::Ready(Ok(()));
            }
        }
        let (until, mut left) = this.linger.unwrap_or((Instant::now() + LINGER, LINGER_BYTES));
        let mut scratch = [0u8; 4096];
        while left > 0 {
            let mut buf = ReadBuf::new(&mut scratch);
            match Pin::new(&mut this.io).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    left = left.saturating_sub(buf.filled().len())
                }
                Poll::Ready(_) => break,
                Poll::Pending => {
                    this.linger = Some((until, left));
                    return this.poll_alarm(cx, until).map(Ok);
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::connections::Pulse;
    use std::future::poll_fn;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, BufWriter, DuplexStream, duplex},
        time::{advance, sleep, timeout},
    };

    impl Socket for DuplexStream {}
    impl Socket for BufWriter<DuplexStream> {}

    fn course(limits: Limits) -> Arc<Course> {
        Course::new(limits, Pulse::start())
    }
    fn guarded(buffer: usize, limits: Limits) -> (Guarded<DuplexStream>, DuplexStream, Arc<Metrics>) {
        let (server, client) = duplex(buffer);
        let metrics = Arc::new(Metrics::default());
        (Guarded::new(server, course(limits), metrics.clone(), None), client, metrics)
    }
    fn secs(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    /// How long hyper waits for a head from now on.
    async fn head_time(course: &Arc<Course>) -> u64 {
        let began = Instant::now();
        let mut sleep = HeadTimer(course.clone()).sleep_until(began.into());
        poll_fn(|cx| sleep.as_mut().poll(cx)).await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_its_first_byte_and_idleness_another() {
        let course = course(Limits::default());
        advance(secs(5)).await;
        assert!(course.in_head());
        assert_eq!(head_time(&course).await, 10, "the first head's time begins with the connection");
        course.asked(false);
        assert_eq!(head_time(&course).await, 60);
        assert!(!course.in_head());
        course.asked(false);
        let mut sleep = HeadTimer(course.clone()).sleep_until(Instant::now().into());
        assert!(poll_fn(|cx| Poll::Ready(sleep.as_mut().poll(cx).is_pending())).await);
        advance(secs(50)).await;
        course.heard();
        let began = Instant::now();
        poll_fn(|cx| sleep.as_mut().poll(cx)).await;
        assert_eq!(began.elapsed(), Limits::default().head_timeout);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_on_its_way_is_no_idleness() {
        let course = course(Limits::default());
        course.asked(false);
        course.pulse.lock().blocked = true;
        let waiting = tokio::spawn({
            let course = course.clone();
            async move { head_time(&course).await }
        });
        sleep(secs(500)).await;
        course.wrote(1, true);
        assert_eq!(waiting.await.unwrap(), 560);
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
        // 1024 bytes a second, and 30 seconds to begin with.
        assert_eq!(cut_off_after(1, 100_000).await.unwrap().as_secs(), 30);
        assert!(cut_off_after(512, 1).await.unwrap() <= secs(62));
        assert_eq!(cut_off_after(4096, 3).await, None);
        assert_eq!(cut_off_after(2048, 1).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_below_as_in_tls_is_held_to_the_same_pace() {
        let (server, _client) = duplex(16);
        let server = BufWriter::new(server);
        let mut server = Guarded::new(server, course(Limits::default()), Arc::default(), None);
        server.write_all(&[7; 512]).await.unwrap();
        let began = Instant::now();
        assert_eq!(server.flush().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_fast_buys_a_bounded_time() {
        let (mut server, mut client, _) = guarded(512, Limits::default());
        let reader = tokio::spawn(async move {
            client.read_exact(&mut vec![0; 10 << 20]).await.unwrap();
            client
        });
        server.write_all(&vec![7; 10 << 20]).await.unwrap();
        let _client = reader.await.unwrap();
        let began = Instant::now();
        server.write_all(&[7; 1024]).await.unwrap_err();
        assert_eq!(began.elapsed(), secs(120));
    }

    /// As a kernel does with a client's full buffers: nothing is taken, then much at once.
    #[tokio::test(start_paused = true)]
    async fn what_is_taken_in_leaps_counts_as_much_as_a_steady_flow() {
        for (every_s, kept) in [(90, true), (180, false)] {
            let (mut server, mut client, _) = guarded(96 << 10, Limits::default());
            let reader = tokio::spawn(async move {
                let mut leap = vec![0; 96 << 10];
                while client.read_exact(&mut leap).await.is_ok() {
                    sleep(secs(every_s)).await;
                }
            });
            assert_eq!(server.write_all(&vec![7; 2 << 20]).await.is_ok(), kept, "every {every_s} s");
            drop(server);
            reader.await.unwrap();
        }
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
        const FOR_EVER: Duration = Duration::from_secs(100_000);
        let (mut server, mut client, _) = guarded(1 << 21, Limits::default());
        client.write_all(&vec![b'a'; 100_000]).await.unwrap();
        let mut head = vec![0; 16 * 1024];
        server.read_exact(&mut head).await.unwrap();
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
}
