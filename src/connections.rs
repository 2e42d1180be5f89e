//! The cap on connections, and fair shares once it is reached.
//!
//! Guaranteed: at most `most` connections are served, and at most a quarter as many more wait for a place. While there are
//! places, one address may have them all: it may be a proxy. When there are none, a newcomer takes the place of a
//! connection that is idle between requests; else of the address with the most connections, of one that has not asked yet
//! or of the slowest download. An address with no more than its share keeps its downloads. If no place is found the newcomer
//! waits for one; when too many wait, the address with the most loses one.
use parking_lot::Mutex;
use std::{
    cmp::Reverse,
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};
use tokio::{
    task::{AbortHandle, Id, JoinSet},
    time::Instant,
};

/// An address's share, as a part of all connections: running downloads are cut only above it.
const PARTS: usize = 16;
/// How many may wait for a place, as a part of all connections.
const PARKED_PARTS: usize = 4;
/// The pace of a younger download says nothing.
const YOUNG: Duration = Duration::from_secs(1);

/// The state of a connection.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// A first request has come.
    pub(crate) asked: bool,
    /// A write waits for the client.
    pub(crate) blocked: bool,
    /// It waits for its next request.
    pub(crate) waiting: bool,
    /// When it began to answer, or to wait.
    pub(crate) since: Instant,
    /// How much of answers its client has read since then, bytes.
    pub(crate) taken: u64,
}

pub(crate) type SharedPulse = Arc<Mutex<Pulse>>;

impl Pulse {
    pub(crate) fn start() -> SharedPulse {
        let now = Instant::now();
        Arc::new(Mutex::new(Self { asked: false, blocked: false, waiting: true, since: now, taken: 0 }))
    }

    /// A request has come.
    pub(crate) fn asks(&mut self) {
        (self.asked, self.waiting, self.since, self.taken) = (true, false, Instant::now(), 0);
    }

    /// Its answer has been made.
    pub(crate) fn waits(&mut self) {
        (self.waiting, self.since) = (true, Instant::now());
    }

