//! The socket in the data directory through which `sync` and `status` speak with the running server.
//!
//! HTTP/1.1 over a Unix socket that only the server's user may open: `GET /status`, `GET /packs`, `GET /clients`,
//! `POST /sync`, `POST /gc`, `POST /look`, `POST /rotten/<pack>/<object>`; JSON answers.
use crate::{
    clients::{Clients, Report},
    clock::epoch_s,
    mirror::{DataDir, Mirror, Round, retention::Tidied, state::KnownPacks, status::Status},
};
use cvdmirror_store::{ObjectId, PackId};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::{
    fs::File,
    future::Future,
    io,
    os::{fd::AsRawFd, unix::fs::PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::{UnixListener, UnixStream};

/// Bytes of an answer at most.
const MAX_ANSWER_BYTES: usize = 16 << 20;

/// The listening end. Its file goes when it is dropped.
#[derive(Debug)]
pub struct Control {
    listener: UnixListener,
    path: PathBuf,
}

impl Control {
    /// Listens in a data directory whose lock is held, so that whatever lies there is a leftover.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn bind(dir: &DataDir) -> io::Result<Self> {
        let path = dir.control();
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let listener = short_path(&path, |path| UnixListener::bind(path))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self { listener, path })
    }

    /// Answers until `shutdown`.
    pub async fn serve(
        self,
        mirror: Arc<Mirror>,
        clients: Option<Arc<Clients>>,
        dir: DataDir,
        max_age: Duration,
        shutdown: impl Future<Output = ()>,
    ) {
        let mut shutdown = std::pin::pin!(shutdown);
        loop {
            let stream = tokio::select! {
                () = &mut shutdown => return,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(e) => {
                        tracing::warn!("`status` and `sync` cannot reach this server now: control socket: {e}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                },
            };
            let (mirror, clients, dir) = (mirror.clone(), clients.clone(), dir.clone());
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let (mirror, clients, dir) = (mirror.clone(), clients.clone(), dir.clone());
                async move {
                    let answer = answer(&request, &mirror, clients.as_deref(), &dir, max_age).await;
                    Ok::<_, std::convert::Infallible>(answer)
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
            );
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A leftover is harmless: the next server removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

async fn answer(
    request: &Request<Incoming>,
    mirror: &Mirror,
    clients: Option<&Clients>,
    dir: &DataDir,
    max_age: Duration,
) -> Response<Full<Bytes>> {
    let json = match (request.method(), request.uri().path()) {
        (&Method::GET, "/status") => {
            serde_json::to_vec(&mirror.status(dir, &mirror.published().load(), max_age))
        }
        (&Method::GET, "/clients") => {
            let published = mirror.published().load().versions();
            serde_json::to_vec(&clients.map(|clients| clients.report(&published)))
        }
        (&Method::POST, "/sync") => serde_json::to_vec(&mirror.round().await),
        (&Method::POST, "/look") => serde_json::to_vec(&mirror.look().await.map_err(|e| e.to_string())),
        (&Method::GET, "/packs") => serde_json::to_vec(&mirror.known_packs().map_err(|e| e.to_string())),
        (&Method::POST, path) if path.starts_with("/rotten/") => {
            serde_json::to_vec(&tokio::task::block_in_place(|| mirror.suspect(&path["/rotten/".len()..])))
        }
        (&Method::GET, "/gc") => serde_json::to_vec(&mirror.would_tidy(epoch_s())),
        (&Method::POST, "/gc") => serde_json::to_vec(&mirror.gc(epoch_s()).await.map_err(|e| e.to_string())),
        _ => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::NOT_FOUND;
            return response;
        }
    };
    match json {
        Ok(body) => Response::new(body.into()),
        Err(e) => {
            let mut response = Response::new(Full::from(e.to_string()));
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            response
        }
    }
}

/// Asks the running server how it is; `None` when none is running.
///
/// # Errors
/// When a server is there and does not answer properly.
pub async fn status(dir: &DataDir) -> io::Result<Option<Status>> {
    ask(dir, Method::GET, "/status").await
}

/// Asks the running server who asked it lately; `None` when none is running, `Some(None)` when it remembers nobody.
///
/// # Errors
/// When a server is there and does not answer properly.
pub async fn clients(dir: &DataDir) -> io::Result<Option<Option<Report>>> {
    ask(dir, Method::GET, "/clients").await
}

/// Has the running server do a round now; `None` when none is running.
///
/// # Errors
/// When a server is there and does not answer properly.
pub async fn sync(dir: &DataDir) -> io::Result<Option<Round>> {
    ask(dir, Method::POST, "/sync").await
}

/// Has the running server tidy up its store, or say what it would do; `None` when none is running.
///
/// # Errors
/// When a server is there and does not answer properly, or could not do it.
pub async fn gc(dir: &DataDir, dry_run: bool) -> io::Result<Option<Tidied>> {
    if dry_run {
        return ask(dir, Method::GET, "/gc").await;
    }
    let answer: Option<Result<Tidied, String>> = ask(dir, Method::POST, "/gc").await?;
    answer.transpose().map_err(io::Error::other)
}

/// Has the running server look at its store directory again; `None` when none is running.
///
/// # Errors
/// When a server is there and does not answer properly, or could not do it.
pub async fn look(dir: &DataDir) -> io::Result<Option<()>> {
    let answer: Option<Result<(), String>> = ask(dir, Method::POST, "/look").await?;
    answer.transpose().map_err(io::Error::other)
}

/// Asks the running server what it knows of the packs; `None` when none is running.
///
/// # Errors
/// When a server is there and does not answer properly.
pub async fn known_packs(dir: &DataDir) -> io::Result<Option<KnownPacks>> {
    let answer: Option<Result<KnownPacks, String>> = ask(dir, Method::GET, "/packs").await?;
    answer.transpose().map_err(io::Error::other)
}

/// Has the running server look at a copy of an object that was found rotten; `None` when none is running. Says whether
/// it found it so too.
///
/// # Errors
/// When a server is there and does not answer properly.
pub async fn rotten(dir: &DataDir, pack: &PackId, object: ObjectId) -> io::Result<Option<bool>> {
    ask(dir, Method::POST, &format!("/rotten/{pack}/{object}")).await
}

async fn ask<T: DeserializeOwned>(dir: &DataDir, method: Method, path: &str) -> io::Result<Option<T>> {
    // The blocking call, so that the directory stays open until it is done; a local connect does not wait.
    let stream = match short_path(&dir.control(), |path| std::os::unix::net::UnixStream::connect(path)) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(e) => return Err(e),
    };
    stream.set_nonblocking(true)?;
    let stream = UnixStream::from_std(stream)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, "control")
        .body(Full::<Bytes>::default())
        .map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let body =
        Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await.map_err(io::Error::other)?;
    serde_json::from_slice(&body.to_bytes()).map(Some).map_err(io::Error::other)
}

/// Calls `with` with a path to the same socket that fits `sockaddr_un` (108 bytes), however long the data
/// directory's own path is: through the directory's descriptor.
fn short_path<T>(path: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() < 100 {
        return with(path);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return with(path) };
    let dir = File::open(parent)?;
    with(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}
