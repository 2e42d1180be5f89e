//! The mirror as others see it: where it stands, and what it can be told to do.
use super::{Demand, Demanded, RoundReport, Standing, gc::Collected};
use crate::trouble::Trouble;
use arc_swap::ArcSwap;
use cvdmirror_store::{ObjectId, PackId};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Commands that wait, at most: who sends more waits.
const COMMANDS: usize = 64;

/// The end that others have. Clones are the same mirror's.
#[derive(Clone, Debug)]
pub struct Handle {
    standing: Arc<ArcSwap<Standing>>,
    commands: mpsc::Sender<Command>,
}

/// What the mirror can be told to do, one thing at a time. Nobody need wait for the answer.
#[derive(Debug)]
pub enum Command {
    /// Do a round now.
    Sync(oneshot::Sender<RoundReport>),
    /// Drop what is not kept, and merge small packs.
    Gc(oneshot::Sender<Result<Collected, Trouble>>),
    /// Say what that would do.
    WouldGc(oneshot::Sender<Collected>),
    /// Fetch a file that a client asks for.
    Demand(Demand, oneshot::Sender<Demanded>),
    /// Look at the store directory again.
    Look(oneshot::Sender<Result<(), Trouble>>),
    /// Read a copy of an object, and take it out if it is corrupt. Answers whether it is.
    Check(PackId, ObjectId, oneshot::Sender<bool>),
    /// Take out a copy of an object that was found corrupt.
    Corrupt(PackId, ObjectId),
}

impl Handle {
    /// Begins with where the mirror stands; the other end gets the commands.
    pub fn new(standing: Standing) -> (Self, mpsc::Receiver<Command>) {
        let (commands, obeyed) = mpsc::channel(COMMANDS);
        (Self { standing: Arc::new(ArcSwap::from_pointee(standing)), commands }, obeyed)
    }

    /// Where the mirror stands now.
    pub fn standing(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    /// The same for who reads it again and again.
    pub fn shared(&self) -> Arc<ArcSwap<Standing>> {
        self.standing.clone()
    }

    /// Has something done, and waits for the answer; `None` when the mirror ends before.
    pub async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).await.ok()?;
        answered.await.ok()
    }

    /// Tells of a copy of an object that is corrupt. Never waits: if too much is to be done, it will be met again.
    pub fn corrupt(&self, pack: &PackId, object: ObjectId) {
        let _ = self.commands.try_send(Command::Corrupt(pack.clone(), object));
    }
}
