//! GETs of one upstream: within the limits, on the books, and taken up again where a body broke off.
use super::{
    ClientError, FetchError, FetchLimits, Wanted,
    budget::Policy,
    incoming::Incoming,
    ledger::{Ledger, Refusal},
    limits::{self, Chunks, Part},
    login::Login,
    redirects::{Allowed, RedirectFault},
    response::{self, Validator, WrongPart, cache_headers, date_s, range, retry_after_s, validator},
};
use crate::{
    clock,
    cvd::HEADER_BYTES,
    units::{self, os},
};
use arc_swap::ArcSwap;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::try_unfold};
use reqwest::{
    Response, StatusCode, Url,
    header::{self, HeaderMap, HeaderValue},
};
use rustls::CertificateError;
use std::{
    error::Error as _,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};
use tokio::time::{Instant, timeout};

/// Times a body that broke off is taken up again.
const MAX_RESUMES: usize = 3;

/// Makes requests of one upstream, over one pool of connections.
#[derive(Debug)]
pub(super) struct Getter {
    http: reqwest::Client,
    login: Option<Login>,
    limits: FetchLimits,
    ledger: Ledger,
    policy: Policy,
    /// For whom it asks, if not for itself.
    client: ArcSwap<Client>,
    /// Our clock against the `Date` of the last answer that had one: seconds ahead, 0 while they agree.
    off_by_s: AtomicI64,
}

/// A client for which the upstream is asked: the upstream's word about it is about nobody else.
#[derive(Default, Debug)]
struct Client {
    /// None for none.
    fields: HeaderMap,
    /// 403.
    denied: AtomicBool,
}

/// An answer to a conditional request.
pub(super) enum Answer {
    /// The file.
    New(Incoming),
    /// 304: what is known is still so.
    Unchanged,
}

/// An answer that is passed on.
pub(super) struct Passed {
    pub(super) status: StatusCode,
    pub(super) fields: HeaderMap,
    /// The body; none of a 304.
    pub(super) incoming: Option<Incoming>,
}

impl Getter {
    /// Speaks to the upstream at `base`, and to whom it redirects where the site lists that host.
    pub(super) fn new(
        base: &Url,
        redirect_hosts: Vec<String>,
        login: Option<Login>,
        limits: FetchLimits,
        ledger: Ledger,
        user_agent: &str,
    ) -> Result<Self, ClientError> {
        // Fails only if a provider is installed already, which does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let allowed = Allowed { source: base.clone(), hosts: redirect_hosts, most: limits.redirects };
        let mut builder = reqwest::Client::builder()
            .user_agent(user_agent)
            .connect_timeout(limits.stall)
            .redirect(allowed.policy())
            .referer(false);
        if base.scheme() == "http" {
            // No certificate is ever needed, so a machine without any CA certificates must do.
            builder = builder.tls_certs_only([]);
        }
        let http = builder.build()?;
        let policy = Policy::towards(base.host_str().unwrap_or_default());
        let (client, off_by_s) = (ArcSwap::default(), AtomicI64::new(0));
        Ok(Self { http, login, limits, ledger, policy, client, off_by_s })
    }

    /// How far this machine's clock is ahead, seconds; nothing while the clocks agree.
    pub(super) fn off_by_s(&self) -> Option<i64> {
        Some(self.off_by_s.load(Ordering::Relaxed)).filter(|off| *off != 0)
    }

    /// From now on asks with these fields besides its own.
    pub(super) fn asks_for(&self, fields: HeaderMap) {
        self.client.store(Arc::new(Client { fields, ..Client::default() }));
    }

    /// Whether the client for which it asks was refused.
    pub(super) fn client_is_denied(&self) -> bool {
        self.client.load().denied.load(Ordering::Relaxed)
    }

