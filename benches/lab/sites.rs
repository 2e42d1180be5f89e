//! Three LANs, each with its own way to the databases and its own port of the content network.
use super::squid::{Squid, free_port};
use std::{
    fs,
    net::{SocketAddr, TcpStream},
    process::{Child, Command, Stdio},
};
use support::{
    cdn::Front,
    clients::Cvdupdate,
    mint::Mint,
    name_server::NameServer,
    peer,
    program::{Program, Serving},
    wait_for,
};

/// The record of the whole world.
pub const WORLD: &str = "current.cvd.clamav.net";

/// A LAN.
pub trait Site: Send {
    fn name(&self) -> &'static str;
    /// Updates what it keeps for its clients.
    fn sync(&mut self);
    /// The TXT record that its clients ask.
    fn record(&self) -> &'static str;
    /// The mirror that its clients ask.
    fn mirror(&self) -> String;
    /// Where it meets the content network.
    fn front(&self) -> &Front;
}

/// What people run today: cvdupdate fills a directory, nginx serves it, and the record is what cvdupdate wrote.
pub struct Today<'a> {
    front: Front,
    names: &'a NameServer,
    filler: Cvdupdate,
    port: u16,
    nginx: Child,
    _dir: tempfile::TempDir,
}

impl<'a> Today<'a> {
    pub fn start(front: Front, names: &'a NameServer) -> Option<Self> {
        let program = peer("nginx")?;
        let filler = Cvdupdate::of(&front.url(), "daily", 2)?;
        let dir = tempfile::tempdir().unwrap();
        let (at, root, port) = (dir.path().display(), filler.db(), free_port());
        let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
        let config = format!(
            "{user} daemon off; master_process off; pid {at}/nginx.pid; error_log {at}/nginx.err;\n\
             events {{ worker_connections 256; }}\n\
             http {{ access_log off; client_body_temp_path {at}; proxy_temp_path {at}; fastcgi_temp_path {at}; \
             uwsgi_temp_path {at}; scgi_temp_path {at};\n\
             server {{ listen 127.0.0.1:{port}; root {}; default_type application/octet-stream; }} }}\n",
            root.display()
        );
        let path = dir.path().join("nginx.conf");
        fs::write(&path, config).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(&path).arg("-p").arg(dir.path()).stdin(Stdio::null());
        let nginx = command.spawn().unwrap();
        wait_for("nginx", || TcpStream::connect(("127.0.0.1", port)).ok());
        Some(Self { front, names, filler, port, nginx, _dir: dir })
    }
}

impl Site for Today<'_> {
    fn name(&self) -> &'static str {
        "cvdupdate + nginx"
    }
    fn sync(&mut self) {
        self.filler.update();
        if let Ok(text) = fs::read_to_string(self.filler.db().join("dns.txt")) {
            self.names.set(self.record(), &text);
        }
    }
    fn record(&self) -> &'static str {
        "current.cvd.a.lan"
    }
    fn mirror(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
    fn front(&self) -> &Front {
        &self.front
    }
}

impl Drop for Today<'_> {
    fn drop(&mut self) {
        let _ = self.nginx.kill();
        let _ = self.nginx.wait();
    }
}

/// Clients that ask the content network themselves, through a cache that keeps what it has.
pub struct Cached<'a> {
    pub front: Front,
    pub squid: &'a Squid,
}

impl Site for Cached<'_> {
    fn name(&self) -> &'static str {
        "squid alone"
    }
    fn sync(&mut self) {}
    fn record(&self) -> &'static str {
        WORLD
    }
    fn mirror(&self) -> String {
        self.squid.url(0)
    }
    fn front(&self) -> &Front {
        &self.front
    }
}

/// cvdmirror behind the same cache.
pub struct Mirrored {
    front: Front,
    program: Program,
    server: Serving,
}

impl Mirrored {
    pub fn start(front: Front, names: &NameServer, squid: &Squid, mint: &Mint) -> Self {
        let dns: SocketAddr = "127.0.0.1:5353".parse().unwrap();
        names.forward("c.lan", dns);
        let program = Program::new(&squid.url(1))
            .set("database", "daily")
            .set("txt-record", WORLD)
            .set("nameserver", "127.0.0.1")
            .set("dns-listen", &dns.to_string())
            .set("dns-zone", "c.lan")
            .trusting(&mint.keys_toml());
        let server = program.serve();
        Self { front, program, server }
    }
}

impl Site for Mirrored {
    fn name(&self) -> &'static str {
        "cvdmirror behind squid"
    }
    fn sync(&mut self) {
        let ran = self.program.sync();
        if std::env::var_os("LAB_VERBOSE").is_some() {
            eprintln!("cvdmirror sync: {}", ran.stdout);
        }
    }
    fn record(&self) -> &'static str {
        "current.cvd.c.lan"
    }
    fn mirror(&self) -> String {
        self.server.url()
    }
    fn front(&self) -> &Front {
        &self.front
    }
}
