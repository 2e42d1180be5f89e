//! One request, one answer: a line of named steps.
//!
//! Method → target → snapshot → resource → conditions (RFC 9110, 13.2.2) → range → content. Everything an answer
//! says comes from the one snapshot taken at its start. 403 and 429 are never given: ClamAV's clients take them as
//! a ban. Whatever is not an answer for ever says `no-store` or `no-cache`.
use super::{
    Aliases, Freshness, Site,
    access::{Access, Asked},
    body::{Body, BodyError, Chunks, Payload},
    conditional::{self, Validators, Verdict},
    metrics::Kind,
    page, pages,
    range::{self, Selection},
    target::{NoTarget, Target},
};
use crate::{
    clock::epoch_s,
    cvd::{FileKind, FileName},
    exposition,
    mirror::Snapshot,
};
use bytes::Bytes;
use cvdmirror_store::{Hasher, NameRecord, ObjectId};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Version,
    header::{
        ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE,
        CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION,
        REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
    },
};
use std::{net::IpAddr, sync::Arc};

const FOR_EVER: &str = "public, max-age=31536000, immutable";
const REVALIDATE: &str = "no-cache";
const NO_STORE: &str = "no-store";
const TEXT: &str = "text/plain; charset=utf-8";

/// Answers a request.
pub(super) async fn answer<B: hyper::body::Body>(
    site: &Arc<Site>,
    peer: Option<IpAddr>,
    request: Request<B>,
) -> Response<Body> {
    let target = Target::parse(request.uri());
    let asked = Asked {
        peer,
        method: request.method(),
        uri: request.uri(),
        version: request.version(),
        headers: request.headers(),
    };
    let mut access = Access::new(&asked, Kind::of(&target), site.clone());
    let mut answer = match steps(site, &request, target, &mut access).await {
        Ok(answer) => answer,
        Err(refusal) => {
            if let Refusal::Unreadable(error) = &refusal {
                access.broke(error);
            }
            refusal.answer()
        }
    };
    let length = answer.body().size();
    if answer.status() != StatusCode::NOT_MODIFIED && !answer.headers().contains_key(CONTENT_LENGTH) {
        answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    if *request.method() == Method::HEAD {
        *answer.body_mut() = Payload::Empty;
    }
    if !request.body().is_end_stream() {
        // Nothing here reads a request's content, so what follows on this connection could not be told from it.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    access.answer(answer.status(), answer.body().size());
    answer.map(|payload| Body::new(payload, access))
}

async fn steps<B>(
    site: &Site,
    request: &Request<B>,
    target: Result<Target, NoTarget>,
    access: &mut Access,
) -> Result<Response<Payload>, Refusal> {
    check_method(request.method())?;
    check_host(request)?;
    let target = target?;
    let snapshot = site.published.load_full();
    let found = match find(site, &snapshot, target)? {
        Resource::Redirect(name) => return Ok(redirect(&name)),
        Resource::Found(found) => found,
    };
    if let Some(file) = &found.file {
        access.found(file);
    }
    let may_take_part = match found.check_conditions(request.headers()) {
        Verdict::Proceed { range } => range,
        Verdict::NotModified => return Ok(found.head(StatusCode::NOT_MODIFIED)),
        Verdict::PreconditionFailed => return Err(Refusal::PreconditionFailed),
    };
    let (status, span) = match range::select(request.method(), request.headers(), found.size()) {
        Selection::TooMany => return Err(Refusal::Malformed("too many ranges")),
        Selection::Part(part) if may_take_part && found.has_parts() => (StatusCode::PARTIAL_CONTENT, part),
        Selection::Unsatisfiable if may_take_part && found.has_parts() => {
            return Err(Refusal::Unsatisfiable(found.size()));
        }
        _ => (found.status, 0..found.size()),
    };
    let mut answer = found.head(status);
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(found.content_type));
    headers.insert(CONTENT_LENGTH, (span.end - span.start).into());
    if status == StatusCode::PARTIAL_CONTENT {
        insert(headers, CONTENT_RANGE, format!("bytes {}-{}/{}", span.start, span.end - 1, found.size()));
    }
    *answer.body_mut() = match found.content {
        _ if *request.method() == Method::HEAD || span.is_empty() => Payload::Empty,
        Content::Page(page) => Payload::Page(page),
        Content::Object { id, .. } => {
            let chunks = Chunks::open(snapshot.view.clone(), id, span).await;
            Payload::Object(chunks.map_err(Refusal::Unreadable)?)
        }
    };
    Ok(answer)
}

fn check_method(method: &Method) -> Result<(), Refusal> {
    match *method {
        Method::GET | Method::HEAD => Ok(()),
        _ => Err(Refusal::Method),
    }
}

/// RFC 9112, 3.2: an HTTP/1.1 request without exactly one Host is answered 400. With a target in absolute form it
/// says nothing that counts, and is not asked for.
fn check_host<B>(request: &Request<B>) -> Result<(), Refusal> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let needed = request.version() == Version::HTTP_11 && request.uri().authority().is_none();
    if hosts > 1 || (hosts == 0 && needed) {
        return Err(Refusal::Malformed("exactly one Host field is needed"));
    }
    Ok(())
}

