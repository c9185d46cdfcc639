//! Writes and linearizable reads, from any node: through the leader, wherever it is.

use crate::{
    consensus::{Consensus, IN_FLIGHT},
    error::ProposeError,
    transport::TransportError,
    types::TypeConfig,
    wire::{self, Ask, ControlCall, ControlReply, Done},
};
use openraft::{
    RaftMetrics, ReadPolicy,
    alias::WatchReceiverOf,
    async_runtime::watch::WatchReceiver,
    errors::{ClientWriteError, LinearizableReadError, RaftError},
    impls::ProgressResponder,
};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::timeout_at;
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, codec,
    entry::MAX_ENTRY,
    id::NodeId,
    mutant::{self, Mutant},
};
use zonekeeper_peer::Lane;

/// How long [`Consensus::propose`] tries: several failovers of the slowest timing.
pub const PROPOSE_WITHIN: Duration = Duration::from_secs(15);
/// How long to wait for news of a leader before asking again.
const RETRY: Duration = Duration::from_millis(50);
/// A forwarded request ends on the other side a little before its caller gives up, so that its answer arrives.
const MARGIN: Duration = Duration::from_millis(50);

impl Consensus {
    /// Writes a proposal through the leader, from any node, and returns its log index and what `apply` said.
    ///
    /// It may be written twice only if the caller repeats it after [`ProposeError::Unknown`].
    pub async fn propose(&self, proposal: Proposal) -> Result<(u64, Outcome), ProposeError> {
        self.propose_within(proposal, PROPOSE_WITHIN).await
    }

    /// [`Consensus::propose`] with a deadline of its own.
    pub async fn propose_within(
        &self,
        proposal: impl Into<Arc<Proposal>>,
        within: Duration,
    ) -> Result<(u64, Outcome), ProposeError> {
        let proposal = proposal.into();
        self.check_size(&proposal)?;
        written(self.through_leader(Ask::Propose(proposal), within).await?)
    }

    /// Writes a proposal as the leader, or not at all: what automation decides on this node is worth nothing once
    /// another one leads, and no node takes it from another.
    pub async fn propose_as_leader(
        &self,
        proposal: Proposal,
        within: Duration,
    ) -> Result<(u64, Outcome), ProposeError> {
        if let Some(text) = self.inner.store.failed().borrow().clone() {
            return Err(ProposeError::Stopped(text));
        }
        let proposal = proposal.into();
        self.check_size(&proposal)?;
        written(self.write(proposal, within).await?)
    }

    /// Waits until this node has applied everything that was committed anywhere when the call began, and returns that
    /// log index: what is read from the state now is linearizable.
    pub async fn read_index(&self, within: Duration) -> Result<u64, ProposeError> {
        if mutant::on(Mutant::StoppedNodeAnswers) && self.failed().borrow().is_some() {
            return Ok(self.inner.machine.index());
        }
        let until = Instant::now() + within;
        match self.through_leader(Ask::ReadIndex, within).await? {
            Done::Index(index) => {
                let mut applied = self.watch_applied();
                let reached = applied.wait_for(|applied| *applied >= index);
                match tokio::time::timeout(until.saturating_duration_since(Instant::now()), reached).await {
                    Ok(Ok(_)) => Ok(index),
                    _ => Err(ProposeError::NoLeader),
                }
            }
            Done::Wrote(..) => Err(ProposeError::NoLeader),
        }
    }

    /// Has the leader do something. What surely did not happen is tried again until the time is over.
    pub(crate) async fn through_leader(&self, ask: Ask, within: Duration) -> ControlReply {
        let _permit = self.inner.permits.try_acquire().map_err(|_| ProposeError::Busy(IN_FLIGHT))?;
        let until = Instant::now() + within;
        loop {
            if let Some(text) = self.inner.store.failed().borrow().clone() {
                return Err(ProposeError::Stopped(text));
            }
            let left = until.saturating_duration_since(Instant::now());
            let metrics = self.inner.raft().metrics();
            let leader = metrics.borrow_watched().current_leader;
            let reply = match leader {
                Some(node) if node == self.node() => self.serve(ask.clone(), left).await,
                Some(node) => self.forward(node, ask.clone(), left).await,
                None => Err(ProposeError::NoLeader),
            };
            match reply {
                Err(ProposeError::NoLeader | ProposeError::NotLeader { .. }) if until > Instant::now() => {}
                reply => return reply,
            }
            // Elapsed is the usual case: nothing has changed, and it is time to ask again.
            let _ = tokio::time::timeout(RETRY, other_leader(metrics, leader)).await;
        }
    }

    async fn forward(&self, leader: NodeId, ask: Ask, left: Duration) -> ControlReply {
        let request = ControlCall::new(ask, left.saturating_sub(MARGIN)).encode();
        match self.inner.transport.call(leader, Lane::Control, request, left).await {
            Ok(reply) => match wire::decode(&reply) {
                // It will not lead for long: another node may do it.
                Ok(Err(ProposeError::Stopped(_))) => Err(ProposeError::NoLeader),
                Ok(reply) => reply,
                Err(error) => Err(ProposeError::Unknown(error)),
            },
            Err(TransportError::Lost(text) | TransportError::Broken(text)) => {
                Err(ProposeError::Unknown(text))
            }
            Err(_) => Err(ProposeError::NoLeader),
        }
    }

