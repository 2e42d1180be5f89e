//! A file on its way in, held to the limits whatever source it comes from.
use super::{
    FetchError, FetchLimits, Wanted,
    limits::{self, Chunks, Part},
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use reqwest::header::HeaderValue;
use std::fmt;
use tokio::time::Instant;

/// A file that a source began to give. Dropping it ends the fetch.
pub struct Incoming {
    /// What was asked for.
    pub wanted: Wanted,
    /// The URL or path that answered.
    pub origin: String,
    /// What caches on the way said of themselves (`age`, `x-cache`, `cf-ray`, `cf-cache-status`, `via`).
    pub via: Vec<(String, String)>,
    /// The length, where the source announced it. An empty file is never taken unannounced.
    pub announced: Option<u64>,
    /// What tells this file from another one of its name.
    pub(super) etag: Option<HeaderValue>,
    chunks: Chunks,
}

impl Incoming {
    /// Holds `chunks`, which were asked for at `started`, to the bounds of a whole file.
    pub(super) fn new(
        wanted: &Wanted,
        part: Part,
        chunks: Chunks,
        limits: &FetchLimits,
        started: Instant,
    ) -> Result<Self, FetchError> {
        let cap_bytes = wanted.cap(limits);
        let Part { origin, announced, .. } = part.clone();
        let chunks = limits::in_time(chunks, part, started + limits.total);
        let (chunks, announced) = match wanted {
            // A server that ignores Range sends the whole file, of which the header is the beginning.
            Wanted::Header(..) => {
                (limits::first(chunks, cap_bytes), announced.map(|bytes| bytes.min(cap_bytes)))
            }
            _ if announced.is_some_and(|bytes| bytes > cap_bytes) => {
                return Err(FetchError::TooLarge { origin, cap_bytes });
            }
            _ => (limits::capped(chunks, origin.clone(), cap_bytes), announced),
        };
        Ok(Self { wanted: wanted.clone(), origin, via: Vec::new(), announced, etag: None, chunks })
    }

    /// The next bytes; `None` after the last.
    ///
    /// # Errors
    /// See [`FetchError`]; nothing more comes then.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, FetchError> {
        self.chunks.try_next().await
    }

    /// Reads all of it into memory: for a header, which is small.
    pub(super) async fn bytes(mut self) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Incoming({}, {:?} bytes)", self.origin, self.announced)
    }
}
