//! One request, one answer, in named steps.
//!
//! Method → target → snapshot → resource → conditions (RFC 9110, 13.2.2) → range → content. Everything an answer
//! says comes from one snapshot, taken at its start. It is never 403 or 429: ClamAV's clients take these as a ban. Every
//! answer that may change later says `no-store` or `no-cache`.
use super::{
    Aliases, Line, Site,
    access::{Access, RequestHead},
    body::{Body, Chunks, Payload},
    conditional::{self, Validators, Verdict},
    metrics::Kind,
    page::{self, Visit},
    pages,
    range::{self, Selection},
    refusal::{NO_STORE, Refusal, TEXT, insert, note},
    seen,
    target::{NoTarget, Target},
};
use crate::{
    cvd::{FileKind, FileName},
    exposition,
    mirror::{Snapshot, Standing},
};
use bytes::Bytes;
use cvdmirror_store::{Hasher, NameRecord, ObjectId, View};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode, Uri, Version,
    header::{
        ACCEPT_RANGES, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_SECURITY_POLICY,
        CONTENT_TYPE, ETAG, HOST, HeaderValue, LAST_MODIFIED, LOCATION, REFERRER_POLICY, TRANSFER_ENCODING,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

const FOR_EVER: &str = "public, max-age=31536000, immutable";
const REVALIDATE: &str = "no-cache";
const OBJECT: &str = "application/octet-stream";

/// Answers a request.
pub(super) async fn answer<B>(site: &Arc<Site>, line: &Line, mut request: Request<B>) -> Response<Body>
where
    B: hyper::body::Body + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let target = Target::parse(request.uri());
    let (tells, has_content) = (seen::tells(site, &request), !request.body().is_end_stream());
    let asked = RequestHead {
        peer: line.peer,
        method: request.method(),
        uri: request.uri(),
        version: request.version(),
        headers: request.headers(),
    };
    let mut access = Access::new(&asked, if tells { Kind::Page } else { Kind::of(&target) }, site.clone());
    let answered = match *request.method() {
        Method::CONNECT => connect(site, line, &request).await,
        Method::POST if tells => {
            match check_host(&request).and_then(|()| check_authority(site, line, request.uri())) {
                Ok(()) => seen::take(site, &mut request).await,
                Err(refusal) => Err(refusal),
            }
        }
        _ => steps(site, line, &request, target, &mut access).await,
    };
    let mut answer = match answered {
        Ok(answer) => answer,
        Err(refusal) => {
            if let Refusal::Unreadable(error) = &refusal {
                access.broke(error);
            }
            refusal.answer()
        }
    };
    let length = answer.body().size();
    // What follows 200 to CONNECT is no content (RFC 9110, 9.3.6).
    let is_tunnel = line.way.lock().is_some();
    if answer.status() != StatusCode::NOT_MODIFIED
        && !is_tunnel
        && !answer.headers().contains_key(CONTENT_LENGTH)
    {
        answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    if *request.method() == Method::HEAD {
        *answer.body_mut() = Payload::Empty;
    }
    if has_content || (*request.method() == Method::CONNECT && !is_tunnel) {
        // Content is not read, or not as a rule, so the next request on this connection could not be told from it.
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    access.answer(answer.status(), answer.body().size());
    answer.map(|payload| Body::new(payload, access))
}

/// Opens a tunnel, where this server is a client's proxy.
async fn connect<B>(site: &Site, line: &Line, request: &Request<B>) -> Result<Response<Payload>, Refusal> {
    let proxy = site.proxy.as_ref().ok_or(Refusal::Method)?;
    check_host(request)?;
    if request.headers().contains_key(CONTENT_LENGTH) || request.headers().contains_key(TRANSFER_ENCODING) {
        return Err(Refusal::Malformed("CONNECT has no content"));
    }
    if line.inside.load(Relaxed) {
        return Err(Refusal::Malformed("no tunnel begins inside another"));
    }
    let way = proxy.open(request.uri()).await?;
    *line.way.lock() = Some(way);
    Ok(Response::new(Payload::Empty))
}

async fn steps<B>(
    site: &Site,
    line: &Line,
    request: &Request<B>,
    target: Result<Target, NoTarget>,
    access: &mut Access,
) -> Result<Response<Payload>, Refusal> {
    check_method(request.method())?;
    check_host(request)?;
    check_authority(site, line, request.uri())?;
    let target = target?;
    let mut standing = site.mirror.standing();
    if let (Some(demands), Target::File(name) | Target::AliasAt(name)) = (&site.demands, &target)
        && *request.method() == Method::GET
        && !standing.snapshot.files.contains_key(name)
    {
        demands.wait(name, request.headers()).await?;
        standing = site.mirror.standing();
    }
    let found = match find(site, &standing, target, request.headers())? {
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
        Content::Object { view, id, .. } => {
            let chunks = Chunks::open(view, &site.hot, id, span).await;
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

/// RFC 9112, 3.2: an HTTP/1.1 request without exactly one Host is answered 400. With a target in absolute form Host is
/// ignored, so it may be missing.
fn check_host<B>(request: &Request<B>) -> Result<(), Refusal> {
    let hosts = request.headers().get_all(HOST).iter().count();
    let needed = request.version() == Version::HTTP_11 && request.uri().authority().is_none();
    if hosts > 1 || (hosts == 0 && needed) {
        return Err(Refusal::Malformed("exactly one Host field is needed"));
    }
    Ok(())
}

/// RFC 9110, 7.4: a target in absolute form is answered if its host is this one, or one that this server stands for.
fn check_authority(site: &Site, line: &Line, uri: &Uri) -> Result<(), Refusal> {
    let Some(host) = uri.host().filter(|_| uri.scheme().is_some()) else { return Ok(()) };
    let is_address = |own: IpAddr| {
        let asked = host.trim_matches(['[', ']']).parse::<IpAddr>();
        asked.is_ok_and(|asked| asked.to_canonical() == own.to_canonical())
    };
    let own = line.own.is_some_and(is_address)
        || host.eq_ignore_ascii_case("localhost")
        || site
            .url
            .parse::<Uri>()
            .is_ok_and(|url| url.host().is_some_and(|own| own.eq_ignore_ascii_case(host)));
    match own || site.proxy.as_ref().is_some_and(|proxy| proxy.stands_for(uri)) {
        true => Ok(()),
        false => Err(Refusal::Misdirected),
    }
}

/// What a target leads to.
enum Resource {
    Found(Found),
    Redirect(String),
}

/// A representation.
struct Found {
    status: StatusCode,
    /// The versioned name, if it was asked for by name.
    file: Option<FileName>,
    content: Content,
    content_type: &'static str,
    cache: &'static str,
    /// What a browser may do with it (CSP), where a browser shows it.
    policy: Option<&'static str>,
    /// `None` for what is never stored, so that no condition applies.
    validators: Option<Validators>,
}

enum Content {
    Object { view: Arc<View>, id: ObjectId, size: u64 },
    Page(Bytes),
}

fn find(site: &Site, standing: &Standing, target: Target, headers: &HeaderMap) -> Result<Resource, Refusal> {
    let snapshot = &*standing.snapshot;
    let found = match target {
        Target::File(name) => {
            let record = record(snapshot, &name)?;
            Found::object(Some(name), record, &snapshot.view, FOR_EVER)
        }
        Target::Object(id) => {
            // Only objects of published names: the store may hold others that must not be served.
            let files = snapshot.files.values().map(|record| (record, &snapshot.view));
            let clds = standing.clds().map(|(_, record, view)| (record, view));
            let found = files.chain(clds).find(|(record, _)| record.object == id);
            match found {
                Some((record, view)) => Found::object(None, record, view, FOR_EVER),
                None => {
                    let sign = standing.cld_signs().find(|(_, sign)| sign.object == id);
                    Found::page(sign.ok_or(Refusal::Unknown)?.1.content.clone(), OBJECT, FOR_EVER)
                }
            }
        }
        Target::Alias(database) => {
            let published = snapshot.databases.get(&database).ok_or(Refusal::Unknown)?;
            return alias(site, snapshot, FileName::new(&database, published.cvd, FileKind::Cvd));
        }
        Target::AliasAt(name) => return alias(site, snapshot, name),
        Target::Cld(cvd) => cld(standing, cvd, FOR_EVER)?,
        Target::CldSign(cvd) => {
            let sign = standing.cld_signs().find(|(of, _)| **of == cvd).ok_or(Refusal::Unknown)?;
            // Its signer is renewed now and then, and it with it.
            Found::page(sign.1.content.clone(), OBJECT, REVALIDATE)
        }
        Target::CldAlias(database) => {
            // Never an older one: who asks for it would not ask for the CVD any more.
            let published = snapshot.databases.get(&database).ok_or(Refusal::Unknown)?;
            let found = cld(standing, FileName::new(&database, published.cvd, FileKind::Cvd), REVALIDATE)?;
            match (site.aliases, &found.file) {
                (Aliases::Redirect, Some(cvd)) => return Ok(Resource::Redirect(cvd.cld())),
                _ => found,
            }
        }
        Target::Index => {
            let json = pages::index(standing).map_err(|_| Refusal::Internal)?;
            Found::page(json, "application/json", REVALIDATE)
        }
        Target::DnsTxt => {
            let records = snapshot.txt_records().ok_or(Refusal::Unknown)?;
            Found::page(records, TEXT, REVALIDATE)
        }
        Target::Status(search) => {
            let clients = site.clients.as_ref().map(|clients| clients.report(&snapshot.versions()));
            let visit = Visit { host: headers.get(HOST), search };
            let html = page::render(standing, site, visit, clients.as_ref(), standing.now_s());
            let html = html.map_err(|_| Refusal::Internal)?;
            Found { policy: Some(&page::POLICY), ..Found::page(html, "text/html; charset=utf-8", NO_STORE) }
        }
        Target::Metrics => {
            let text = site.metrics.render(standing, standing.now_s());
            Found::page(text, exposition::CONTENT_TYPE, NO_STORE)
        }
        Target::Live => Found::page("alive\n", TEXT, NO_STORE),
        Target::Ready => match snapshot.databases.is_empty() {
            false => Found::page("ready\n", TEXT, NO_STORE),
            true => Found {
                status: StatusCode::SERVICE_UNAVAILABLE,
                ..Found::page("nothing is published yet\n", TEXT, NO_STORE)
            },
        },
        Target::Health => {
            let health = standing.health(standing.now_s());
            let mut found = Found::page(pages::health(&health), TEXT, NO_STORE);
            if !health.is_fresh() {
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
        Aliases::Redirect => Resource::Redirect(name.to_string()),
        Aliases::Direct => Resource::Found(Found::object(Some(name), record, &snapshot.view, REVALIDATE)),
    })
}

/// The CLD of a CVD, if there is one.
fn cld(standing: &Standing, cvd: FileName, cache: &'static str) -> Result<Found, Refusal> {
    let (_, record, view) = standing.clds().find(|(of, ..)| **of == cvd).ok_or(Refusal::Unknown)?;
    Ok(Found::object(Some(cvd), record, view, cache))
}

fn redirect(name: &str) -> Response<Payload> {
    let mut answer = note(StatusCode::FOUND, format!("/{name}\n"));
    insert(answer.headers_mut(), LOCATION, format!("/{name}"));
    answer
}

impl Found {
    fn object(file: Option<FileName>, record: &NameRecord, view: &Arc<View>, cache: &'static str) -> Self {
        Self {
            status: StatusCode::OK,
            file,
            content: Content::Object { view: view.clone(), id: record.object, size: record.size },
            content_type: OBJECT,
            cache,
            policy: None,
            validators: Some(Validators {
                etag: record.object.to_string(),
                // A date that HTTP cannot express is neither sent nor compared.
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

    /// The header fields that 200, 206 and 304 have in common (RFC 9110, 15.4.5).
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
