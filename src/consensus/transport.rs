//! How this crate reaches other nodes: one call with a deadline.
//!
//! [`zonekeeper_peer::Peers`] carries it over mutual TLS; the node keeps its addresses in step with the members in
//! the state. The simulation and the tests may put another transport in its place.

use std::time::Duration;
use zonekeeper_core::id::NodeId;
use zonekeeper_peer::{BoxFuture, Lane, PeerError, Peers};

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The peer has surely not seen the request, and will not see another one soon.
    #[error("{0}")]
    Unreachable(String),
    /// The peer has surely not acted on the request; another try may work at once.
    #[error("{0}")]
    Busy(String),
    /// The peer may have acted on the request.
    #[error("{0}")]
    Lost(String),
    /// The peer's handler answered that it could not serve the request at all.
    #[error("{0}")]
    Refused(String),
    /// The peer's handler broke down over the request, and may have acted on it.
    #[error("{0}")]
    Broken(String),
}

/// Calls to other nodes.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request` to `to` and waits for the answer for as long as `deadline` at most.
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>>;
}

impl Transport for Peers {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Vec<u8>, TransportError>> {
        Box::pin(async move {
            Peers::call(self, to, lane, request, deadline).await.map_err(|error| {
                let text = error.to_string();
                match error {
                    PeerError::Lost { .. } | PeerError::Timeout { .. } => TransportError::Lost(text),
                    PeerError::Busy(_) => TransportError::Busy(text),
                    PeerError::Remote { .. } => TransportError::Refused(text),
                    PeerError::Broken { .. } => TransportError::Broken(text),
                    _ => TransportError::Unreachable(text),
                }
            })
        })
    }
}
