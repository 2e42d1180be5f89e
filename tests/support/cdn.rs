//! A content network as slow and as forgetful as the real one, on a clock of ticks that the test moves.
//!
//! One origin, two edges. An edge caches by name, whatever stands in the query: a versioned file for ever, an alias
//! for so many ticks, an absence until the next tick. What the TXT record says is the test's own affair, so it runs
//! ahead of both. Every system under test has a front of its own, with a log, faults and a choice of edges.
use super::{mint::Release, talos};
use cvdmirror_store::ObjectId;
use std::{
    collections::{BTreeMap, VecDeque},
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        mpsc::Receiver,
    },
    time::{Duration, UNIX_EPOCH},
};

/// Bytes written at once, so that a body can end or be watched in the middle.
const PIECE: usize = 4096;
/// What the real network sends with a file whose name holds its version.
const VERSIONED: &str = "public, max-age=31448862";
/// With an alias; the edges do as they like all the same.
const ALIAS: &str = "public, max-age=14400";

#[derive(Clone)]
struct File {
    bytes: Arc<Vec<u8>>,
    modified_s: u64,
}

/// An edge's copy of one name.
struct Copied {
    since: u64,
    /// None: the origin did not have it.
    file: Option<File>,
    /// Kept whatever its age.
    stuck: bool,
}

#[derive(Default)]
struct Edge {
    /// Ticks for which an alias is kept; 0 for none.
    alias_ticks: u64,
    copies: BTreeMap<String, Copied>,
}

#[derive(Default)]
struct World {
    tick: u64,
    origin: BTreeMap<String, File>,
    edges: [Edge; 2],
}

/// The network; its threads end with the test process.
#[derive(Clone)]
pub struct Cdn(Arc<Mutex<World>>);

/// Where the test lets a held body go on.
pub type Gate = Arc<Mutex<Receiver<()>>>;

/// What is done instead of a proper answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, with these header lines (each ending in CRLF).
    Status(u16, &'static str),
    /// The body ends after so many bytes.
    Truncate(usize),
    /// A longer body stops after so many bytes until the test sends something, or drops the sender.
    Hold(usize, Gate),
}

/// A request that was answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Path and query.
    pub target: String,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub agent: String,
    pub via: Option<String>,
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
    pub edge: usize,
}

impl Asked {
    /// Whether a CVD was sent whole, or the rest of one.
    pub fn is_full(&self) -> bool {
        let alias = self.target.split('?').next().unwrap_or_default().ends_with(".cvd");
        alias && matches!(self.status, 200 | 206) && self.bytes > 512
    }
}

type Watch = Box<dyn FnOnce() + Send>;

/// One listening port of the network.
#[derive(Clone)]
pub struct Front {
    pub port: u16,
    shared: Arc<FrontShared>,
}

#[derive(Default)]
struct FrontShared {
    log: Mutex<Vec<Asked>>,
    faults: Mutex<BTreeMap<String, VecDeque<Fault>>>,
    /// The edges that answer, in turn.
    edges: Mutex<Vec<usize>>,
    turn: AtomicUsize,
    bytes: AtomicU64,
    /// Called once so many bytes of bodies have been sent.
    watch: Mutex<Option<(u64, Watch)>>,
    /// Agents that are answered 403.
    unwanted: Mutex<Vec<&'static str>>,
    /// Full files of one name that it gives in an hour, and what it gave, as Talos' does; `None`: any client gets all.
    limit: Mutex<Option<usize>>,
    given: Mutex<BTreeMap<String, (u64, usize)>>,
}

impl Cdn {
    /// A network whose edges keep an alias for so many ticks each.
    pub fn start(alias_ticks: [u64; 2]) -> Self {
        let mut world = World::default();
        for (edge, ticks) in world.edges.iter_mut().zip(alias_ticks) {
            edge.alias_ticks = ticks;
        }
        Self(Arc::new(Mutex::new(world)))
    }

    /// One without a delay that has the Talos-signed database `test` up to `version`.
    pub fn talos(version: u32) -> Self {
        let cdn = Self::start([0, 0]);
        (1..=version).for_each(|step| cdn.publish_talos(step));
        cdn
    }

