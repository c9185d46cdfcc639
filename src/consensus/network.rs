//! openraft's calls to other nodes.

use crate::{
    admission::Doorkeeper,
    machine::Image,
    pace::Pace,
    store::READ_BYTES,
    transfer,
    transport::{Transport, TransportError},
    types::{LeaderId, LogEntry, LogId, TypeConfig, Vote},
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
use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};
use zonekeeper_core::{codec, id::NodeId};
use zonekeeper_peer::Lane;

/// An error of a call as openraft knows it.
pub(crate) type RpcError = RPCError<TypeConfig>;

/// Makes a client per peer and lane.
pub(crate) struct Network {
    transport: Arc<dyn Transport>,
    door: Arc<Doorkeeper>,
    heartbeat: Duration,
}

impl Network {
    pub(crate) fn new(transport: Arc<dyn Transport>, door: Arc<Doorkeeper>, heartbeat: Duration) -> Network {
        Network { transport, door, heartbeat }
    }

    fn client(&self, target: NodeId, lane: Lane) -> Client {
        let most = if lane == Lane::Bulk { transfer::CHUNK } else { READ_BYTES };
        let pace = Pace::new(most, self.heartbeat);
        Client { target, lane, transport: self.transport.clone(), door: self.door.clone(), pace }
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
    pace: Pace,
}

impl Client {
    /// The soft limit is the deadline: openraft itself drops the call at the hard one.
    async fn call(&self, call: RaftCall, option: &RPCOption) -> Result<RaftReply, RpcError> {
        self.send(codec::bytes(&call), option.soft_ttl()).await
    }

    async fn send(&self, request: Vec<u8>, deadline: Duration) -> Result<RaftReply, RpcError> {
        let reply = self.transport.call(self.target, self.lane, request, deadline).await;
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

/// A request of about `room` bytes at most, but of one entry at least; how many entries it carries, and the last one's
/// id. Nearly always that is all of them, encoded once; only what is too much is measured.
fn prefix(
    mut rpc: AppendEntriesRequest<TypeConfig>,
    quorum_age_ms: Option<u64>,
    room: usize,
) -> (Vec<u8>, usize, Option<LogId>) {
    let end = |entries: &[LogEntry]| (entries.len(), entries.last().map(|entry| entry.log_id));
    let (sent, last) = end(&rpc.entries);
    let call = RaftCall::Append(rpc, quorum_age_ms);
    let request = codec::bytes(&call);
    match call {
        RaftCall::Append(whole, _) if request.len() > room && sent > 1 => rpc = whole,
        _ => return (request, sent, last),
    }
    let mut left = room;
    let fits = rpc.entries.iter().take_while(|entry| {
        let size = codec::size(entry);
        let fits = size <= left;
        left = left.saturating_sub(size);
        fits
    });
    let fits = fits.count().max(1);
    rpc.entries.truncate(fits);
    let (sent, last) = end(&rpc.entries);
    (codec::bytes(&RaftCall::Append(rpc, quorum_age_ms)), sent, last)
}

impl RaftNetworkV2<TypeConfig> for Client {
    type SnapshotData = Image;

    /// Sends as many of the entries as the line carries in good time, and says how many those were.
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let all = rpc.entries.len();
        let (request, sent, last) = prefix(rpc, self.door.quorum_age_ms(), self.pace.room());
        let (bytes, at) = (request.len(), Instant::now());
        // openraft's own deadline is for the whole of a call without entries alone.
        let deadline = if sent == 0 { option.soft_ttl() } else { Pace::deadline(option.soft_ttl(), bytes) };
        let reply = self.send(request, deadline).await;
        if sent > 0 {
            self.pace.took(bytes, at.elapsed());
        }
        match reply? {
            RaftReply::Append(AppendEntriesResponse::Success) if sent < all => {
                Ok(AppendEntriesResponse::PartialSuccess(last))
            }
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
        let to = transfer::To { transport: &*self.transport, node: self.target, pace: &mut self.pace };
        let send = transfer::send(to, vote, snapshot.meta, &path);
        tokio::select! {
            sent = send => match sent? {
                Some(response) => Ok(response),
                None => Err(self.fresh().into()),
            },
            closed = cancel => Err(closed.into()),
        }
    }
}
