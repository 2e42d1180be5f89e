//! One run of another program: without a shell, in an environment and a process group of its own, for a bounded time.
use super::{Fault, Tool, files::closed, refused};
use crate::units::os;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::{
    ffi::OsString,
    io,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::{Child, Command},
    task::spawn_blocking,
    time::timeout,
};

/// What is kept of what it says: the end.
const TAIL_BYTES: usize = 16 << 10;
/// Longest line that is shown, characters.
const LINE_CHARS: usize = 160;

/// What is run.
pub(super) struct Job<'a> {
    pub(super) tool: Tool,
    pub(super) program: &'a Path,
    pub(super) args: Vec<OsString>,
    /// Where, and its home.
    pub(super) dir: &'a Path,
    pub(super) user: Option<(u32, u32)>,
    pub(super) timeout: Duration,
}

/// How it ended.
#[derive(Debug)]
pub(super) struct Ended {
    /// None after a signal.
    pub(super) code: Option<i32>,
    /// The end of what it said.
    said: String,
}

impl Ended {
    /// Its last words: the last error, or else warning, or else line.
    pub(super) fn words(&self) -> String {
        let lines = || self.said.lines().map(str::trim).filter(|line| !line.is_empty()).rev();
        let starting = |mark: &str| lines().find(|line| line.starts_with(mark)).map(str::to_owned);
        let words = starting("ERROR").or_else(|| starting("WARNING"));
        let words = words.or_else(|| lines().next().map(str::to_owned)).unwrap_or("nothing said".into());
        words.chars().filter(|c| !c.is_control()).take(LINE_CHARS).collect()
    }

    /// Everything that is kept.
    pub(super) fn said(&self) -> &str {
        &self.said
    }
}

/// A process that leads a group of its own. The group is killed while its leader, running or ended, is not reaped yet:
/// until then no other process can have its number.
struct Leader {
    child: Child,
    /// None once it is reaped.
    pid: Option<Pid>,
}

impl Leader {
    fn start(command: &mut Command) -> io::Result<Self> {
        let child = command.process_group(0).kill_on_drop(true).spawn()?;
        let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        Ok(Self { child, pid })
    }

    /// Waits for its end, and ends what it leaves behind.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        if let Some(pid) = self.pid {
            // Leaves it to be reaped. Whoever drops this meanwhile kills it, and with that ends the wait.
            let ended = move || waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            spawn_blocking(ended).await??;
        }
        self.end().await
    }

    /// Ends the group, and reaps the leader.
    async fn end(&mut self) -> io::Result<ExitStatus> {
        self.kill_group();
        self.child.wait().await
    }

    fn kill_group(&mut self) {
        // An error means that nobody of it is left.
        let _ = self.pid.take().map(|pid| kill_process_group(pid, Signal::KILL));
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.kill_group();
    }
}

impl Job<'_> {
    /// Runs it to its end.
    pub(super) async fn run(self) -> Result<Ended, Fault> {
        let Self { tool, program, args, dir, user, timeout: longest } = self;
        let mut command = Command::new(program);
        command.args(args).current_dir(dir).env_clear();
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", dir).env("LANG", "C.UTF-8");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some((uid, gid)) = user {
            command.uid(uid).gid(gid);
        }
        let mut leader = Leader::start(&mut command).map_err(|why| match why.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound => {
                match user.and_then(|ids| closed(dir, ids)) {
                    Some(dir) => Fault::Closed { tool, dir: dir.into() },
                    None => Fault::NotRun { tool, program: program.into(), why: os(&why) },
                }
            }
            _ => refused(program)(why),
        })?;
        let (out, err) = (leader.child.stdout.take(), leader.child.stderr.take());
        let ended = timeout(longest, async {
            let (out, err, status) = tokio::join!(tail(out), tail(err), leader.wait());
            status.map(|status| Ended { code: status.code(), said: out + &err })
        });
        match ended.await {
            Ok(ended) => ended.map_err(refused(program)),
            Err(_) => {
                // Reaped, so that it is gone when the next one starts.
                let _ = leader.end().await;
                Err(Fault::TimedOut { tool, after_s: longest.as_secs() })
            }
        }
    }
}

/// Reads a stream to its end, and keeps that.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> String {
    let (mut kept, mut piece) = (Vec::new(), [0; 4096]);
    let Some(mut stream) = stream else { return String::new() };
    while let Ok(got @ 1..) = stream.read(&mut piece).await {
        kept.extend_from_slice(&piece[..got]);
        let past = kept.len().saturating_sub(TAIL_BYTES);
        kept.drain(..past);
    }
    String::from_utf8_lossy(&kept).into_owned()
}
