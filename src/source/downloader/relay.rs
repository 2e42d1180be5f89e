//! The intake: an HTTP listener of this host alone, there while freshclam runs, which passes its requests on and keeps
//! what comes back.
//!
//! Guarantees: only names of the databases that are mirrored are passed on, under a path that nobody else knows; a
//! request goes out with the fields it came with; what is kept was received whole.
use crate::{
    cvd::{Database, FileName},
    source::{
        FetchError, Incoming, Wanted,
        fields::end_to_end,
        get::Passed,
        http::{HttpSource, Passer},
    },
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream::try_unfold};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming as Asked},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{fs, io::AsyncWriteExt as _, net::TcpListener, sync::Semaphore, task::JoinSet, time::sleep};

/// Connections at a time; freshclam has one.
const CONNECTIONS: usize = 8;
/// The pause after an error of accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A relay of one run.
pub(super) struct Relay<'a> {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
    upstream: &'a HttpSource,
}

struct Shared {
    prefix: String,
    into: PathBuf,
    databases: Vec<Database>,
    /// The first trouble with the upstream, but for what it does not have.
    failure: Mutex<Option<FetchError>>,
    asked: AtomicBool,
}

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

impl<'a> Relay<'a> {
    pub(super) async fn bind(
        upstream: &'a HttpSource,
        into: PathBuf,
        databases: &[Database],
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let prefix = format!("/{:032x}/", rand::random::<u128>());
        let (failure, asked, databases) = (Mutex::default(), AtomicBool::default(), databases.to_vec());
        let shared = Arc::new(Shared { prefix, into, databases, failure, asked });
        Ok(Self { listener, address, shared, upstream })
    }

    /// Where it is asked.
    pub(super) fn url(&self) -> String {
        format!("http://{}{}", self.address, self.shared.prefix.trim_end_matches('/'))
    }

    /// What the upstream refused or failed to give.
    pub(super) fn failure(&self) -> Option<FetchError> {
        self.shared.failure.lock().take()
    }

    /// Whether anything came.
    pub(super) fn was_asked(&self) -> bool {
        self.shared.asked.load(Ordering::Relaxed)
    }

