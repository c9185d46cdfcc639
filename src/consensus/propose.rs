//! Writes and linearizable reads, from any node.

use crate::{consensus::Consensus, error::ProposeError};
use std::time::Duration;
use zonekeeper_core::{Outcome, Proposal};

/// How long [`Consensus::propose`] tries: several failovers of the slowest timing.
pub const PROPOSE_WITHIN: Duration = Duration::from_secs(15);

impl Consensus {
    /// Writes a proposal through the leader, from any node, and returns its log index and what `apply` said.
    pub async fn propose(&self, proposal: Proposal) -> Result<(u64, Outcome), ProposeError> {
        self.propose_within(proposal, PROPOSE_WITHIN).await
    }

    /// [`Consensus::propose`] with a deadline of its own.
    pub async fn propose_within(
        &self,
        _proposal: Proposal,
        _within: Duration,
    ) -> Result<(u64, Outcome), ProposeError> {
        todo!()
    }

    /// Waits until this node has applied everything that was committed anywhere when the call began, and returns that
    /// log index: what is read from the state now is linearizable.
    pub async fn read_index(&self, _within: Duration) -> Result<u64, ProposeError> {
        todo!()
    }
}