    /// What was asked so far.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Begins to get a file. With `known` the answer may be that its ETag still holds.
    pub(super) async fn open(
        self: &Arc<Self>,
        url: &Url,
        wanted: &Wanted,
        known: Option<&HeaderValue>,
    ) -> Result<Answer, FetchError> {
        let started = Instant::now();
        let (mut headers, mut asked_from) = (HeaderMap::new(), None);
        if matches!(wanted, Wanted::Header(..)) {
            asked_from = Some(0);
            headers.insert(header::RANGE, range(0, Some(HEADER_BYTES as u64 - 1)));
        }
        if let Some(etag) = known {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        }
        let response = self.send(url, wanted, headers).await?;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Answer::Unchanged);
        }
        let part = part(&response, asked_from)?;
        let via = cache_headers(response.headers());
        let etag = response.headers().get(header::ETAG).cloned();
        let validator = validator(response.headers());
        let chunks = self.chunks(response, wanted, part.clone());
        let chunks = match (wanted, validator) {
            (Wanted::Cvd(..), Some(validator)) => {
                let (getter, url, wanted) = (self.clone(), url.clone(), wanted.clone());
                let whole = part.announced;
                limits::resumed(chunks, MAX_RESUMES, move |from| {
                    let (getter, validator) = (getter.clone(), validator.clone());
                    let (url, wanted) = (url.clone(), wanted.clone());
                    async move { getter.reopen(&url, &wanted, from, whole, &validator).await }
                })
            }
            _ => chunks,
        };
        let mut incoming = Incoming::new(wanted, part, chunks, &self.limits, started)?;
        (incoming.via, incoming.etag) = (via, etag);
        Ok(Answer::New(incoming))
    }

    /// Passes on a request that came with `fields`.
    pub(super) async fn pass(
        self: &Arc<Self>,
        url: &Url,
        wanted: &Wanted,
        fields: HeaderMap,
    ) -> Result<Passed, FetchError> {
        let (started, ranged) = (Instant::now(), fields.contains_key(header::RANGE));
        let response = self.send(url, wanted, fields).await?;
        let (status, fields) = (response.status(), response.headers().clone());
        let incoming = match status {
            StatusCode::NOT_MODIFIED => None,
            _ => {
                let part = part(&response, ranged.then_some(0))?;
                let chunks = self.chunks(response, wanted, part.clone());
                Some(Incoming::new(wanted, part, chunks, &self.limits, started)?)
            }
        };
        Ok(Passed { status, fields, incoming })
    }

    /// Asks for the rest of a file of `whole` bytes (RFC 9110 section 13.1.5). The whole of it is taken where the
    /// upstream knows no ranges; nothing is, where another file has its name now.
    async fn reopen(
        self: &Arc<Self>,
        url: &Url,
        wanted: &Wanted,
        from: u64,
        whole: Option<u64>,
        known: &Validator,
    ) -> Result<Chunks, FetchError> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, range(from, None));
        headers.insert(header::IF_RANGE, known.value.clone());
        let response = self.send(url, wanted, headers).await?;
        let wrong = |what| Err(FetchError::WrongPart { url: response.url().to_string(), what });
        let part = part(&response, Some(from))?;
        let is_part = response.status() == StatusCode::PARTIAL_CONTENT;
        // A cache may leave the validator out of a 206; a whole answer must prove that it is the same file.
        let same = response.headers().get(&known.field).map_or(is_part, |value| *value == known.value);
        let ends_at = part.announced.map(|bytes| part.from + bytes);
        if !same {
            return wrong(if is_part { WrongPart::OtherFile } else { WrongPart::Replaced });
        }
        if whole.is_some_and(|whole| ends_at.is_some_and(|end| end != whole)) {
            return wrong(response::other_range(response.headers()));
        }
        let left_out = from - part.from;
        Ok(limits::after(self.chunks(response, wanted, part), left_out))
    }

    /// The body of an answer, on the books and held to its announced length and to the pace.
    fn chunks(self: &Arc<Self>, response: Response, wanted: &Wanted, part: Part) -> Chunks {
        let mut received = Received { getter: self.clone(), wanted: wanted.clone(), bytes: 0 };
        let counted = body(response, part.clone()).inspect_ok(move |chunk| received.add(chunk.len()));
        part.hold(counted.boxed(), &self.limits)
    }

    async fn send(&self, url: &Url, wanted: &Wanted, headers: HeaderMap) -> Result<Response, FetchError> {
        let client = self.client.load_full();
        let is_for_client = !client.fields.is_empty();
        match self.ledger.may_ask(wanted, self.policy) {
            Err(Refusal { wait_s, why, own_name }) if !(own_name && is_for_client) => {
                return Err(FetchError::CoolDown { url: url.to_string(), wait_s, why });
            }
            _ => {}
        }
        // The client turns a login in the URL into a field that no redirect takes to another host.
        let asked = self.login.as_ref().map_or_else(|| url.clone(), |login| login.put_into(url));
        let request = self.http.get(asked).headers(client.fields.clone()).headers(headers);
        // Beyond the time for a connection, whose own error says that nothing was asked.
        let answer = timeout(self.limits.stall * 2, request.send()).await;
        if !matches!(&answer, Ok(Err(e)) if e.is_connect()) {
            self.ledger.asked(wanted);
        }
        let response = match answer {
            Ok(Ok(response)) => response,
            Ok(Err(e)) => return Err(no_answer(&e, url)),
            Err(_) => {
                let what = "no answer came in time,";
                return Err(FetchError::TooSlow { origin: url.to_string(), what, got_bytes: 0 });
            }
        };
        let (now_s, theirs_s) = (self.ledger.clock().epoch_s(), date_s(response.headers()));
        if let Some(theirs_s) = theirs_s {
            self.off_by_s.store(clock::off_by(now_s, theirs_s).unwrap_or(0), Ordering::Relaxed);
        }
        let url = || response.url().to_string();
        match response.status() {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED => Ok(response),
            StatusCode::NOT_FOUND | StatusCode::GONE => Err(FetchError::Absent { origin: url() }),
            StatusCode::FORBIDDEN => {
                match is_for_client {
                    true => client.denied.store(true, Ordering::Relaxed),
                    false => self.ledger.denied(self.policy),
                }
                Err(FetchError::Denied { url: url() })
            }
            StatusCode::TOO_MANY_REQUESTS => {
                let wait_s = retry_after_s(response.headers(), theirs_s.unwrap_or(now_s));
                self.ledger.limited(wait_s);
                Err(FetchError::Limited { url: url(), wait_s })
            }
            // The client follows what is http or https, and leaves the rest as it is.
            status => {
                match RedirectFault::by_scheme(response.url(), response.headers().get(header::LOCATION)) {
                    Some(why) if status.is_redirection() => Err(FetchError::Redirect { url: url(), why }),
                    _ => Err(FetchError::Status { url: url(), status: status.as_u16() }),
                }
            }
        }
    }
}

