//! A server on port 0 over a store in a temporary directory, and a client that speaks bytes.
use cvdmirror::{
    cvd::{Database, FileKind, FileName},
    hot::HotSet,
    http::{Aliases, Limits, Listeners, Metrics, Site, Tls, serve},
    mirror::{Command, Handle, Published, Snapshot, Standing, memory::DatabaseState},
    trouble::Told,
};
use cvdmirror_store::{NameRecord, ObjectId, Store};
use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// The CVD's date: 1994-11-06 08:49:37.
pub const STIME_S: u64 = 784_111_777;
pub const STIME: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
/// Longer than two chunks of the store and a multiple of nothing.
pub const CVD_BYTES: usize = 700_001;

/// Bytes that look like nothing and differ at every position and seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// What the fixture's store holds; `test-9.cvd` is in the store and not published.
pub fn files() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("test-4.cvd", noise(CVD_BYTES, 4)),
        ("test-5.cvd", noise(CVD_BYTES, 5)),
        ("test-4.cdiff", noise(3000, 14)),
        ("test-5.cdiff", Vec::new()),
        ("test-5.cvd.sign", b"#clamsign-1.0\n".to_vec()),
        ("test-9.cvd", noise(1000, 9)),
    ]
}
pub fn content(name: &str) -> Vec<u8> {
    files().into_iter().find(|(n, _)| *n == name).unwrap().1
}
pub fn etag(name: &str) -> String {
    format!("\"{}\"", ObjectId::of(&content(name)))
}

/// Fills a store in `dir`.
pub fn fill(dir: &Path, files: &[(&str, Vec<u8>)]) {
    let (store_dir, tmp) = (dir.join("store"), dir.join("tmp"));
    std::fs::create_dir_all(&store_dir).unwrap();
    std::fs::create_dir_all(&tmp).unwrap();
    let (store, _) = Store::assemble(&store_dir, &tmp, Vec::new()).unwrap();
    let mut batch = store.batch().unwrap();
    for (name, bytes) in files {
        let object = ObjectId::of(bytes);
        batch.put(object, bytes.len() as u64, &mut bytes.as_slice()).unwrap();
        let record = NameRecord {
            object,
            size: bytes.len() as u64,
            modified_s: name.ends_with(".cvd").then_some(STIME_S),
            stored_at_s: 1_781_708_400,
            origin: "a test".into(),
            proof: cvdmirror_store::Proof::Unknown,
        };
        batch.bind(name, record).unwrap();
    }
    store.commit(batch, 1_781_708_400).unwrap();
}

/// Publishes what a store in `dir` holds, but no version above 5.
pub fn snapshot(dir: &Path) -> Snapshot {
    let (store_dir, tmp) = (dir.join("store"), dir.join("tmp"));
    let scan = Store::scan(&store_dir).unwrap();
    assert!(scan.findings.is_empty(), "{:?}", scan.findings);
    let (store, _) = Store::assemble(&store_dir, &tmp, scan.packs).unwrap();
    let view = store.view();
    let files: BTreeMap<FileName, NameRecord> = view
        .names()
        .map(|(name, record)| (name.parse().unwrap(), record.clone()))
        .filter(|(name, _): &(FileName, _)| name.version <= 5)
        .collect();
    let mut databases: BTreeMap<Database, Published> = BTreeMap::new();
    for name in files.keys().filter(|name| name.kind == FileKind::Cvd) {
        let published = Published {
            version: name.version,
            cvd: name.version,
            chain: Some((4, 5)),
            stime_s: STIME_S,
            signatures: 3,
            functionality_level: 90,
            confirmed_at_s: Some(1_781_708_400),
        };
        databases.insert(name.database.clone(), published);
    }
    Snapshot { files, databases, confirmed_at_s: Some(1_781_708_400), view }
}

/// A mirror that was confirmed just now and remarks on each database that it is held.
pub fn standing(dir: &Path) -> Standing {
    let standing = Standing::new(Arc::new(snapshot(dir)), dir.into(), 3600);
    let now_s = cvdmirror::clock::epoch_s();
    let names = || standing.snapshot.databases.keys();
    let known = DatabaseState { confirmed_at_s: Some(now_s), ..DatabaseState::default() };
    Standing {
        databases: names().map(|name| (name.clone(), known.clone())).collect(),
        remarks: names()
            .map(|name| Told { databases: vec![name.to_string()], failed: false, trouble: "held".into() })
            .collect(),
        ..standing
    }
}

