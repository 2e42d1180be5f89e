//! Children that cannot outlive a test or hang it.
use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Longest that a program may run which is expected to end by itself.
const LONGEST: Duration = Duration::from_secs(240);

/// How a program ended and what it said.
#[derive(Debug)]
pub struct Ran {
    /// The exit code; none after a signal.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Asserts the exit code, and shows everything if it is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self}");
        self
    }

    /// Asserts that both streams together hold every one of `needles`.
    #[track_caller]
    pub fn says<const N: usize>(self, needles: [&str; N]) -> Self {
        let texts = [&self.stdout, &self.stderr].map(|text| [text.clone(), joined(text)]);
        for needle in needles {
            assert!(
                texts.as_flattened().iter().any(|text| text.contains(needle)),
                "no {needle:?} in\n{self}"
            );
        }
        self
    }

    /// Asserts that neither stream holds `needle`.
    #[track_caller]
    pub fn never_says(self, needle: &str) -> Self {
        assert!(!self.stdout.contains(needle) && !self.stderr.contains(needle), "{needle:?} in\n{self}");
        self
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "exit {:?}\n-- stdout\n{}-- stderr\n{}", self.code, self.stdout, self.stderr)
    }
}

/// The text with each line that is indented at the end of the line before it: how a sentence is broken is no matter.
pub fn joined(text: &str) -> String {
    let mut joined = String::new();
    for line in text.lines() {
        let at = line.len() - line.trim_start().len();
        if !joined.is_empty() {
            joined.push(if at >= 2 { ' ' } else { '\n' });
        }
        joined += &line[if at >= 2 { at } else { 0 }..];
    }
    joined
}

/// Runs a program to its end, which must come within four minutes.
pub fn run(command: &mut Command) -> Ran {
    let bytes = run_bytes(command);
    Ran {
        code: bytes.status.code(),
        stdout: String::from_utf8_lossy(&bytes.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&bytes.stderr).into_owned(),
    }
}

/// The same for a program whose output is no text.
pub fn run_bytes(command: &mut Command) -> Output {
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
    let status = ends(&mut child).unwrap_or_else(|| {
        child.kill().unwrap();
        child.wait().unwrap();
        panic!("{command:?} did not end");
    });
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn collect(mut stream: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        bytes
    })
}

/// Waits for a child's end; none if it does not come in time.
pub fn ends(child: &mut Child) -> Option<std::process::ExitStatus> {
    let deadline = Instant::now() + LONGEST;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Asks a child to end (SIGTERM).
pub fn terminate(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    // An error means that it has ended already.
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
}

/// Sends a child SIGHUP.
pub fn hang_up(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}

/// The lines a child has printed so far.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    /// Gathers the lines of a stream until its end.
    pub fn of(stream: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let kept = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { return };
                kept.0.lock().unwrap().push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        lines
    }

    pub fn so_far(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    pub fn find(&self, needle: &str) -> Option<String> {
        self.so_far().into_iter().find(|line| line.contains(needle))
    }
}
