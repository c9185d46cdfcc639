//! A node without data is let in by the leader, as a learner that never had any, or not at all.
//!
//! A voter whose disk was wiped has forgotten its vote and what it acknowledged. If it came back under its id, an entry
//! that it once confirmed could be lost, and so could the promise not to vote twice in a term. So a node that starts
//! without any data takes no part in Raft: it answers no call but with [`crate::wire::RaftReply::Fresh`]. The leader
//! that hears this makes sure that it still leads (a quorum confirms it, so the membership that it knows is the newest)
//! and then looks at its members: a learner that never had an entry is admitted; a voter, or a learner that had some, is
//! denied for good. Nothing of this is stored: whoever has a vote or an entry on disk has been admitted.

use crate::{
    status,
    transport::Transport,
    types::Raft,
    wire::{RaftCall, RaftReply},
};
use openraft::{RaftMetrics, ReadPolicy, async_runtime::watch::WatchReceiver};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use zonekeeper_core::{
    codec,
    id::NodeId,
    mutant::{self, Mutant},
};
use zonekeeper_peer::Lane;

/// How long a leader tries to have its leadership confirmed, and then to tell the node.
const WITHIN: Duration = Duration::from_secs(5);

/// Whether this node takes part in Raft.
#[derive(Debug)]
pub(crate) struct Admission(AtomicBool);

impl Admission {
    pub(crate) fn new(has_data: bool) -> Admission {
        Admission(AtomicBool::new(has_data || mutant::on(Mutant::WipedVoter)))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.load(SeqCst)
    }

    pub(crate) fn open(&self) {
        self.0.store(true, SeqCst);
    }
}

/// The leader's side: answers nodes that say that they have no data.
pub(crate) struct Doorkeeper {
    transport: Arc<dyn Transport>,
    /// The Raft whose network this serves; set as soon as it is made.
    pub(crate) raft: OnceLock<Raft>,
    /// Nodes that are being answered.
    busy: Mutex<BTreeSet<NodeId>>,
}

/// What the leader knows of a node that says that it has no data.
#[derive(Debug, PartialEq, Eq)]
enum Standing {
    /// A learner that never had an entry.
    New,
    /// It must not come back.
    Known(&'static str),
    /// Not a member (yet).
    Stranger,
}

impl Doorkeeper {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Arc<Doorkeeper> {
        Arc::new(Doorkeeper { transport, raft: OnceLock::new(), busy: Mutex::default() })
    }

    /// Milliseconds since a quorum followed this node, if it leads.
    pub(crate) fn quorum_age_ms(&self) -> Option<u64> {
        status::quorum_age_ms(&self.raft.get()?.metrics().borrow_watched())
    }

    /// Answers a node that has no data, in the background and one try at a time: openraft asks again.
    pub(crate) fn answer(self: &Arc<Doorkeeper>, node: NodeId) {
        let Some(raft) = self.raft.get().cloned() else { return };
        if !self.busy.lock().unwrap_or_else(PoisonError::into_inner).insert(node) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            if let Some(call) = verdict(&raft, node).await {
                this.tell(node, call).await;
            }
            this.busy.lock().unwrap_or_else(PoisonError::into_inner).remove(&node);
        });
    }

    async fn tell(&self, node: NodeId, call: RaftCall) {
        match &call {
            RaftCall::Deny(why) => tracing::error!(node, why, "a member without data is not let in"),
            _ => tracing::info!(node, "a new node is let in"),
        }
        let told = self.transport.call(node, Lane::Raft, codec::bytes(&call), WITHIN).await;
        if let Err(error) = told {
            tracing::debug!(node, %error, "it could not be told; it will ask again");
        }
    }
}

/// What to tell a node; none while this is not known for certain.
async fn verdict(raft: &Raft, node: NodeId) -> Option<RaftCall> {
    let confirmed = tokio::time::timeout(WITHIN, raft.get_read_log_id(ReadPolicy::ReadIndex)).await;
    if !matches!(confirmed, Ok(Ok(_))) {
        return None;
    }
    let standing = standing(&raft.metrics().borrow_watched(), node);
    match standing {
        Standing::New => Some(RaftCall::Admit),
        Standing::Stranger => None,
        Standing::Known(what) => Some(RaftCall::Deny(format!(
            "node {node} is {what} the cluster and came back without its data, so it must not go on under this id: \
             run `zonekeeper member remove {node} --yes` on another node and start this one under a new id (`zonekeeper join`)"
        ))),
    }
}

fn standing(m: &RaftMetrics<crate::types::TypeConfig>, node: NodeId) -> Standing {
    let members = m.membership_config.membership();
    let had_some = m.replication.as_ref().is_some_and(|r| matches!(r.get(&node), Some(Some(_))));
    match () {
        () if members.voter_ids().any(|id| id == node) => Standing::Known("a voter of"),
        () if members.get_node(&node).is_none() => Standing::Stranger,
        () if had_some => Standing::Known("a learner that had entries of"),
        () => Standing::New,
    }
}

/// What a node answers while it waits to be let in: the question was Raft's, and it has no data.
pub(crate) fn fresh(call: &RaftCall) -> Result<RaftReply, String> {
    match call {
        RaftCall::Append(..) => Ok(RaftReply::Fresh),
        _ => Err("this node has no data and was not let in yet: it neither votes nor leads".into()),
    }
}
