//! Connections that have not sent a request yet, counted by address.
//!
//! Guaranteed: once half of all connections are taken, those of one address that wait so get no more than a quarter of
//! all, so that a client that connects again and again and says nothing leaves room for the others until its time is up.
//! Connections that have asked are not counted: a proxy, or many clients behind one address, may have as many as there
//! are.
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
};

/// An address's share, as a part of all connections.
const PARTS: usize = 4;
/// What an address may have at least: a handful of clients that start at the same moment.
const LEAST: usize = 16;

/// How a TLS client begins (RFC 8446, 5.1): no request does.
pub(super) const TLS_HANDSHAKE: u8 = 22;

type Waiting = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// Counts them.
pub(super) struct Heads {
    waiting: Waiting,
    most: usize,
}

/// One connection that is counted until this is dropped.
pub(super) struct Head {
    waiting: Waiting,
    network: Option<IpAddr>,
}

impl Heads {
    pub(super) fn new(connections: usize) -> Self {
        Self { waiting: Waiting::default(), most: (connections / PARTS).max(LEAST) }
    }

    /// Counts a connection; none where it is crowded and its address has its share already. One of no known address is
    /// not counted.
    pub(super) fn begin(&self, peer: Option<IpAddr>, crowded: bool) -> Option<Head> {
        let network = peer.map(network);
        if let Some(network) = network {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let count = waiting.entry(network).or_default();
            if crowded && *count >= self.most {
                return None;
            }
            *count += 1;
        }
        Some(Head { waiting: self.waiting.clone(), network })
    }
}

impl Drop for Head {
    fn drop(&mut self) {
        let Some(network) = self.network else { return };
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = waiting.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&network);
            }
        }
    }
}

/// Who an address belongs to: of IPv6 a host has a whole /64 (RFC 4291, 2.5.4).
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_address_has_its_share_and_gets_it_back() {
        let heads = Heads::new(100);
        let [one, other, same_v6, v6] =
            ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(|a| Some(a.parse().unwrap()));
        let begin = |peer| heads.begin(peer, true);
        let mut held: Vec<Head> = (0..25).map(|_| begin(one).unwrap()).collect();
        assert!(begin(one).is_none());
        assert!(begin(Some("::ffff:192.0.2.1".parse().unwrap())).is_none());
        assert!(begin(other).is_some() && begin(None).is_some());
        held.pop();
        held.push(begin(one).unwrap());
        assert!(begin(one).is_none());
        held.push(heads.begin(one, false).unwrap());
        held.extend((0..25).map(|_| begin(same_v6).unwrap()));
        assert!(begin(v6).is_none(), "one host has a whole /64");
        drop(held);
        assert!(heads.waiting.lock().unwrap().is_empty());
    }
}
