//! The real squid as the cache that nobody on the LAN asked for: it keeps what it has, whatever anybody says.
use std::{
    fs,
    net::{TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Child, Command, Stdio},
};
use support::{peer, wait_for};

/// A running squid with one port in front of each of several upstreams; ended when dropped.
pub struct Squid {
    child: Child,
    /// In the order of the upstreams.
    pub ports: Vec<u16>,
    _dir: tempfile::TempDir,
}

impl Squid {
    /// None where squid is missing.
    pub fn start(upstreams: &[u16]) -> Option<Self> {
        let program = peer("squid")?;
        let dir = tempfile::tempdir().unwrap();
        // As root it becomes another user, who must get at its directory.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let ports: Vec<u16> = upstreams.iter().map(|_| free_port()).collect();
        // A cache that keeps every answer for a year, and serves it whatever the client or the server asks.
        let mut lines = format!(
            "refresh_pattern . 525600 100% 525600 override-expire override-lastmod ignore-reload ignore-no-store \
             ignore-private\nhttp_access allow all\nnever_direct allow all\ncache_mem 1024 MB\n\
             maximum_object_size 256 MB\nmaximum_object_size_in_memory 256 MB\naccess_log none\n\
             cache_store_log none\ncache_log {at}/cache.log\npid_filename none\nvisible_hostname squid.lan\n\
             coredump_dir {at}\nnetdb_filename none\npinger_enable off\nshutdown_lifetime 0 seconds\n\
             dns_nameservers 127.0.0.1\n",
            at = dir.path().display()
        );
        for (number, (upstream, port)) in upstreams.iter().zip(&ports).enumerate() {
            lines += &format!(
                "http_port 127.0.0.1:{port} accel defaultsite=site{number}.lan no-vhost name=in{number}\n\
                 cache_peer 127.0.0.1 parent {upstream} 0 no-query no-digest originserver name=out{number}\n\
                 acl is{number} myportname in{number}\n\
                 cache_peer_access out{number} allow is{number}\ncache_peer_access out{number} deny all\n"
            );
        }
        let config = dir.path().join("squid.conf");
        fs::write(&config, lines).unwrap();
        let mut command = Command::new(program);
        command.arg("-N").arg("-f").arg(&config).stdin(Stdio::null()).stdout(Stdio::null());
        let mut squid = Self { child: command.spawn().unwrap(), ports, _dir: dir };
        wait_for("squid", || {
            if let Some(status) = squid.child.try_wait().unwrap() {
                panic!("{status}: {}", fs::read_to_string(squid._dir.path().join("cache.log")).unwrap());
            }
            squid.ports.iter().all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok()).then_some(())
        });
        Some(squid)
    }

    /// The site in front of the upstream of this number.
    pub fn url(&self, number: usize) -> String {
        format!("http://127.0.0.1:{}", self.ports[number])
    }
}

impl Drop for Squid {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Between this and the bind another process could take it: then the run fails and says so.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
