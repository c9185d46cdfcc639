//! Which connections may be open: so many in all, so many of one network, and when all places are taken, the one that has
//! waited for a query for longest makes room (RFC 7766 §6.2.3 lets a server close idle connections when it needs to).

use crate::responder::Transport;
use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Plain TCP has its share for itself, so that no flood of encrypted queries takes it from those who were told to come
/// again over TCP.
#[derive(Debug)]
pub(crate) struct Connections {
    total: usize,
    per_network: usize,
    open: [Mutex<Open>; 2],
}

/// A connection that was replaced may take so long to end in good order.
pub(crate) const FAREWELL: Duration = Duration::from_secs(1);
/// There may be so many of those, or an eighth of the places.
const LEAVERS: usize = 4;

/// Those that share a limit.
#[derive(Debug, Default)]
struct Open {
    by_network: HashMap<IpAddr, usize>,
    all: HashMap<u64, Connection>,
    /// Those that wait for a query, by when they began to.
    waiting: BTreeMap<u64, u64>,
    /// Those that were replaced and have not ended yet; they count for their network, and for nothing else.
    leaving: usize,
    /// Of the next connection, and of the next to wait.
    number: u64,
}

#[derive(Debug)]
struct Connection {
    network: IpAddr,
    /// Queries that have no answer yet.
    works: usize,
    /// When it began to wait; what stands here while it works is over.
    waits: u64,
    leaving: bool,
    leave: CancellationToken,
}

/// The client's network: an address of IPv4, a /56 of IPv6, of which one client may have all addresses (RFC 6177 §2).
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 72 << 72).into(),
        v4 => v4,
    }
}

impl Open {
    fn is_full(&self, total: usize) -> bool {
        self.all.len() - self.leaving >= total
    }

    fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// The one that waits for longest has to go; false when none does, or too many are about to.
    fn replace(&mut self, leavers: usize) -> bool {
        if self.leaving >= leavers {
            return false;
        }
        let Some((_, oldest)) = self.waiting.pop_first() else { return false };
        if let Some(connection) = self.all.get_mut(&oldest) {
            connection.leaving = true;
            connection.leave.cancel();
            self.leaving += 1;
        }
        true
    }

    fn remove(&mut self, id: u64) {
        let Some(gone) = self.all.remove(&id) else { return };
        self.waiting.remove(&gone.waits);
        self.leaving -= usize::from(gone.leaving);
        match self.by_network.get_mut(&gone.network) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(self.by_network.remove(&gone.network)),
        }
    }

    fn works(&mut self, id: u64) {
        let Some(connection) = self.all.get_mut(&id) else { return };
        connection.works += 1;
        self.waiting.remove(&connection.waits);
    }

    fn answered(&mut self, id: u64) {
        let now = self.next();
        let Some(connection) = self.all.get_mut(&id) else { return };
        connection.works -= 1;
        if connection.works == 0 && !connection.leaving {
            connection.waits = now;
            self.waiting.insert(now, id);
        }
    }
}

impl Connections {
    pub(crate) fn new(total: usize, per_network: usize) -> Connections {
        Connections { total, per_network, open: Default::default() }
    }

    fn those(&self, plain: bool) -> MutexGuard<'_, Open> {
        self.open[usize::from(plain)].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> usize {
        [false, true].map(|plain| self.those(plain).all.len()).iter().sum()
    }

    /// Whether the next one of this transport costs another its place.
    pub(crate) fn are_full(&self, transport: Transport) -> bool {
        self.those(transport == Transport::Tcp).is_full(self.total)
    }

    /// Takes a connection in, which waits for its first query; why not, when its network has its share, or all places
    /// are taken and nobody can be replaced.
    pub(crate) fn admit(self: &Arc<Connections>, transport: Transport, ip: IpAddr) -> Admission {
        let (network, plain) = (network(ip), transport == Transport::Tcp);
        let mut open = self.those(plain);
        if open.by_network.get(&network).is_some_and(|n| *n >= self.per_network) {
            return Admission::Refused;
        }
        let full = open.is_full(self.total);
        if full && !open.replace((self.total / 8).max(LEAVERS)) {
            return Admission::Refused;
        }
        *open.by_network.entry(network).or_default() += 1;
        let (id, leave) = (open.next(), CancellationToken::new());
        open.all
            .insert(id, Connection { network, works: 0, waits: id, leaving: false, leave: leave.clone() });
        open.waiting.insert(id, id);
        let admitted = Arc::new(Admitted { connections: self.clone(), plain, id, leave });
        if full { Admission::Replaced(admitted) } else { Admission::Free(admitted) }
    }
}

