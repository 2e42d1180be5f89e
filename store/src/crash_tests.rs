//! What a crash or a full disk leaves, at every single operation.
//!
//! The failure: power goes, and of what was not fsynced anything may be missing, torn or out of order, files' bytes and
//! directory entries alike. The consequence, were packs not sealed in order (fsync, rename, fsync of the directory): a pack in
//! `store/` that is cut or full of holes, or an acknowledged one that is gone.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use crate::{
    Error, NameRecord, ObjectId, Proof, Store,
    disk::{Op, watch},
};
use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs::Permissions,
    io,
    os::unix::fs::{FileExt, PermissionsExt},
    path::{Path, PathBuf},
    rc::Rc,
};

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn content(n: u64) -> Vec<u8> {
    // One of more than a stripe; the rest small, for speed.
    noise(n, if n == 4 { 300_000 } else { 9_000 * n as usize })
}

fn commit(store: &Store, numbers: &[u64]) -> Result<crate::Pack, Error> {
    let mut batch = store.batch()?;
    for &n in numbers {
        let bytes = content(n);
        let object = ObjectId::of(&bytes);
        let size = bytes.len() as u64;
        batch.put(object, size, &mut &bytes[..])?;
        let record = NameRecord {
            object,
            size,
            modified_s: None,
            stored_at_s: 1,
            origin: String::new(),
            proof: Proof::Unknown,
        };
        batch.bind(&format!("n{n}"), record)?;
    }
    store.commit(batch, 1_000_000 + numbers[0])
}

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        for dir in ["store", "tmp"] {
            std::fs::create_dir(home.0.path().join(dir)).unwrap();
        }
        home
    }

    fn dir(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self) -> Store {
        let scan = Store::scan(&self.dir("store")).unwrap();
        assert_eq!(scan.findings, []);
        let (store, findings) = Store::assemble(&self.dir("store"), &self.dir("tmp"), scan.packs).unwrap();
        assert_eq!(findings, []);
        store
    }

    fn tmp_is_empty(&self) -> bool {
        std::fs::read_dir(self.dir("tmp")).unwrap().next().is_none()
    }
}

fn assert_holds(store: &Store, numbers: &[u64]) {
    let view = store.view();
    for &n in numbers {
        let bytes = content(n);
        let record = view.lookup(&format!("n{n}")).unwrap_or_else(|| panic!("n{n} is gone"));
        let reader = view.open(&record.object).unwrap().unwrap();
        let mut at = 0;
        while at < bytes.len() {
            let chunk = reader.chunk_at(at as u64).unwrap();
            assert_eq!(chunk, bytes[at..at + chunk.len()]);
            at += chunk.len();
        }
    }
}

/// The failure: memory or disk hands back another byte than was written. The consequence, were the pack not read back: its
/// own hash would vouch for the wrong byte from then on.
#[test]
fn what_reads_back_otherwise_is_not_sealed() {
    let home = Home::new();
    let store = home.open();
    let spoil = |op: &Op<'_>| {
        let Op::Fsync(path) = op else { return Ok(()) };
        let bytes = std::fs::read(path)?;
        let spot = &content(4)[1000..1100];
        let at = bytes.windows(spot.len()).position(|bytes| bytes == spot).unwrap();
        std::fs::set_permissions(path, Permissions::from_mode(0o644))?;
        std::fs::File::options().write(true).open(path)?.write_all_at(&[!bytes[at]], at as u64)
    };
    let refused = watch(spoil, || commit(&store, &[1, 4]));
    let object = ObjectId::of(&content(4));
    assert!(matches!(refused, Err(Error::Corrupt { object: o, .. }) if o == object), "{refused:?}");
    assert_eq!(Store::scan(&home.dir("store")).unwrap().packs.len(), 0);
    assert!(home.tmp_is_empty());
    commit(&store, &[1, 4]).unwrap();
    assert_holds(&home.open(), &[1, 4]);
}

/// An operation as recorded: paths relative to the home, files by number, as a rename does not change which file it is.
#[derive(Clone)]
enum Step {
    Create(PathBuf, usize),
    SetLen(usize, u64),
    Write(usize, u64, Vec<u8>),
    Fsync(usize),
    Rename(PathBuf, PathBuf),
    SyncDir(PathBuf),
    Unlink(PathBuf),
}

#[derive(Default)]
struct Recorder {
    steps: Vec<Step>,
    files: BTreeMap<PathBuf, usize>,
    created: usize,
}

impl Recorder {
    fn record(&mut self, home: &Path, op: &Op<'_>) {
        let relative = |path: &Path| path.strip_prefix(home).unwrap().to_owned();
        let step = match op {
            Op::Create(path) => {
                self.created += 1;
                self.files.insert(relative(path), self.created);
                Step::Create(relative(path), self.created)
            }
            Op::SetLen(path, len) => Step::SetLen(self.files[&relative(path)], *len),
            Op::Write(path, at, data) => Step::Write(self.files[&relative(path)], *at, data.to_vec()),
            Op::Fsync(path) => Step::Fsync(self.files[&relative(path)]),
            Op::Rename(from, to) => {
                let file = self.files.remove(&relative(from)).unwrap();
                self.files.insert(relative(to), file);
                Step::Rename(relative(from), relative(to))
            }
            Op::SyncDir(path) => Step::SyncDir(relative(path)),
            Op::Unlink(path) => {
                self.files.remove(&relative(path));
                Step::Unlink(relative(path))
            }
        };
        self.steps.push(step);
    }
}

/// `Vec::resize`, which is slow where this crate is built without optimisation.
fn set_len(content: &mut Vec<u8>, len: usize) {
    content.truncate(len);
    content.extend_from_slice(&vec![0; len - content.len()]);
}

