//! A file in memory that is filled once and then sealed: neither this process nor another can change it any more.
//!
//! Guaranteed: what is handed out was filled before, and never changes. The file is mapped, with `unsafe`,
//! so that its bytes have addresses, which hyper needs; the kernel sends them by file and offset.
#![allow(unsafe_code)]
use bytes::Bytes;
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create},
    io::Errno,
    mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap},
};
use std::{
    ffi::c_void,
    fs::File,
    io,
    ops::Range,
    os::unix::fs::FileExt,
    ptr::{self, NonNull},
    slice,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Acquire, Release},
        },
    },
};

/// The size of a huge page on most machines; a mapping must begin at a multiple of it to be made of such.
const HUGE: usize = 2 << 20;

/// A file in memory and its mapping.
#[derive(Debug)]
pub struct Sealed {
    file: File,
    mapping: Mapping,
    /// So much from the start is filled, and is not written again.
    filled: AtomicUsize,
    sealed: AtomicBool,
}

/// Addresses whose bytes are the file's.
#[derive(Debug)]
struct Mapping {
    start: NonNull<c_void>,
    len: usize,
    /// The addresses that it takes in all.
    taken: NonNull<c_void>,
    room: usize,
}

// SAFETY: the addresses belong to this value alone, are only read through it, and go with it.
unsafe impl Send for Mapping {}
// SAFETY: as above; `Sealed::part` gives out only what is filled, which nobody writes.
unsafe impl Sync for Mapping {}

/// Fills it: there is one.
#[derive(Debug)]
pub(super) struct Filler(Arc<Sealed>);

impl Sealed {
    /// Makes room for `len` bytes; memory is taken as it is filled.
    pub(super) fn new(len: u64) -> io::Result<(Arc<Self>, Filler)> {
        let size = usize::try_from(len).map_err(io::Error::other)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Kernels before 6.3 do not know that it is never to be run.
        let fd = memfd_create(c"cvdmirror-hot", flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| memfd_create(c"cvdmirror-hot", flags))?;
        let file = File::from(fd);
        file.set_len(len)?;
        let mapping = Mapping::new(&file, size)?;
        let (filled, sealed) = Default::default();
        let memory = Arc::new(Self { file, mapping, filled, sealed });
        Ok((memory.clone(), Filler(memory)))
    }

    /// Memory that holds these bytes, and the part that is all of it.
    #[cfg(test)]
    pub(crate) fn holding(bytes: &[u8]) -> io::Result<(Arc<Self>, Bytes)> {
        let (memory, mut filler) = Self::new(bytes.len() as u64)?;
        filler.append(bytes)?;
        filler.seal()?;
        let whole = memory.part(0..bytes.len() as u64);
        Ok((memory, whole))
    }

    /// So many bytes from the start can be handed out.
    pub(super) fn filled(&self) -> u64 {
        self.filled.load(Acquire) as u64
    }

    /// What of `range` is filled; it keeps all of the memory alive.
    pub(super) fn part(self: &Arc<Self>, range: Range<u64>) -> Bytes {
        let end = range.end.min(self.filled()) as usize;
        let start = range.start.min(end as u64) as usize;
        Bytes::from_owner(Part { of: self.clone(), range: start..end })
    }

    /// Where in the file these bytes lie, if they are part of it and it is sealed. While it is being filled the kernel must
    /// not be given its pages: those that it still sends cannot be sealed.
    pub fn find(&self, bytes: &[u8]) -> Option<(&File, u64)> {
        let offset = (bytes.as_ptr() as usize).checked_sub(self.mapping.start.as_ptr() as usize)?;
        let within = offset.checked_add(bytes.len())? <= self.mapping.len;
        (within && self.sealed.load(Acquire)).then_some((&self.file, offset as u64))
    }
}

impl Mapping {
    fn new(file: &File, len: usize) -> io::Result<Self> {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        let (room, align) = if len < HUGE { (len, 1) } else { (len.saturating_add(HUGE), HUGE) };
        // SAFETY: the kernel picks addresses where nothing is.
        let taken = unsafe { mmap_anonymous(ptr::null_mut(), room, ProtFlags::empty(), flags) }?;
        let taken = NonNull::new(taken).ok_or(Errno::NOMEM)?;
        let start = taken.map_addr(|addr| addr.saturating_add(taken.as_ptr().align_offset(align)));
        let mapping = Self { start, len, taken, room };
        // Private, since one that is shared counts as writable before Linux 6.7 and could not be sealed; as long as nobody
        // writes to it the pages are the file's own.
        // SAFETY: the addresses are those just taken, to which nothing refers. The file cannot shrink: only this module
        // has it, which never truncates it.
        unsafe { mmap(start.as_ptr(), len, ProtFlags::READ, MapFlags::PRIVATE | MapFlags::FIXED, file, 0) }?;
        Ok(mapping)
    }

