//! An HTTP upstream whose every answer is written by the test.
use super::{mint::Release, talos};
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// What is answered for one path.
#[derive(Clone, Debug)]
pub enum Answer {
    /// 200 or, for a range, 206.
    File(Vec<u8>),
    /// 200 with everything, whatever range was asked.
    Whole(Vec<u8>),
    /// This status with these header lines (each ending in CRLF) and this body.
    Status(u16, String, Vec<u8>),
    /// 302.
    Redirect(String),
    /// The first for a range, the second for the whole.
    Split(Box<Answer>, Box<Answer>),
    /// The first for the rest of a file (a range that does not begin at 0), the second for anything else.
    Rest(Box<Answer>, Box<Answer>),
    /// These bytes in place of an answer, and then the connection's end.
    Raw(Vec<u8>),
    /// Announces a length, sends these bytes, and closes.
    Announced(u64, Vec<u8>),
    /// 200 without an end: these bytes again and again.
    Endless(Vec<u8>),
    /// Announces these bytes and sends twenty a second.
    Dripping(Vec<u8>),
    /// Announces one byte more than these, sends them, and then nothing.
    Stalling(Vec<u8>),
    /// The connection is closed without an answer.
    Hangup,
    /// The connection stays open without an answer.
    Silence,
    /// The answer comes once nobody holds this lock.
    After(Arc<Mutex<()>>, Box<Answer>),
}

/// A request that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Asked {
    /// Path and query.
    pub target: String,
    pub range: Option<String>,
    pub agent: String,
    /// Every `Via`.
    pub via: String,
    /// Authorization, then Proxy-Authorization.
    pub logins: Vec<String>,
}

#[derive(Default)]
struct Script {
    answers: Mutex<BTreeMap<String, Answer>>,
    log: Mutex<Vec<Asked>>,
    /// How far its clock is ahead of ours, seconds, once it tells its time.
    clock_s: Mutex<Option<i64>>,
}

/// The running upstream; its threads end with the test process.
pub struct Upstream {
    pub port: u16,
    script: Arc<Script>,
}

impl Upstream {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Script::default());
        let shared = script.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let script = shared.clone();
                // An error means that the client went away.
                std::thread::spawn(move || {
                    let _ = script.serve(stream);
                });
            }
        });
        Self { port, script }
    }

    /// One that has the Talos-signed database `test` up to `version`.
    pub fn talos(version: u32) -> Self {
        let upstream = Self::start();
        upstream.move_to(version);
        upstream
    }

    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Offers the Talos-signed database `test` in this version, with the CDIFFs that lead to it.
    pub fn move_to(&self, version: u32) {
        self.set("/test.cvd", Answer::File(talos(&format!("test-{version}.cvd"))));
        self.file(&format!("test-{version}.cvd.sign"), talos(&format!("test-{version}.cvd.sign")));
        for step in 2..=version {
            for name in [format!("test-{step}.cdiff"), format!("test-{step}.cdiff.sign")] {
                self.file(&name, talos(&name));
            }
        }
    }

    /// Offers a minted version, and its CDIFF.
    pub fn release(&self, database: &str, release: &Release) {
        self.file(&format!("{database}.cvd"), release.cvd.clone());
        if let Some(cdiff) = &release.cdiff {
            self.file(&release.cdiff_name().to_string(), cdiff.clone());
        }
    }

    pub fn file(&self, name: &str, bytes: Vec<u8>) {
        self.set(&format!("/{name}"), Answer::File(bytes));
    }

    /// Sets the answer for a path, or for a path with its query.
    pub fn set(&self, target: &str, answer: Answer) {
        self.script.answers.lock().unwrap().insert(target.into(), answer);
    }

    /// From now on every answer has a `Date`, of a clock that is so many seconds ahead of ours.
    pub fn tells_time(&self, ahead_s: i64) {
        *self.script.clock_s.lock().unwrap() = Some(ahead_s);
    }

    pub fn remove(&self, target: &str) {
        self.script.answers.lock().unwrap().remove(target);
    }

    /// The requests since the last call.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut self.script.log.lock().unwrap())
    }

    /// The targets since then, which it still remembers.
    pub fn peek(&self) -> Vec<String> {
        self.script.log.lock().unwrap().iter().map(|asked| asked.target.clone()).collect()
    }

    /// Their targets alone.
    pub fn targets(&self) -> Vec<String> {
        self.asked().into_iter().map(|asked| asked.target).collect()
    }
}

