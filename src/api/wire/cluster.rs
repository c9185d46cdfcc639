//! The cluster, its members, its timing.

use super::Generation;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use utoipa::ToSchema;
use zonekeeper_core::{
    entry::{Duty, Timing},
    id::{NodeId, SiteId},
};

/// The cluster as one node sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Cluster {
    /// Random id, 32 hexadecimal digits.
    pub id: String,
    /// Cluster version: what every member knows.
    pub version: u32,
    /// The node that answers.
    pub node: NodeId,
    /// Its site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// `leader`, `follower`, `candidate`, `learner` or `stopped`.
    pub role: String,
    /// The leader, as far as this node knows.
    pub leader: Option<NodeId>,
    /// Raft's term.
    pub term: u64,
    /// Where this node stands in the log.
    pub log: Log,
    /// Voting members.
    pub voters: Vec<NodeId>,
    /// Milliseconds since a quorum is known to have followed the leader; absent: never since start.
    pub quorum_age_ms: Option<u64>,
    /// Milliseconds since this node heard its leader; absent: never since start.
    pub leader_heard_ms: Option<u64>,
    /// Raft timing.
    pub timing: TimingSetting,
    /// Whether automation is on for the whole cluster.
    pub automation: bool,
    /// Log index of the last change of the declared configuration.
    pub revision: u64,
    /// Hash of the whole state, 32 hexadecimal digits: equal on all nodes at the same generation.
    pub hash: String,
    /// Log time of the last entry.
    pub time: String,
    /// Overrides in force.
    pub overrides: usize,
    /// How the present incarnation began; absent in a cluster that was never restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub origin: Option<Origin>,
    /// What a person should look at, cluster-wide: degraded targets, disarmed failover, lost quorum.
    pub alarms: Vec<String>,
    /// What a person should look at on this node.
    pub problems: Vec<Problem>,
    /// Why this node abstains from judging others, if it does.
    pub abstains: Option<String>,
}

/// How an incarnation began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Origin {
    /// Version of the state that it began with.
    pub at: Generation,
    /// When.
    pub time: String,
    /// Which command, as `recover`.
    pub author: String,
    /// Why, in an operator's words.
    pub reason: String,
}

/// Log positions of one node.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
pub struct Log {
    /// Last index stored.
    pub last: u64,
    /// Last index known to be committed.
    pub committed: u64,
    /// Last index applied.
    pub applied: u64,
    /// Last index in the newest snapshot.
    pub snapshot: u64,
}

/// Something on one node that a person should look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable word, as `bind`, `timing`, `store`.
    pub code: String,
    /// One sentence, with the remedy.
    pub text: String,
}

/// A member of the cluster.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Its site.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// `full` or `witness`.
    #[schema(value_type = String)]
    pub duty: Duty,
    /// Where its peers reach it.
    #[schema(value_type = String)]
    pub peer: SocketAddr,
    /// Where its admin API is reached; absent: on its own loopback only.
    #[schema(value_type = Option<String>)]
    pub admin: Option<SocketAddr>,
    /// The newest cluster version that its program knows; 0: it has not started yet.
    pub version: u32,
    /// `voter`, `learner`, or `outside` (described, not yet in Raft).
    pub role: String,
    /// Whether it leads, as far as the answering node knows.
    pub leader: bool,
    /// Entries that it lacks; known to the leader only.
    pub lag: Option<u64>,
    /// Milliseconds since it acknowledged anything to the leader; known to the leader only.
    pub acked_ms: Option<u64>,
    /// Milliseconds since its last report arrived here.
    pub report_age_ms: Option<u64>,
    /// Why it abstains from judging others, if it does.
    pub abstains: Option<String>,
    /// The connection from the answering node; absent for itself.
    pub link: Option<Link>,
}

/// The connection from the answering node to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Link {
    /// Connected.
    pub up: bool,
    /// Smoothed round trip in microseconds.
    pub rtt_us: Option<u64>,
}

/// A member to be added. It must be running and reachable at `peer`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMember {
    /// Its id, from 1; never one that was used before.
    pub id: NodeId,
    /// Its site; it must be declared when services are to be judged from it.
    #[schema(value_type = String)]
    pub site: SiteId,
    /// `full` (default) or `witness`.
    #[serde(default = "full")]
    #[schema(value_type = String)]
    pub duty: Duty,
    /// Where its peers reach it.
    #[schema(value_type = String, example = "192.0.2.3:7300")]
    pub peer: SocketAddr,
    /// Where its admin API is reached.
    #[schema(value_type = Option<String>)]
    pub admin: Option<SocketAddr>,
}

fn full() -> Duty {
    Duty::Full
}

/// Raft timing: a preset, or the heartbeat in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimingSetting {
    /// Sites within 25 ms of each other: heartbeat 50 ms.
    Lan,
    /// Within 100 ms: heartbeat 200 ms.
    Wan,
    /// Within 200 ms: heartbeat 400 ms.
    Global,
    /// Milliseconds from heartbeat to heartbeat, 50 to 5000.
    HeartbeatMs(u32),
}

impl From<Timing> for TimingSetting {
    fn from(t: Timing) -> TimingSetting {
        match t {
            Timing::Lan => TimingSetting::Lan,
            Timing::Wan => TimingSetting::Wan,
            Timing::Global => TimingSetting::Global,
            Timing::Heartbeat { ms } => TimingSetting::HeartbeatMs(ms),
        }
    }
}

impl From<TimingSetting> for Timing {
    fn from(t: TimingSetting) -> Timing {
        match t {
            TimingSetting::Lan => Timing::Lan,
            TimingSetting::Wan => Timing::Wan,
            TimingSetting::Global => Timing::Global,
            TimingSetting::HeartbeatMs(ms) => Timing::Heartbeat { ms },
        }
    }
}

impl std::fmt::Display for TimingSetting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            TimingSetting::Lan => "lan",
            TimingSetting::Wan => "wan",
            TimingSetting::Global => "global",
            TimingSetting::HeartbeatMs(_) => "own numbers",
        };
        write!(f, "{name} (heartbeat {} ms)", Timing::from(*self).heartbeat_ms())
    }
}

/// A timing that was set.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TimingWritten {
    /// The write.
    pub written: super::Written,
    /// Why the measured round trips make this timing unworkable, if they do.
    pub warning: Option<String>,
}