    /// Its rank: the lowest is closed first.
    fn rank(&self, now: Instant) -> (Stage, u64) {
        let elapsed = now - self.since;
        let elapsed_us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        match (self.asked, self.waiting && !self.blocked) {
            (true, true) => (Stage::Waiting, u64::MAX - elapsed_us),
            (false, _) => (Stage::Silent, u64::MAX - elapsed_us),
            (true, false) if elapsed < YOUNG => (Stage::Busy, u64::MAX),
            (true, false) => (Stage::Busy, self.taken.saturating_mul(1_000_000) / elapsed_us.max(1)),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Stage {
    /// Between requests.
    Waiting,
    /// Before the first.
    Silent,
    Busy,
}

/// What connections are counted by; `None` where the address is not known.
type Network = Option<IpAddr>;

/// The connections of a server; `serve` handles one.
pub(crate) struct Connections<S, F> {
    most: usize,
    serve: F,
    tasks: JoinSet<()>,
    open: HashMap<Id, Member>,
    counts: HashMap<Network, usize>,
    parked: VecDeque<(S, Option<IpAddr>)>,
}

struct Member {
    network: Network,
    pulse: SharedPulse,
    task: AbortHandle,
}

impl<S, F, R> Connections<S, F>
where
    F: Fn(S, Option<IpAddr>, SharedPulse) -> R,
    R: Future<Output = ()> + Send + 'static,
{
    pub(crate) fn new(most: usize, serve: F) -> Self {
        let (tasks, open, counts, parked) = Default::default();
        Self { most: most.max(1), serve, tasks, open, counts, parked }
    }

    /// Serves a newcomer, or lets it wait for a place. Returns whether all places were taken.
    pub(crate) fn arrive(&mut self, socket: S, peer: Option<IpAddr>) -> bool {
        let full = self.open.len() >= self.most;
        if full && !self.make_room(network(peer)) {
            self.park(socket, peer);
        } else {
            self.begin(socket, peer);
        }
        full
    }

    /// Waits until one has ended, and gives its place to one that waits; `None` without connections.
    pub(crate) async fn ended(&mut self) -> Option<()> {
        let id = match self.tasks.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(died) => died.id(),
        };
        self.forget(id);
        while self.open.len() < self.most {
            let places = self.parked.iter().enumerate();
            let next = places.min_by_key(|(_, (_, peer))| self.count(network(*peer)));
            let Some((socket, peer)) = next.map(|(at, _)| at).and_then(|at| self.parked.remove(at)) else {
                break;
            };
            self.begin(socket, peer);
        }
        Some(())
    }

    /// Closes one because descriptors ran out.
    pub(crate) fn give_way(&mut self) {
        self.make_room(None);
    }

    /// The connections that are served; those that wait for a place are closed.
    pub(crate) fn into_tasks(self) -> JoinSet<()> {
        self.tasks
    }

    fn begin(&mut self, socket: S, peer: Option<IpAddr>) {
        let (network, pulse) = (network(peer), Pulse::start());
        let task = self.tasks.spawn((self.serve)(socket, peer, pulse.clone()));
        *self.counts.entry(network).or_default() += 1;
        self.open.insert(task.id(), Member { network, pulse, task });
    }

    /// Closes one for a newcomer; false if none may be closed.
    fn make_room(&mut self, newcomer: Network) -> bool {
        let own = self.count(newcomer) + 1;
        let share = (self.most / PARTS).max(own);
        self.shed(|stage, count| match stage {
            Stage::Waiting => true,
            Stage::Silent => count > own,
            Stage::Busy => count > share,
        })
    }

    /// Closes the lowest in rank, of the address that has the most, among those that `may` go.
    fn shed(&mut self, may: impl Fn(Stage, usize) -> bool) -> bool {
        let now = Instant::now();
        let rank = |(id, member): (&Id, &Member)| {
            let (stage, detail) = member.pulse.lock().rank(now);
            let count = self.count(member.network);
            may(stage, count).then_some((stage, Reverse(count), detail, *id))
        };
        let least = self
            .open
            .iter()
            .filter_map(rank)
            .min_by_key(|(stage, count, detail, _)| (*stage, *count, *detail));
        let Some(member) = least.and_then(|(.., id)| self.forget(id)) else { return false };
        member.task.abort();
        true
    }

    fn park(&mut self, socket: S, peer: Option<IpAddr>) {
        self.parked.push_back((socket, peer));
        if self.parked.len() <= (self.most / PARKED_PARTS).max(1) {
            return;
        }
        let mut all = self.counts.clone();
        self.parked.iter().for_each(|(_, peer)| *all.entry(network(*peer)).or_default() += 1);
        let greediest =
            self.parked.iter().enumerate().max_by_key(|(_, (_, peer))| all.get(&network(*peer)).copied());
        if let Some(at) = greediest.map(|(at, _)| at) {
            self.parked.remove(at);
        }
    }

    fn forget(&mut self, id: Id) -> Option<Member> {
        let member = self.open.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&member.network) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&member.network);
            }
        }
        Some(member)
    }

    fn count(&self, network: Network) -> usize {
        self.counts.get(&network).copied().unwrap_or_default()
    }
}

