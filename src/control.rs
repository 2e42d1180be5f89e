//! The socket in the data directory through which other commands speak with the running server.
//!
//! A Unix socket that only the server's user may open. One connection, one [`Request`] as a line of JSON, one
//! [`Response`] as JSON up to the end. Private to this build: a command of another build gets an error.
use crate::{
    clients::{Clients, Report},
    hot::HotSet,
    mirror::{Command, DataDir, Handle, RoundReport, gc::Collected, memory::KnownPacks, status::Status},
    state::State,
    trouble::Trouble,
};
use cvdmirror_store::{ObjectId, PackId};
use rustix::{fs::Mode, net};
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    future::Future,
    io,
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    time::timeout,
};

/// Bytes of a request and of an answer at most.
const MAX_REQUEST_BYTES: u64 = 4 << 10;
const MAX_ANSWER_BYTES: u64 = 16 << 20;
/// Connections at a time; more wait.
const CONNECTIONS: usize = 64;
/// How long a request may take to come.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the server can be asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// How it is.
    Status,
    /// Who asked it lately.
    Clients,
    /// What it knows of the packs.
    Packs,
    /// To do a round now.
    Sync,
    /// To look at its store directory again.
    Look,
    /// To drop what is not kept, or to say what that would do.
    Gc {
        /// Only to say it.
        dry_run: bool,
    },
    /// To read a copy of an object that was found corrupt.
    Check {
        /// The pack's id.
        pack: String,
        /// The object's id.
        object: String,
    },
}

impl Request {
    /// Reads what came up to the end of its line.
    ///
    /// # Errors
    /// When it is none that this build knows.
    pub fn from_line(line: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(line)
    }

    /// As it is sent.
    pub fn to_line(&self) -> Vec<u8> {
        // Our own plain enum: serialising it cannot fail.
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// What it answers.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// How it is.
    Status(Box<Status>),
    /// Who asked it lately; nobody where it remembers nobody.
    Clients(Option<Report>),
    /// What it knows of the packs.
    Packs(KnownPacks),
    /// What the round did.
    Round(RoundReport),
    /// It has looked.
    Looked,
    /// What the gc did.
    Collected(Collected),
    /// Whether the copy is corrupt.
    Corrupt(bool),
    /// It could not do it.
    Failed(Trouble),
    /// It is being stopped.
    Stopping,
}

/// Why a server that is there gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is no answer.
    #[error("it is of another build: {0}")]
    Json(#[from] serde_json::Error),
    /// It could not do it.
    #[error("{0}")]
    Failed(Trouble),
    /// It is being stopped.
    #[error("it is stopping")]
    Stopping,
    /// It answered something else.
    #[error("it is of another build")]
    Other,
}

/// What requests are answered from.
#[derive(Clone, Debug)]
pub struct Desk {
    /// The mirror.
    pub mirror: Handle,
    /// Its state file.
    pub state: Arc<State>,
    /// Who asked; none: nobody is remembered.
    pub clients: Option<Arc<Clients>>,
    /// Objects that are sent from memory.
    pub hot: Arc<HotSet>,
}

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
        let socket = net::socket_with(
            net::AddressFamily::UNIX,
            net::SocketType::STREAM,
            net::SocketFlags::CLOEXEC | net::SocketFlags::NONBLOCK,
            None,
        )?;
        // Linux gives the file the socket's mode when it binds it: at no moment may others open it, whatever the umask.
        rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
        short_path(&path, |path| Ok(net::bind(&socket, &net::SocketAddrUnix::new(path)?)?))?;
        net::listen(&socket, CONNECTIONS as i32)?;
        Ok(Self { listener: UnixListener::from_std(socket.into())?, path })
    }

    /// Answers until `shutdown`.
    pub async fn serve(self, desk: Desk, shutdown: impl Future<Output = ()>) {
        let mut shutdown = std::pin::pin!(shutdown);
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let accepted = async {
                let place = places.clone().acquire_owned().await;
                (self.listener.accept().await, place)
            };
            let (stream, place) = tokio::select! {
                () = &mut shutdown => return,
                (accepted, place) = accepted => match accepted {
                    Ok((stream, _)) => (stream, place),
                    Err(e) => {
                        tracing::warn!("`status` and `sync` cannot reach this server now: control socket: {e}");
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        continue;
                    }
                },
            };
            let desk = desk.clone();
            tokio::spawn(async move {
                let _place = place;
                // Who asked may have gone.
                let _ = desk.serve(stream).await;
            });
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // A leftover is harmless: the next server removes it.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Desk {
    async fn serve(&self, stream: UnixStream) -> io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut line = Vec::new();
        let mut reader = BufReader::new(reader.take(MAX_REQUEST_BYTES));
        timeout(PATIENCE, reader.read_until(b'\n', &mut line)).await??;
        let answer = self.answer(Request::from_line(&line)?).await;
        writer.write_all(&serde_json::to_vec(&answer)?).await?;
        writer.shutdown().await
    }

    async fn answer(&self, request: Request) -> Response {
        let Self { mirror, state, clients, hot } = self;
        let answer = match request {
            Request::Status => {
                let standing = mirror.standing();
                let status = Status::new(&standing, standing.now_s());
                let published = || standing.snapshot.versions();
                let reported = clients.as_ref().and_then(|clients| clients.reported(&published()));
                let hot = Some(hot.figures());
                Some(Response::Status(Box::new(Status { serving: true, hot, reported, ..status })))
            }
            Request::Clients => {
                let published = mirror.standing().snapshot.versions();
                Some(Response::Clients(clients.as_ref().map(|clients| clients.report(&published))))
            }
            Request::Packs => {
                let state = state.clone();
                let known = tokio::task::spawn_blocking(move || state.known_packs()).await;
                known.ok().map(|known| known.map_or_else(|e| Response::Failed((&e).into()), Response::Packs))
            }
            Request::Sync => mirror.ask(Command::Sync).await.map(Response::Round),
            Request::Look => {
                let looked = mirror.ask(Command::Look).await;
                looked.map(|looked| looked.map_or_else(Response::Failed, |()| Response::Looked))
            }
            Request::Gc { dry_run: true } => mirror.ask(Command::WouldGc).await.map(Response::Collected),
            Request::Gc { dry_run: false } => {
                let collected = mirror.ask(Command::Gc).await;
                collected.map(|done| done.map_or_else(Response::Failed, Response::Collected))
            }
            Request::Check { pack, object } => {
                match (PackId::from_file_name(&format!("{pack}.redb")), object.parse()) {
                    (Some(pack), Ok(object)) => {
                        let corrupt = mirror.ask(|answer| Command::Check(pack, object, answer)).await;
                        corrupt.map(Response::Corrupt)
                    }
                    _ => Some(Response::Corrupt(false)),
                }
            }
        };
        answer.unwrap_or(Response::Stopping)
    }
}