    /// Serves until it is dropped, and every connection with it.
    pub(super) async fn serve(&self) -> Infallible {
        let (mut connections, free) = (JoinSet::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            while connections.try_join_next().is_some() {}
            // Never closed.
            let Ok(permit) = free.clone().acquire_owned().await else { continue };
            let Ok((stream, _)) = self.listener.accept().await else {
                // Most often descriptors ran out.
                sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let (shared, upstream) = (self.shared.clone(), self.upstream.passer());
            connections.spawn(async move {
                let _permit = permit;
                let service = service_fn(|request| {
                    let (shared, upstream) = (shared.clone(), upstream.clone());
                    async move { Ok::<_, Infallible>(shared.answer(request, upstream).await) }
                });
                // An error means that the client went away.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    }
}

impl Shared {
    async fn answer(self: &Arc<Self>, request: Request<Asked>, upstream: Passer) -> Answer {
        let Some(name) = request.uri().path().strip_prefix(&self.prefix) else {
            return bare(StatusCode::NOT_FOUND);
        };
        self.asked.store(true, Ordering::Relaxed);
        let ranged = request.headers().contains_key(header::RANGE);
        let Some(wanted) = self.wanted(name, ranged).filter(|_| request.method() == http::Method::GET) else {
            return bare(StatusCode::NOT_FOUND);
        };
        let fields = end_to_end(request.headers());
        match upstream.pass(name, &wanted, fields).await {
            Ok(passed) => self.keep(name, &wanted, passed).await.unwrap_or_else(|e| {
                tracing::warn!("{}: {e}", self.into.display());
                bare(StatusCode::BAD_GATEWAY)
            }),
            Err(e) => self.refuse(e),
        }
    }

    /// What is asked for, if it is a file of a database that is mirrored.
    fn wanted(&self, name: &str, ranged: bool) -> Option<Wanted> {
        let known = |database: &Database| self.databases.contains(database).then_some(());
        if let Ok(name) = name.parse::<FileName>() {
            known(&name.database)?;
            return Some(Wanted::Named(name));
        }
        let database: Database = name.strip_suffix(".cvd")?.parse().ok()?;
        known(&database)?;
        Some(if ranged { Wanted::Header(database, None) } else { Wanted::Cvd(database, 0) })
    }

    /// The upstream's answer as freshclam knows it.
    fn refuse(&self, e: FetchError) -> Answer {
        let mut answer = bare(match &e {
            FetchError::Absent { .. } => StatusCode::NOT_FOUND,
            FetchError::Denied { .. } => StatusCode::FORBIDDEN,
            FetchError::Limited { .. } | FetchError::CoolDown { .. } => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::BAD_GATEWAY,
        });
        let wait_s = match &e {
            FetchError::Limited { wait_s, .. } => *wait_s,
            FetchError::CoolDown { wait_s, .. } => Some(*wait_s),
            _ => None,
        };
        if let Some(wait_s) = wait_s {
            answer.headers_mut().insert(header::RETRY_AFTER, wait_s.into());
        }
        if !matches!(e, FetchError::Absent { .. }) {
            self.failure.lock().get_or_insert(e);
        }
        answer
    }

    /// The next piece of a body; why one does not come is remembered.
    async fn next(&self, incoming: &mut Incoming) -> io::Result<Option<Bytes>> {
        incoming.chunk().await.map_err(|e| {
            let broken = io::Error::other(e.to_string());
            self.failure.lock().get_or_insert(e);
            broken
        })
    }

    /// Passes an answer on, and keeps its body where it is whole.
    async fn keep(self: &Arc<Self>, name: &str, wanted: &Wanted, passed: Passed) -> io::Result<Answer> {
        let Passed { status, fields, incoming } = passed;
        let mut answer = bare(status);
        *answer.headers_mut() = end_to_end(&fields);
        let Some(mut incoming) = incoming else { return Ok(answer) };
        if let Some(bytes) = incoming.announced {
            answer.headers_mut().insert(header::CONTENT_LENGTH, bytes.into());
        }
        // No other request writes to it, and no link leads out of here.
        let part = self.into.join(format!(".{name}.{:016x}.part", rand::random::<u64>()));
        let mut kept = Kept { file: fs::File::create_new(&part).await?, part, whole: None };
        // A header that is asked for again must not stand where the whole file does.
        let whole = self.into.join(name);
        kept.whole = (!matches!(wanted, Wanted::Header(..)) || !whole.exists()).then_some(whole);
        // A piece ahead: who has got all the bytes that were announced does not ask for the end.
        let next = self.next(&mut incoming).await?;
        if next.is_none() {
            kept.finish().await?;
        }
        let begun = (self.clone(), incoming, next, kept);
        let body = try_unfold(begun, |(shared, mut incoming, next, mut kept)| async move {
            let Some(chunk) = next else { return Ok::<_, io::Error>(None) };
            kept.file.write_all(&chunk).await?;
            let next = shared.next(&mut incoming).await?;
            if next.is_none() {
                kept.finish().await?;
            }
            Ok(Some((Frame::data(chunk), (shared, incoming, next, kept))))
        });
        *answer.body_mut() = UnsyncBoxBody::new(StreamBody::new(body.boxed()));
        Ok(answer)
    }
}

/// A body on its way into a file.
struct Kept {
    file: fs::File,
    part: PathBuf,
    /// Its name once it is whole; none where it is not needed.
    whole: Option<PathBuf>,
}

impl Kept {
    async fn finish(&mut self) -> io::Result<()> {
        self.file.flush().await?;
        match &self.whole {
            Some(whole) => fs::rename(&self.part, whole).await,
            None => fs::remove_file(&self.part).await,
        }
    }
}

fn bare(status: StatusCode) -> Answer {
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *answer.status_mut() = status;
    answer
}
