//! The real binary: one data directory, and what is run on it.
use super::{
    mint_keys::keys,
    process::{self, Lines, Ran},
    talos, wait_for,
    wire::{self, Reply},
};
use std::{
    collections::BTreeMap,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// A data directory and the settings with which the binary is run on it.
pub struct Program {
    pub dir: tempfile::TempDir,
    settings: BTreeMap<String, String>,
}

impl Program {
    /// Mirrors the database `test` from `source`, whose headers it probes.
    pub fn new(source: &str) -> Self {
        let settings = [
            ("database", "test"),
            ("source", source),
            ("txt-record", "none"),
            // Not those of ClamAV on the machine that runs the tests.
            ("certs-dir", "none"),
            ("listen", "127.0.0.1:0"),
            // A round only when the test asks for one.
            ("check-interval", "1h"),
            ("stall-timeout", "5s"),
            // Where `Serving::requests` reads what was asked.
            ("access-log", "-"),
        ];
        let program = Self {
            dir: tempfile::tempdir().unwrap(),
            settings: settings.map(|(key, value)| (key.into(), value.into())).into(),
        };
        match talos::is_own() {
            true => program,
            false => program.trusting(&keys().toml()),
        }
    }

    /// Changes a setting; an empty value leaves it out.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.into(), value.into());
        self
    }

    /// Trusts `keys` (see `Mint::keys_toml`) instead of Talos'.
    pub fn trusting(self, keys: &str) -> Self {
        let file = self.dir.path().join("keys.toml");
        std::fs::write(&file, keys).unwrap();
        self.set("trust-keys", file.to_str().unwrap())
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The sealed packs.
    pub fn packs(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(self.data().join("store")) else { return Vec::new() };
        let mut packs: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        packs.sort();
        packs
    }

    /// The command line that runs `command` with the settings.
    pub fn command(&self, command: &[&str]) -> Command {
        let mut line = bare();
        line.args(command).arg("--data-dir").arg(self.data());
        for (key, value) in self.settings.iter().filter(|(_, value)| !value.is_empty()) {
            line.arg(format!("--{key}={value}"));
        }
        line
    }

    /// Runs a command to its end.
    pub fn run(&self, command: &[&str]) -> Ran {
        process::run(&mut self.command(command))
    }

    /// Does a round; beside a running server, the server does it.
    pub fn sync(&self) -> Ran {
        self.run(&["sync"])
    }

    pub fn status(&self) -> serde_json::Value {
        let ran = self.run(&["status", "--json"]).exits(0);
        serde_json::from_str(&ran.stdout).unwrap()
    }

    /// What is published of the database `test`.
    pub fn version(&self) -> Option<u64> {
        self.status()["databases"][0]["version"].as_u64()
    }

    /// Every name in the store.
    pub fn names(&self) -> Vec<String> {
        let ran = self.run(&["store", "ls", "--json"]).exits(0);
        let entries: Vec<serde_json::Value> = serde_json::from_str(&ran.stdout).unwrap();
        entries.iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The bytes stored under a name.
    pub fn cat(&self, name: &str) -> Vec<u8> {
        let output = process::run_bytes(&mut self.command(&["store", "cat", name]));
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    /// Starts a server; it has not done its first round yet.
    pub fn serve(&self) -> Serving {
        self.serve_as(self.command(&["serve"]))
    }

    /// Starts a server with a command line of one's own.
    pub fn serve_as(&self, mut command: Command) -> Serving {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, log) =
            (Lines::of(child.stdout.take().unwrap()), Lines::of(child.stderr.take().unwrap()));
        let address = wait_for("the server's address", || {
            if let Some(status) = child.try_wait().unwrap() {
                panic!("serve ended with {status}: {}", log.so_far().join("\n"));
            }
            let line = stdout.find("listening on http://")?;
            Some(line.rsplit('/').next().unwrap().parse().unwrap())
        });
        Serving { child, address, stdout, log }
    }
}

/// The binary under test: cargo names it to what it runs, and it stands beside that.
pub fn binary() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_cvdmirror").map_or_else(
        || std::env::current_exe().unwrap().parent().unwrap().with_file_name("cvdmirror"),
        PathBuf::from,
    )
}

/// The binary without any setting, also from the environment.
pub fn bare() -> Command {
    let mut command = Command::new(binary());
    for (key, _) in std::env::vars_os() {
        let key = key.to_string_lossy().into_owned();
        if key.starts_with("CVDMIRROR_") || key.to_ascii_lowercase().ends_with("_proxy") || key == "RUST_LOG"
        {
            command.env_remove(key);
        }
    }
    // Instead of the settings of a mirror that this machine has.
    command.env("CVDMIRROR_CONFIG", "/dev/null");
    command
}

/// A running server; ended when dropped.
pub struct Serving {
    child: Child,
    pub address: SocketAddr,
    /// The addresses, then the access log.
    pub stdout: Lines,
    pub log: Lines,
}

impl Serving {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn get(&self, target: &str) -> Reply {
        wire::get(self.address, target, "")
    }

    /// Waits until a line of the log holds `needle`.
    pub fn says(&self, needle: &str) -> String {
        wait_for(&format!("{needle:?} in the log"), || self.log.find(needle))
    }

    /// Waits until the full CVD of `test` is published in this version.
    pub fn publishes(&self, version: u64) {
        wait_for(&format!("version {version}"), || {
            let index = self.get("/index.json");
            let index: serde_json::Value = serde_json::from_slice(&index.body).unwrap();
            (index["databases"]["test"]["cvd"] == version).then_some(())
        });
    }

    /// Target and status of every request logged so far, but for those of this harness.
    pub fn requests(&self) -> Vec<(String, u16)> {
        // Lines gather before they are written: what was answered before this one is there when this one is.
        static ASKED: AtomicUsize = AtomicUsize::new(0);
        let last = format!("/last-{}", ASKED.fetch_add(1, Relaxed));
        self.get(&last);
        let lines = wait_for("the access log", || {
            let lines = self.stdout.so_far();
            lines.iter().any(|line| line.contains(&last)).then_some(lines)
        });
        let ours = format!("\"{}\"", wire::AGENT);
        let requests = lines.iter().filter(|line| !line.ends_with(&ours));
        // ADDRESS - - [TIME] "METHOD TARGET VERSION" STATUS BYTES "REFERER" "AGENT"
        let read = |line: &String| {
            let mut parts = line.split('"').skip(1);
            let target = parts.next()?.split(' ').nth(1)?.to_owned();
            Some((target, parts.next()?.trim().split(' ').next()?.parse().ok()?))
        };
        requests.filter_map(read).collect()
    }

    /// The most memory it has used so far, KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        process::terminate(&self.child);
    }

    /// Tells it that its log was rotated.
    pub fn hang_up(&self) {
        process::hang_up(&self.child);
    }

    /// Waits for its end and returns the exit code.
    pub fn ends(&mut self) -> Option<i32> {
        process::ends(&mut self.child).expect("the server ends").code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.terminate();
        if process::ends(&mut self.child).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if std::thread::panicking() {
            eprintln!("-- log of the server\n{:#?}", self.log.so_far());
        }
    }
}

/// Writes a program that a shell runs. A child writes it: what this process has open to write, a program that another
/// test is just starting has for a moment too, and then it cannot be run.
pub fn script(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    let mut shell = Command::new("sh");
    // Renamed, since the one before may be running.
    let shell = shell.args(["-c", r#"cat > "$0.new" && chmod 755 "$0.new" && mv "$0.new" "$0""#]).arg(&path);
    let mut child = shell.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{}", path.display());
    path
}

/// Copies the files of one directory into another.
pub fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
