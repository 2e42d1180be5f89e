//! One bounded GET: within the limits, on the books, and taken up again where a body broke off.
use super::{
    FetchError, Fetched, Wanted,
    budget::{Ledger, Policy},
    login::Login,
    staging::{Intake, Staging},
};
use crate::{
    clock::{self, epoch_s},
    cvd::HEADER_BYTES,
};
use reqwest::{
    Client, Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
    redirect,
};
use std::{
    error::Error as _,
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::time::{Instant, timeout};

/// Headers in which caches on the way speak of themselves.
const CACHE_HEADERS: [&str; 5] = ["age", "x-cache", "cf-ray", "cf-cache-status", "via"];
/// Times a body that broke off is taken up again.
const MAX_RESUMES: usize = 3;

/// Makes requests of one upstream, over one pool of connections.
#[derive(Debug)]
pub(super) struct Getter {
    client: Client,
    login: Option<Login>,
    pub(super) intake: Intake,
    ledger: Ledger,
    policy: Policy,
    /// Our clock against the `Date` of the last answer that had one: seconds ahead, 0 while they agree.
    off_by_s: AtomicI64,
}

/// An answer to a conditional request.
pub(super) enum Answer {
    /// The file, and its ETag where it has one.
    New(Fetched, Option<HeaderValue>),
    /// 304: what is known is still so.
    Unchanged,
}

impl Getter {
    /// Speaks to the upstream at `base`.
    pub(super) fn new(
        base: &Url,
        login: Option<Login>,
        intake: Intake,
        ledger: Ledger,
        user_agent: &str,
    ) -> Result<Self, String> {
        // Fails only if a provider is installed already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = Client::builder()
            .user_agent(user_agent)
            .connect_timeout(intake.limits.stall)
            .redirect(plain_redirects(intake.limits.redirects))
            .referer(false);
        if base.scheme() == "http" {
            // No certificate is ever needed, so a machine without any CA certificates must do.
            builder = builder.tls_certs_only([]);
        }
        let client = builder.build().map_err(|e| format!("no TLS client: {}", causes(&e)))?;
        let policy = Policy::towards(base.host_str().unwrap_or_default());
        Ok(Self { client, login, intake, ledger, policy, off_by_s: AtomicI64::new(0) })
    }

    /// How far this machine's clock is ahead, seconds; nothing while the clocks agree.
    pub(super) fn off_by_s(&self) -> Option<i64> {
        Some(self.off_by_s.load(Ordering::Relaxed)).filter(|off| *off != 0)
    }

    /// What was asked so far.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Gets a file. With `known` the answer may be that its ETag still holds.
    pub(super) async fn get(
        &self,
        url: &Url,
        wanted: &Wanted,
        known: Option<&HeaderValue>,
    ) -> Result<Answer, FetchError> {
        let started = Instant::now();
        let mut response = self
            .send(url, wanted, |mut headers| {
                if matches!(wanted, Wanted::Header(..)) {
                    headers.insert(header::RANGE, range(0, Some(HEADER_BYTES as u64 - 1)));
                }
                if let Some(etag) = known {
                    headers.insert(header::IF_NONE_MATCH, etag.clone());
                }
                headers
            })
            .await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Answer::Unchanged);
        }
        let origin = response.url().to_string();
        let via = cache_headers(response.headers());
        let etag = response.headers().get(header::ETAG).cloned();
        let validator = validator(response.headers());
        let mut staging = self.stage(wanted, &origin, &response)?;
        let mut resumes = 0;
        loop {
            let before = staging.len();
            let poured = self.pour(&mut response, wanted, &mut staging, started).await;
            self.ledger.note(|book| book.received(wanted, staging.len() - before, epoch_s()));
            let broken = match poured {
                Ok(()) => break,
                Err(e) => e,
            };
            let may_resume = matches!(
                broken,
                FetchError::Truncated { .. } | FetchError::TooSlow { .. } | FetchError::Unreachable { .. }
            ) && matches!(wanted, Wanted::Cvd(..));
            let Some(validator) = validator.as_ref().filter(|_| may_resume && resumes < MAX_RESUMES) else {
                return Err(broken);
            };
            resumes += 1;
            tracing::info!("{broken}; taking it up again");
            // RFC 9110 section 13.1.5: the rest if it is still the same file, the whole of the new one if not.
            let again = self.send(url, wanted, |mut headers| {
                headers.insert(header::RANGE, range(staging.len(), None));
                headers.insert(header::IF_RANGE, validator.clone());
                headers
            });
            response = again.await.map_err(|_| broken)?;
            if response.status() != StatusCode::PARTIAL_CONTENT
                || !continues(response.headers(), staging.len())
            {
                staging = self.stage(wanted, &origin, &response)?;
            }
        }
        Ok(Answer::New(Fetched { staged: staging.finish()?, origin, via }, etag))
    }

    async fn send(
        &self,
        url: &Url,
        wanted: &Wanted,
        with: impl FnOnce(HeaderMap) -> HeaderMap,
    ) -> Result<Response, FetchError> {
        let now_s = epoch_s();
        self.ledger.book().may_ask(wanted, self.policy, now_s).map_err(|cool_down| FetchError::CoolDown {
            url: url.to_string(),
            wait_s: cool_down.until_s.saturating_sub(now_s),
            why: cool_down.why,
        })?;
        self.ledger.note(|book| book.asked(wanted, now_s));
        // The client turns a login in the URL into a field that no redirect takes to another host.
        let asked = self.login.as_ref().map_or_else(|| url.clone(), |login| login.put_into(url));
        let request = self.client.get(asked).headers(with(HeaderMap::new()));
        let response = match timeout(self.intake.limits.stall, request.send()).await {
            Ok(Ok(response)) => response,
            Ok(Err(e)) if speaks_otherwise(&e) => {
                return Err(FetchError::WrongScheme { url: url.clone(), why: causes(&e) });
            }
            Ok(Err(e)) => return Err(FetchError::Unreachable { url: url.to_string(), why: causes(&e) }),
            Err(_) => {
                let what = "no answer came in time,";
                return Err(FetchError::TooSlow { origin: url.to_string(), what, got_bytes: 0 });
            }
        };
        if let Some(theirs_s) = date_s(response.headers()) {
            self.off_by_s.store(clock::off_by(epoch_s(), theirs_s).unwrap_or(0), Ordering::Relaxed);
        }
        let url = || response.url().to_string();
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(FetchError::Absent { origin: url() }),
            StatusCode::FORBIDDEN => {
                self.ledger.note(|book| book.denied(self.policy, now_s));
                Err(FetchError::Denied { url: url() })
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let wait_s = retry_after_s(response.headers());
                self.ledger.note(|book| book.limited(wait_s, now_s));
                Err(FetchError::Limited { url: url(), wait_s })
            }
            status => Err(FetchError::Status { url: url(), status: status.as_u16() }),
        }
    }

    fn stage(&self, wanted: &Wanted, origin: &str, response: &Response) -> Result<Staging<'_>, FetchError> {
        let cap_bytes = wanted.cap(&self.intake.limits);
        let total = response.content_length();
        // A server that ignores Range sends the whole file, of which the header is the beginning.
        if !matches!(wanted, Wanted::Header(..)) && total.is_some_and(|len| len > cap_bytes) {
            return Err(FetchError::TooLarge { origin: origin.into(), cap_bytes });
        }
        Staging::create(&self.intake, &wanted.to_string(), cap_bytes, origin.into(), total)
    }

    /// Streams a body into staging within the limits.
    async fn pour(
        &self,
        response: &mut Response,
        wanted: &Wanted,
        staging: &mut Staging<'_>,
        started: Instant,
    ) -> Result<(), FetchError> {
        let limits = &self.intake.limits;
        let origin = response.url().to_string();
        let head_only = matches!(wanted, Wanted::Header(..));
        let cap_bytes = wanted.cap(limits);
        let (body_started, had_bytes) = (Instant::now(), staging.len());
        loop {
            let got_bytes = staging.len();
            let slow = |what| FetchError::TooSlow { origin: origin.clone(), what, got_bytes };
            let chunk = match timeout(limits.stall, response.chunk()).await {
                Err(_) => return Err(slow("the body stalled")),
                Ok(Ok(None)) => return Ok(()),
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Err(e)) if ended_early(&e) => return Err(FetchError::Truncated { origin, got_bytes }),
                Ok(Err(e)) => return Err(FetchError::Unreachable { url: origin, why: causes(&e) }),
            };
            if started.elapsed() > limits.total {
                return Err(slow("the time for one fetch ran out"));
            }
            let elapsed = body_started.elapsed();
            let due_bytes = limits.min_bytes_per_s as f64 * elapsed.as_secs_f64();
            if elapsed > limits.stall && ((got_bytes - had_bytes) as f64) < due_bytes {
                return Err(slow("the body came too slowly"));
            }
            if head_only {
                let room = (cap_bytes - got_bytes) as usize;
                staging.write(&chunk[..chunk.len().min(room)])?;
                if staging.len() == cap_bytes {
                    return Ok(());
                }
            } else {
                staging.write(&chunk)?;
            }
        }
    }
}