/// What became of a new connection.
pub(crate) enum Admission {
    /// There was a place.
    Free(Arc<Admitted>),
    /// Another one has to go for it.
    Replaced(Arc<Admitted>),
    /// It is closed.
    Refused,
}

/// A connection that is counted; it counts itself out.
pub(crate) struct Admitted {
    connections: Arc<Connections>,
    plain: bool,
    id: u64,
    leave: CancellationToken,
}

impl Admitted {
    /// A query has come: until it is answered the connection is not closed for others.
    pub(crate) fn works(self: &Arc<Admitted>) -> Working {
        self.connections.those(self.plain).works(self.id);
        Working(self.clone())
    }

    /// Returns when it has to make room.
    pub(crate) async fn replaced(&self) {
        self.leave.cancelled().await;
    }

    /// Returns when it has had its time for that.
    pub(crate) async fn overdue(&self) {
        self.replaced().await;
        sleep(FAREWELL).await;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.connections.those(self.plain).remove(self.id);
    }
}

/// A query under way.
pub(crate) struct Working(Arc<Admitted>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.connections.those(self.0.plain).answered(self.0.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(total: usize, per_network: usize) -> Arc<Connections> {
        Arc::new(Connections::new(total, per_network))
    }

    fn ip(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn admit(all: &Arc<Connections>, transport: Transport, ip: IpAddr) -> Option<Arc<Admitted>> {
        match all.admit(transport, ip) {
            Admission::Free(admitted) | Admission::Replaced(admitted) => Some(admitted),
            Admission::Refused => None,
        }
    }

    fn tcp(all: &Arc<Connections>, last: u8) -> Option<Arc<Admitted>> {
        admit(all, Transport::Tcp, ip(last))
    }

    #[test]
    fn the_one_that_waits_for_longest_makes_room() {
        let all = of(3, 9);
        let open = [1, 2, 3].map(|n| tcp(&all, n).unwrap());
        let left = || open.each_ref().map(|a| a.leave.is_cancelled());
        let [one, other] = [open[0].works(), open[0].works()];
        let fourth = tcp(&all, 4).unwrap();
        assert_eq!(left(), [false, true, false], "the first has a query");
        drop(one);
        let fifth = tcp(&all, 5).unwrap();
        assert_eq!(left(), [false, true, true], "the first has another query");
        let busy = [fourth.works(), fifth.works()];
        assert!(tcp(&all, 6).is_none(), "nobody waits");
        assert!(admit(&all, Transport::Tls, ip(6)).is_some(), "encrypted ones have places of their own");
        drop(other);
        assert!(matches!(all.admit(Transport::Tcp, ip(6)), Admission::Replaced(_)));
        assert_eq!(left(), [true; 3]);
        drop(open[0].works()); // what is replaced stays so
        drop((busy, open, fourth, fifth));
        assert_eq!(all.open(), 0);
        let plain = all.those(true);
        assert!(plain.waiting.is_empty() && plain.by_network.is_empty() && plain.leaving == 0);
    }

    #[test]
    fn those_that_leave_are_bounded() {
        let all = of(1, 9);
        let mut open: Vec<_> = (1..=5).map(|n| tcp(&all, n).unwrap()).collect();
        assert_eq!(all.open(), 5, "four of them are about to end");
        assert!(tcp(&all, 6).is_none());
        drop(open.remove(0));
        assert!(tcp(&all, 6).is_some());
    }

    #[test]
    fn a_network_has_its_share_and_takes_nobody_s_place_for_more() {
        let all = of(3, 2);
        let open = [1, 1, 2].map(|n| tcp(&all, n).unwrap());
        assert!(tcp(&all, 1).is_none());
        assert!(open.iter().all(|a| !a.leave.is_cancelled()));
        let _new = tcp(&all, 2).unwrap();
        assert!(open[0].leave.is_cancelled());
        assert!(tcp(&all, 1).is_none(), "it counts for its network until it has ended");
        let v6 = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = of(9, 1);
        let _one = admit(&all, Transport::Quic, v6("2001:db8:1:200::1")).unwrap();
        assert!(admit(&all, Transport::Https, v6("2001:db8:1:2ff::2")).is_none(), "the same /56");
        assert!(admit(&all, Transport::Https, v6("2001:db8:1:300::1")).is_some());
    }
}
