//! The live event stream.

use super::Generation;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A service is answered from elsewhere.
    Decision,
    /// The cluster's word on one endpoint changed.
    Health,
    /// An override was made, changed, released, or has expired.
    Override,
    /// Automation was switched.
    Automation,
    /// The declared configuration changed.
    Config,
    /// Records of a zone changed.
    Zone,
    /// Members, voters or timing changed.
    Members,
    /// Fewer sites see red than are needed to move.
    Degraded,
    /// So many sites abstain that nothing could be moved.
    Disarmed,
    /// An alarm of before is over.
    Cleared,
    /// This node follows another leader, or none.
    Leader,
    /// No quorum follows a leader.
    QuorumLost,
    /// A quorum follows a leader again.
    QuorumRegained,
    /// Something on this node needs a person.
    Problem,
}

impl EventKind {
    /// As in JSON.
    pub fn name(self) -> &'static str {
        match self {
            EventKind::Decision => "decision",
            EventKind::Health => "health",
            EventKind::Override => "override",
            EventKind::Automation => "automation",
            EventKind::Config => "config",
            EventKind::Zone => "zone",
            EventKind::Members => "members",
            EventKind::Degraded => "degraded",
            EventKind::Disarmed => "disarmed",
            EventKind::Cleared => "cleared",
            EventKind::Leader => "leader",
            EventKind::QuorumLost => "quorum_lost",
            EventKind::QuorumRegained => "quorum_regained",
            EventKind::Problem => "problem",
        }
    }
}

/// One event, as a node saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Tells it from every other event, and is the same in every repetition; that of a decision is the same on every
    /// node.
    pub id: String,
    /// Version of the state in which it was seen. Its index is the event's id in the stream; several events may
    /// share one, so a reader that comes back gets those of its last index again.
    pub generation: Generation,
    /// Log time.
    pub time: String,
    /// The node that saw it.
    pub node: u64,
    /// What kind.
    pub kind: EventKind,
    /// What it is about, as `service web`.
    pub subject: String,
    /// One sentence.
    pub text: String,
}