/// Follows redirects, but for one whose URL holds a user or a password: no file needs that, and every URL from here on
/// can be said.
fn plain_redirects(most: usize) -> redirect::Policy {
    let limited = redirect::Policy::limited(most);
    redirect::Policy::custom(move |attempt| {
        let url = attempt.url();
        match url.username().is_empty() && url.password().is_none() {
            true => limited.redirect(attempt),
            false => attempt.error("the redirect's URL holds a user or a password, which is not followed"),
        }
    })
}

fn range(from: u64, to: Option<u64>) -> HeaderValue {
    let text = format!("bytes={from}-{}", to.map_or(String::new(), |to| to.to_string()));
    // Digits and punctuation: always a header value.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("bytes=0-"))
}

/// What may stand in If-Range: a strong ETag, or else a date (RFC 9110 section 13.1.5).
fn validator(headers: &HeaderMap) -> Option<HeaderValue> {
    let etag = headers.get(header::ETAG).filter(|etag| etag.as_bytes().starts_with(b"\""));
    etag.or_else(|| headers.get(header::LAST_MODIFIED)).cloned()
}

/// Whether a 206 goes on exactly where the bytes held end.
fn continues(headers: &HeaderMap, from: u64) -> bool {
    let range = headers.get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
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
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?;
    value.parse().ok().or_else(|| {
        let date = httpdate::parse_http_date(value).ok()?;
        Some(date.duration_since(SystemTime::now()).map_or(0, |d| d.as_secs()))
    })
}

