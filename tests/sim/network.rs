//! Links between sites, and openraft's calls over them.

use crate::{
    node::Node,
    rng::Rng,
    types::{C, Vote},
    world::World,
};
use openraft::{
    AnyError, AsyncRuntime, BasicNode, OptionalSend, RaftNetworkFactory,
    alias::SnapshotOf,
    errors::{RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use openraft_rt_sim::SimRuntime;
use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};
use tokio::sync::oneshot;
use zonekeeper_core::{State, entry::Timing, id::NodeId};

/// Bursty loss on one link (Gilbert 1960, Elliott 1963): good and bad times alternate, both exponentially long.
#[derive(Debug, Clone, Default)]
struct Bursts {
    bad: bool,
    until: u64,
}

/// Loss on every link: mean lengths of good and bad times in milliseconds, loss in bad times in per mille.
#[derive(Debug, Clone, Copy)]
pub struct Loss {
    /// Mean of good times.
    pub good_ms: u64,
    /// Mean of bad times.
    pub bad_ms: u64,
    /// Loss in bad times.
    pub per_mille: u64,
}

impl Loss {
    /// At most 5 % on the long run: bad times of 20 to 200 ms that lose 90 %, a twentieth of the time.
    pub fn bursty(rng: &mut Rng) -> Loss {
        let bad_ms = rng.range(20, 200);
        Loss { good_ms: bad_ms * rng.range(17, 40), bad_ms, per_mille: 900 }
    }
}

/// How long packets are on their way, in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Way {
    /// At least.
    delay_ms: u64,
    /// Added to it, from 0 to so much.
    jitter_ms: u64,
}

impl Way {
    const NEAR: Way = Way { delay_ms: 1, jitter_ms: 4 };

    fn longest_rtt_ms(self) -> u64 {
        2 * (self.delay_ms + self.jitter_ms)
    }
}

/// All links, each direction apart.
#[derive(Debug, Clone)]
pub struct Links {
    /// The longest way.
    longest: Way,
    /// All ways are that long; or only those of this site, and the others are near each other.
    far: Option<NodeId>,
    /// Loss, when there is any.
    pub loss: Option<Loss>,
    /// One packet in five comes up to so many milliseconds late: the next ones overtake it.
    pub disorder: Option<u64>,
    cut: BTreeMap<(NodeId, NodeId), u32>,
    bursts: BTreeMap<(NodeId, NodeId), Bursts>,
    heartbeat_ms: u32,
}

impl Links {
    /// Distances from LAN to 200 ms one way, with the timing that fits: heartbeat of twice the round trip.
    pub fn new(nodes: u64, rng: &mut Rng) -> Links {
        let (delay_ms, jitter_ms, heartbeat_ms) =
            *rng.pick(&[(1, 4, 50), (1, 4, 50), (20, 10, 120), (40, 20, 240), (90, 20, 440), (150, 50, 800)]);
        let far = rng.chance(500).then(|| rng.range(1, nodes));
        let pairs = (1..=nodes).flat_map(|a| (1..=nodes).map(move |b| (a, b)));
        let bursts = pairs.map(|p| (p, Bursts::default())).collect();
        let longest = Way { delay_ms, jitter_ms };
        Links { longest, far, loss: None, disorder: None, cut: BTreeMap::new(), bursts, heartbeat_ms }
    }

    fn way(&self, a: NodeId, b: NodeId) -> Way {
        match self.far {
            Some(far) if a != far && b != far => Way::NEAR,
            _ => self.longest,
        }
    }

    /// Longest round trip between two sites, in milliseconds.
    pub fn rtt_ms(&self, a: NodeId, b: NodeId) -> u64 {
        self.way(a, b).longest_rtt_ms()
    }

    /// Longest round trip of all, in milliseconds.
    pub fn longest_rtt_ms(&self) -> u64 {
        self.longest.longest_rtt_ms()
    }

    /// The Raft timing for these distances.
    pub fn timing(&self) -> Timing {
        Timing::Heartbeat { ms: self.heartbeat_ms }
    }

    /// Cuts a direction once more; cuts count.
    pub fn cut(&mut self, from: NodeId, to: NodeId) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    /// Takes one cut back.
    pub fn mend(&mut self, from: NodeId, to: NodeId) {
        if let Some(n) = self.cut.get_mut(&(from, to)) {
            *n = n.saturating_sub(1);
        }
    }

    /// Everything works.
    pub fn heal(&mut self) {
        self.cut.clear();
        (self.loss, self.disorder) = (None, None);
    }

    /// The fate of one packet: its delay, or none when it is lost.
    pub fn packet(&mut self, from: NodeId, to: NodeId, now: u64, rng: &mut Rng) -> Option<u64> {
        if from == to {
            return Some(0);
        }
        if self.cut.get(&(from, to)).is_some_and(|n| *n > 0) {
            return None;
        }
        if let (Some(loss), Some(bursts)) = (self.loss, self.bursts.get_mut(&(from, to))) {
            while bursts.until <= now {
                bursts.bad = !bursts.bad;
                bursts.until = bursts.until.max(now.saturating_sub(10_000))
                    + rng.exponential(if bursts.bad { loss.bad_ms } else { loss.good_ms });
            }
            if bursts.bad && rng.chance(loss.per_mille) {
                return None;
            }
        }
        let late = self.disorder.filter(|_| rng.chance(200)).map_or(0, |most| rng.range(0, most));
        let way = self.way(from, to);
        Some(way.delay_ms + rng.range(0, way.jitter_ms) + late)
    }
}

