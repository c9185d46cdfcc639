//! openraft's calls to other nodes.

use crate::{
    admission::Doorkeeper,
    machine::Image,
    transfer,
    transport::{Transport, TransportError},
    types::{LeaderId, TypeConfig, Vote},
    wire::{self, RaftCall, RaftReply},
};
use openraft::{
    BasicNode, OptionalSend, RaftNetworkFactory,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable},
    network::{RPCOption, v2::RaftNetworkV2},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
    storage::Snapshot,
};
use std::{future::Future, sync::Arc};
use zonekeeper_core::{codec, id::NodeId};
use zonekeeper_peer::Lane;

/// An error of a call as openraft knows it.
pub(crate) type RpcError = RPCError<TypeConfig>;

/// Makes a client per peer and lane.
pub(crate) struct Network {
    transport: Arc<dyn Transport>,
    door: Arc<Doorkeeper>,
}

impl Network {
    pub(crate) fn new(transport: Arc<dyn Transport>, door: Arc<Doorkeeper>) -> Network {
        Network { transport, door }
    }

    fn client(&self, target: NodeId, lane: Lane) -> Client {
        Client { target, lane, transport: self.transport.clone(), door: self.door.clone() }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Client;

    async fn new_client(&mut self, target: NodeId, _node: &BasicNode) -> Client {
        self.client(target, Lane::Raft)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, _node: &BasicNode) -> Client {
        self.client(target, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, _node: &BasicNode) -> Client {
        self.client(target, Lane::Bulk)
    }
}

/// Calls to one peer on one lane.
pub(crate) struct Client {
    target: NodeId,
    lane: Lane,
    transport: Arc<dyn Transport>,
    door: Arc<Doorkeeper>,
}

impl Client {
    async fn call(&self, call: RaftCall, option: &RPCOption) -> Result<RaftReply, RpcError> {
        let request = codec::bytes(&call);
        // The soft limit: openraft itself drops the call at the hard one.
        let reply = self.transport.call(self.target, self.lane, request, option.soft_ttl()).await;
        match wire::decode(&reply.map_err(rpc_error)?).map_err(unexpected)? {
            RaftReply::Fresh => Err(self.fresh()),
            reply => Ok(reply),
        }
    }

    fn fresh(&self) -> RpcError {
        self.door.answer(self.target);
        unexpected(format!("node {} has no data and waits to be let in", self.target))
    }
}

/// Unreachable makes openraft back off; a network error is tried again at once.
pub(crate) fn rpc_error(error: TransportError) -> RpcError {
    match error {
        TransportError::Unreachable(_) | TransportError::Refused(_) | TransportError::Broken(_) => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
        TransportError::Busy(_) | TransportError::Lost(_) => RPCError::Network(NetworkError::new(&error)),
    }
}

pub(crate) fn unexpected(what: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(what.to_string()))
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        match self.call(RaftCall::Append(rpc, self.door.quorum_age_ms()), &option).await? {
            RaftReply::Append(reply) => Ok(reply),
            _ => Err(unexpected("answer to another question")),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.call(RaftCall::Vote(rpc), &option).await? {
            RaftReply::Vote(reply) => Ok(reply),
            _ => Err(unexpected("answer to another question")),
        }
    }

    /// openraft's default would grant every pre-vote.
    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        match self.call(RaftCall::PreVote(rpc), &option).await? {
            RaftReply::Vote(reply) => Ok(reply),
            _ => Err(unexpected("answer to another question")),
        }
    }

    async fn transfer_leader(
        &mut self,
        rpc: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        match self.call(RaftCall::Transfer(rpc), &option).await? {
            RaftReply::Transfer(None) => Ok(Ok(())),
            RaftReply::Transfer(Some(refusal)) => Ok(Err(refusal)),
            _ => Err(unexpected("answer to another question")),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<LeaderId, NodeId, BasicNode, Image>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let path = match snapshot.snapshot {
            Image::File(path) => path,
            Image::Received(..) | Image::Memory(_) => {
                return Err(unexpected("a snapshot in memory cannot be sent").into());
            }
        };
        let send = transfer::send(&*self.transport, self.target, vote, snapshot.meta, &path);
        tokio::select! {
            sent = send => match sent? {
                Some(response) => Ok(response),
                None => Err(self.fresh().into()),
            },
            closed = cancel => Err(closed.into()),
        }
    }
}
