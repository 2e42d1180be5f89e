//! Backup and restore: copies of packs, since a pack never changes and names never change their content.
//!
//! Guarantees: what arrives at the other side is whole before it has its name there; a backup holds everything that
//! was acknowledged before it began; a restore can only add. Both do the same again without harm, and only what is
//! missing is copied.
use super::{
    DataDir, OpenError, Verifier,
    verify::{Unfit, versions},
};
use crate::{cvd::FileName, trouble::Trouble};
use cvdmirror_store::{NameRecord, Pack, PackId, Store};
use std::{
    collections::BTreeSet,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// What a backup or restore did.
#[derive(Default, Debug)]
pub struct Copies {
    /// Packs that were there already.
    pub held: u64,
    /// Packs that were linked.
    pub linked: u64,
    /// Packs that were copied, or cloned by the file system.
    pub copied: u64,
    /// Bytes of the packs linked or copied.
    pub bytes: u64,
    /// What was not copied, or is not as it should be.
    pub findings: Vec<Trouble>,
    refused: Vec<Trouble>,
}

/// Times the store is listed again because a pack went between listing and linking: each time there is a merged one.
const LOOKS: usize = 8;

/// Copies every whole pack of the store into `dest`, by hard link where the file system lets it. What is there
/// already is verified as well, and replaced where it is not whole.
///
/// # Errors
/// When a directory cannot be read or written.
pub fn backup(dir: &DataDir, dest: &Path) -> Result<Copies, OpenError> {
    std::fs::create_dir_all(dest).map_err(at(dest))?;
    let mut copies = Copies::default();
    let mut done = BTreeSet::new();
    for _ in 0..LOOKS {
        let scan = Store::scan(&dir.store())?;
        copies.findings = scan.findings.iter().map(Trouble::from).collect();
        let mut gone = false;
        for pack in scan.packs {
            if !done.contains(pack.id()) {
                match backup_pack(&pack, dest, &mut copies) {
                    Err(_) if pack.path().symlink_metadata().is_err() => {
                        gone = true;
                        continue;
                    }
                    result => result?,
                }
                done.insert(pack.id().clone());
            }
        }
        if !gone {
            break;
        }
    }
    copies.findings.append(&mut copies.refused);
    sync_dir(dest)?;
    Ok(copies)
}

fn backup_pack(pack: &Pack, dest: &Path, copies: &mut Copies) -> Result<(), OpenError> {
    let path = dest.join(pack.id().file_name());
    let whole = pack.check_file_hash(&mut |_| {});
    if same_file(pack.path(), &path)
        || hash_of(&path).is_ok_and(|hash| hash.starts_with(pack.id().hash_start()))
    {
        // Of one inode with the original it is as whole as that.
        match (whole, same_file(pack.path(), &path)) {
            (Err(e), true) => copies.refused.push(Trouble::in_backup("in the backup too", &e)),
            (Err(e), false) => copies.refused.push(Trouble::in_backup("the backup has it whole", &e)),
            (Ok(()), _) => {}
        }
        copies.held += 1;
        return Ok(());
    }
    if let Err(e) = whole {
        copies.refused.push(Trouble::in_backup("not backed up", &e));
        return Ok(());
    }
    if path.symlink_metadata().is_ok() {
        copies.refused.push(Trouble::replaced(&path));
        copy(pack.path(), dest, pack.id(), dest)?;
        copies.copied += 1;
    } else if std::fs::hard_link(pack.path(), &path).is_ok() {
        copies.linked += 1;
    } else {
        copy(pack.path(), dest, pack.id(), dest)?;
        copies.copied += 1;
    }
    copies.bytes += pack.file_len();
    Ok(())
}

fn same_file(one: &Path, other: &Path) -> bool {
    let inode = |path: &Path| path.symlink_metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    inode(one).is_some_and(|known| inode(other) == Some(known))
}

/// Verifies every pack in `src` (a copy of a store, or of a data directory) and adds those that are fit.
///
/// # Errors
/// When a directory cannot be read or written, or a pack is of a newer format.
pub fn restore(dir: &DataDir, src: &Path, verifier: &Verifier) -> Result<Copies, OpenError> {
    dir.create()?;
    let inner = src.join("store");
    let src = if inner.is_dir() { &inner } else { src };
    let scan = Store::scan(src)?;
    let mut copies = Copies::default();
    copies.findings.extend(scan.findings.iter().map(Trouble::from));
    let held = Store::scan(&dir.store())?.packs;
    let (store, _) = Store::assemble(&dir.store(), &dir.tmp(), held.clone())?;
    let all: Vec<Pack> = scan.packs.iter().chain(&held).cloned().collect();
    let all = Store::assemble(&dir.store(), &dir.tmp(), all)?.0.view();
    let files: Vec<FileName> = all.names().filter_map(|(name, _)| name.parse().ok()).collect();
    let versions = versions(files.iter());
    let mut names = store.view();
    for pack in &scan.packs {
        if held.iter().any(|known| known.id() == pack.id()) {
            copies.held += 1;
            continue;
        }
        let other = |(name, record): &(&str, &NameRecord)| {
            let differs = |known: &NameRecord| known.object != record.object;
            names.lookup(name).is_some_and(|known| differs(known) && known.size > 0 && record.size > 0)
        };
        let fit = match pack.names().find(other) {
            Some((name, _)) => Err(Unfit::Conflict(name.to_owned())),
            None => verifier.verify_pack(pack, &all, &versions),
        };
        if let Err(why) = fit {
            copies.findings.push(Trouble::unrestored(pack.id(), &why));
            continue;
        }
        copy(pack.path(), &dir.tmp(), pack.id(), &dir.store())?;
        copies.copied += 1;
        copies.bytes += pack.file_len();
        // Two packs of one backup may conflict as well.
        store.adopt(vec![pack.clone()]);
        names = store.view();
    }
    sync_dir(&dir.store())?;
    Ok(copies)
}

/// Copies a pack: whole and durable under another name first, then under its own.
fn copy(from: &Path, staging: &Path, id: &PackId, dest: &Path) -> Result<(), OpenError> {
    let staged = staging.join(format!("{}.tmp", id.as_str()));
    let copied =
        copy_to(from, &staged, id).and_then(|()| std::fs::rename(&staged, dest.join(id.file_name())));
    copied.map_err(|source| {
        let _ = std::fs::remove_file(&staged);
        at(&staged)(source)
    })
}

/// `std::fs::copy` clones the blocks where the file system can.
fn copy_to(from: &Path, staged: &Path, id: &PackId) -> io::Result<()> {
    // What an earlier attempt left may not be writable.
    let _ = std::fs::remove_file(staged);
    std::fs::copy(from, staged)?;
    File::open(staged)?.sync_all()?;
    match hash_of(staged)?.starts_with(id.hash_start()) {
        true => Ok(()),
        false => Err(io::Error::new(io::ErrorKind::InvalidData, "the copy does not hash to its name")),
    }
}

/// The BLAKE3 hash of a regular file's bytes, in hex.
fn hash_of(path: &Path) -> io::Result<String> {
    if !path.symlink_metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut hasher = cvdmirror_store::Hasher::new();
    let mut reader = io::BufReader::with_capacity(1 << 18, File::open(path)?);
    loop {
        let buffer = io::BufRead::fill_buf(&mut reader)?;
        let n = buffer.len();
        if n == 0 {
            return Ok(hasher.finish().to_string());
        }
        hasher.update(buffer);
        io::BufRead::consume(&mut reader, n);
    }
}

fn sync_dir(dir: &Path) -> Result<(), OpenError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(at(dir))
}

fn at(path: &Path) -> impl Fn(io::Error) -> OpenError + use<> {
    let path = PathBuf::from(path);
    move |source| OpenError::Io { path: path.clone(), source }
}
