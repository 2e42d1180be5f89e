//! An HTTP upstream: the CDN, another mirror, or anything that serves the files by their names.
//!
//! Caches answer by name, so an answer is never taken for what was asked: its content says what it is. CDIFFs
//! and sign files are asked by their immutable names; a CVD as `<db>.cvd?version=N`, the convention cvdupdate
//! uses towards the CDN, and plainly where a source does not know that.
use super::{
    Evidence, FetchError, FetchLimits, Fetched, Newest, Wanted,
    staging::{Intake, Staged, Staging},
    txt::TxtResolver,
};
use crate::cvd::{Database, HEADER_BYTES, Header};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{HeaderMap, RANGE, RETRY_AFTER},
};
use std::{
    error::Error as _,
    io::Read as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::{Instant, timeout};

/// A TXT record older than this is not believed: the same bound as freshclam's.
const TXT_MAX_AGE_S: u64 = 12 * 3600;
/// Headers in which caches on the way speak of themselves.
const CACHE_HEADERS: [&str; 5] = ["age", "x-cache", "cf-ray", "cf-cache-status", "via"];

/// An HTTP upstream and, where configured, its TXT record.
#[derive(Debug)]
pub struct HttpSource {
    base: Url,
    client: Client,
    txt: Option<TxtResolver>,
    intake: Intake,
}

impl HttpSource {
    /// Uses the upstream at `base`.
    ///
    /// # Errors
    /// When no TLS client can be made, in words.
    pub fn new(
        mut base: Url,
        txt: Option<TxtResolver>,
        intake: Intake,
        user_agent: &str,
    ) -> Result<Self, String> {
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        // Fails only if a provider is installed already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(user_agent)
            .connect_timeout(intake.limits.stall)
            .redirect(reqwest::redirect::Policy::limited(intake.limits.redirects))
            .referer(false);
        if base.scheme() == "http" {
            // No certificate is ever needed, so a machine without any CA certificates must do.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|e| format!("no TLS client: {}", causes(&e)))?;
        Ok(Self { base, client, txt, intake })
    }

    /// What it stages with.
    pub fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Says what is newest: by the TXT record, or by the header of the file where there is no usable record.
    ///
    /// # Errors
    /// When neither can be had; the error is the probe's, or the record's where the probe says less.
    pub async fn newest(&self, database: &Database) -> Result<Newest, FetchError> {
        let mut remarks = Vec::new();
        let mut recorded = None;
        if let Some(txt) = &self.txt {
            match txt.lookup(database).await {
                Ok(said) => {
                    let version = said.version;
                    let age_s = epoch_s().saturating_sub(said.time_s.unwrap_or_default());
                    if let Some(version) = version.filter(|_| age_s <= TXT_MAX_AGE_S) {
                        return Ok(Newest { version, evidence: Evidence::TxtRecord, remarks });
                    }
                    recorded = version;
                    remarks.push(match version {
                        Some(version) => format!(
                            "the TXT record says {version} but is {} h old; the file itself is asked",
                            age_s / 3600
                        ),
                        None => "the TXT record does not name this database; the file itself is asked".into(),
                    });
                }
                Err(e) => remarks.push(format!("{e}; the file itself is asked")),
            }
        }
        match self.probe(database).await {
            Ok(header) => {
                let version = header.version.max(recorded.unwrap_or(0));
                let evidence = if version == header.version { Evidence::Header } else { Evidence::TxtRecord };
                Ok(Newest { version, evidence, remarks })
            }
            Err(e) => match recorded {
                Some(version) => {
                    remarks.push(e.to_string());
                    Ok(Newest { version, evidence: Evidence::TxtRecord, remarks })
                }
                None if remarks.is_empty() => Err(e),
                None => Err(FetchError::Unreachable {
                    url: self.base.to_string(),
                    why: format!("{}; and then: {e}", remarks.join("; ")),
                }),
            },
        }
    }

    /// Reads the header of the CVD that is offered now.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn probe(&self, database: &Database) -> Result<Header, FetchError> {
        let fetched = self.fetch(&Wanted::Header(database.clone(), None)).await?;
        let mut bytes = Vec::with_capacity(HEADER_BYTES);
        let not_a_cvd = |why: String| FetchError::NotACvd { origin: fetched.origin.clone(), why };
        fetched
            .staged
            .reader()
            .and_then(|mut reader| reader.read_to_end(&mut bytes))
            .map_err(|e| not_a_cvd(e.to_string()))?;
        Header::parse(&bytes).map_err(|e| not_a_cvd(e.to_string()))
    }

    /// Fetches one file.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, wanted: &Wanted) -> Result<Fetched, FetchError> {
        match wanted {
            Wanted::Named(name) => self.get(&name.to_string(), wanted).await,
            Wanted::Header(database, None) => self.get(&format!("{database}.cvd"), wanted).await,
            Wanted::Cvd(database, version) | Wanted::Header(database, Some(version)) => {
                match self.get(&format!("{database}.cvd?version={version}"), wanted).await {
                    Err(FetchError::Absent { .. }) => self.get(&format!("{database}.cvd"), wanted).await,
                    other => other,
                }
            }
        }
    }

    async fn get(&self, relative: &str, wanted: &Wanted) -> Result<Fetched, FetchError> {
        let url = self
            .base
            .join(relative)
            .map_err(|e| FetchError::Unreachable { url: self.base.to_string(), why: e.to_string() })?;
        let started = Instant::now();
        let response = self.send(&url, matches!(wanted, Wanted::Header(..))).await?;
        let via = cache_headers(response.headers());
        let origin = response.url().to_string();
        let staged = self.receive(response, wanted, &origin, started).await?;
        Ok(Fetched { staged, origin, via })
    }

    async fn send(&self, url: &Url, head_only: bool) -> Result<Response, FetchError> {
        let mut request = self.client.get(url.clone());
        if head_only {
            request = request.header(RANGE, format!("bytes=0-{}", HEADER_BYTES - 1));
        }
        let response = match timeout(self.intake.limits.stall, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(e)) => return Err(FetchError::Unreachable { url: url.to_string(), why: causes(&e) }),
            Err(_) => {
                let what = "no answer came in time,";
                return Err(FetchError::TooSlow { origin: url.to_string(), what, got_bytes: 0 });
            }
        };
        let url = || response.url().to_string();
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(FetchError::Absent { origin: url() }),
            StatusCode::FORBIDDEN => Err(FetchError::Denied { url: url() }),
            StatusCode::TOO_MANY_REQUESTS => {
                Err(FetchError::Limited { url: url(), wait_s: retry_after_s(response.headers()) })
            }
            status => Err(FetchError::Status { url: url(), status: status.as_u16() }),
        }
    }

    /// Streams a body into staging within the limits.
    async fn receive(
        &self,
        mut response: Response,
        wanted: &Wanted,
        origin: &str,
        started: Instant,
    ) -> Result<Staged, FetchError> {
        let cap_bytes = wanted.cap(&self.intake.limits);
        // A server that ignores Range sends the whole file: the header is its beginning.
        let head_only = matches!(wanted, Wanted::Header(..));
        if !head_only && response.content_length().is_some_and(|len| len > cap_bytes) {
            return Err(FetchError::TooLarge { origin: origin.into(), cap_bytes });
        }
        let mut staging =
            Staging::create(&self.intake, &wanted.to_string(), cap_bytes, origin, response.content_length())?;
        let body_started = Instant::now();
        loop {
            let slow = |what| FetchError::TooSlow { origin: origin.into(), what, got_bytes: staging.len() };
            let chunk = match timeout(self.intake.limits.stall, response.chunk()).await {
                Err(_) => return Err(slow("the body stalled")),
                Ok(Ok(None)) => break,
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Err(e)) if ended_early(&e) => {
                    return Err(FetchError::Truncated { origin: origin.into(), got_bytes: staging.len() });
                }
                Ok(Err(e)) => return Err(FetchError::Unreachable { url: origin.into(), why: causes(&e) }),
            };
            if started.elapsed() > self.intake.limits.total {
                return Err(slow("the time for one fetch ran out"));
            }
            let elapsed = body_started.elapsed();
            if elapsed > self.intake.limits.stall
                && (staging.len() as f64) < min_bytes(&self.intake.limits, elapsed)
            {
                return Err(slow("the body came too slowly"));
            }
            if head_only {
                let room = (cap_bytes - staging.len()) as usize;
                staging.write(&chunk[..chunk.len().min(room)])?;
                if staging.len() == cap_bytes {
                    break;
                }
            } else {
                staging.write(&chunk)?;
            }
        }
        staging.finish()
    }
}

fn min_bytes(limits: &FetchLimits, elapsed: Duration) -> f64 {
    limits.min_bytes_per_s as f64 * elapsed.as_secs_f64()
}

fn epoch_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn cache_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    CACHE_HEADERS
        .iter()
        .filter_map(|name| {
            let value = headers.get(*name)?.to_str().ok()?;
            Some(((*name).to_owned(), value.chars().take(200).collect()))
        })
        .collect()
}

/// `Retry-After`, RFC 9110 section 10.2.3: seconds or a date.
fn retry_after_s(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    value.parse().ok().or_else(|| {
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(SystemTime::now()).map_or(0, |d| d.as_secs()))
    })
}

/// Whether a body ended before its announced length.
fn ended_early(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        let hyper = error.downcast_ref::<hyper::Error>();
        if io.is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof)
            || hyper.is_some_and(hyper::Error::is_incomplete_message)
        {
            return true;
        }
        cause = error.source();
    }
    false
}

/// An error with its causes, since reqwest's own text leaves them out.
fn causes(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
