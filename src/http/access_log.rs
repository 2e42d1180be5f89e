//! The access log: one line a request in the combined format, written by a thread of its own.
//!
//! Guaranteed: no request waits for the log, and its memory is bounded: when the disk, or the reader of standard output,
//! is too slow, the newest lines are dropped and counted. A file is opened to append, and reopened by its name on
//! request, for log rotation. A killed process loses the lines of its last hundredth of a second.
//!
//! Why not tracing-appender: it wakes its thread for each line, waits a second at the end, cannot reopen a file between two
//! lines, and does not report what it failed to write.
use parking_lot::Mutex;
use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, channel},
    },
    time::Duration,
};
use tokio::sync::mpsc;

/// Lines that may wait to be written.
const WAITING: usize = 8192;
/// How long lines gather once none waits: to wake the writer for each would cost a quarter of what its request costs.
const GATHER: Duration = Duration::from_millis(10);
/// How long the end may wait for a disk or a reader that hangs.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Takes lines. Dropping it writes those that still wait, for [`LAST_WAIT`] at most.
#[derive(Debug)]
pub struct AccessLog {
    lines: Option<mpsc::Sender<Job>>,
    lost: Arc<AtomicU64>,
    /// Closed when the writer has ended.
    ended: Mutex<Receiver<()>>,
}

enum Job {
    Line(String),
    Reopen,
}

impl AccessLog {
    /// Logs to standard output.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn to_stdout() -> io::Result<Self> {
        Self::to(Output { file: None, to: BufWriter::new(Box::new(io::stdout())), troubled: false })
    }

    /// Appends to a file, which is created if it is missing.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn to_file(path: &Path) -> io::Result<Self> {
        let to = BufWriter::new(open(path)?);
        Self::to(Output { file: Some(path.to_owned()), to, troubled: false })
    }

    fn to(mut output: Output) -> io::Result<Self> {
        let (lines, mut jobs) = mpsc::channel(WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let unwritten = lost.clone();
        let (end, ended) = channel();
        let write = move || {
            let _end = end;
            while let Some(job) = jobs.blocking_recv() {
                let mut lost = match job {
                    Job::Line(line) => output.write(&line),
                    Job::Reopen => output.reopen(),
                };
                let last = jobs.is_empty();
                if last {
                    lost |= output.flush();
                }
                unwritten.fetch_add(u64::from(lost), Relaxed);
                if last {
                    std::thread::sleep(GATHER);
                }
            }
            // Before `_end` says that everything is written.
            drop(output);
        };
        std::thread::Builder::new().name("access-log".into()).spawn(write)?;
        Ok(Self { lines: Some(lines), lost, ended: Mutex::new(ended) })
    }

    /// Queues a line, which ends in a newline.
    pub(super) fn line(&self, line: String) {
        if self.lines.as_ref().is_none_or(|lines| lines.try_send(Job::Line(line)).is_err()) {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Lines that were not written.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// Goes on in a new file of the same name; nothing for standard output.
    pub async fn reopen(&self) {
        if let Some(lines) = &self.lines {
            // Fails only when the writer died, which took the log with it.
            let _ = lines.send(Job::Reopen).await;
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        drop(self.lines.take());
        // Nothing is ever sent: this ends with the writer.
        let _ = self.ended.get_mut().recv_timeout(LAST_WAIT);
    }
}

/// Where lines go.
struct Output {
    file: Option<PathBuf>,
    to: BufWriter<Box<dyn Write + Send>>,
    /// The last line could not be written: the warning is given once, not for each line.
    troubled: bool,
}

impl Output {
    /// Takes a line. Says whether it was lost.
    fn write(&mut self, line: &str) -> bool {
        let written = self.to.write_all(line.as_bytes());
        self.is_lost(written)
    }

    /// Writes what was held back. Says whether some of it was lost.
    fn flush(&mut self) -> bool {
        let flushed = self.to.flush();
        self.troubled &= flushed.is_err();
        self.is_lost(flushed)
    }

    fn is_lost(&mut self, written: io::Result<()>) -> bool {
        let Err(e) = written else { return false };
        if !self.troubled {
            tracing::warn!(
                "lines of the access log are lost: {}: {e}; check that the disk has room, or that standard output is read",
                self.name()
            );
        }
        self.troubled = true;
        true
    }

    fn reopen(&mut self) -> bool {
        let Some(path) = &self.file else { return false };
        match open(path) {
            Ok(file) => {
                let flushed = self.to.flush();
                self.to = BufWriter::new(file);
                self.troubled = false;
                flushed.is_err()
            }
            Err(e) => {
                tracing::warn!(
                    "the access log goes on in the old file: {} cannot be opened: {e}; see that its directory is there",
                    self.name()
                );
                false
            }
        }
    }

    fn name(&self) -> String {
        self.file.as_ref().map_or("standard output".into(), |path| path.display().to_string())
    }
}

fn open(path: &Path) -> io::Result<Box<dyn Write + Send>> {
    Ok(Box::new(File::options().append(true).create(true).open(path)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[tokio::test]
    async fn a_rotated_file_is_left_and_a_new_one_begun() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
        let log = AccessLog::to_file(&path).unwrap();
        log.line("one\n".into());
        std::fs::rename(&path, &old).unwrap();
        log.line("two\n".into());
        log.reopen().await;
        log.line("three\n".into());
        drop(log);
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[tokio::test]
    async fn the_old_file_is_kept_when_no_new_one_can_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        std::fs::create_dir(&logs).unwrap();
        let log = AccessLog::to_file(&logs.join("access.log")).unwrap();
        let kept = dir.path().join("kept");
        std::fs::rename(&logs, &kept).unwrap();
        log.reopen().await;
        log.line("still here\n".into());
        drop(log);
        assert_eq!(std::fs::read_to_string(kept.join("access.log")).unwrap(), "still here\n");
    }

    /// Takes nothing until it is told to, and tells what it took.
    struct Gate(Receiver<()>, std::sync::mpsc::Sender<u8>);
    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            bytes.iter().for_each(|byte| self.1.send(*byte).unwrap());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_line_is_written_also_when_all_that_follows_is_a_rotation() {
        let ((open, gate), (took, taken)) = (channel(), channel());
        let to: Box<dyn Write + Send> = Box::new(Gate(gate, took));
        let log = AccessLog::to(Output { file: None, to: BufWriter::new(to), troubled: false }).unwrap();
        // The first line holds the writer up, so that both jobs wait.
        log.line("one\n".into());
        log.line("two\n".into());
        log.reopen().await;
        drop(open);
        let next = |_| taken.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!((0..8).map(next).collect::<Vec<u8>>(), b"one\ntwo\n");
    }

    #[test]
    fn a_disk_that_hangs_costs_lines_and_neither_memory_nor_time() {
        let ((release, gate), (took, _taken)) = (channel(), channel());
        let to: Box<dyn Write + Send> = Box::new(Gate(gate, took));
        let log = AccessLog::to(Output { file: None, to: BufWriter::new(to), troubled: false }).unwrap();
        // Some may be in the writer's buffer, WAITING wait, and no more is kept.
        let buffered = 8192 / 512 + 1;
        let sent = 3 * WAITING as u64;
        for _ in 0..sent {
            log.line("x".repeat(512));
        }
        assert!(log.lost() >= sent - (WAITING + buffered) as u64, "{}", log.lost());
        drop(release);
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let log = AccessLog::to_file(Path::new("/dev/full")).unwrap();
        let lost = log.lost.clone();
        log.line("x\n".into());
        drop(log);
        assert_eq!(lost.load(Relaxed), 1);
    }
}
