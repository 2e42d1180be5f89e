//! How an answer gets into the kernel: copied, or out of sealed memory by file and offset; and how much waits there.
use super::{UNSENT_BYTES, send_queue};
use crate::hot::Sealed;
use std::{
    fs::File,
    io::{self, IoSlice},
    task::{Context, Poll, ready},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::server::TlsStream;

/// What is shorter is copied: for the kernel a copy costs less than taking pages one by one.
const LEAST_BY_FILE: usize = 32 * 1024;

/// A socket to which the kernel may send a file's bytes.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin {
    /// Sends at most `len` bytes from `at` on.
    fn poll_send_file(
        &mut self,
        _: &mut Context<'_>,
        _: &File,
        _at: u64,
        _len: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::Unsupported.into()))
    }

    /// Bounds what waits in the kernel and is not yet sent, bytes.
    fn hold(&self, _bytes: u32) {}

    /// What waits in the kernel until the client says that it has it, bytes; `None`: cannot be told.
    fn unacknowledged(&self) -> Option<u64> {
        None
    }
}

// What is encrypted has to be copied.
impl Socket for TlsStream<TcpStream> {
    fn unacknowledged(&self) -> Option<u64> {
        self.get_ref().0.unacknowledged()
    }
}

impl Socket for TcpStream {
    fn poll_send_file(
        &mut self,
        cx: &mut Context<'_>,
        file: &File,
        at: u64,
        len: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_write_ready(cx))?;
            let send = || Ok(rustix::fs::sendfile(&*self, file, Some(&mut { at }), len)?);
            match self.try_io(Interest::WRITABLE, send) {
                Err(full) if full.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    fn hold(&self, bytes: u32) {
        // Where it fails, the bound stays what it was.
        let _ = socket2::SockRef::from(self).set_tcp_notsent_lowat(bytes);
    }

    fn unacknowledged(&self) -> Option<u64> {
        send_queue::len(self)
    }
}

/// Writes as the socket does, but what lies in `memory` is sent by the kernel, without a copy.
pub(super) fn poll_send<T: Socket>(
    io: &mut T,
    cx: &mut Context<'_>,
    memory: Option<&Sealed>,
    bufs: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    let find = |buf: &IoSlice<'_>| match buf.len() {
        LEAST_BY_FILE.. => memory?.find(buf),
        _ => None,
    };
    let found = bufs.iter().enumerate().find_map(|(place, buf)| Some((place, find(buf)?)));
    let bufs = match found {
        None => bufs,
        Some((0, (file, at))) => match io.poll_send_file(cx, file, at, bufs[0].len()) {
            // This kernel does not send from such a file, or not to such a socket.
            Poll::Ready(Err(error))
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
            {
                bufs
            }
            sent => return sent,
        },
        Some((place, _)) => &bufs[..place],
    };
    std::pin::Pin::new(io).poll_write_vectored(cx, bufs)
}

/// How much may wait in the kernel for a client: what it takes in a quarter of a second, between [`UNSENT_BYTES`] and
/// [`Window::MOST`]. With less, a fast one costs a wake-up for every few pages; with more, a slow one's progress would not
/// show before its time is over.
pub(super) struct Window {
    since: Instant,
    taken: u64,
    bytes: u32,
}

impl Window {
    const MOST: u32 = 16 * UNSENT_BYTES;
    /// Between two measurements, bytes.
    const STEP: u64 = 1 << 20;

    pub(super) fn new() -> Self {
        Self { since: Instant::now(), taken: 0, bytes: UNSENT_BYTES }
    }

    /// The client took so much; returns the new bound when it changes.
    pub(super) fn took(&mut self, bytes: u64) -> Option<u32> {
        self.taken += bytes;
        if self.taken < Self::STEP {
            return None;
        }
        let now = Instant::now();
        let elapsed_ms = (now - self.since).as_millis().max(1) as u64;
        let quarter = (self.taken * 250 / elapsed_ms).clamp(UNSENT_BYTES.into(), Self::MOST.into());
        // Powers of two, so that it seldom changes.
        let bytes = 1 << quarter.ilog2();
        (self.since, self.taken) = (now, 0);
        (std::mem::replace(&mut self.bytes, bytes) != bytes).then_some(bytes)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{
        connections::Pulse,
        http::{
            Limits, Metrics,
            guard::{Course, Guarded},
        },
    };
    use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};
    use tokio::{
        io::{AsyncReadExt, DuplexStream, ReadBuf, duplex},
        time::advance,
    };

    #[tokio::test(start_paused = true)]
    async fn the_window_follows_the_pace() {
        let mut window = Window::new();
        // A mebibyte in so many milliseconds.
        for (ms, bound) in [
            (900, Some(256 << 10)),
            (1000, None),
            (200, Some(1 << 20)),
            (1, Some(2 << 20)),
            (1, None),
            (5000, Some(128 << 10)),
        ] {
            assert_eq!(window.took(Window::STEP - 1), None);
            advance(Duration::from_millis(ms)).await;
            assert_eq!(window.took(1), bound, "{ms} ms");
        }
    }

    /// Sends a file from the same bytes in memory, a part at a time, and notes from where.
    struct Sender(DuplexStream, Vec<u64>);
    impl AsyncRead for Sender {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buf)
        }
    }
    impl AsyncWrite for Sender {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(cx, buf)
        }
        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }
        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }
    impl Socket for Sender {
        fn poll_send_file(
            &mut self,
            cx: &mut Context<'_>,
            file: &File,
            at: u64,
            len: usize,
        ) -> Poll<io::Result<usize>> {
            let mut part = vec![0; len.min(100_000)];
            std::os::unix::fs::FileExt::read_exact_at(file, &mut part, at)?;
            self.1.push(at);
            Pin::new(&mut self.0).poll_write(cx, &part)
        }
    }

    #[tokio::test]
    async fn what_lies_in_the_answers_memory_is_sent_from_its_file_and_the_rest_is_written() {
        let bytes: Vec<u8> = (0..300_000).map(|n| (n % 251) as u8).collect();
        let (memory, whole) = Sealed::holding(&bytes).unwrap();
        let (server, mut client) = duplex(1 << 20);
        let pulse = Pulse::start();
        let course = Course::new(Limits::default(), pulse.clone());
        let metrics = Arc::new(Metrics::default());
        let mut server = Guarded::new(Sender(server, Vec::new()), course.clone(), metrics, None);
        let send = async |server: &mut Guarded<Sender>| {
            let mut sent = Vec::new();
            let mut left = [&b"head"[..], &whole[10..]];
            while !left[1].is_empty() {
                let bufs: Vec<_> = left.iter().filter(|b| !b.is_empty()).map(|b| IoSlice::new(b)).collect();
                let n = poll_fn(|cx| Pin::new(&mut *server).poll_write_vectored(cx, &bufs)).await.unwrap();
                let head = n.min(left[0].len());
                left = [&left[0][head..], &left[1][n - head..]];
                sent.push(n);
            }
            sent
        };
        course.answers(Some(&memory));
        assert_eq!(send(&mut server).await, [4, 100_000, 100_000, 99_990]);
        assert_eq!(server.io.1, [10, 100_010, 200_010]);
        assert_eq!(pulse.lock().taken, 299_994, "it counts as taken");
        // The next answer comes from elsewhere.
        course.answers(None);
        send(&mut server).await;
        assert_eq!(server.io.1.len(), 3);
        drop(server);
        let mut got = Vec::new();
        client.read_to_end(&mut got).await.unwrap();
        let once = [b"head", &bytes[10..]].concat();
        assert!(got == [once.clone(), once].concat());
    }
}