    pub fn offer(&self, name: &str, bytes: Vec<u8>, modified_s: u64) {
        let file = File { bytes: Arc::new(bytes), modified_s };
        self.0.lock().unwrap().origin.insert(name.into(), file);
    }

    /// Puts one version of the Talos-signed database `test` to the origin.
    pub fn publish_talos(&self, version: u32) {
        let cvd = talos(&format!("test-{version}.cvd"));
        let modified_s = cvdmirror::cvd::Header::parse(&cvd[..512]).unwrap().stime_s;
        self.offer("test.cvd", cvd, modified_s);
        let cdiffs = [format!("test-{version}.cdiff"), format!("test-{version}.cdiff.sign")];
        let signs = [format!("test-{version}.cvd.sign")];
        for name in cdiffs.iter().filter(|_| version > 1).chain(&signs) {
            self.offer(name, talos(name), modified_s);
        }
    }

    /// Puts a minted version to the origin, and the CDIFF that leads to it.
    pub fn publish(&self, database: &str, release: &Release) {
        let at_s = release.stime_s;
        self.offer(&format!("{database}.cvd"), release.cvd.clone(), at_s);
        let (cvd, cdiff) = (release.cvd_name(), release.cdiff_name());
        let files = [
            (cdiff.to_string(), &release.cdiff),
            (format!("{cvd}.sign"), &release.cvd_sign),
            (format!("{cdiff}.sign"), &release.cdiff_sign),
        ];
        for (name, bytes) in files {
            if let Some(bytes) = bytes {
                self.offer(&name, bytes.clone(), at_s);
            }
        }
    }

    /// From now on both edges have these bytes under a name, whatever the origin has.
    pub fn stick(&self, name: &str, bytes: Vec<u8>) {
        let file = File { bytes: Arc::new(bytes), modified_s: 1_700_000_000 };
        (0..2).for_each(|edge| self.stick_at(edge, name, file.clone()));
    }

    /// From now on both edges have what the origin has now under a name, whatever comes there.
    pub fn hold(&self, name: &str) {
        (0..2).for_each(|edge| self.hold_at(edge, name));
    }

    /// One edge alone does that.
    pub fn hold_at(&self, edge: usize, name: &str) {
        let file = self.0.lock().unwrap().origin[name].clone();
        self.stick_at(edge, name, file);
    }

    fn stick_at(&self, edge: usize, name: &str, file: File) {
        let mut world = self.0.lock().unwrap();
        let copied = Copied { since: world.tick, file: Some(file), stuck: true };
        world.edges[edge].copies.insert(name.into(), copied);
    }

    /// Both edges forget a name, and ask the origin again.
    pub fn release(&self, name: &str) {
        for edge in &mut self.0.lock().unwrap().edges {
            edge.copies.remove(name);
        }
    }

    /// Moves the clock on. The clients of the whole world ask the edges for the aliases all the time, so that each
    /// is asked of the origin again as soon as it has expired.
    pub fn tick(&self) {
        let mut world = self.0.lock().unwrap();
        world.tick += 1;
        let aliases: Vec<String> = world.origin.keys().filter(|name| !is_versioned(name)).cloned().collect();
        for edge in 0..world.edges.len() {
            for name in &aliases {
                world.look(edge, name);
            }
        }
    }

    /// Another port, answered by both edges in turn.
    pub fn front(&self) -> Front {
        self.front_at("127.0.0.1:0")
    }

    /// The same at an address of one's own.
    pub fn front_at(&self, address: &str) -> Front {
        self.front_on(TcpListener::bind(address).unwrap())
    }

    /// The same on a listener, which may be of another network.
    pub fn front_on(&self, listener: TcpListener) -> Front {
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(FrontShared { edges: Mutex::new(vec![0, 1]), ..FrontShared::default() });
        let front = Front { port, shared: shared.clone() };
        let world = self.0.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (world, shared) = (world.clone(), shared.clone());
                // An error means that the client went away.
                std::thread::spawn(move || {
                    let _ = shared.serve(stream, &world);
                });
            }
        });
        front
    }
}