/// What the sender's clock says now: `Date` is when the answer was made, `Age` how long caches have kept it since
/// (RFC 9110 section 6.6.1, RFC 9111 section 5.1).
fn date_s(headers: &HeaderMap) -> Option<u64> {
    let date = httpdate::parse_http_date(headers.get(header::DATE)?.to_str().ok()?).ok()?;
    let age_s: u64 = headers.get(header::AGE).and_then(|age| age.to_str().ok()?.parse().ok()).unwrap_or(0);
    Some(date.duration_since(UNIX_EPOCH).ok()?.as_secs().saturating_add(age_s))
}

/// Whether something answered and spoke another protocol: no TLS where TLS was asked, or no HTTP.
fn speaks_otherwise(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let tls = error.downcast_ref::<rustls::Error>();
        let http = error.downcast_ref::<hyper::Error>();
        if matches!(tls, Some(rustls::Error::InvalidMessage(_))) || http.is_some_and(hyper::Error::is_parse) {
            return true;
        }
        // An I/O error that carries another one names that one's cause as its own, and not the error itself.
        let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = carried.map(|e| e as &(dyn std::error::Error + 'static)).or_else(|| error.source());
    }
    false
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

/// An error with its causes, since reqwest's own text leaves them out and names the URL a second time.
fn causes(error: &reqwest::Error) -> String {
    let mut texts = Vec::new();
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    if texts.is_empty() { error.to_string() } else { texts.join(": ") }
}
