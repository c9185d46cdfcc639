//! Answers to other nodes' calls.

use crate::{
    admission,
    consensus::Consensus,
    error::ProposeError,
    machine::Image,
    transfer,
    types::Vote,
    wire::{self, Ask, BulkCall, BulkReply, ControlCall, ControlReply, FileId, RaftCall, RaftReply},
};
use openraft::{raft::AppendEntriesResponse, storage::Snapshot};
use std::{sync::Arc, time::Duration};
use zonekeeper_core::{
    Proposal, codec,
    entry::Cause,
    id::NodeId,
    mutant::{self, Mutant},
};
use zonekeeper_peer::{BoxFuture, Handler, Lane};

/// Longest time that a forwarded request is worked on.
const CONTROL_WITHIN: Duration = Duration::from_secs(60);

impl Consensus {
    /// Answers the lanes Heartbeat, Raft and Bulk, and of the lane Control what begins with [`crate::CONTROL_TAG`].
    pub fn handler(&self) -> Arc<dyn Handler> {
        Arc::new(self.clone())
    }

    async fn raft_call(&self, from: NodeId, request: &[u8]) -> Result<Vec<u8>, String> {
        let raft = self.inner.raft();
        let call = wire::decode(request)?;
        match &call {
            RaftCall::Append(rpc, _) => speaks_for_itself(from, &rpc.vote)?,
            RaftCall::Vote(rpc) | RaftCall::PreVote(rpc) => speaks_for_itself(from, &rpc.vote)?,
            RaftCall::Transfer(rpc) => speaks_for_itself(from, rpc.from_leader())?,
            RaftCall::Gone(_) => {}
            RaftCall::Admit | RaftCall::Deny(_) => return Ok(codec::bytes(&self.let_in(from, call))),
        }
        if !self.inner.admission.is_open() {
            return admission::fresh(&call).map(|reply| codec::bytes(&reply));
        }
        let reply = match call {
            RaftCall::Append(rpc, quorum_age_ms) => {
                let reply = raft.append_entries(rpc).await.map_err(text)?;
                if !matches!(reply, AppendEntriesResponse::HigherVote(_)) {
                    self.inner.hear(quorum_age_ms);
                }
                RaftReply::Append(reply)
            }
            RaftCall::Vote(rpc) => RaftReply::Vote(raft.vote(rpc).await.map_err(text)?),
            RaftCall::PreVote(rpc) => RaftReply::Vote(raft.pre_vote(rpc).await.map_err(text)?),
            RaftCall::Transfer(rpc) => {
                RaftReply::Transfer(raft.handle_transfer_leader(rpc).await.map_err(text)?.err())
            }
            RaftCall::Gone(word) => {
                self.hear_word(from, word);
                RaftReply::Done
            }
            RaftCall::Admit | RaftCall::Deny(_) => RaftReply::Done,
        };
        Ok(codec::bytes(&reply))
    }

    /// The leader's word on this node's first start; too late for one that has data.
    fn let_in(&self, from: NodeId, call: RaftCall) -> RaftReply {
        match call {
            _ if self.inner.admission.is_open() => {}
            RaftCall::Deny(why) => self.inner.store.fail(&why),
            _ => {
                tracing::info!(leader = from, "this new node was let in");
                self.inner.admission.open();
            }
        }
        RaftReply::Done
    }

    async fn bulk_call(&self, from: NodeId, request: &[u8]) -> Result<Vec<u8>, String> {
        let call = wire::decode(request)?;
        if let BulkCall::Install { vote, .. } = &call {
            speaks_for_itself(from, vote)?;
        }
        if !self.inner.admission.is_open() {
            return Ok(codec::bytes(&BulkReply::Fresh));
        }
        let files = self.inner.machine.files().ok_or("no place for snapshots")?;
        let reply = match call {
            BulkCall::Offer(file) => {
                let mut incoming = self.inner.incoming.lock().await;
                BulkReply::Have(incoming.offer(|| files.incoming(), file).await.map_err(text)?)
            }
            BulkCall::Chunk { file, offset, bytes } => {
                let mut incoming = self.inner.incoming.lock().await;
                BulkReply::Have(incoming.chunk(&file, offset, &bytes).await.map_err(text)?)
            }
            BulkCall::Install { vote, file } => {
                let this = self.clone();
                // A call ends with its connection; what was begun here must not, or the file would stay.
                tokio::spawn(async move { this.install(vote, file).await }).await.map_err(text)??
            }
        };
        Ok(codec::bytes(&reply))
    }

    async fn install(&self, vote: Vote, file: FileId) -> Result<BulkReply, String> {
        // Held to the end: one state at a time is read into memory.
        let mut incoming = self.inner.incoming.lock().await;
        let path = incoming.finish(&file).map_err(text)?;
        let installed = async {
            let meta = file.meta;
            let state = transfer::check(path.clone(), meta.clone()).await.map_err(text)?;
            let snapshot = Snapshot { meta, snapshot: Image::Received(path.clone(), state) };
            self.inner.raft().install_full_snapshot(vote, snapshot).await.map_err(text)
        };
        let installed = installed.await;
        transfer::remove(&path).await;
        let response = installed?;
        self.inner.hear(None);
        Ok(BulkReply::Installed(response))
    }

    async fn control_call(&self, from: NodeId, request: &[u8]) -> Result<Vec<u8>, String> {
        let call = ControlCall::decode(request)?;
        if let Ask::Propose(proposal) = &call.ask
            && let Err(why) = self.may_forward(from, proposal)
        {
            return Ok(codec::bytes(&ControlReply::Err(why)));
        }
        let within = Duration::from_millis(call.within_ms).min(CONTROL_WITHIN);
        Ok(codec::bytes(&self.serve(call.ask, within).await))
    }

    /// Whether this may come from another node.
    fn may_forward(&self, from: NodeId, proposal: &Arc<Proposal>) -> Result<(), ProposeError> {
        self.check_size(proposal)?;
        match proposal.cause {
            Cause::Automation if !mutant::on(Mutant::AnyAutomation) => Err(ProposeError::Refused(format!(
                "node {from} forwards a decision of automation, which only the leader's own may make"
            ))),
            _ => Ok(()),
        }
    }
}

impl Handler for Consensus {
    fn handle(&self, from: NodeId, lane: Lane, payload: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            match lane {
                Lane::Heartbeat | Lane::Raft => self.raft_call(from, &payload).await,
                Lane::Bulk => self.bulk_call(from, &payload).await,
                Lane::Control => self.control_call(from, &payload).await,
                Lane::Watch => Err("consensus does not answer this lane".into()),
            }
        })
    }
}

/// A node speaks for itself alone: whoever its certificate names is the leader or candidate of what it sends.
fn speaks_for_itself(from: NodeId, vote: &Vote) -> Result<(), String> {
    match vote.leader_id.node_id {
        node if node == from || mutant::on(Mutant::AnyName) => Ok(()),
        node => Err(format!("node {from} speaks in the name of node {node}")),
    }
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
