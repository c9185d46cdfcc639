//! Errors of calls, and what links announce.

use crate::{NodeId, refusal::Refusal};
use std::{io, time::Duration};

/// Why a call has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No peer with this id; see `Peers::set_peers`.
    #[error("node {0} is not a known peer")]
    Unknown(NodeId),
    /// The connection could not be made, so the peer has not seen the call.
    #[error("node {node} is unreachable: {why}")]
    Unreachable {
        /// The peer.
        node: NodeId,
        /// How the attempt ended.
        why: Loss,
    },
    /// The handshake ended in a refusal by either side.
    #[error("{}: {why}", refuser(*.node, *.by_peer))]
    Refused {
        /// The peer.
        node: NodeId,
        /// The reason.
        why: Refusal,
        /// The peer refused us; otherwise we refused the peer.
        by_peer: bool,
    },
    /// The connection was lost while the call was under way: whether the peer has acted on it is unknown.
    #[error("connection to node {node} was lost during the call ({why}); the outcome is unknown")]
    Lost {
        /// The peer.
        node: NodeId,
        /// How.
        why: Loss,
    },
    /// No answer within the deadline: whether the peer has acted on it is unknown.
    #[error("no answer from node {node} within {after:?}; the outcome is unknown")]
    Timeout {
        /// The peer.
        node: NodeId,
        /// The deadline.
        after: Duration,
    },
    /// The request is larger than its lane allows; it was not sent.
    #[error("request of {have} bytes is larger than the lane's limit of {limit}; send it in parts")]
    TooLarge {
        /// Bytes of the request.
        have: usize,
        /// [`crate::Lane::limit`].
        limit: usize,
    },
    /// The peer handles as many calls of this connection as it may; it has not acted on this one.
    #[error("node {0} is busy; try again")]
    Busy(NodeId),
    /// The peer's handler panicked, or its answer is too large to be sent: whether it has acted is unknown.
    #[error("node {node} has no answer: {text}; the outcome is unknown")]
    Broken {
        /// The peer.
        node: NodeId,
        /// Why.
        text: String,
    },
    /// The peer's handler answered with an error.
    #[error("node {node} answered: {text}")]
    Remote {
        /// The peer.
        node: NodeId,
        /// What its handler said.
        text: String,
    },
}

/// How a connection ended, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Loss {
    /// RST: the process or its machine's network stack cut it off.
    #[error("connection reset")]
    Reset,
    /// FIN: the peer closed it (a process that exits or crashes).
    #[error("connection closed by the peer")]
    Closed,
    /// Nobody listens at the address: the machine is there, the process is not.
    #[error("connection refused")]
    Refused,
    /// Silence.
    #[error("timed out")]
    Timeout,
    /// The peer's certificate ended during the connection.
    #[error("the peer's certificate has expired")]
    Expired,
    /// The handshake was refused, or the peer said goodbye with a reason.
    #[error("refused: {0}")]
    Denied(Refusal),
    /// Any other network error (no route, damaged frame).
    #[error("network error")]
    Network,
}

fn refuser(node: NodeId, by_peer: bool) -> String {
    if by_peer { format!("node {node} refused this node") } else { format!("this node refused node {node}") }
}

impl Loss {
    /// The loss that an I/O error stands for.
    pub(crate) fn of(error: &io::Error) -> Loss {
        match error.kind() {
            io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
                Loss::Reset
            }
            io::ErrorKind::UnexpectedEof => Loss::Closed,
            io::ErrorKind::ConnectionRefused => Loss::Refused,
            io::ErrorKind::TimedOut => Loss::Timeout,
            _ => Loss::Network,
        }
    }
}

/// A change of the Heartbeat lane's connection to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkEvent {
    /// The peer.
    pub node: NodeId,
    /// What happened.
    pub what: LinkChange,
}

/// What happened to a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkChange {
    /// Connected, both certificates verified.
    Up,
    /// Lost, or an attempt to connect ended in another way than the last one. `Reset`, `Closed` and `Refused` are
    /// news of a crash; `Timeout` may be the network.
    Lost(Loss),
}

/// Why the transport did not start or did not take new credentials.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The listener cannot be used.
    #[error("cannot use the listener for peers: {0}; check the address and that the port is free")]
    Listen(#[source] io::Error),
    /// The credentials do not fit together.
    #[error("cannot use the node's certificate")]
    Keys(#[from] crate::keys::KeyError),
    /// The credentials are of another node or cluster than the configuration says.
    #[error(
        "the certificate is for node {have_node} of cluster {have_cluster:032x}, not for node {node} of cluster {cluster:032x}; check the key folder"
    )]
    Identity {
        /// Configured node.
        node: NodeId,
        /// Configured cluster.
        cluster: u128,
        /// The certificate's node.
        have_node: NodeId,
        /// The certificate's cluster.
        have_cluster: u128,
    },
}
