//! openraft's calls to other nodes.

use crate::{
    machine::Image,
    transport::{Lane, Transport},
    types::{LeaderId, TypeConfig, Vote},
};
use openraft::{
    BasicNode, OptionalSend, RaftNetworkFactory,
    errors::{RPCError, ReplicationClosed, StreamingError},
    network::{RPCOption, v2::RaftNetworkV2},
    raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse},
    storage::Snapshot,
};
use std::{future::Future, sync::Arc};
use zonekeeper_core::id::NodeId;

/// Makes a client per peer and lane.
pub(crate) struct Network {
    node: NodeId,
    transport: Arc<dyn Transport>,
}

impl Network {
    pub(crate) fn new(node: NodeId, transport: Arc<dyn Transport>) -> Network {
        Network { node, transport }
    }

    fn client(&self, target: NodeId, node: &BasicNode, lane: Lane) -> Client {
        if let Ok(addr) = node.addr.parse() {
            self.transport.learn(target, addr);
        }
        Client { node: self.node, target, lane, transport: self.transport.clone() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, node: &BasicNode) -> Client {
        self.client(target, node, Lane::Raft)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &BasicNode) -> Client {
        self.client(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &BasicNode) -> Client {
        self.client(target, node, Lane::Bulk)
    }
}

/// Calls to one peer on one lane.
pub(crate) struct Client {
    node: NodeId,
    target: NodeId,
    lane: Lane,
    transport: Arc<dyn Transport>,
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        todo!()
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        todo!()
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote,
        _snapshot: Snapshot<LeaderId, NodeId, BasicNode, Image>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        todo!()
    }
}