type Answer<T> = Result<Option<T>, ControlError>;

/// Makes of an answer the value that was asked for.
macro_rules! expect {
    ($answer:expr, $expected:pat => $value:expr) => {
        match $answer {
            None => Ok(None),
            Some($expected) => Ok(Some($value)),
            Some(_) => Err(ControlError::Other),
        }
    };
}

/// Asks the running server how it is; `None` when none is running.
///
/// # Errors
/// Here and below: when a server is there and does not answer properly, or could not do what it was asked.
pub async fn status(dir: &DataDir) -> Answer<Status> {
    expect!(ask(dir, Request::Status).await?, Response::Status(status) => *status)
}

/// Asks the running server who asked it lately; `None` when none is running, `Some(None)` when it remembers nobody.
///
/// # Errors
/// As for [`status`].
pub async fn clients(dir: &DataDir) -> Answer<Option<Report>> {
    expect!(ask(dir, Request::Clients).await?, Response::Clients(report) => report)
}

/// Has the running server do a round now; `None` when none is running.
///
/// # Errors
/// As for [`status`].
pub async fn sync(dir: &DataDir) -> Answer<RoundReport> {
    expect!(ask(dir, Request::Sync).await?, Response::Round(report) => report)
}

/// Has the running server drop what is not kept, or say what that would do; `None` when none is running.
///
/// # Errors
/// As for [`status`].
pub async fn gc(dir: &DataDir, dry_run: bool) -> Answer<Collected> {
    expect!(ask(dir, Request::Gc { dry_run }).await?, Response::Collected(collected) => collected)
}

/// Has the running server look at its store directory again; `None` when none is running.
///
/// # Errors
/// As for [`status`].
pub async fn look(dir: &DataDir) -> Answer<()> {
    expect!(ask(dir, Request::Look).await?, Response::Looked => ())
}

/// Has the running server read a copy of an object that was found corrupt; `None` when none is running. Says whether
/// it found it so too.
///
/// # Errors
/// As for [`status`].
pub async fn check(dir: &DataDir, pack: &PackId, object: ObjectId) -> Answer<bool> {
    let request = Request::Check { pack: pack.to_string(), object: object.to_string() };
    expect!(ask(dir, request).await?, Response::Corrupt(corrupt) => corrupt)
}

/// Asks the running server what it knows of the packs; without one it is read from the state file. `None` where
/// neither can be: a sync that runs keeps it to itself.
pub async fn known_packs(dir: &DataDir) -> Option<KnownPacks> {
    match ask(dir, Request::Packs).await {
        Ok(Some(Response::Packs(known))) => Some(known),
        Ok(None) => {
            let state = State::open_read_only(&dir.state()).ok()?;
            state.map_or_else(|| Some(KnownPacks::default()), |state| state.known_packs().ok())
        }
        Ok(Some(_)) | Err(_) => None,
    }
}

async fn ask(dir: &DataDir, request: Request) -> Answer<Response> {
    // The blocking call, so that the directory stays open until it is done; a local connect does not wait.
    let stream = match short_path(&dir.control(), |path| std::os::unix::net::UnixStream::connect(path)) {
        Ok(stream) => stream,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    };
    stream.set_nonblocking(true)?;
    let mut stream = UnixStream::from_std(stream)?;
    stream.write_all(&request.to_line()).await?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer).await?;
    match serde_json::from_slice(&answer)? {
        Response::Failed(trouble) => Err(ControlError::Failed(trouble)),
        Response::Stopping => Err(ControlError::Stopping),
        response => Ok(Some(response)),
    }
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
