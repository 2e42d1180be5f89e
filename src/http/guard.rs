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
use super::{Limits, Metrics};
use std::{
    io::{self, IoSlice},
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
}

impl<T> Guarded<T> {
    pub(super) fn new(io: T, limits: Limits, metrics: Arc<Metrics>) -> Self {
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
