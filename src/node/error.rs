//! Why a node did not start.

use std::{io, net::SocketAddr, path::PathBuf};
use zonekeeper_core::id::NodeId;

/// Why a node did not start, with the way out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// The key folder.
    #[error("the node's keys cannot be used")]
    Keys(#[from] zonekeeper_peer::keys::KeyError),
    /// The certificate is another node's.
    #[error(
        "{dir} holds the keys of node {found}, but the configuration says node {id}; check `id` and `keys_dir`"
    )]
    Foreign {
        /// The key folder.
        dir: PathBuf,
        /// Node of the certificate.
        found: NodeId,
        /// Node of the configuration.
        id: NodeId,
    },
    /// The data directory.
    #[error(transparent)]
    Open(#[from] zonekeeper_consensus::OpenError),
    /// No room to start on.
    #[error(
        "the disk of {dir} has less than {mib} MiB left ({error}), so the node does not start: its data is as it was. \
         Free space, then start it again"
    )]
    Room {
        /// The data directory.
        dir: PathBuf,
        /// What a start needs.
        mib: usize,
        /// What the disk said.
        error: io::Error,
    },
    /// A data directory without data, and nobody said that this is a first start.
    #[error(
        "{dir} is empty, but node {id} was not said to be new. If its disk was wiped or replaced: its vote is lost, so \
         it must not come back under this id; run `zonekeeper member remove {id} --yes` on a healthy node and join again \
         under a new id. If this is its first start: use --bootstrap (first node of a new cluster) or --new"
    )]
    Empty {
        /// The data directory.
        dir: PathBuf,
        /// This node.
        id: NodeId,
    },
    /// `--new` or `--bootstrap` on a directory with data.
    #[error("{0} holds data already; start without --bootstrap and --new")]
    NotEmpty(PathBuf),
    /// An address is taken or not ours.
    #[error("{0} = {1} cannot be bound; is the port taken, or the address not of this machine?")]
    Bind(&'static str, SocketAddr, #[source] io::Error),
    /// The transport.
    #[error(transparent)]
    Peers(#[from] zonekeeper_peer::StartError),
    /// Raft.
    #[error("Raft did not start")]
    Raft(#[source] io::Error),
    /// A part panicked.
    #[error("a part of the node ended while it started; this is a bug, see the log")]
    Task(#[source] tokio::task::JoinError),
    /// DNS.
    #[error(transparent)]
    Dns(#[from] zonekeeper_dns::BindError),
    /// Certificate or key of encrypted DNS.
    #[error("encrypted DNS has no certificate: {0}")]
    Certificate(String),
    /// A database of clients' whereabouts.
    #[error(transparent)]
    Geo(#[from] zonekeeper_dns::GeoError),
    /// Proxy.
    #[error(transparent)]
    Proxy(#[from] zonekeeper_proxy::BindError),
    /// The first entries of a new cluster.
    #[error("the new cluster could not be founded: {0}")]
    Found(String),
    /// A file of the node.
    #[error("cannot write {0}")]
    File(PathBuf, #[source] io::Error),
    /// Joining.
    #[error("cannot join: {0}")]
    Join(String),
}
