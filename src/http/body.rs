//! What is sent: nothing, a small page, or an object streamed chunk by chunk.
//!
//! Guaranteed: every byte of an object was verified by the store when it was read, now or into the hot set; the first chunk is read before
//! the answer's head goes out, so that an object that cannot be read is an error status, and a later chunk that
//! cannot be read ends the connection short of its Content-Length. At most two chunks a connection are held: the
//! one hyper writes and the one read ahead.
use super::access::Access;
use crate::hot::{Cold, Hot, HotSet, Sealed};
use bytes::Bytes;
use cvdmirror_store::{ObjectId, ObjectReader, View};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use std::{
    future::{Future, poll_fn},
    ops::Range,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::task::{JoinError, JoinHandle, spawn_blocking};

/// What is handed to hyper at a time of an object that is hot, bytes: much, since each time costs a call into the kernel, and
/// not all, since meanwhile others wait.
const CHUNK: u64 = 1 << 20;

/// Why an object could not be sent, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The store cannot read it, or what it read is not what was stored.
    #[error("object {id} cannot be read")]
    Unreadable {
        /// The object.
        id: ObjectId,
        /// The store's error.
        source: cvdmirror_store::Error,
    },
    /// A name is bound to it, and no pack holds it.
    #[error("object {0} is in no pack")]
    Missing(ObjectId),
    /// The store ended a chunk before the object's length.
    #[error("object {0} is shorter than its name's record says")]
    Short(ObjectId),
    /// The task that reads it ended without a result.
    #[error("the reading task ended")]
    Reader(#[from] JoinError),
}

/// The content of an answer.
pub(super) enum Payload {
    Empty,
    Page(Bytes),
    Object(Chunks),
}

impl Payload {
    /// The bytes still to come.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Page(page) => page.len() as u64,
            Self::Object(chunks) => chunks.left(),
        }
    }
}

/// A span of one object, from a first chunk already in memory.
pub(super) struct Chunks {
    reader: ObjectReader,
    cold: Cold,
    span: Range<u64>,
    next: Next,
}

/// The next chunk: here, in the hot set, or being read on a thread that may wait for the disk.
enum Next {
    Ready(Bytes),
    Hot(Arc<Hot>),
    Unread,
    Reading(JoinHandle<Result<Bytes, BodyError>>),
}

impl Chunks {
    /// Opens an object and waits for the first chunk of `span`, which is not empty.
    pub(super) async fn open(
        view: Arc<View>,
        set: &Arc<HotSet>,
        id: ObjectId,
        span: Range<u64>,
    ) -> Result<Self, BodyError> {
        // A lookup in memory; only reading may wait for the disk.
        let reader = view.open(&id).map_err(|source| BodyError::Unreadable { id, source })?;
        let reader = reader.ok_or(BodyError::Missing(id))?;
        let next = set.find(&reader, span.end - span.start).map_or(Next::Unread, Next::Hot);
        let mut chunks = Self { reader, cold: set.cold.clone(), span, next };
        let first = poll_fn(|cx| chunks.poll_next(cx)).await?;
        if !matches!(chunks.next, Next::Hot(_)) {
            chunks.next = Next::Ready(first);
        }
        Ok(chunks)
    }

    /// The memory that it comes out of, if it is hot.
    pub(super) fn memory(&self) -> Option<&Arc<Sealed>> {
        match &self.next {
            Next::Hot(hot) => Some(hot.memory()),
            _ => None,
        }
    }

    fn left(&self) -> u64 {
        self.span.end - self.span.start
    }

    /// The chunk at the start of the span; what is hot stays at hand.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, BodyError>> {
        loop {
            let at = self.span.start;
            let read = match &mut self.next {
                Next::Ready(bytes) => Ok(std::mem::take(bytes)),
                Next::Hot(hot) => match ready!(hot.poll_part(cx, at, CHUNK.min(self.span.end - at))) {
                    Some(part) => return Poll::Ready(Ok(part)),
                    // The store says what is wrong.
                    None => {
                        self.next = Next::Unread;
                        continue;
                    }
                },
                Next::Unread => {
                    self.read_ahead();
                    continue;
                }
                Next::Reading(task) => {
                    ready!(Pin::new(task).poll(cx)).unwrap_or_else(|died| Err(died.into()))
                }
            };
            self.next = Next::Unread;
            return Poll::Ready(read);
        }
    }

    fn read_ahead(&mut self) {
        let (reader, cold, at) = (self.reader.clone(), self.cold.clone(), self.span.start);
        self.next = Next::Reading(spawn_blocking(move || read(&reader, at).map(|chunk| cold.lend(chunk))));
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.left() == 0 {
            return Poll::Ready(None);
        }
        let mut bytes = match ready!(self.poll_next(cx)) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.span.start = self.span.end;
                return Poll::Ready(Some(Err(error)));
            }
        };
        if bytes.len() as u64 > self.left() {
            bytes.truncate(self.left() as usize);
        }
        self.span.start += bytes.len() as u64;
        if self.left() > 0 && matches!(self.next, Next::Unread) && !self.cold.is_full() {
            self.read_ahead();
        }
        Poll::Ready(Some(Ok(bytes)))
    }
}

fn read(reader: &ObjectReader, at: u64) -> Result<Bytes, BodyError> {
    let id = reader.id();
    if at >= reader.size() {
        return Err(BodyError::Short(id));
    }
    match reader.chunk_at(at) {
        Ok(bytes) if bytes.is_empty() => Err(BodyError::Short(id)),
        Ok(bytes) => Ok(bytes),
        Err(source) => Err(BodyError::Unreadable { id, source }),
    }
}

/// A payload on its way, with the request's line in the log, which is written when it ends.
pub(super) struct Body {
    payload: Payload,
    access: Access,
}

impl Body {
    pub(super) fn new(payload: Payload, access: Access) -> Self {
        Self { payload, access }
    }

    /// The hot set's memory that it comes out of.
    pub(super) fn memory(&self) -> Option<&Arc<Sealed>> {
        match &self.payload {
            Payload::Object(chunks) => chunks.memory(),
            _ => None,
        }
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let chunk = match &mut this.payload {
            Payload::Empty => None,
            Payload::Page(page) if page.is_empty() => None,
            Payload::Page(page) => Some(Ok(std::mem::take(page))),
            Payload::Object(chunks) => ready!(chunks.poll_chunk(cx)),
        };
        match &chunk {
            Some(Ok(bytes)) => this.access.sent(bytes.len() as u64),
            Some(Err(error)) => this.access.broke(error),
            None => {}
        }
        Poll::Ready(chunk.map(|chunk| chunk.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.payload.size() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.payload.size())
    }
}
