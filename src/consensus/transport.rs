//! How this crate reaches other nodes: one call with a deadline. [`crate::peers`] carries it over mutual TLS.

use std::{future::Future, net::SocketAddr, pin::Pin, time::Duration};
use zonekeeper_core::id::NodeId;

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Connections that do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// Heartbeats and nothing else.
    Heartbeat,
    /// Log entries, votes, transfers.
    Raft,
    /// Snapshots.
    Bulk,
    /// Forwarded proposals and membership changes.
    Control,
}

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The request was surely not delivered: no connection.
    #[error("node {0} is unreachable: {1}")]
    Unreachable(NodeId, String),
    /// The request may have been delivered; there was no answer in time or the connection broke.
    #[error("no answer from node {0}: {1}")]
    Lost(NodeId, String),
    /// The other side answered that it could not serve the request at all.
    #[error("node {0} refused the call: {1}")]
    Refused(NodeId, String),
}

/// Calls to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `to` and waits for the answer, at most until `deadline`.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>>;

    /// The Raft membership says that a node is reached at this address.
    fn learn(&self, node: NodeId, addr: SocketAddr);
}