/// Notes what came of a body when that ends, however it ends: not at each piece, which would write the book each time.
struct Received {
    getter: Arc<Getter>,
    wanted: Wanted,
    bytes: u64,
}

impl Received {
    fn add(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for Received {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.getter.ledger.received(&self.wanted, self.bytes);
        }
    }
}

fn body(response: Response, part: Part) -> Chunks {
    try_unfold((response, part, 0), |(mut response, part, got_bytes)| async move {
        match response.chunk().await {
            Ok(None) => Ok(None),
            Ok(Some(chunk)) => {
                let got_bytes = got_bytes + chunk.len() as u64;
                Ok(Some((chunk, (response, part, got_bytes))))
            }
            Err(e) if ended_early(&e) => {
                Err(FetchError::Truncated { origin: part.origin, got_bytes: part.from + got_bytes })
            }
            Err(e) => Err(FetchError::Unreachable { url: part.origin, why: why(&e) }),
        }
    })
    .boxed()
}

fn part(response: &Response, asked_from: Option<u64>) -> Result<Part, FetchError> {
    let (origin, is_part) = (response.url().to_string(), response.status() == StatusCode::PARTIAL_CONTENT);
    match response::bytes_of(is_part, response.headers(), asked_from) {
        Ok((from, announced)) => Ok(Part { origin, from, announced }),
        Err(what) => Err(FetchError::WrongPart { url: origin, what }),
    }
}

/// Why a request brought no answer.
fn no_answer(error: &reqwest::Error, url: &Url) -> FetchError {
    if let Some(why) = cause::<RedirectFault>(error) {
        return FetchError::Redirect { url: url.to_string(), why: why.clone() };
    }
    let refused = cause::<std::io::Error>(error).and_then(std::io::Error::raw_os_error);
    if let Some(source) = refused.map(std::io::Error::from_raw_os_error).filter(units::no_descriptor) {
        return FetchError::NoDescriptor { url: url.to_string(), source };
    }
    match speaks_otherwise(error) {
        Some(why) => FetchError::WrongScheme { url: url.clone(), why },
        None => FetchError::Unreachable { url: url.to_string(), why: why(error) },
    }
}

/// The causes of an error, outermost first.
fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |&error| {
        // An I/O error that carries another one names that one's cause as its own, and not the error itself.
        let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        carried.map(|e| e as &(dyn std::error::Error + 'static)).or_else(|| error.source())
    })
}

fn cause<E: std::error::Error + 'static>(error: &reqwest::Error) -> Option<&E> {
    chain(error).find_map(|cause| cause.downcast_ref())
}

/// How something answered that speaks another protocol: no TLS where TLS was asked, or no HTTP.
fn speaks_otherwise(error: &reqwest::Error) -> Option<String> {
    let hangs_up = |e: &std::io::Error| e.kind() == std::io::ErrorKind::UnexpectedEof;
    if error.is_connect() && chain(error).filter_map(|e| e.downcast_ref()).any(hangs_up) {
        return Some("it hangs up".into());
    }
    let otherwise = matches!(cause(error), Some(rustls::Error::InvalidMessage(_)))
        || cause::<hyper::Error>(error).is_some_and(hyper::Error::is_parse);
    otherwise.then(|| why(error))
}

/// Whether a body ended before its announced length.
fn ended_early(error: &reqwest::Error) -> bool {
    let eof = |e: &std::io::Error| e.kind() == std::io::ErrorKind::UnexpectedEof;
    cause(error).is_some_and(eof)
        || cause::<hyper::Error>(error).is_some_and(hyper::Error::is_incomplete_message)
}

/// Why a request or a body failed: the last cause, since those before it say where in the client that was.
pub(super) fn why(error: &reqwest::Error) -> String {
    if let Some(rustls::Error::InvalidCertificate(fault)) = cause(error) {
        return certificate(fault).to_owned();
    }
    let Some(last) = std::iter::successors(error.source(), |&error| error.source()).last() else {
        return error.to_string();
    };
    let said = last.downcast_ref().map_or_else(|| last.to_string(), os);
    match said.strip_prefix("failed to lookup address information: ") {
        Some(resolver) => format!("the resolver says: {resolver}"),
        None => said,
    }
}

/// What is wrong with a certificate; rustls says it in the names of its variants.
fn certificate(fault: &CertificateError) -> &'static str {
    match fault {
        CertificateError::UnknownIssuer => "its certificate is of no authority that this machine trusts",
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "its certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "its certificate is not valid yet; see that this machine's clock is right"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "its certificate is for another name"
        }
        _ => "its certificate is not valid",
    }
}