    /// Does what a caller wants of the leader, if this node is it.
    pub(crate) async fn serve(&self, ask: Ask, within: Duration) -> ControlReply {
        match ask {
            Ask::Propose(proposal) => self.write(proposal, within).await,
            Ask::ReadIndex => self.confirm(within).await,
            Ask::Change(change) => self.change(change, within).await,
            Ask::Transfer(to) => self.hand_over(to, within).await,
        }
    }

    /// Each entrance asks: [`Consensus::propose`], [`Consensus::propose_as_leader`], and what other nodes forward.
    pub(crate) fn check_size(&self, proposal: &Arc<Proposal>) -> Result<(), ProposeError> {
        match codec::size(&self.entry(proposal.clone())) {
            size if size > MAX_ENTRY => Err(ProposeError::TooLarge(size)),
            _ => Ok(()),
        }
    }

    fn entry(&self, proposal: Arc<Proposal>) -> Entry {
        Entry { time: self.inner.clock.stamp(), proposal }
    }

    /// Until Raft has taken the entry, every error says that nothing was written, and the caller may try again.
    async fn write(&self, proposal: Arc<Proposal>, within: Duration) -> ControlReply {
        if matches!(proposal.command, Command::Recover(_)) {
            let text = "a new incarnation begins on a node that stands still: `zonekeeper recover`";
            return Err(ProposeError::Refused(text.into()));
        }
        let until = Instant::now() + within;
        let _pass = self.inner.gate.enter(until).await?;
        known(proposal.command.since(), self.state().cluster_version)?;
        let entry = self.entry(proposal);
        let raft = self.inner.raft();
        let (responder, answer) = ProgressResponder::complete_only();
        match timeout_at(until.into(), raft.client_write_ff(entry, Some(responder))).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(ProposeError::NoLeader),
        }
        match timeout_at(until.into(), answer).await {
            Ok(Ok(Ok(written))) => Ok(Done::Wrote(written.log_id.index, written.data)),
            Ok(Ok(Err(error))) => Err(refusal(error)),
            Ok(Err(_)) => Err(ProposeError::Unknown("raft has stopped here".into())),
            Err(_) => Err(ProposeError::Unknown(format!("no quorum confirmed it within {within:?}"))),
        }
    }

    pub(crate) async fn confirm(&self, within: Duration) -> ControlReply {
        if mutant::on(Mutant::UnconfirmedReads) {
            return Ok(Done::Index(self.inner.machine.index()));
        }
        let raft = self.inner.raft();
        match tokio::time::timeout(within, raft.get_read_log_id(ReadPolicy::ReadIndex)).await {
            Ok(Ok((read, _))) => Ok(Done::Index(read.index())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to)))) => {
                Err(ProposeError::NotLeader { leader: to.leader_id })
            }
            // A read changes nothing: it simply was not confirmed.
            Ok(Err(_)) | Err(_) => Err(ProposeError::NoLeader),
        }
    }
}

/// Ends when Raft names another leader than before; never when it has stopped (the next one may be on its way). Each
/// receiver of metrics begins with a change that is none, so that the first [`WatchReceiver::changed`] says nothing.
async fn other_leader(
    mut metrics: WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>,
    leader: Option<NodeId>,
) {
    while metrics.borrow_watched().current_leader == leader {
        if metrics.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// What an error of a change of members means.
pub(crate) fn write_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> ProposeError {
    match error {
        RaftError::APIError(error) => refusal(error),
        // Raft may have stopped before or after it wrote.
        RaftError::Fatal(fatal) => ProposeError::Unknown(fatal.to_string()),
    }
}

fn refusal(error: ClientWriteError<TypeConfig>) -> ProposeError {
    match error {
        ClientWriteError::ForwardToLeader(to) => ProposeError::NotLeader { leader: to.leader_id },
        ClientWriteError::LogEntryDiscarded(_) => ProposeError::Unknown(error.to_string()),
        error => ProposeError::Refused(error.to_string()),
    }
}

fn written(done: Done) -> Result<(u64, Outcome), ProposeError> {
    match done {
        Done::Wrote(index, outcome) => Ok((index, outcome)),
        Done::Index(_) => Err(ProposeError::Unknown("answer to another question".into())),
    }
}

/// A command that a member may not know yet must not reach the log: an older program could not read the entry, and would
/// stop following. The cluster version says what all of them know.
fn known(since: u32, cluster_version: u32) -> Result<(), ProposeError> {
    match since <= cluster_version.max(1) {
        true => Ok(()),
        false => Err(ProposeError::Refused(format!(
            "cluster version {cluster_version} does not know this command, which came with version {since}; upgrade \
             the program of every node, then run `zonekeeper cluster upgrade --yes`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_older_members_cannot_read_does_not_reach_the_log() {
        assert!(known(1, 0).is_ok(), "the first entry");
        assert!(known(1, 1).is_ok() && known(2, 2).is_ok() && known(1, 2).is_ok());
        let refused = known(2, 1);
        assert!(matches!(refused, Err(ProposeError::Refused(why)) if why.contains("cluster upgrade")));
    }
}
