//! Objects that clients ask for now, verified and in sealed memory: sending them needs no disk, no hashing and no copy.
//!
//! Guaranteed: what is here was verified as it was loaded and cannot change since. All of it, what is being loaded
//! included, is at most the budget. An object is loaded once however many ask for it, and those that ask meanwhile get
//! it as it comes. What clients are still being sent is not evicted, so that nothing is held that is not counted.
mod cold;
mod limit;
mod sealed;

pub use cold::Cold;
pub use sealed::Sealed;

use bytes::Bytes;
use cvdmirror_store::{Error, ObjectId, ObjectReader};
use parking_lot::Mutex;
use sealed::Filler;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
};
use tokio::task::spawn_blocking;

/// The part of the memory that the process may use which may be hot.
const PART: u64 = 4;
/// Most objects, since each has a file descriptor.
const MOST: usize = 512;
/// Objects of which it is known how often they were asked for without being loaded.
const MOST_ASKED: usize = 4096;
/// About what the store reads and hashes for a single byte.
const CHUNK: u64 = 256 << 10;
/// An object of this size or more leaves a trace in the kernel's page cache that is worth removing.
const LARGE: u64 = 1 << 20;

/// The hot objects.
#[derive(Debug)]
pub struct HotSet {
    state: Mutex<State>,
    /// What is sent of others.
    pub cold: Cold,
}

#[derive(Debug)]
struct State {
    objects: HashMap<ObjectId, Entry>,
    /// What the store read for requests of objects that are not here, bytes.
    asked: HashMap<ObjectId, u64>,
    /// Grows with each use.
    uses: u64,
    figures: Figures,
}

#[derive(Debug)]
struct Entry {
    hot: Arc<Hot>,
    size: u64,
    used: u64,
}

/// The hot set in numbers.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Length of the objects in it.
    pub bytes: u64,
    /// The most that this may be.
    pub budget: u64,
    /// Answers that came out of it.
    pub hits: u64,
    /// Objects loaded.
    pub loads: u64,
    /// Objects that gave way to others.
    pub evictions: u64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use crate::units::{count, size};
        let Self { bytes, budget, hits, loads, evictions } = *self;
        write!(f, "{} of {}, ", size(bytes), size(budget))?;
        write!(f, "{}, {}, {}", count(hits, "hit"), count(loads, "load"), count(evictions, "eviction"))
    }
}

/// An object in memory, whole or so far.
#[derive(Debug)]
pub struct Hot {
    memory: Arc<Sealed>,
    failed: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

impl HotSet {
    /// An empty set of at most `most` bytes, and at most a quarter of the memory that the process may use.
    pub fn new(most: u64) -> Arc<Self> {
        let figures = Figures { budget: most.min(limit::memory_bytes() / PART), ..Figures::default() };
        let state = State { objects: HashMap::new(), asked: HashMap::new(), uses: 0, figures };
        Arc::new(Self { state: Mutex::new(state), cold: Cold::default() })
    }

    /// Its numbers now.
    pub fn figures(&self) -> Figures {
        self.state.lock().figures
    }

    /// Whether an object is not here, or nobody loads it or is sent any of it.
    pub fn is_idle(&self, id: &ObjectId) -> bool {
        self.state.lock().objects.get(id).is_none_or(|entry| entry.hot.is_idle())
    }

    /// The object, for an answer of `asked` bytes of it; it may still be loading. `None` to read it from the store: it is not
    /// worth loading yet, there is no room, or no memory of this kind. Must be called in a tokio runtime.
    pub fn find(self: &Arc<Self>, reader: &ObjectReader, asked: u64) -> Option<Arc<Hot>> {
        let (id, size) = (reader.id(), reader.size());
        let mut state = self.state.lock();
        if let Some(hot) = state.hit(&id) {
            return Some(hot);
        }
        if !state.is_worth(id, size, asked) {
            return None;
        }
        let evicted = state.make_room(size)?;
        let (memory, filler) = match Sealed::new(size) {
            Ok(made) => made,
            Err(error) => {
                tracing::debug!(%error, "no sealed memory: {error}; objects are sent from the store");
                return None;
            }
        };
        let hot = Arc::new(Hot { memory, failed: AtomicBool::new(false), waiting: Mutex::default() });
        state.insert(id, hot.clone(), size);
        drop(state);
        let loading = Loading { set: self.clone(), id, hot: hot.clone(), whole: false };
        let reader = reader.clone();
        spawn_blocking(move || {
            drop(evicted);
            loading.run(filler, &reader);
        });
        Some(hot)
    }
}

impl State {
    fn hit(&mut self, id: &ObjectId) -> Option<Arc<Hot>> {
        let entry = self.objects.get_mut(id)?;
        self.uses += 1;
        entry.used = self.uses;
        self.figures.hits += 1;
        Some(entry.hot.clone())
    }

