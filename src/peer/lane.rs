//! Lanes: each has a TCP connection of its own per peer, so that a snapshot never delays a heartbeat.

use serde::{Deserialize, Serialize};

/// What a connection carries. Numbers are for ever (append only).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Lane {
    /// Small and urgent: Raft heartbeats, node-path probes. Always connected; its loss is announced.
    Heartbeat,
    /// Log entries, votes, client writes on their way to the leader.
    Raft,
    /// Snapshot chunks.
    Bulk,
    /// Long polls for state changes.
    Watch,
    /// Membership, certificate renewal, everything rare.
    Control,
}

impl Lane {
    /// All lanes, in order.
    pub const ALL: [Lane; 5] = [Lane::Heartbeat, Lane::Raft, Lane::Bulk, Lane::Watch, Lane::Control];

    /// Largest payload of one request or one response in bytes. A log entry has 64 KiB at most, so 1 MiB holds a
    /// useful batch of them; a heartbeat that is larger would delay the next one.
    pub const fn limit(self) -> usize {
        match self {
            Lane::Heartbeat => 256 << 10,
            Lane::Raft | Lane::Bulk | Lane::Watch | Lane::Control => 1 << 20,
        }
    }

    /// The lane in lower case, for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Lane::Heartbeat => "heartbeat",
            Lane::Raft => "raft",
            Lane::Bulk => "bulk",
            Lane::Watch => "watch",
            Lane::Control => "control",
        }
    }
}
