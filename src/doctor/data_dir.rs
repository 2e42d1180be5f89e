//! The data directory: there or to be made, writable, one file system, room for the next full CVD, and its lock.
use super::Check;
use crate::mirror::{DataDir, status::Status};
use rustix::fs::{Access, AtFlags, CWD};
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What the official databases need before anything of them is held, bytes.
const NEEDED_AT_FIRST: u64 = 1 << 30;
/// A full CVD is staged, unpacked for a rebuild, and written into a pack that is compacted, before an old one goes.
const COPIES: u64 = 4;
const LEAST_NEEDED: u64 = 64 << 20;

const WHY: &str = "nothing new can be stored; what is held stays served";

pub(super) fn check(dir: &DataDir, server: &io::Result<Option<Status>>) -> Check {
    let mut check = Check::of("data directory");
    let root = dir.root();
    match root.metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => to_be_made(&mut check, root),
        Err(e) => unusable(&mut check, root, &e),
        Ok(meta) if !meta.is_dir() => {
            let what = format!("{} is no directory", root.display());
            check.find(what, WHY, "data_dir = \"/var/lib/cvdmirror\"");
        }
        Ok(_) => made(&mut check, dir),
    }
    room(&mut check, dir);
    match (server, dir.holder()) {
        (Ok(Some(_)), Some(pid)) => check.say(format!("in use by the running server (process {pid})")),
        (Ok(None), Some(pid)) => check.say(format!("in use by process {pid}: a sync is at work")),
        (Err(e), Some(pid)) => check.find(
            format!("in use by process {pid}, which does not answer: {e}"),
            "status, sync and gc cannot ask it",
            format!("run this as the user of process {pid}, or restart it if it hangs"),
        ),
        (_, None) => {}
    }
    check
}

fn to_be_made(check: &mut Check, root: &Path) {
    let Some(parent) = root.ancestors().skip(1).find(|parent| parent.exists()) else { return };
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    match rustix::fs::accessat(CWD, parent, Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Ok(()) => check.say(format!("{} is made at the first start", root.display())),
        Err(_) => check.find(
            format!("{} does not exist, and {} is not writable", root.display(), parent.display()),
            "serve cannot start",
            format!(
                "install -d -o $(id -un) {0} (as root), or data_dir = \"DIR\" of your own",
                root.display()
            ),
        ),
    }
}

/// Writes and links a file where downloads are staged, and takes it away again.
fn made(check: &mut Check, dir: &DataDir) {
    let (store, tmp) = (dir.store(), dir.tmp());
    let staging = if tmp.is_dir() { tmp.as_path() } else { dir.root() };
    let probe = staging.join(format!("doctor-{}", std::process::id()));
    let link = probe.with_extension("link");
    let written = std::fs::write(&probe, [0; 4096]).map(|()| std::fs::hard_link(&probe, &link).is_ok());
    for file in [probe, link] {
        // One that was not made.
        let _ = std::fs::remove_file(file);
    }
    match written {
        Ok(true) => check.say(format!("{} is writable, with hard links", dir.root().display())),
        Ok(false) => check.say(format!(
            "{} is writable, without hard links: a backup copies every pack",
            dir.root().display()
        )),
        Err(e) => unusable(check, staging, &e),
    }
    // As when somebody ran `sync` as root before the service first started.
    let owner = |path: &Path| path.metadata().map(|meta| meta.uid()).ok();
    let strange = |path: &&PathBuf| owner(path).is_some_and(|uid| Some(uid) != owner(dir.root()));
    let parts = [store.clone(), tmp.clone(), dir.state(), dir.root().join("lock")];
    if let Some(path) = parts.iter().find(strange) {
        check.find(
            format!("{} belongs to another user than {}", path.display(), dir.root().display()),
            "a server that runs as the directory's owner cannot open it, and does not start",
            format!("chown -R --reference={0} {0} (as root)", dir.root().display()),
        );
    }
    let device = |path: &Path| path.metadata().map(|meta| meta.dev()).ok();
    if let (Some(one), Some(other)) = (device(&store), device(&tmp))
        && one != other
    {
        check.find(
            format!("{} and {} are on two file systems", store.display(), tmp.display()),
            "a pack is built in the one and renamed into the other, which cannot be done across file systems",
            format!("mount at {} instead, so that it holds both", dir.root().display()),
        );
    }
}

fn unusable(check: &mut Check, path: &Path, e: &io::Error) {
    let fix = match e.kind() {
        io::ErrorKind::PermissionDenied => {
            format!("chown -R $(id -un) {} (as root), or run this as the user that owns it", path.display())
        }
        io::ErrorKind::ReadOnlyFilesystem => format!("mount -o remount,rw {}", path.display()),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => free_some(path),
        _ => "data_dir = \"DIR\" on a disk that works".into(),
    };
    check.find(format!("{}: {e}", path.display()), WHY, fix);
}

fn free_some(path: &Path) -> String {
    format!(
        "free space on the disk of {}, or move everything to a larger one: data_dir = \"DIR\"",
        path.display()
    )
}

fn room(check: &mut Check, dir: &DataDir) {
    let Some(there) = dir.root().ancestors().find(|path| path.is_dir()) else { return };
    let Ok(disk) = rustix::fs::statvfs(there) else { return };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let packs = std::fs::read_dir(dir.store()).into_iter().flatten().flatten();
    let largest = packs.filter_map(|pack| Some(pack.metadata().ok()?.len())).max();
    let needed = largest.map_or(NEEDED_AT_FIRST, |bytes| (COPIES * bytes).max(LEAST_NEEDED));
    let (free_mb, needed_mb) = (free / 1_000_000, needed / 1_000_000);
    if free < needed {
        let what = format!("{free_mb} MB are free at {}, {needed_mb} MB are needed", there.display());
        let why = "a full CVD is staged, rebuilt and packed before an old one goes: a sync that runs out of room \
                   stores nothing new";
        check.find(what, why, free_some(there));
    } else {
        check.say(format!("{free_mb} MB are free, {needed_mb} MB are needed"));
    }
}
