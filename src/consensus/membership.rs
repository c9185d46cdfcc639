//! Members come and go: each change goes through the leader, from any node.

use crate::{consensus::Consensus, error::ProposeError};
use std::{net::SocketAddr, time::Duration};
use zonekeeper_core::{entry::Member, id::NodeId};

impl Consensus {
    /// Makes this empty node the first voter of a new cluster. The caller then proposes `Command::Init`.
    pub async fn bootstrap(&self, _member: &Member) -> Result<(), ProposeError> {
        todo!()
    }

    /// Adds a node that receives the log, and waits until it has caught up.
    pub async fn add_learner(&self, _node: NodeId, _addr: SocketAddr, _within: Duration) -> Result<u64, ProposeError> {
        todo!()
    }

    /// Makes a learner a voter.
    pub async fn promote(&self, _node: NodeId, _within: Duration) -> Result<u64, ProposeError> {
        todo!()
    }

    /// Makes a voter a learner.
    pub async fn demote(&self, _node: NodeId, _within: Duration) -> Result<u64, ProposeError> {
        todo!()
    }

    /// Takes a node out of the cluster, dead or alive. Its id is never used again.
    pub async fn remove(&self, _node: NodeId, _within: Duration) -> Result<u64, ProposeError> {
        todo!()
    }

    /// Hands leadership to a voter that is up to date, and waits until it leads.
    pub async fn transfer_leader(&self, _to: NodeId, _within: Duration) -> Result<(), ProposeError> {
        todo!()
    }
}
