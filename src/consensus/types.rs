//! openraft's type parameters. Everything but the runtime is fixed, so that the simulation can run the same state
//! machine on its own runtime (see [`Types`]).

use openraft::{
    BasicNode, EntryPayload, RaftTypeConfig,
    alias::{SnapshotMetaOf, StoredMembershipOf},
};
use zonekeeper_core::{Entry, Outcome, id::NodeId};

openraft::declare_raft_types!(
    /// openraft over tokio.
    pub TypeConfig:
        D = Entry,
        R = Outcome,
        NodeId = NodeId,
        Node = BasicNode,
        AsyncRuntime = openraft_rt_tokio::TokioRuntime,
);

/// Identity of a leader: a term and a node. Two nodes of one term are ordered by id, so a split vote costs no round.
pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;
/// What a node voted for.
pub type Vote = openraft::impls::Vote<LeaderId>;
/// Leader and index of a log entry.
pub type LogId = openraft::LogId<LeaderId>;
/// Blank, a command, or a membership.
pub type Payload = EntryPayload<Entry, NodeId, BasicNode>;
/// A log entry as it is stored and replicated.
pub type LogEntry = openraft::impls::Entry<LeaderId, Payload>;
/// A membership and the log id that made it.
pub type StoredMembership = StoredMembershipOf<TypeConfig>;
/// What a snapshot covers.
pub type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
/// openraft's handle.
pub(crate) type Raft = openraft::Raft<TypeConfig, crate::machine::Machine>;

/// Any openraft type configuration that differs from [`TypeConfig`] in its runtime alone.
pub trait Types:
    RaftTypeConfig<
        D = Entry,
        R = Outcome,
        NodeId = NodeId,
        Node = BasicNode,
        Term = u64,
        LeaderId = LeaderId,
        Vote = Vote,
        Payload = Payload,
        Entry = LogEntry,
    >
{
}

impl<C> Types for C where
    C: RaftTypeConfig<
            D = Entry,
            R = Outcome,
            NodeId = NodeId,
            Node = BasicNode,
            Term = u64,
            LeaderId = LeaderId,
            Vote = Vote,
            Payload = Payload,
            Entry = LogEntry,
        >
{
}
