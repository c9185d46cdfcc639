//! What nodes say to each other. Variants are append-only; the transport's handshake checks the version.

use crate::{
    error::ProposeError,
    types::{SnapshotMeta, TypeConfig, Vote},
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use zonekeeper_core::{Outcome, Proposal, codec, id::NodeId, takeover::Word};

/// First byte of every request of this crate on the Control lane, where other services have calls of their own.
pub const CONTROL_TAG: u8 = b'C';

/// First bytes of every request of this crate on the lanes Heartbeat and Raft (the variants of [`RaftCall`], with room
/// to grow). The node-path probe, which shares Heartbeat, begins with another byte.
pub const RAFT_TAGS: std::ops::Range<u8> = 0..32;

/// On the lanes Raft and Heartbeat.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RaftCall {
    /// With the milliseconds since a quorum is known to have followed the leader; none: not yet in its term.
    Append(AppendEntriesRequest<TypeConfig>, Option<u64>),
    Vote(VoteRequest<TypeConfig>),
    PreVote(VoteRequest<TypeConfig>),
    Transfer(TransferLeaderRequest<TypeConfig>),
    /// The leader lets a node without data in (see [`crate::admission`]).
    Admit,
    /// The leader does not, for this reason.
    Deny(String),
    /// The caller was told that a leader's process is gone.
    Gone(Word),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RaftReply {
    Append(AppendEntriesResponse<TypeConfig>),
    Vote(VoteResponse<TypeConfig>),
    /// None: the target campaigns. Otherwise why it does not.
    Transfer(Option<openraft::raft::TransferLeaderError<TypeConfig>>),
    /// The node has no data and waits to be let in.
    Fresh,
    /// Heard.
    Done,
}

/// On the lane Bulk: one snapshot file, from an offset that the receiver names.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum BulkCall {
    /// Announces a file. Answered by the bytes of it that are here already.
    Offer(FileId),
    /// The bytes at an offset. Answered like an offer.
    Chunk { file: FileId, offset: u64, bytes: Vec<u8> },
    /// All bytes are there: install it.
    Install { vote: Vote, file: FileId },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum BulkReply {
    Have(u64),
    Installed(SnapshotResponse<TypeConfig>),
    /// The node has no data and waits to be let in.
    Fresh,
}

/// A snapshot file under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileId {
    pub(crate) meta: SnapshotMeta,
    pub(crate) len: u64,
}

/// On the lane Control, behind [`CONTROL_TAG`]: for the leader.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ControlCall {
    pub(crate) within_ms: u64,
    pub(crate) ask: Ask,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Ask {
    Propose(Arc<Proposal>),
    ReadIndex,
    Change(Change),
    Transfer(NodeId),
}

/// A change of Raft's membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    AddLearner(NodeId, SocketAddr),
    Promote(NodeId),
    Demote(NodeId),
    Remove(NodeId),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Done {
    Wrote(u64, Outcome),
    Index(u64),
}

pub(crate) type ControlReply = Result<Done, ProposeError>;

impl ControlCall {
    pub(crate) fn new(ask: Ask, within: Duration) -> ControlCall {
        ControlCall { within_ms: within.as_millis() as u64, ask }
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![CONTROL_TAG];
        bytes.extend(codec::bytes(self));
        bytes
    }

    pub(crate) fn decode(request: &[u8]) -> Result<ControlCall, String> {
        match request.split_first() {
            Some((&CONTROL_TAG, call)) => decode(call),
            _ => Err("not a request to consensus".into()),
        }
    }
}

/// Decodes what a peer sent; the transport has bounded its size.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    codec::from_bytes(bytes).map_err(|error| error.to_string())
}