    /// Has the kernel put the small pages together into huge ones where it can: sending out of small ones takes it three
    /// times as long.
    fn collapse(&self) {
        // SAFETY: the addresses are the mapping's, and the bytes stay what they are.
        let _ = unsafe { libc::madvise(self.start.as_ptr(), self.len, libc::MADV_COLLAPSE) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: nothing refers to these addresses any more: every `Part` holds an `Arc` of what this is part of.
        let _ = unsafe { munmap(self.taken.as_ptr(), self.room) };
    }
}

impl Filler {
    /// Adds bytes at the end of what is filled.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Sealed { file, mapping, filled, .. } = &*self.0;
        let at = filled.load(Acquire);
        let end = at.checked_add(bytes.len()).filter(|end| *end <= mapping.len);
        let end = end.ok_or(io::ErrorKind::FileTooLarge)?;
        file.write_all_at(bytes, at as u64)?;
        filled.store(end, Release);
        Ok(())
    }

    /// Seals it once it is full.
    pub(super) fn seal(self) -> io::Result<()> {
        let Sealed { file, mapping, filled, sealed, .. } = &*self.0;
        if filled.load(Acquire) != mapping.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        fcntl_add_seals(file, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
        // Before the kernel is given any page to send: those on their way cannot be moved.
        mapping.collapse();
        sealed.store(true, Release);
        Ok(())
    }
}

/// A part that is filled.
struct Part {
    of: Arc<Sealed>,
    range: Range<usize>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `Sealed::part` made the range: it lies in the mapping, which lives as long as `of`, and is filled, so
        // that nobody writes there.
        unsafe {
            let start = self.of.mapping.start.as_ptr().cast::<u8>();
            slice::from_raw_parts(start.add(self.range.start), self.range.len())
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_is_filled_is_handed_out_and_nothing_more() {
        let (memory, mut filler) = Sealed::new(10_000).unwrap();
        filler.append(&[7; 6000]).unwrap();
        assert_eq!((memory.part(0..9000).len(), memory.part(5000..9000).len()), (6000, 1000));
        assert_eq!(memory.part(7000..9000).len(), 0);
        assert_eq!(filler.append(&[8; 4001]).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        let early = memory.part(0..6000);
        assert!(memory.find(&early).is_none(), "it is not sealed");
        filler.append(&[8; 4000]).unwrap();
        filler.seal().unwrap();
        assert_eq!(memory.find(&early[100..]).unwrap().1, 100);
        assert!(memory.find(&[7; 10]).is_none());
        let rest = memory.part(6000..10_000);
        drop(memory);
        assert!(early.iter().all(|b| *b == 7) && rest == [8; 4000][..]);
    }

    /// What the kernel tells of the mapping in which `at` lies, KiB.
    fn smaps(at: *const u8, key: &str) -> Option<u64> {
        let all = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = all.lines().skip_while(|line| !line.starts_with(&format!("{:x}-", at as usize)));
        let line = lines.find_map(|line| line.strip_prefix(key))?;
        line.trim_matches([':', ' ', 'k', 'B']).parse().ok()
    }

    #[test]
    fn a_large_file_is_put_into_huge_pages() {
        let bytes: Vec<u8> = (0..5 << 20).map(|n: u32| (n >> 8) as u8).collect();
        let (memory, whole) = Sealed::holding(&bytes).unwrap();
        assert_eq!(whole.as_ptr() as usize % HUGE, 0);
        assert!(whole == bytes, "the same bytes");
        let huge = ["ShmemPmdMapped", "FilePmdMapped"].map(|key| smaps(whole.as_ptr(), key).unwrap());
        match huge.iter().sum() {
            0 => eprintln!("this kernel has no huge page to give"),
            // Both, or one where its memory is in too small pieces for the other.
            kib => assert!([2048, 4096].contains(&kib), "{kib}"),
        }
        assert_eq!(memory.find(&whole).unwrap().1, 0);
    }

    #[test]
    fn a_sealed_file_cannot_be_changed_and_one_with_a_gap_not_sealed() {
        let (memory, mut filler) = Sealed::new(4).unwrap();
        filler.append(b"abcd").unwrap();
        filler.seal().unwrap();
        let (file, _) = memory.find(&memory.part(0..4)).unwrap();
        assert_eq!(file.write_at(b"x", 0).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
        assert!(file.set_len(3).is_err() && file.set_len(5).is_err());
        // SAFETY: it must fail; if it does not, the test ends.
        let writable = unsafe {
            mmap(ptr::null_mut(), 4, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, file, 0)
        };
        assert_eq!(writable.unwrap_err(), Errno::PERM);
        assert_eq!(&memory.part(0..4)[..], b"abcd");
        let (_, mut filler) = Sealed::new(4).unwrap();
        filler.append(b"abc").unwrap();
        assert_eq!(filler.seal().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