/// What a target leads to.
enum Resource {
    Found(Found),
    Redirect(FileName),
}

/// A representation.
struct Found {
    status: StatusCode,
    /// The versioned name, of what is asked for by name.
    file: Option<FileName>,
    content: Content,
    content_type: &'static str,
    cache: &'static str,
    /// What a browser may do with it (CSP), where a browser shows it.
    policy: Option<&'static str>,
    /// None where there is nothing to ask conditions about: what is never stored.
    validators: Option<Validators>,
}

enum Content {
    Object { id: ObjectId, size: u64 },
    Page(Bytes),
}

fn find(site: &Site, snapshot: &Snapshot, target: Target) -> Result<Resource, Refusal> {
    let health = || (site.health)(snapshot);
    let found = match target {
        Target::File(name) => {
            let record = record(snapshot, &name)?;
            Found::object(Some(name), record, FOR_EVER)
        }
        Target::Object(id) => {
            // Only what a published name is bound to: the store may hold what is not to be served.
            let record = snapshot.files.values().find(|record| record.object == id);
            Found::object(None, record.ok_or(Refusal::Unknown)?, FOR_EVER)
        }
        Target::Alias(database) => {
            let published = snapshot.databases.get(&database).ok_or(Refusal::Unknown)?;
            return alias(site, snapshot, FileName::new(&database, published.cvd, FileKind::Cvd));
        }
        Target::AliasAt(name) => return alias(site, snapshot, name),
        Target::Index => {
            let json = pages::index(snapshot).map_err(|_| Refusal::Internal)?;
            Found::page(json, "application/json", REVALIDATE)
        }
        Target::DnsTxt => {
            let records = snapshot.txt_records().ok_or(Refusal::Unknown)?;
            Found::page(records, TEXT, REVALIDATE)
        }
        Target::Status => {
            let overview = (site.overview)(snapshot);
            let html = page::render(snapshot, &health(), &overview, &site.metrics, epoch_s());
            let html = html.map_err(|_| Refusal::Internal)?;
            Found { policy: Some(&page::POLICY), ..Found::page(html, "text/html; charset=utf-8", NO_STORE) }
        }
        Target::Metrics => {
            let text = site.metrics.render(snapshot, &health());
            Found::page(text, exposition::CONTENT_TYPE, NO_STORE)
        }
        Target::Health => {
            let health = health();
            let mut found = Found::page(pages::health(&health), TEXT, NO_STORE);
            if let Freshness::Stale { .. } = health.freshness {
                found.status = StatusCode::SERVICE_UNAVAILABLE;
            }
            found
        }
    };
    Ok(Resource::Found(found))
}

fn record<'a>(snapshot: &'a Snapshot, name: &FileName) -> Result<&'a NameRecord, Refusal> {
    snapshot.files.get(name).ok_or(Refusal::Unknown)
}

fn alias(site: &Site, snapshot: &Snapshot, name: FileName) -> Result<Resource, Refusal> {
    let record = record(snapshot, &name)?;
    Ok(match site.aliases {
        Aliases::Redirect => Resource::Redirect(name),
        Aliases::Direct => Resource::Found(Found::object(Some(name), record, REVALIDATE)),
    })
}

fn redirect(name: &FileName) -> Response<Payload> {
    let mut answer = note(StatusCode::FOUND, format!("/{name}\n"));
    insert(answer.headers_mut(), LOCATION, format!("/{name}"));
    answer
}

