//! The data directory: there or to be made, writable, one file system, room for the next full CVD, and its lock.
use super::Check;
use crate::{
    control::ControlError,
    mirror::{DataDir, status::Status},
    trouble::{self, TroubleKind},
    units::size,
};
use rustix::fs::{Access, AtFlags, CWD};
use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What the official databases need before anything of them is held, bytes.
const NEEDED_AT_FIRST: u64 = 1 << 30;
/// A full CVD is unpacked for a rebuild, and written into a pack that is compacted, before an old one goes.
const COPIES: u64 = 4;
const LEAST_NEEDED: u64 = 64 << 20;

const WHY: &str = "nothing new can be stored; what is held stays served";

pub(super) fn check(dir: &DataDir, server: &Result<Option<Status>, ControlError>) -> Check {
    let mut check = Check::new("data directory", TroubleKind::DataDir);
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
                "as root, install -d -o USER {0}, for the user that is to run it; or data_dir = \"DIR\"",
                root.display()
            ),
        ),
    }
}

/// Writes and links a file where packs are built, and takes it away again.
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
    let trouble = trouble::disk(path, e);
    match &*trouble.fix {
        "" => check.find(trouble.said(), WHY, "data_dir = \"DIR\" on a disk that works"),
        _ => check.trouble(&trouble, WHY),
    }
}

fn room(check: &mut Check, dir: &DataDir) {
    let Some(there) = dir.root().ancestors().find(|path| path.is_dir()) else { return };
    let Ok(disk) = rustix::fs::statvfs(there) else { return };
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let packs = std::fs::read_dir(dir.store()).into_iter().flatten().flatten();
    let largest = packs.filter_map(|pack| Some(pack.metadata().ok()?.len())).max();
    let needed = largest.map_or(NEEDED_AT_FIRST, |bytes| (COPIES * bytes).max(LEAST_NEEDED));
    let room = (size(free), size(needed));
    if free < needed {
        let what = format!("{} are free at {}, {} are needed", room.0, there.display(), room.1);
        let why = "a full CVD is rebuilt and packed before an old one goes: a sync that runs out of room \
                   stores nothing new";
        let full = trouble::disk(there, &io::ErrorKind::StorageFull.into());
        check.find(what, why, full.fix);
    } else {
        check.say(format!("{} are free, {} are needed", room.0, room.1));
    }
}