    /// Loading an object costs as much as it is long: it is worth it once as much was read for requests. So a download
    /// loads it, and a header now and then does not.
    fn is_worth(&mut self, id: ObjectId, size: u64, asked: u64) -> bool {
        if size > self.figures.budget {
            return false;
        }
        if self.asked.len() >= MOST_ASKED && !self.asked.contains_key(&id) {
            self.asked.clear();
        }
        let sum = self.asked.entry(id).or_default();
        *sum = sum.saturating_add(asked.max(CHUNK));
        *sum >= size
    }

    /// Takes out the coldest until `size` more fit; `None`, and nothing is taken, where too much is in use.
    fn make_room(&mut self, size: u64) -> Option<Vec<Arc<Hot>>> {
        let (mut left, mut count) = (self.figures.bytes, self.objects.len());
        let fits = |left: u64, count: usize| left + size <= self.figures.budget && count < MOST;
        let mut going = Vec::new();
        if !fits(left, count) {
            let mut idle: Vec<_> = self.objects.iter().filter(|(_, entry)| entry.hot.is_idle()).collect();
            idle.sort_unstable_by_key(|(_, entry)| entry.used);
            for (id, entry) in idle {
                if fits(left, count) {
                    break;
                }
                (left, count) = (left - entry.size, count - 1);
                going.push(*id);
            }
            if !fits(left, count) {
                return None;
            }
        }
        self.figures.evictions += going.len() as u64;
        Some(going.iter().filter_map(|id| self.remove(id)).collect())
    }

    fn insert(&mut self, id: ObjectId, hot: Arc<Hot>, size: u64) {
        self.asked.remove(&id);
        self.uses += 1;
        self.figures.loads += 1;
        self.figures.bytes += size;
        self.objects.insert(id, Entry { hot, size, used: self.uses });
    }

    fn remove(&mut self, id: &ObjectId) -> Option<Arc<Hot>> {
        let Entry { hot, size, .. } = self.objects.remove(id)?;
        self.figures.bytes -= size;
        Some(hot)
    }
}

impl Hot {
    /// The bytes from `at` on, at most `most`, once there are any; `None` if loading has failed before.
    pub fn poll_part(&self, cx: &mut Context<'_>, at: u64, most: u64) -> Poll<Option<Bytes>> {
        let end = at.saturating_add(most);
        if self.memory.filled() > at {
            return Poll::Ready(Some(self.memory.part(at..end)));
        }
        let mut waiting = self.waiting.lock();
        // After each piece those that wait are woken under this lock.
        if self.memory.filled() > at {
            return Poll::Ready(Some(self.memory.part(at..end)));
        }
        if self.failed.load(SeqCst) {
            return Poll::Ready(None);
        }
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Its memory.
    pub fn memory(&self) -> &Arc<Sealed> {
        &self.memory
    }

    fn wake(&self) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Nobody loads it, sends it, or holds a part of it. Under the lock of the set that stays so.
    fn is_idle(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1 && Arc::strong_count(&self.memory) == 1
    }
}

/// Why an object was not loaded.
#[derive(Debug, thiserror::Error)]
enum LoadError {
    #[error(transparent)]
    Store(#[from] Error),
    #[error("sealed memory: {0}")]
    Memory(#[from] io::Error),
}

/// An object that is being loaded. Dropped before it is whole, those that wait for it read from the store, and hear there
/// what is wrong with it.
struct Loading {
    set: Arc<HotSet>,
    id: ObjectId,
    hot: Arc<Hot>,
    whole: bool,
}

impl Loading {
    fn run(mut self, filler: Filler, reader: &ObjectReader) {
        match self.load(filler, reader) {
            Ok(()) => self.whole = true,
            Err(error) => tracing::debug!(object = %self.id, "object {} is not loaded: {error}", self.id),
        }
        if reader.size() >= LARGE {
            reader.forget_file();
        }
    }

    fn load(&self, mut filler: Filler, reader: &ObjectReader) -> Result<(), LoadError> {
        let mut at = 0;
        while at < reader.size() {
            // Verified. An empty one is the end of what is too short, which cannot be sealed.
            let chunk = reader.chunk_at(at)?;
            if chunk.is_empty() {
                break;
            }
            filler.append(&chunk)?;
            at += chunk.len() as u64;
            self.hot.wake();
        }
        Ok(filler.seal()?)
    }
}

impl Drop for Loading {
    fn drop(&mut self) {
        if !self.whole {
            self.set.state.lock().remove(&self.id);
            self.hot.failed.store(true, SeqCst);
            self.hot.wake();
        }
    }
}