pub struct Server {
    pub addr: SocketAddr,
    pub site: Arc<Site>,
    /// The objects that the site was told cannot be read.
    pub corrupt: Arc<Mutex<Vec<ObjectId>>>,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<io::Result<()>>,
    pub dir: tempfile::TempDir,
}

impl Server {
    pub async fn start() -> Self {
        Self::with(Aliases::Redirect, Limits::default()).await
    }
    pub async fn with(aliases: Aliases, limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fill(dir.path(), &files());
        Self::over(dir, aliases, limits).await
    }
    pub async fn over(dir: tempfile::TempDir, aliases: Aliases, limits: Limits) -> Self {
        Self::hot(dir, aliases, limits, HotSet::new(512 << 20)).await
    }
    pub async fn hot(dir: tempfile::TempDir, aliases: Aliases, limits: Limits, hot: Arc<HotSet>) -> Self {
        Self::on(Listeners::default(), dir, aliases, limits, hot).await
    }
    /// One that speaks TLS too: at the second address.
    pub async fn tls(dir: tempfile::TempDir, limits: Limits, tls: Tls) -> (Self, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, mut listeners) = (listener.local_addr().unwrap(), Listeners::default());
        listeners.add(listener, Some(Arc::new(tls)));
        (Self::on(listeners, dir, Aliases::Redirect, limits, HotSet::new(512 << 20)).await, address)
    }
    async fn on(
        mut listeners: Listeners,
        dir: tempfile::TempDir,
        aliases: Aliases,
        limits: Limits,
        hot: Arc<HotSet>,
    ) -> Self {
        let corrupt = Arc::new(Mutex::new(Vec::new()));
        let told = corrupt.clone();
        let (mirror, mut commands) = Handle::new(standing(dir.path()));
        tokio::spawn(async move {
            while let Some(command) = commands.recv().await {
                if let Command::Corrupt(_, object) = command {
                    told.lock().unwrap().push(object);
                }
            }
        });
        let site = Arc::new(Site {
            hot,
            mirror,
            aliases,
            metrics: Arc::new(Metrics::default()),
            access_log: None,
            clients: None,
            source: String::new(),
            url: "http://mirror.example.lan".into(),
            proxy: None,
            demands: None,
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        listeners.add(listener, None);
        let task = tokio::spawn(serve(listeners, site.clone(), limits, async {
            let _ = stopped.await;
        }));
        Self { addr, site, corrupt, stop: Some(stop), task, dir }
    }
    /// What it publishes was never confirmed, and its last check failed.
    pub fn turn_stale(&self, why: &str) {
        let mut standing = Standing::clone(&self.site.mirror.standing());
        for state in standing.databases.values_mut() {
            (state.confirmed_at_s, state.last_error) = (None, Some(why.into()));
        }
        self.site.mirror.shared().store(Arc::new(standing));
    }
    pub fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
    }
    pub async fn connect(&self) -> Client {
        Client(TcpStream::connect(self.addr).await.unwrap())
    }
    /// One GET on a connection of its own, with more fields, each ending in CRLF.
    pub async fn get(&self, target: &str, fields: &str) -> Answer {
        self.ask("GET", target, fields).await
    }
    pub async fn ask(&self, method: &str, target: &str, fields: &str) -> Answer {
        let mut client = self.connect().await;
        let request =
            format!("{method} {target} HTTP/1.1\r\nHost: mirror\r\nConnection: close\r\n{fields}\r\n");
        client.send(request.as_bytes()).await;
        client.answer(method == "HEAD").await.unwrap()
    }
    /// A number of the metrics page.
    pub async fn metric(&self, sample: &str) -> u64 {
        let text = self.get("/metrics", "").await.text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {sample} in {text}")).parse().unwrap()
    }
}

pub struct Client(pub TcpStream);

impl Client {
    pub async fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }
    /// Reads one answer; none if the connection ends before its head does.
    pub async fn answer(&mut self, head_only: bool) -> Option<Answer> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            match self.0.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => return None,
            }
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        let mut answer = Answer { status, fields, body: Vec::new(), complete: true };
        if !head_only && status != 304 {
            let length: usize = answer.field("content-length").unwrap().parse().unwrap();
            let mut body = vec![0; length];
            let mut read = 0;
            while read < length {
                match self.0.read(&mut body[read..]).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => read += n,
                }
            }
            body.truncate(read);
            answer.complete = read == length;
            answer.body = body;
        }
        Some(answer)
    }
    /// Whether the server ends the connection without another byte.
    pub async fn ends(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]).await, Ok(0) | Err(_))
    }
}

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub complete: bool,
}
impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut found = self.fields.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let first = found.next();
        assert!(found.next().is_none(), "{name} twice");
        first
    }
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}