impl Found {
    fn object(file: Option<FileName>, record: &NameRecord, cache: &'static str) -> Self {
        Self {
            status: StatusCode::OK,
            file,
            content: Content::Object { id: record.object, size: record.size },
            content_type: "application/octet-stream",
            cache,
            policy: None,
            validators: Some(Validators {
                etag: record.object.to_string(),
                // A date that HTTP cannot say is not said, nor compared.
                modified_s: record.modified_s.filter(|s| pages::http_date(*s).is_some()),
            }),
        }
    }

    fn page(content: impl Into<Bytes>, content_type: &'static str, cache: &'static str) -> Self {
        let content = content.into();
        let validators = (cache != NO_STORE).then(|| {
            let mut hasher = Hasher::new();
            hasher.update(&content);
            Validators { etag: hasher.finish().to_string(), modified_s: None }
        });
        Self {
            status: StatusCode::OK,
            file: None,
            content: Content::Page(content),
            content_type,
            cache,
            policy: None,
            validators,
        }
    }

    fn size(&self) -> u64 {
        match &self.content {
            Content::Object { size, .. } => *size,
            Content::Page(page) => page.len() as u64,
        }
    }

    fn has_parts(&self) -> bool {
        matches!(self.content, Content::Object { .. })
    }

    fn check_conditions(&self, headers: &HeaderMap) -> Verdict {
        match &self.validators {
            Some(validators) => conditional::evaluate(headers, validators),
            None => Verdict::Proceed { range: false },
        }
    }

    /// The answer without its content: what 200, 206 and 304 say alike (RFC 9110, 15.4.5).
    fn head(&self, status: StatusCode) -> Response<Payload> {
        let mut answer = Response::new(Payload::Empty);
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(self.cache));
        if let Some(validators) = &self.validators {
            insert(headers, ETAG, format!("\"{}\"", validators.etag));
            if let Some(date) = validators.modified_s.and_then(pages::http_date) {
                insert(headers, LAST_MODIFIED, date);
            }
        }
        if let Some(policy) = self.policy {
            insert(headers, CONTENT_SECURITY_POLICY, policy.to_owned());
            headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        }
        if self.has_parts() {
            headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        answer
    }
}

/// Sets a field whose value was made here from hex digits, numbers, dates and names of the closed grammar: always
/// a valid value. Were it not, the field would be left out.
fn insert(headers: &mut HeaderMap, name: HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        headers.insert(name, value);
    }
}

/// Why a request is not answered with what it asks for.
enum Refusal {
    /// 400, and why.
    Malformed(&'static str),
    /// 404.
    Unknown,
    /// 405.
    Method,
    /// 412.
    PreconditionFailed,
    /// 416, and the whole length.
    Unsatisfiable(u64),
    /// 500.
    Internal,
    /// 503: the object is published, and this server cannot read it.
    Unreadable(BodyError),
}

impl From<NoTarget> for Refusal {
    fn from(none: NoTarget) -> Self {
        match none {
            NoTarget::Malformed => Self::Malformed("the request target is no path"),
            NoTarget::Unknown => Self::Unknown,
        }
    }
}

impl Refusal {
    fn answer(&self) -> Response<Payload> {
        match self {
            Self::Malformed(why) => note(StatusCode::BAD_REQUEST, format!("{why}\n")),
            Self::Unknown => note(StatusCode::NOT_FOUND, "not here\n".into()),
            Self::Method => {
                let mut answer = note(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".into());
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                answer
            }
            Self::PreconditionFailed => {
                note(StatusCode::PRECONDITION_FAILED, "the condition does not hold\n".into())
            }
            Self::Unsatisfiable(len) => {
                let mut answer =
                    note(StatusCode::RANGE_NOT_SATISFIABLE, "the range begins past the end\n".into());
                insert(answer.headers_mut(), CONTENT_RANGE, format!("bytes */{len}"));
                answer
            }
            Self::Internal => note(StatusCode::INTERNAL_SERVER_ERROR, "internal error\n".into()),
            Self::Unreadable(_) => {
                note(StatusCode::SERVICE_UNAVAILABLE, "the file cannot be read here now\n".into())
            }
        }
    }
}

/// A short text that no cache may keep.
fn note(status: StatusCode, text: String) -> Response<Payload> {
    let mut answer = Response::new(Payload::Page(text.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(NO_STORE));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
    answer
}
