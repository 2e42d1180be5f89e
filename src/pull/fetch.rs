//! Bounded GETs of one mirror, into files.
//!
//! Guarantees: what is taken has at most the bytes allowed and all that were announced; it comes from the mirror that was
//! named, for a redirect to another host is refused. Guarantees nothing about content.
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{self, HeaderMap},
    redirect,
};
use std::{
    error::Error as _,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};
use tokio::time::{Instant, timeout};

/// `/<db>.cvd` points to the versioned name: one redirect, and some slack.
const MAX_REDIRECTS: usize = 3;
/// Slowest average that is borne, once the longest wait for a piece has passed.
const MIN_BYTES_PER_S: u64 = 1024;
/// Longest that a file may take.
const LONGEST: Duration = Duration::from_secs(3600);

/// One mirror and how it is asked.
#[derive(Debug)]
pub(super) struct Mirror {
    client: Client,
    base: Url,
    /// Longest wait for an answer, and for the next piece of a body.
    stall: Duration,
}

/// What came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Got {
    /// Bytes of the body that were taken.
    pub(super) bytes: u64,
    /// The whole file's size, where the mirror says it.
    pub(super) total: Option<u64>,
}

/// Why a file cannot be had from the mirror. URLs are shown without user and password.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No TLS client can be made.
    #[error("no TLS client: {0}")]
    Client(String),
    /// No answer.
    #[error("{url}: {why}")]
    Unreachable {
        /// What was asked.
        url: String,
        /// The cause.
        why: String,
    },
    /// 404.
    #[error("{url} is not there")]
    Absent {
        /// What was asked.
        url: String,
    },
    /// Another status than 200 and 206.
    #[error("{url}: the answer is {status}")]
    Status {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// A redirect to another host, or one too many.
    #[error("{url} redirects to {to}, which is not this mirror: not followed")]
    Elsewhere {
        /// What was asked.
        url: String,
        /// Where it leads.
        to: String,
    },
    /// More bytes than allowed.
    #[error("{url} has more than {limit} bytes")]
    TooLarge {
        /// What was asked.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// The body broke off, or the whole of it was not what was announced.
    #[error("{url} broke off after {bytes} bytes")]
    CutShort {
        /// What was asked.
        url: String,
        /// What came.
        bytes: u64,
    },
    /// Too little came for too long.
    #[error("{url}: too slow: {bytes} bytes in {} s", after.as_secs())]
    Dripping {
        /// What was asked.
        url: String,
        /// What came.
        bytes: u64,
        /// In this time.
        after: Duration,
    },
    /// Nothing came for too long.
    #[error("{url}: nothing came for {} s", after.as_secs())]
    TooSlow {
        /// What was asked.
        url: String,
        /// How long was waited.
        after: Duration,
    },
    /// The disk does not take it.
    #[error("{}: {source}", path.display())]
    Disk {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Mirror {
    /// Speaks to the mirror at `base`, whose URL may hold a user and a password.
    pub(super) fn new(mut base: Url, user_agent: &str, stall: Duration) -> Result<Self, FetchError> {
        // Fails only if a provider is installed already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut builder = Client::builder()
            .user_agent(user_agent)
            .connect_timeout(stall)
            .redirect(redirect::Policy::custom(same_origin))
            .referer(false);
        if base.scheme() == "http" {
            // No certificate is ever needed, so a machine without any CA certificates must do.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|e| FetchError::Client(causes(&e)))?;
        Ok(Self { client, base, stall })
    }

    /// The URL of a name, as it may be shown.
    pub(super) fn shown(&self, name: &str) -> String {
        let mut url = self.url(name);
        // They fail for a URL without a host, which has nothing to hide.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.to_string()
    }

    fn url(&self, name: &str) -> Url {
        // Names are of a closed grammar, so joining them cannot fail.
        self.base.join(name).unwrap_or_else(|_| self.base.clone())
    }

    /// Gets a small file whole, of at most `limit` bytes.
    pub(super) async fn small(&self, name: &str, limit: u64) -> Result<Vec<u8>, FetchError> {
        let mut bytes = Vec::new();
        self.get(name, limit, &mut bytes).await?;
        Ok(bytes)
    }

    /// Gets a whole file of at most `limit` bytes.
    pub(super) async fn get(&self, name: &str, limit: u64, out: &mut impl Write) -> Result<Got, FetchError> {
        let response = self.send(name, None).await?;
        let total = response.content_length();
        if total.is_some_and(|total| total > limit) {
            return Err(FetchError::TooLarge { url: self.shown(name), limit });
        }
        let bytes = self.pour(name, response, limit, out).await?;
        if bytes > limit {
            return Err(FetchError::TooLarge { url: self.shown(name), limit });
        }
        if total.is_some_and(|total| total != bytes) {
            return Err(FetchError::CutShort { url: self.shown(name), bytes });
        }
        Ok(Got { bytes, total: Some(bytes) })
    }

    /// Gets the first bytes of a file: exactly so many, whatever the server makes of a range.
    pub(super) async fn first(&self, name: &str, count: u64) -> Result<(Vec<u8>, Got), FetchError> {
        let response = self.send(name, Some(count)).await?;
        let total = match response.status() {
            StatusCode::PARTIAL_CONTENT => size_in(response.headers()),
            _ => response.content_length(),
        };
        let mut bytes = Vec::new();
        let got = self.pour(name, response, count, &mut bytes).await?;
        bytes.truncate(usize::try_from(count).unwrap_or(usize::MAX));
        if (bytes.len() as u64) < count {
            return Err(FetchError::CutShort { url: self.shown(name), bytes: bytes.len() as u64 });
        }
        Ok((bytes, Got { bytes: got, total }))
    }

    /// Posts something small, as JSON.
    pub(super) async fn tell(&self, name: &str, what: &impl serde::Serialize) -> Result<(), FetchError> {
        // Our own plain values: serialising them cannot fail.
        let content = serde_json::to_vec(what).unwrap_or_default();
        let request = self.client.post(self.url(name)).header(header::CONTENT_TYPE, "application/json");
        self.exchange(name, request.body(content)).await.map(drop)
    }

    async fn send(&self, name: &str, first: Option<u64>) -> Result<Response, FetchError> {
        let mut request = self.client.get(self.url(name));
        if let Some(count) = first {
            request = request.header(header::RANGE, format!("bytes=0-{}", count.saturating_sub(1)));
        }
        self.exchange(name, request).await
    }

    async fn exchange(&self, name: &str, request: RequestBuilder) -> Result<Response, FetchError> {
        let url = || self.shown(name);
        let sent = timeout(self.stall, request.send()).await;
        let response = sent
            .map_err(|_| FetchError::TooSlow { url: url(), after: self.stall })?
            .map_err(|e| FetchError::Unreachable { url: url(), why: causes(&e.without_url()) })?;
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND => Err(FetchError::Absent { url: url() }),
            status if status.is_redirection() => {
                let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
                let to = to.unwrap_or("nowhere").chars().take(200).collect();
                Err(FetchError::Elsewhere { url: url(), to })
            }
            status => Err(FetchError::Status { url: url(), status: status.as_u16() }),
        }
    }

    /// Takes a body up to its end, or until more than `limit` bytes have come; says how many.
    async fn pour(
        &self,
        name: &str,
        mut response: Response,
        limit: u64,
        out: &mut impl Write,
    ) -> Result<u64, FetchError> {
        let mut bytes = 0;
        // Only waiting counts: what the disk takes is not the mirror's fault.
        let mut waited = Duration::ZERO;
        while bytes <= limit {
            let began = Instant::now();
            let chunk = timeout(self.stall, response.chunk()).await;
            waited += began.elapsed();
            let due = MIN_BYTES_PER_S as f64 * waited.as_secs_f64();
            if waited > self.stall && (bytes as f64) < due || waited > LONGEST {
                return Err(FetchError::Dripping { url: self.shown(name), bytes, after: waited });
            }
            let chunk =
                chunk.map_err(|_| FetchError::TooSlow { url: self.shown(name), after: self.stall })?;
            let chunk = chunk.map_err(|_| FetchError::CutShort { url: self.shown(name), bytes })?;
            let Some(chunk) = chunk else { break };
            bytes += chunk.len() as u64;
            let disk = |source| FetchError::Disk { path: name.into(), source };
            out.write_all(&chunk).map_err(disk)?;
        }
        Ok(bytes)
    }
}

/// Follows a redirect within the mirror; any other is the answer itself, which is no file.
fn same_origin(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let within = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    if within && attempt.previous().len() <= MAX_REDIRECTS { attempt.follow() } else { attempt.stop() }
}

/// The size in `Content-Range: bytes 0-511/61234567`.
fn size_in(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_RANGE)?.to_str().ok()?.rsplit('/').next()?.parse().ok()
}

/// An error's causes, since reqwest's own text leaves them out.
fn causes(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
