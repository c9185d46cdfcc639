//! Answers to other nodes' calls.

use crate::{consensus::Consensus, transport::Lane};
use zonekeeper_core::id::NodeId;

/// First byte of every request of this crate on [`Lane::Control`], where other services have calls of their own.
pub const CONTROL_TAG: u8 = b'C';

#[derive(Default)]
pub(crate) struct Incoming {}

impl Consensus {
    /// Answers one call of another node. The node dispatches all of Heartbeat, Raft and Bulk to this, and of Control
    /// what begins with [`CONTROL_TAG`]. An error is a text for the caller's log.
    pub async fn handle(&self, _from: NodeId, _lane: Lane, _request: &[u8]) -> Result<Vec<u8>, String> {
        todo!()
    }
}