/// Why a call has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nobody listens there, or the connection was reset.
    Refused,
    /// Nothing came back.
    Silence,
}

impl World {
    /// One packet on its way; none when it is lost.
    pub async fn packet(&self, from: NodeId, to: NodeId) -> Option<()> {
        let now = self.now();
        let fate = {
            let outside = &mut *self.outside();
            outside.links.packet(from, to, now, &mut outside.rng)
        };
        self.sleep(fate?).await;
        Some(())
    }

    /// A segment of a TCP connection: retransmitted until the deadline.
    pub(crate) async fn segment(&self, from: NodeId, to: NodeId, deadline: u64) -> Result<(), Lost> {
        let mut wait = self.outside().links.rtt_ms(from, to) + 200;
        while self.packet(from, to).await.is_none() {
            if self.now() + wait > deadline {
                return Err(Lost::Silence);
            }
            self.sleep(wait).await;
            wait *= 2;
        }
        Ok(())
    }

    /// Calls a node's program from another node. The answer is awaited for `ttl` at most, but what was sent goes on.
    pub async fn call<T, F, Fut>(
        self: &Arc<World>,
        from: NodeId,
        to: NodeId,
        ttl: Duration,
        f: F,
    ) -> Result<T, Lost>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Node>) -> Fut + Send + 'static,
        Fut: Future<Output = Option<T>> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let (world, boot, deadline) = (self.clone(), self.boot(from), self.now() + ttl.as_millis() as u64);
        drop(SimRuntime::spawn(async move {
            let answer = world.exchange(from, to, deadline, f).await;
            if world.boot(from) == boot {
                let _ = tx.send(answer); // the caller may have given up
            }
        }));
        match SimRuntime::timeout(ttl, rx).await {
            Ok(Ok(answer)) => answer,
            _ => Err(Lost::Silence),
        }
    }

    async fn exchange<T, F, Fut>(
        self: &Arc<World>,
        from: NodeId,
        to: NodeId,
        deadline: u64,
        f: F,
    ) -> Result<T, Lost>
    where
        F: FnOnce(Arc<Node>) -> Fut,
        Fut: Future<Output = Option<T>>,
    {
        let boot = self.boot(from);
        self.gate(from).await;
        if self.boot(from) != boot {
            return Err(Lost::Silence);
        }
        self.segment(from, to, deadline).await?;
        self.gate(to).await;
        let Some(node) = self.running(to) else {
            if self.outside().hosts.get(&to).is_some_and(|h| h.dark) {
                return Err(Lost::Silence);
            }
            self.segment(to, from, deadline).await?;
            return Err(Lost::Refused);
        };
        let boot = node.boot;
        let answer = f(node).await;
        self.gate(to).await;
        if self.boot(to) != boot {
            return Err(Lost::Silence);
        }
        self.segment(to, from, deadline).await?;
        answer.ok_or(Lost::Refused)
    }
}

/// Makes openraft's clients of one boot.
pub struct Network {
    /// The world.
    pub world: Arc<World>,
    /// Whose network it is.
    pub node: NodeId,
    /// Of which boot.
    pub boot: u64,
}

impl RaftNetworkFactory<C> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &BasicNode) -> Client {
        Client { world: self.world.clone(), node: self.node, boot: self.boot, target }
    }
}

/// openraft's calls to one node.
pub struct Client {
    world: Arc<World>,
    node: NodeId,
    boot: u64,
    target: NodeId,
}

fn unreachable() -> Unreachable<C> {
    Unreachable::new(&AnyError::error("no answer"))
}

impl Client {
    async fn call<T, F, Fut>(&self, option: &RPCOption, f: F) -> Result<T, Unreachable<C>>
    where
        T: Send + 'static,
        F: FnOnce(Arc<Node>) -> Fut + Send + 'static,
        Fut: Future<Output = Option<T>> + Send + 'static,
    {
        if self.world.boot(self.node) != self.boot {
            std::future::pending::<()>().await; // the program is dead
        }
        self.world.call(self.node, self.target, option.soft_ttl(), f).await.map_err(|_| unreachable())
    }
}

impl RaftNetworkV2<C> for Client {
    type SnapshotData = Arc<State>;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<C>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<C>, RPCError<C>> {
        Ok(self.call(&option, |node| async move { node.raft.append_entries(rpc).await.ok() }).await?)
    }

    async fn vote(&mut self, rpc: VoteRequest<C>, option: RPCOption) -> Result<VoteResponse<C>, RPCError<C>> {
        Ok(self.call(&option, |node| async move { node.raft.vote(rpc).await.ok() }).await?)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<C>,
        option: RPCOption,
    ) -> Result<VoteResponse<C>, RPCError<C>> {
        Ok(self.call(&option, |node| async move { node.raft.pre_vote(rpc).await.ok() }).await?)
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<C>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<C>, RPCError<C>> {
        Ok(self.call(&option, |node| async move { node.raft.handle_transfer_leader(rpc).await.ok() }).await?)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: SnapshotOf<C, Arc<State>>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<C>, StreamingError<C>> {
        let install =
            move |node: Arc<Node>| async move { node.raft.install_full_snapshot(vote, snapshot).await.ok() };
        Ok(self.call(&option, install).await?)
    }
}
