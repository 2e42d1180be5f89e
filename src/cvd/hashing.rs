//! Digests of a whole file and of its members, on a thread of their own, so that they cost no time beside inflating or
//! deflating. Bounded: the feeding thread waits while more than a few chunks are queued.
use md5::{Digest as _, Md5};
use sha2::Sha256;
use std::{
    io,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::{Builder, JoinHandle},
};

/// How many chunks may wait; of 64 KiB each that is 1 MiB.
const WAITING: usize = 16;

/// The thread and the way to it.
pub(super) struct Hashing {
    feed: Feed,
    worker: JoinHandle<Digests>,
}

/// A way to the thread; there may be several.
#[derive(Clone)]
pub(super) struct Feed(SyncSender<Piece>);

/// What came out.
pub(super) struct Digests {
    /// The MD5 of the file's bytes.
    pub(super) md5: [u8; 16],
    /// The SHA-256 of every member, in order.
    pub(super) members: Vec<[u8; 32]>,
}

enum Piece {
    File(Vec<u8>),
    Member(Vec<u8>),
    EndMember,
}

impl Hashing {
    pub(super) fn start() -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING);
        let worker = Builder::new().name("hashing".into()).spawn(move || run(&receiver))?;
        Ok(Self { feed: Feed(sender), worker })
    }

    pub(super) fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// Waits for the digests; every other feed must be gone by now.
    pub(super) fn finish(self) -> io::Result<Digests> {
        drop(self.feed);
        self.worker.join().map_err(|_| io::Error::other("the hashing thread failed"))
    }
}

/// Feeding ignores a thread that has died: `finish` reports it.
impl Feed {
    pub(super) fn file(&self, bytes: &[u8]) {
        let _gone = self.0.send(Piece::File(bytes.to_vec()));
    }
    pub(super) fn member(&self, bytes: &[u8]) {
        let _gone = self.0.send(Piece::Member(bytes.to_vec()));
    }
    pub(super) fn end_member(&self) {
        let _gone = self.0.send(Piece::EndMember);
    }
}

fn run(pieces: &Receiver<Piece>) -> Digests {
    let (mut md5, mut member, mut members) = (Md5::new(), Sha256::new(), Vec::new());
    for piece in pieces {
        match piece {
            Piece::File(bytes) => md5.update(&bytes),
            Piece::Member(bytes) => member.update(&bytes),
            Piece::EndMember => members.push(member.finalize_reset().into()),
        }
    }
    Digests { md5: md5.finalize().into(), members }
}