/// What reached the disk: what was fsynced did, of the rest each thing by the toss of `coin`.
fn after_crash(
    steps: &[Step],
    coin: &mut dyn FnMut() -> bool,
) -> (BTreeMap<PathBuf, usize>, BTreeMap<usize, Vec<u8>>) {
    let mut data: BTreeMap<usize, Vec<u8>> = BTreeMap::new();
    let mut entries: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut live: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let mut last_fsync: BTreeMap<usize, usize> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        if let Step::Fsync(file) = step {
            last_fsync.insert(*file, at);
        }
    }
    let fsynced = |file: usize, from: usize| last_fsync.get(&file).is_some_and(|last| *last > from);
    let dir_synced = |path: &Path, from: usize| {
        steps[from..].iter().any(|s| matches!(s, Step::SyncDir(dir) if Some(&**dir) == path.parent()))
    };
    for (at, step) in steps.iter().enumerate() {
        match step {
            Step::Create(path, file) => {
                live.insert(path.clone(), *file);
                data.entry(*file).or_default();
                if dir_synced(path, at) || coin() {
                    entries.insert(path.clone(), *file);
                }
            }
            Step::SetLen(file, len) => {
                if fsynced(*file, at) || coin() {
                    set_len(data.get_mut(file).unwrap(), *len as usize);
                }
            }
            Step::Write(file, offset, bytes) => {
                let mut bytes = &bytes[..];
                if !fsynced(*file, at) {
                    if !coin() {
                        continue;
                    }
                    if coin() {
                        bytes = &bytes[..bytes.len() / 2];
                    }
                }
                let content = data.get_mut(file).unwrap();
                let end = *offset as usize + bytes.len();
                set_len(content, content.len().max(end));
                content[*offset as usize..end].copy_from_slice(bytes);
            }
            Step::Rename(from, to) => {
                let file = live.remove(from).unwrap();
                live.insert(to.clone(), file);
                if dir_synced(to, at) || coin() {
                    entries.insert(to.clone(), file);
                }
                if dir_synced(from, at) || coin() {
                    entries.remove(from);
                }
            }
            Step::Unlink(path) => {
                live.remove(path);
                if dir_synced(path, at) || coin() {
                    entries.remove(path);
                }
            }
            Step::Fsync(_) | Step::SyncDir(_) => {}
        }
    }
    (entries, data)
}

#[test]
fn whatever_a_crash_leaves_opens_clean_and_holds_what_was_acknowledged() {
    let home = Home::new();
    let recorder = Rc::new(RefCell::new(Recorder::default()));
    let (recording, root) = (recorder.clone(), home.0.path().to_owned());
    // After how many steps which names were acknowledged.
    let mut acknowledged = vec![(0, vec![])];
    watch(
        move |op| {
            recording.borrow_mut().record(&root, op);
            Ok(())
        },
        || {
            let store = home.open();
            let mut held = Vec::new();
            for numbers in [&[1, 2][..], &[3], &[4, 5]] {
                commit(&store, numbers).unwrap();
                held.extend_from_slice(numbers);
                acknowledged.push((recorder.borrow().steps.len(), held.clone()));
            }
            let ids: Vec<_> = store.view().packs().iter().map(|p| p.id().clone()).collect();
            held.retain(|n| *n != 2);
            acknowledged.push((recorder.borrow().steps.len(), held.clone()));
            let merged = store.merge(&ids, &|name| name != "n2", 2_000_000).unwrap();
            store.remove_retired(&merged.retired).unwrap();
        },
    );
    let steps = std::mem::take(&mut recorder.borrow_mut().steps);
    assert!(steps.len() > 100);
    let mut rng = 1u64;
    for crash in 0..=steps.len() {
        let held = &acknowledged.iter().rev().find(|(at, _)| *at <= crash).unwrap().1;
        for mode in 0..4 {
            let mut coin = || {
                rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                match mode {
                    0 => false,
                    1 => true,
                    _ => rng >> 63 == 1,
                }
            };
            let (entries, data) = after_crash(&steps[..crash], &mut coin);
            let left = Home::new();
            for (path, file) in entries {
                std::fs::write(left.0.path().join(path), &data[&file]).unwrap();
            }
            Store::empty_tmp(&left.dir("tmp")).unwrap();
            assert!(left.tmp_is_empty());
            assert_holds(&left.open(), held);
        }
    }
    println!("{} crash points", steps.len() * 4);
}

#[test]
fn a_full_disk_at_any_operation_costs_that_batch_only() {
    let mut failures = 0;
    for fail_at in 0.. {
        let home = Home::new();
        let store = home.open();
        commit(&store, &[1, 2]).unwrap();
        let view = store.view();
        let (seen, count) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let (seen_in, count_in) = (seen.clone(), count.clone());
        let result = watch(
            // From the operation on nothing can be written; removing still works.
            move |op| {
                let n = count_in.replace(count_in.get() + 1);
                if n >= fail_at && !matches!(op, Op::Unlink(_)) {
                    seen_in.set(seen_in.get() + 1);
                    return Err(io::ErrorKind::StorageFull.into());
                }
                Ok(())
            },
            || commit(&store, &[3, 4]),
        );
        if seen.get() == 0 {
            assert!(result.is_ok());
            break;
        }
        failures += 1;
        let error = result.unwrap_err();
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "at {fail_at}: {error:?}"
        );
        assert!(error.is_transient());
        assert!(home.tmp_is_empty(), "at {fail_at}");
        assert_eq!(store.view().names().count(), view.names().count());
        assert_holds(&store, &[1, 2]);
        commit(&store, &[3, 4]).unwrap();
        assert_holds(&home.open(), &[1, 2, 3, 4]);
    }
    println!("{failures} operations failed");
    assert!(failures > 30);
}