impl World {
    /// What an edge has under a name, and for how many ticks.
    fn look(&mut self, edge: usize, name: &str) -> (Option<File>, u64) {
        let Self { tick, origin, edges } = self;
        let Edge { alias_ticks, copies } = &mut edges[edge];
        let kept = |copied: &Copied| {
            let age = *tick - copied.since;
            let keep = match &copied.file {
                None => 1,
                Some(_) if is_versioned(name) => u64::MAX,
                Some(_) => *alias_ticks,
            };
            copied.stuck || age < keep
        };
        if !copies.get(name).is_some_and(kept) {
            let copied = Copied { since: *tick, file: origin.get(name).cloned(), stuck: false };
            copies.insert(name.into(), copied);
        }
        (copies[name].file.clone(), *tick - copies[name].since)
    }
}

fn is_versioned(name: &str) -> bool {
    name.contains('-')
}

impl Front {
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Only this edge answers from now on.
    pub fn only(&self, edge: usize) {
        *self.shared.edges.lock().unwrap() = vec![edge];
    }

    /// The next request for a name meets this; with several, each meets the next.
    pub fn fault(&self, name: &str, fault: Fault) {
        self.shared.faults.lock().unwrap().entry(name.into()).or_default().push_back(fault);
    }

    /// Answers 403 to agents that begin so.
    pub fn refuse(&self, agent: &'static str) {
        self.shared.unwanted.lock().unwrap().push(agent);
    }

    /// From now on does as Talos' CDN: 403 to any but freshclam and cvdupdate, and 429 past so many full files of one
    /// name in an hour, which is a tick.
    pub fn is_strict(&self, full_per_hour: usize) {
        *self.shared.limit.lock().unwrap() = Some(full_per_hour);
    }

    /// Calls `watch` once so many more bytes of bodies have been sent.
    pub fn after_bytes(&self, count: u64, watch: impl FnOnce() + Send + 'static) {
        let at = self.shared.bytes.load(Ordering::SeqCst) + count;
        *self.shared.watch.lock().unwrap() = Some((at, Box::new(watch)));
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.shared.log.lock().unwrap())
    }

    /// Bytes of bodies sent so far.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::SeqCst)
    }
}

/// A request's header fields, names in lower case.
type Fields = BTreeMap<String, String>;

