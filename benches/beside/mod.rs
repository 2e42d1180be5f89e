//! nginx and cvdmirror beside each other, with the same files.
use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use support::mint::Mint;

/// Lines of the database; gives a CVD of about 60 MB.
const LINES: usize = 1_950_000;
/// Edits from version 1 to 2; gives a CDIFF of about 30 KB.
const EDITS: usize = 750;
pub(crate) const CVD: &str = "bench-2.cvd";
pub(crate) const CDIFF: &str = "bench-2.cdiff";

/// A minted database, and where its servers keep what they need.
pub(crate) struct Site {
    pub(crate) dir: tempfile::TempDir,
    mint: Mint,
}

impl Site {
    pub(crate) fn new() -> Self {
        let (dir, mint) = (tempfile::tempdir().unwrap(), Mint::new(7));
        let site = Self { dir, mint };
        fs::create_dir(site.files()).unwrap();
        let mut lineage = site.mint.database_of("bench", LINES, EDITS);
        lineage.publish();
        let release = lineage.publish();
        fs::write(site.files().join(CVD), &release.cvd).unwrap();
        fs::write(site.files().join(CDIFF), release.cdiff.unwrap()).unwrap();
        fs::write(site.dir.path().join("keys.toml"), site.mint.keys_toml()).unwrap();
        site
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.dir.path().join("files")
    }

    pub(crate) fn nginx(&self, program: &Path) -> Server {
        // Between this and nginx's bind another process could take the port: then the run fails and says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (dir, root) = (self.dir.path(), self.files());
        let (at, root) = (dir.display(), root.display());
        let config = format!(
            "daemon off; master_process on; worker_processes 2; pid {at}/nginx.pid; error_log {at}/nginx.err;\n\
             worker_rlimit_nofile 16384; events {{ worker_connections 4096; }}\n\
             http {{ sendfile on; tcp_nopush on; tcp_nodelay on; etag on; access_log {at}/nginx.log;\n\
             keepalive_requests 1000000000; client_body_temp_path {at}; proxy_temp_path {at}; \
             fastcgi_temp_path {at}; uwsgi_temp_path {at}; scgi_temp_path {at};\n\
             server {{ listen 127.0.0.1:{port}; root {root}; default_type application/octet-stream;\n\
             add_header Cache-Control 'public, max-age=31536000, immutable'; }} }}\n"
        );
        // Without a user line workers become `nobody`, who may not read the temporary directory.
        let user = if fs::metadata("/proc/self").unwrap().uid() == 0 { "user root;\n" } else { "" };
        let path = dir.join("nginx.conf");
        fs::write(&path, format!("{user}{config}")).unwrap();
        let child = Command::new(program).arg("-c").arg(&path).arg("-p").arg(dir).spawn().unwrap();
        Server::up("nginx", port, child)
    }

    /// cvdmirror, with further options.
    pub(crate) fn ours(&self, options: &[&str]) -> Server {
        let dir = self.dir.path();
        let mut child = Command::new(env!("CARGO_BIN_EXE_cvdmirror"))
            .args(["serve", "--listen", "127.0.0.1:0", "--database", "bench", "--source"])
            .arg(format!("dir:{}", self.files().display()))
            .arg("--trust-keys")
            .arg(dir.join("keys.toml"))
            .arg("--data-dir")
            .arg(dir.join("data"))
            .arg("--access-log")
            .arg(dir.join("access.log"))
            .args(options)
            .stdout(Stdio::piped())
            .stderr(fs::File::create(dir.join("cvdmirror.log")).unwrap())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = lines.next().and_then(Result::ok).unwrap_or_else(|| {
            panic!("{}", fs::read_to_string(dir.join("cvdmirror.log")).unwrap());
        });
        let port = line.rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
        Server::up("cvdmirror", port, child)
    }
}

/// A running server.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) port: u16,
    child: Child,
}

impl Server {
    /// Waits until the CVD is there.
    fn up(name: &'static str, port: u16, child: Child) -> Self {
        let server = Self { name, port, child };
        let began = Instant::now();
        while server.length_of(CVD) == 0 || server.length_of(CDIFF) == 0 {
            assert!(began.elapsed() < Duration::from_secs(120), "{name} does not serve the files");
            std::thread::sleep(Duration::from_millis(100));
        }
        server
    }

    /// The Content-Length of a 200 for a file; 0 for anything else.
    pub(crate) fn length_of(&self, file: &str) -> u64 {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else { return 0 };
        let request = format!("HEAD /{file} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut head = String::new();
        stream.read_to_string(&mut head).unwrap();
        let length =
            |line: &str| line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned);
        let found = head.starts_with("HTTP/1.1 200").then(|| head.lines().find_map(length)).flatten();
        found.map_or(0, |length| length.parse().unwrap())
    }

    /// Takes a file; returns the bytes that came after the head.
    pub(crate) fn get(&self, file: &str) -> u64 {
        let mut stream =
            BufReader::with_capacity(1 << 17, TcpStream::connect(("127.0.0.1", self.port)).unwrap());
        let request = format!("GET /{file} HTTP/1.1\r\nHost: m\r\nConnection: close\r\n\r\n");
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            assert!(stream.read_line(&mut line).unwrap() > 0, "{file} of {}", self.name);
        }
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap()
    }

    /// CPU time of the process and its children, user and system, from /proc/PID/stat.
    pub(crate) fn cpu_s(&self) -> f64 {
        // A clock tick is 10 ms on every Linux that this runs on.
        self.processes().into_iter().map(ticks).sum::<u64>() as f64 / 100.0
    }

    /// The most memory that the process and its children have had, bytes; the hot set's is in it.
    pub(crate) fn peak_bytes(&self) -> u64 {
        let peak = |pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
            line.trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10
        };
        self.processes().into_iter().map(peak).sum()
    }

    fn processes(&self) -> Vec<u32> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap();
        std::iter::once(own).chain(children.split_whitespace().map(|id| id.parse().unwrap())).collect()
    }
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the command's name, which is in parentheses, come the fields from the third on; 14 and 15 are wanted.
    let (_, rest) = stat.rsplit_once(')').unwrap();
    rest.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}

impl Drop for Server {
    fn drop(&mut self) {
        // TERM, so that nginx's master ends its workers.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
    }
}
