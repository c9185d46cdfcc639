//! What a node knows of its cluster at a moment.

use crate::types::{Raft, TypeConfig};
use openraft::{Instant as _, RaftMetrics, ServerState, alias::InstantOf};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use zonekeeper_core::id::NodeId;

/// What Raft has this node do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Writes the log.
    Leader,
    /// Votes and follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Receives the log without a vote; also a node that belongs to no cluster yet.
    Learner,
    /// Raft has stopped (see `stopped`); the node still answers.
    Stopped,
}

/// A member as Raft has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Where it is reached.
    pub addr: String,
    /// Last log index that it is known to have; only on the leader.
    pub matched: Option<u64>,
    /// Milliseconds since it last acknowledged anything; only on the leader.
    pub acked_ms: Option<u64>,
}

/// A node's view. Ages count up to the moment of [`crate::Consensus::status`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// This node.
    pub node: NodeId,
    /// Its role.
    pub role: Role,
    /// Raft's term.
    pub term: u64,
    /// The leader; none when nobody has led for two elections, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Last log index stored here.
    pub last_log: u64,
    /// Last log index known to be committed.
    pub committed: u64,
    /// Last log index applied here.
    pub applied: u64,
    /// Last log index in the newest snapshot.
    pub snapshot: u64,
    /// Voters.
    pub voters: BTreeMap<NodeId, Peer>,
    /// Learners.
    pub learners: BTreeMap<NodeId, Peer>,
    /// Milliseconds since a quorum is known to have followed the leader: on the leader from its own
    /// acknowledgements, elsewhere from what the leader says of them. None: never since start.
    pub quorum_age_ms: Option<u64>,
    /// Milliseconds since this node last heard its leader; 0 on the leader itself. None: never since start.
    pub leader_heard_ms: Option<u64>,
    /// Why Raft stopped here, if it did.
    pub stopped: Option<String>,
}

impl Status {
    /// This node leads and a quorum followed it less than `ms` ago.
    pub fn leads(&self, ms: u64) -> bool {
        self.role == Role::Leader && self.quorum_age_ms.is_some_and(|age| age <= ms)
    }

    /// This node is the whole cluster.
    pub(crate) fn leads_nobody(&self) -> bool {
        self.role == Role::Leader && self.learners.is_empty() && self.voters.keys().eq([&self.node])
    }

    /// openraft names the last leader until there is another one; after `ms` without a quorum it is none.
    pub(crate) fn forget_leader(&mut self, ms: u64) {
        if self.quorum_age_ms.is_none_or(|age| age > ms) {
            self.leader = None;
        }
    }

    /// Raft is between two timings: not for a moment has this node left the cluster.
    pub(crate) fn replaced(&mut self) {
        self.stopped = None;
        if self.role == Role::Stopped {
            self.role = Role::Follower;
        }
    }
}

/// What a follower knows from its leader.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Heard {
    /// When it last spoke.
    leader: Option<Instant>,
    /// When a quorum last followed it. A leader that was cut off goes on speaking to those on its side of the cut, and
    /// this grows old.
    quorum: Option<Instant>,
}

impl Heard {
    /// The leader spoke at `now`.
    pub(crate) fn at(&mut self, now: Instant, quorum_age_ms: Option<u64>) {
        self.leader = Some(now);
        let quorum = quorum_age_ms.and_then(|ms| now.checked_sub(Duration::from_millis(ms)));
        self.quorum = self.quorum.max(quorum);
    }
}

/// Milliseconds since a quorum is known to have followed this leader; none on any other node.
pub(crate) fn quorum_age_ms(m: &RaftMetrics<TypeConfig>) -> Option<u64> {
    if m.state != ServerState::Leader {
        return None;
    }
    // openraft notes an acknowledgement when a follower answers; alone, a leader is its own quorum
    match m.membership_config.membership().voter_ids().all(|id| id == m.id) {
        true => Some(0),
        false => m.last_quorum_acked.as_ref().map(|at| at.elapsed().as_millis() as u64),
    }
}

pub(crate) fn of(raft: &Raft, heard: Heard, failed: Option<String>) -> Status {
    use openraft::async_runtime::watch::WatchReceiver;
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    build(&metrics, heard, failed)
}

fn build(m: &RaftMetrics<TypeConfig>, heard: Heard, failed: Option<String>) -> Status {
    let now = Instant::now();
    let age = |at: Instant| now.saturating_duration_since(at).as_millis() as u64;
    let raft_age = |at: InstantOf<TypeConfig>| at.elapsed().as_millis() as u64;
    let stopped = failed.or_else(|| m.running_state.as_ref().err().map(ToString::to_string));
    let leads = m.state == ServerState::Leader;
    let membership = m.membership_config.membership();
    let peers = |ids: &mut dyn Iterator<Item = NodeId>| -> BTreeMap<NodeId, Peer> {
        ids.map(|id| {
            let peer = Peer {
                addr: membership.get_node(&id).map(|n| n.addr.clone()).unwrap_or_default(),
                matched: m.replication.as_ref().and_then(|r| r.get(&id)?.as_ref().map(|l| l.index)),
                acked_ms: m.heartbeat.as_ref().and_then(|h| h.get(&id)?.as_ref().map(|i| raft_age(**i))),
            };
            (id, peer)
        })
        .collect()
    };
    Status {
        node: m.id,
        role: role(m.state, stopped.is_some()),
        term: m.current_term,
        leader: m.current_leader,
        last_log: m.last_log_index.unwrap_or(0),
        committed: m.local_committed.map_or(0, |l| l.index),
        applied: m.last_applied.map_or(0, |l| l.index),
        snapshot: m.snapshot.map_or(0, |l| l.index),
        voters: peers(&mut membership.voter_ids()),
        learners: peers(&mut membership.learner_ids()),
        quorum_age_ms: if leads { quorum_age_ms(m) } else { heard.quorum.map(age) },
        leader_heard_ms: if leads { Some(0) } else { heard.leader.map(age) },
        stopped,
    }
}

fn role(state: ServerState, stopped: bool) -> Role {
    match state {
        _ if stopped => Role::Stopped,
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}