impl Script {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut asked =
            Asked { target, range: None, agent: String::new(), via: String::new(), logins: Vec::new() };
        loop {
            line.clear();
            reader.read_line(&mut line)?;
            let Some((key, value)) = line.split_once(':') else { break };
            match key.to_ascii_lowercase().as_str() {
                "range" => asked.range = Some(value.trim().into()),
                "via" => asked.via.push_str(value.trim()),
                "user-agent" => asked.agent = value.trim().into(),
                "authorization" | "proxy-authorization" => asked.logins.push(value.trim().into()),
                _ => {}
            }
        }
        self.log.lock().unwrap().push(asked.clone());
        // A proxy is asked with the whole URL, and answers as the host it names.
        let path = match asked.target.strip_prefix("http://").and_then(|rest| rest.find('/')) {
            Some(slash) => &asked.target["http://".len() + slash..],
            None => &asked.target,
        };
        let path = path.split('?').next().unwrap_or_default();
        let answer = {
            let answers = self.answers.lock().unwrap();
            answers.get(&asked.target).or_else(|| answers.get(path)).cloned()
        };
        let answer = answer.unwrap_or_else(|| Answer::Status(404, String::new(), b"not here".to_vec()));
        let date = self.clock_s.lock().unwrap().map(|ahead_s| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let told = UNIX_EPOCH + Duration::from_secs(now.as_secs().checked_add_signed(ahead_s).unwrap());
            format!("Date: {}\r\n", httpdate::fmt_http_date(told))
        });
        send(stream, answer, asked.range.as_deref(), &date.unwrap_or_default())
    }
}

fn send(mut stream: TcpStream, answer: Answer, range: Option<&str>, date: &str) -> std::io::Result<()> {
    let mut head = |status: u16, fields: &str, length: Option<u64>| {
        let length = length.map(|n| format!("Content-Length: {n}\r\n")).unwrap_or_default();
        write!(stream, "HTTP/1.1 {status} .\r\nConnection: close\r\n{date}{fields}{length}\r\n")
    };
    match answer {
        Answer::File(bytes) => match range.and_then(|range| within(range, bytes.len())) {
            Some((first, last)) => {
                let fields = format!("Content-Range: bytes {first}-{last}/{}\r\n", bytes.len());
                head(206, &fields, Some((last - first + 1) as u64))?;
                stream.write_all(&bytes[first..=last])
            }
            None => {
                head(200, "", Some(bytes.len() as u64))?;
                stream.write_all(&bytes)
            }
        },
        Answer::Whole(bytes) => {
            head(200, "", Some(bytes.len() as u64))?;
            stream.write_all(&bytes)
        }
        Answer::Status(status, fields, body) => {
            head(status, &fields, Some(body.len() as u64))?;
            stream.write_all(&body)
        }
        Answer::Redirect(to) => head(302, &format!("Location: {to}\r\n"), Some(0)),
        Answer::Split(part, whole) => send(stream, if range.is_some() { *part } else { *whole }, range, date),
        Answer::Rest(rest, other) => {
            let is_rest = range.is_some_and(|range| !range.starts_with("bytes=0-"));
            send(stream, if is_rest { *rest } else { *other }, range, date)
        }
        Answer::Raw(bytes) => stream.write_all(&bytes),
        Answer::Announced(length, bytes) => {
            head(200, "", Some(length))?;
            stream.write_all(&bytes)
        }
        Answer::Endless(bytes) => {
            head(200, "", None)?;
            loop {
                stream.write_all(&bytes)?;
            }
        }
        Answer::Dripping(bytes) => {
            head(200, "", Some(bytes.len() as u64))?;
            bytes.iter().try_for_each(|byte| {
                std::thread::sleep(Duration::from_millis(50));
                stream.write_all(&[*byte])
            })
        }
        Answer::Stalling(bytes) => {
            head(200, "", Some(bytes.len() as u64 + 1))?;
            stream.write_all(&bytes)?;
            // Until the client has had enough.
            stream.read_to_end(&mut Vec::new()).map(drop)
        }
        Answer::After(gate, answer) => {
            drop(gate.lock().unwrap());
            send(stream, *answer, range, date)
        }
        Answer::Hangup => Ok(()),
        Answer::Silence => stream.read_to_end(&mut Vec::new()).map(drop),
    }
}

/// First and last byte of `bytes=first-last`, if they lie within `len`.
fn within(range: &str, len: usize) -> Option<(usize, usize)> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let first: usize = first.parse().ok()?;
    let last = last.parse().unwrap_or(usize::MAX).min(len.checked_sub(1)?);
    (first <= last).then_some((first, last))
}
