//! What is written into a downloader's directory, and whose that is.
use super::{Fault, Setup, refused};
use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, lchown},
    path::Path,
};

/// Makes a directory that is ours alone, in place of whatever is there.
pub(super) fn directory(path: &Path) -> Result<(), Fault> {
    if fs::symlink_metadata(path).is_ok_and(|meta| !meta.is_dir()) {
        fs::remove_file(path).map_err(refused(path))?;
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refused(path))
}

/// Writes a file anew. The directory may be the downloader's user's, and we root: never through a link that is left there.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Fault> {
    if let Err(e) = fs::remove_file(path)
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(refused(path)(e));
    }
    fs::File::create_new(path).and_then(|mut file| file.write_all(bytes)).map_err(refused(path))
}

/// Removes what is not to be kept from a directory.
pub(super) fn empty(dir: &Path, keep: impl Fn(&Path) -> bool) -> Result<(), Fault> {
    for entry in fs::read_dir(dir).map_err(refused(dir))? {
        let path = entry.map_err(refused(dir))?.path();
        if keep(&path) {
            continue;
        }
        let is_dir = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        let removed = if is_dir { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(refused(&path))?;
    }
    Ok(())
}

/// As whom root runs a downloader: user and group; none where it is run as who we are.
pub(super) fn user(setup: &Setup, dir: &Path) -> Result<Option<(u32, u32)>, Fault> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let data_dir = dir.parent().unwrap_or(dir);
    let ids = match &setup.user {
        Some(name) => {
            let path = Path::new("/etc/passwd");
            let users = fs::read_to_string(path).map_err(refused(path))?;
            // name:password:uid:gid:…
            let ids = users.lines().find_map(|line| {
                let mut fields = line.split(':');
                (fields.next() == Some(name.as_str())).then_some(())?;
                Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
            });
            ids.ok_or_else(|| Fault::NoUser(name.clone()))?
        }
        None => {
            let owner = fs::metadata(data_dir).map_err(refused(data_dir))?;
            (owner.uid(), owner.gid())
        }
    };
    if ids.0 == 0 {
        return Ok(None);
    }
    // On the way to what is its own. What else is there is closed to it, and cannot be listed.
    for path in [data_dir, dir] {
        let meta = fs::metadata(path).map_err(refused(path))?;
        if !may_enter(&meta, ids) {
            let mode = fs::Permissions::from_mode((meta.mode() & 0o7777) | ENTER_OTHERS);
            fs::set_permissions(path, mode).map_err(refused(path))?;
        }
    }
    Ok(Some(ids))
}

/// The right of others to pass through a directory.
const ENTER_OTHERS: u32 = 0o001;

/// The first directory, from the inside, that its mode closes to a user.
pub(super) fn closed(path: &Path, ids: (u32, u32)) -> Option<&Path> {
    path.ancestors().find(|dir| fs::metadata(dir).is_ok_and(|meta| !may_enter(&meta, ids)))
}

fn may_enter(dir: &fs::Metadata, (uid, gid): (u32, u32)) -> bool {
    let shift = match (dir.uid() == uid, dir.gid() == gid) {
        (true, _) => 6,
        (false, true) => 3,
        (false, false) => 0,
    };
    (dir.mode() >> shift) & ENTER_OTHERS != 0
}

/// Takes a directory back, which an earlier build gave away.
pub(super) fn own(path: &Path) -> Result<(), Fault> {
    let us = rustix::process::geteuid();
    let is_ours = fs::metadata(path).is_ok_and(|meta| meta.uid() == us.as_raw());
    if is_ours { Ok(()) } else { lchown(path, Some(us.as_raw()), None).map_err(refused(path)) }
}

/// Gives a file, or a directory and what lies in it, to a user. Nothing below that: who owns a directory may put a link in
/// place of what is in it, at any moment.
pub(super) fn give(path: &Path, ids: (u32, u32)) -> Result<(), Fault> {
    let own = |path: &Path| lchown(path, Some(ids.0), Some(ids.1)).map_err(refused(path));
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        for entry in fs::read_dir(path).map_err(refused(path))? {
            own(&entry.map_err(refused(path))?.path())?;
        }
    }
    own(path)
}