/// The network that an address is counted for: an IPv6 host has a whole /64 (RFC 4291, 2.5.4).
fn network(address: Option<IpAddr>) -> Network {
    Some(match address?.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::sync::oneshot;

    /// A server of `most` that keeps each connection until its client hangs up; newcomers come out of the channel.
    struct Server<F> {
        connections: Connections<(IpAddr, oneshot::Receiver<()>), F>,
        begun: tokio::sync::mpsc::UnboundedReceiver<(IpAddr, SharedPulse)>,
    }

    type Running = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
    type Socket = (IpAddr, oneshot::Receiver<()>);

    fn server(most: usize) -> Server<impl Fn(Socket, Option<IpAddr>, SharedPulse) -> Running> {
        let (tell, begun) = tokio::sync::mpsc::unbounded_channel();
        let connections = Connections::new(most, move |(peer, hung_up): Socket, _, pulse| {
            let _ = tell.send((peer, pulse));
            Box::pin(async { _ = hung_up.await }) as Running
        });
        Server { connections, begun }
    }

    impl<F: Fn(Socket, Option<IpAddr>, SharedPulse) -> Running> Server<F> {
        /// Returns the client's end, and its pulse if it is served at once.
        fn arrive(&mut self, peer: &str) -> (oneshot::Sender<()>, Option<SharedPulse>) {
            let peer: IpAddr = peer.parse().unwrap();
            let (client, hung_up) = oneshot::channel();
            self.connections.arrive((peer, hung_up), Some(peer));
            (client, self.begun.try_recv().ok().map(|(_, pulse)| pulse))
        }
        /// A client that downloads and took so much.
        async fn download(&mut self, peer: &str, taken: u64) -> oneshot::Sender<()> {
            let (client, pulse) = self.arrive(peer);
            let pulse = pulse.unwrap();
            pulse.lock().asks();
            pulse.lock().taken = taken;
            client
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_of_the_greediest_gives_way_to_another_address() {
        let mut server = server(64);
        let mut clients = Vec::new();
        for taken in 0..64 {
            clients.push(server.download("192.0.2.1", 1000 * ((taken + 32) % 64)).await);
        }
        tokio::time::advance(YOUNG * 2).await;
        let (_other, served) = server.arrive("192.0.2.2");
        assert!(served.is_some());
        server.connections.ended().await.unwrap();
        let gone: Vec<usize> = (0..64).filter(|at| clients[*at].is_closed()).collect();
        assert_eq!(gone, [32]);
        // One more of the same address waits until a place is free.
        let (_same, served) = server.arrive("::ffff:192.0.2.1");
        assert!(served.is_none());
        drop(clients.pop());
        server.connections.ended().await.unwrap();
        assert!(server.begun.try_recv().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_within_its_share_keeps_its_downloads() {
        let mut server = server(32);
        let mut clients = Vec::new();
        for at in 0..32 {
            clients.push(server.download(&format!("192.0.2.{}", at / 2), 0).await);
        }
        tokio::time::advance(YOUNG * 2).await;
        assert!(server.arrive("192.0.2.99").1.is_none());
        assert!(clients.iter().all(|client| !client.is_closed()));
    }

    #[tokio::test(start_paused = true)]
    async fn idle_connections_go_first_and_silent_ones_before_downloads() {
        let mut server = server(3);
        let _download = server.download("192.0.2.1", 0).await;
        let (mut silent, _) = server.arrive("192.0.2.1");
        // Of two that are silent the one that has been so for longer goes.
        tokio::time::advance(Duration::from_millis(1)).await;
        let (mut waiting, pulse) = server.arrive("192.0.2.3");
        pulse.as_ref().unwrap().lock().asks();
        pulse.as_ref().unwrap().lock().waits();
        let (_one, served) = server.arrive("192.0.2.1");
        assert!(served.is_some());
        waiting.closed().await;
        let (_two, served) = server.arrive("192.0.2.4");
        assert!(served.is_some());
        silent.closed().await;
        // An answer that is still on its way makes a connection no idle one.
        served.as_ref().unwrap().lock().asks();
        served.as_ref().unwrap().lock().waits();
        served.as_ref().unwrap().lock().blocked = true;
        assert!(server.arrive("192.0.2.1").1.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn few_wait_for_a_place_and_the_greediest_of_them_loses_one_first() {
        let mut server = server(8);
        let mut clients = Vec::new();
        for at in 0..8 {
            clients.push(server.download(&format!("2001:db8:0:{at}::1"), 0).await);
        }
        let (first, _) = server.arrive("2001:db8:0:9::1");
        let (second, _) = server.arrive("2001:db8:0:9::2");
        let (other, served) = server.arrive("2001:db8:0:a::1");
        assert!(served.is_none());
        assert_eq!([first.is_closed(), second.is_closed(), other.is_closed()], [false, true, false]);
        assert_eq!(server.connections.parked.len(), 2);
        clients.clear();
        drop((first, other));
        while server.connections.ended().await.is_some() {}
        assert!(server.connections.open.is_empty() && server.connections.counts.is_empty());
    }
}