impl FrontShared {
    fn serve(&self, stream: TcpStream, world: &Mutex<World>) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut fields = Fields::new();
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((key, value)) = line.split_once(':') else { break };
            fields.insert(key.to_ascii_lowercase(), value.trim().into());
        }
        let name = target.split('?').next().unwrap_or_default().trim_start_matches('/').to_owned();
        let edge = {
            let edges = self.edges.lock().unwrap();
            edges[self.turn.fetch_add(1, Ordering::SeqCst) % edges.len()]
        };
        let agent = fields.get("user-agent").cloned().unwrap_or_default();
        let fault = self.faults.lock().unwrap().get_mut(&name).and_then(VecDeque::pop_front);
        let fault = match self.unwanted.lock().unwrap().iter().any(|unwanted| agent.starts_with(unwanted)) {
            true => Some(Fault::Status(403, "")),
            false => fault,
        };
        let fault = self.against_rules(&name, &fields, &agent, world.lock().unwrap().tick).or(fault);
        let (file, age) = world.lock().unwrap().look(edge, &name);
        let answer = answer(file, &fields, fault.as_ref());
        let mut hold = None;
        match fault {
            Some(Fault::Hold(at, gate)) if at < answer.body.len() => hold = Some((at, gate)),
            // It waits for a body that is long enough.
            Some(fault @ Fault::Hold(..)) => {
                self.faults.lock().unwrap().entry(name.clone()).or_default().push_front(fault);
            }
            _ => {}
        }
        let said = if is_versioned(&name) { VERSIONED } else { ALIAS };
        let head = format!(
            "HTTP/1.1 {} .\r\nConnection: close\r\nContent-Length: {}\r\n{}Cache-Control: {said}\r\n\
             Age: {}\r\ncf-cache-status: {}\r\ncf-ray: 8e6{edge}-EDGE{edge}\r\n\r\n",
            answer.status,
            answer.announced.unwrap_or(answer.body.len()),
            answer.fields,
            age * 3600,
            if age > 0 { "HIT" } else { "MISS" },
        );
        // Before the answer, so that a test that has the answer finds it in the log.
        self.log.lock().unwrap().push(Asked {
            target,
            range: fields.get("range").cloned(),
            if_range: fields.get("if-range").cloned(),
            agent,
            via: fields.get("via").cloned(),
            status: answer.status,
            bytes: answer.body.len() as u64,
            edge,
        });
        let mut stream = stream;
        stream.write_all(head.as_bytes())?;
        let at = hold.as_ref().map_or(answer.body.len(), |(at, _)| *at);
        let (begin, rest) = answer.body.split_at(at);
        for part in [begin, rest] {
            for piece in part.chunks(PIECE) {
                stream.write_all(piece)?;
                self.count(piece.len() as u64);
            }
            if let Some((_, gate)) = hold.take() {
                let _ = gate.lock().unwrap().recv();
            }
        }
        Ok(())
    }

    /// What a request meets that breaks the rules of a strict network.
    fn against_rules(&self, name: &str, fields: &Fields, agent: &str, tick: u64) -> Option<Fault> {
        let limit = (*self.limit.lock().unwrap())?;
        if !["ClamAV/", "CVDUPDATE/"].iter().any(|wanted| agent.starts_with(wanted)) {
            return Some(Fault::Status(403, ""));
        }
        let conditional = ["range", "if-modified-since", "if-none-match"];
        if !name.ends_with(".cvd") || conditional.iter().any(|field| fields.contains_key(*field)) {
            return None;
        }
        let mut given = self.given.lock().unwrap();
        let (hour, count) = given.entry(name.into()).or_insert((tick, 0));
        if *hour != tick {
            (*hour, *count) = (tick, 0);
        }
        *count += 1;
        (*count > limit).then_some(Fault::Status(429, "Retry-After: 3600\r\n"))
    }

    fn count(&self, bytes: u64) {
        let sent = self.bytes.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let mut watch = self.watch.lock().unwrap();
        if watch.as_ref().is_some_and(|(at, _)| sent >= *at)
            && let Some((_, watch)) = watch.take()
        {
            watch();
        }
    }
}

struct Answer {
    status: u16,
    fields: String,
    body: Vec<u8>,
    /// A length other than the body's.
    announced: Option<usize>,
}

impl Answer {
    fn empty(status: u16, fields: &str) -> Self {
        Self { status, fields: fields.into(), body: Vec::new(), announced: None }
    }
}

fn answer(file: Option<File>, asked: &Fields, fault: Option<&Fault>) -> Answer {
    if let Some(Fault::Status(status, fields)) = fault {
        return Answer::empty(*status, fields);
    }
    let Some(File { bytes, modified_s }) = file else { return Answer::empty(404, "") };
    let etag = format!("\"{}\"", &ObjectId::of(&bytes).to_string()[..16]);
    let modified = UNIX_EPOCH + Duration::from_secs(modified_s);
    let mut fields = format!(
        "ETag: {etag}\r\nLast-Modified: {}\r\nAccept-Ranges: bytes\r\n",
        httpdate::fmt_http_date(modified)
    );
    let unchanged = match (asked.get("if-none-match"), asked.get("if-modified-since")) {
        (Some(known), _) => *known == etag,
        (None, Some(since)) => httpdate::parse_http_date(since).is_ok_and(|since| modified <= since),
        (None, None) => false,
    };
    if unchanged {
        return Answer::empty(304, &fields);
    }
    let same = asked.get("if-range").is_none_or(|validator| *validator == etag);
    let range = asked.get("range").filter(|_| same).and_then(|range| within(range, bytes.len()));
    let (status, mut body) = match range {
        Some((first, last)) => {
            fields.push_str(&format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len()));
            (206, bytes[first..=last].to_vec())
        }
        None => (200, bytes.to_vec()),
    };
    let announced = body.len();
    if let Some(Fault::Truncate(at)) = fault {
        body.truncate(*at);
    }
    Answer { status, fields, body, announced: Some(announced) }
}

/// First and last byte of `bytes=first-last`, if they lie within `len`.
fn within(range: &str, len: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last = last.parse().unwrap_or(usize::MAX).min(len.checked_sub(1)?);
    (first <= last).then_some((first, last))
}
