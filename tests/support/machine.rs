//! A machine of its own for tests that install: a real systemd over a copy-on-write view of this one.
//!
//! Whatever happens in it (packages, users, units, files) is gone with it: it lives in namespaces of its own, over an
//! overlay whose upper layer is memory. Its network is a loopback of its own. Needs root, and a kernel that has these.
use super::{
    process::{self, Ran},
    skip, wait_for,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs,
    net::TcpListener,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};
use tempfile::TempDir;

/// Boots systemd as the first process of the new namespaces. `$1` is an empty directory.
const BOOT: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
cd "$1"
mkdir upper work root
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" root
cd root
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for dir in run tmp dev; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
chmod 1777 tmp
mkdir dev/pts dev/shm tmp/outside
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for node in null zero full random urandom tty; do touch "dev/$node"; mount --bind "/dev/$node" "dev/$node"; done
ip link set lo up
# Services that were started outside are to be started here as well.
rm -f usr/sbin/policy-rc.d
pivot_root . tmp/outside
umount -l /tmp/outside
# No unit but those that the test starts, and what they need.
exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --system --unit=sysinit.target
"#;

/// A running machine; it ends when dropped.
pub struct Machine {
    unshare: Child,
    /// Its systemd, as numbered out here.
    pid: u32,
    _dir: TempDir,
}

impl Machine {
    /// Boots one; none where that cannot be done, which the test says aloud.
    pub fn boot() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            skip("a machine of its own can be had by root only");
            return None;
        }
        if !Path::new("/lib/systemd/systemd").exists() {
            skip("systemd is not installed");
            return None;
        }
        let dir = TempDir::new().unwrap();
        // Dies with this thread, and takes its child, which is the whole machine, with it.
        let mut unshare = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--kill-child"])
            .args(["--mount", "--pid", "--net", "--cgroup", "--ipc", "--uts", "--fork"])
            .args(["sh", "-c", BOOT, "sh"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::from(fs::File::create(dir.path().join("errors")).unwrap()))
            .spawn()
            .unwrap();
        let errors = fs::File::open(dir.path().join("errors")).unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let pid = wait_for("the machine to boot", || {
            if unshare.try_wait().unwrap().is_some() {
                return Some(None);
            }
            let pid = fs::read_to_string(&children).ok()?.trim().parse().ok()?;
            let booted = |state: &str| state == "running" || state == "degraded";
            let said = inside(pid).args(["systemctl", "is-system-running"]).output().unwrap();
            booted(String::from_utf8_lossy(&said.stdout).trim()).then_some(Some(pid))
        });
        let Some(pid) = pid else {
            let why = std::io::read_to_string(errors).unwrap();
            // Not for want of a peer: no package could mend it.
            eprintln!("SKIPPED: no machine of its own can be had here: {}", why.trim());
            return None;
        };
        Some(Self { unshare, pid, _dir: dir })
    }

    /// Where a path of the machine is out here.
    pub fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root", self.pid)).join(path.trim_start_matches('/'))
    }

    /// Its first process, as numbered out here: its namespaces have no other name.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Listens on an address of its network.
    pub fn listen(&self, address: &str) -> TcpListener {
        let network = fs::File::open(format!("/proc/{}/ns/net", self.pid)).unwrap();
        // The thread that goes there does not come back.
        let there = thread::scope(|scope| {
            let going = scope.spawn(|| {
                move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
                TcpListener::bind(address)
            });
            going.join().unwrap()
        });
        there.unwrap()
    }

    /// Puts a file there, and makes the directories it needs.
    pub fn put(&self, path: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
    }

    /// Runs a line of shell as root there, in root's home directory, to its end; every question is answered with yes.
    pub fn run(&self, line: &str) -> Ran {
        process::run(inside(self.pid).args(["bash", "-c", &format!("yes | ({line})")]))
    }

    /// The standard output of a line that must succeed.
    #[track_caller]
    pub fn out(&self, line: &str) -> String {
        self.run(line).exits(0).stdout.trim().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("-- journal of the machine\n{}", self.run("journalctl --no-pager -n 60").stdout);
        }
        // An error means that it has ended already.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// A command in all namespaces of a process, with nothing of this environment.
fn inside(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args(["--all", "--target", &pid.to_string(), "env", "-i", "--chdir=/root"]);
    command.args([
        "HOME=/root",
        "LANG=C.UTF-8",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]);
    command.args(["DEBIAN_FRONTEND=noninteractive"]);
    command
}
