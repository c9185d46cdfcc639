//! openraft's type parameters on the simulated runtime, and its configuration.

use crate::machine::Machine;
use openraft::{BasicNode, Config, EntryPayload, SnapshotPolicy, alias};
use openraft_rt_sim::SimRuntime;
use zonekeeper_core::{Entry, Outcome, entry::Timing, id::NodeId};

openraft::declare_raft_types!(
    /// As production's, but for the runtime.
    pub C: D = Entry, R = Outcome, NodeId = NodeId, Node = BasicNode, AsyncRuntime = SimRuntime,
);

/// A term and a node.
pub type LeaderId = openraft::impls::leader_id_adv::LeaderId<u64, NodeId>;
/// What a node voted for.
pub type Vote = openraft::impls::Vote<LeaderId>;
/// Leader and index of a log entry.
pub type LogId = openraft::LogId<LeaderId>;
/// Blank, a command, or a membership.
pub type Payload = EntryPayload<Entry, NodeId, BasicNode>;
/// A log entry.
pub type LogEntry = alias::EntryOf<C>;
/// A membership and the log id that made it.
pub type StoredMembership = alias::StoredMembershipOf<C>;
/// What a snapshot covers.
pub type SnapshotMeta = alias::SnapshotMetaOf<C>;
/// openraft's handle.
pub type Raft = openraft::Raft<C, Machine>;

/// Entries between two snapshots: few, so that snapshots, purges and installations happen in every run.
const SNAPSHOT_EVERY: u64 = 20;
/// Entries kept behind a snapshot.
const KEEP: u64 = 4;

/// The timings of production (`zonekeeper-consensus`, `timing.rs`), with snapshots more often.
pub fn config(timing: Timing) -> Config {
    let election_timeout_max = 5 * timing.heartbeat_ms();
    Config {
        cluster_name: "simulation".into(),
        heartbeat_interval: timing.heartbeat_ms(),
        election_timeout_min: 3 * timing.heartbeat_ms(),
        election_timeout_max,
        quorum_loss_probe_interval: Some(2 * election_timeout_max),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: None,
        install_snapshot_timeout: 30_000,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(SNAPSHOT_EVERY),
        max_in_snapshot_log_to_keep: KEEP,
        replication_lag_threshold: 2 * SNAPSHOT_EVERY,
        max_payload_entries: 16,
        purge_batch_size: 16,
        ..Config::default()
    }
}

/// A leader as the checkers know it.
pub fn leader(id: &LeaderId) -> (u64, NodeId) {
    (id.term, id.node_id)
}
