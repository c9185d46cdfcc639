//! What can go wrong, as values that a caller can act on.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use zonekeeper_core::{entry::MAX_ENTRY, id::NodeId};

/// Why a data directory was not opened. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory belongs to another node or another cluster.
    #[error(
        "{dir} holds the data of node {found} of cluster {cluster:032x}, not of {expected}: point the node at its own \
         data directory, or give this one its old configuration back"
    )]
    Foreign {
        /// The directory.
        dir: PathBuf,
        /// The node that wrote it.
        found: NodeId,
        /// The cluster it was written for.
        cluster: u128,
        /// Whose data was expected.
        expected: String,
    },
    /// Stored data does not add up.
    #[error(
        "{dir} is damaged: {what}. The node does not start on damaged data, because it may have forgotten a vote or \
         an acknowledged write. The way back: on a healthy node run `zonekeeper member remove {node} --yes`, delete this \
         directory, and join again under a new node id"
    )]
    Damaged {
        /// The directory.
        dir: PathBuf,
        /// The node whose data it is.
        node: NodeId,
        /// What does not add up.
        what: String,
    },
    /// Another process has the directory open.
    #[error("{0} is in use: is the node running? stop it first")]
    Busy(PathBuf),
    /// The store of the log could not be opened.
    #[error("cannot open {dir}: {source}")]
    Io {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The binary was linked so that sled would lose acknowledged writes in a power cut.
    #[error(
        "this binary calls the kernel's sync_file_range, which does not make data durable: build it so that the \
         symbol of zonekeeper-consensus is linked in"
    )]
    NotDurable,
}

/// Why no new incarnation was begun. Each text says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AnewError {
    /// The data directory.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A restore into a directory that holds something.
    #[error(
        "{0} holds data already: a restore needs an empty data directory; give the node another `data_dir`"
    )]
    NotEmpty(PathBuf),
    /// A recovery of a directory without data.
    #[error(
        "{0} holds no cluster, so there is nothing to recover; restore a backup with `zonekeeper restore`"
    )]
    Nothing(PathBuf),
    /// The backup is none.
    #[error("{0} is no backup of a cluster; give a file that `zonekeeper backup` wrote")]
    Foreign(PathBuf),
    /// Another version wrote the backup.
    #[error(
        "{path} was written by another version of Zonekeeper ({why}); restore it with that version, then upgrade"
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What differs.
        why: String,
    },
    /// The backup does not read, or is damaged.
    #[error("{0}; use another copy, or an older backup")]
    File(#[from] crate::snapshot::SnapshotError),
    /// Keys of the cluster that the backup was taken from.
    #[error(
        "the keys are those of the cluster that the backup was taken from ({0:032x}), whose nodes could come back \
         beside the new ones: make keys of a new cluster with `zonekeeper keys new`"
    )]
    SameCluster(u128),
    /// `apply` says no.
    #[error("{0}")]
    Refused(String),
}

/// Why a proposal or a membership change has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ProposeError {
    /// Nothing was written: there is no leader that a quorum follows, or it was not reached in time.
    #[error("there is no leader: nothing was written")]
    NoLeader,
    /// Nothing was written: the leader moved while the request was on its way.
    #[error("the leader is {leader:?} now: nothing was written")]
    NotLeader {
        /// The leader, as far as it is known.
        leader: Option<NodeId>,
    },
    /// The write may or may not happen: read before you write again.
    #[error("the outcome is unknown: {0}; the write may still happen, read before you repeat it")]
    Unknown(String),
    /// Nothing was written: too large for one entry.
    #[error(
        "the entry has {0} bytes, more than the {MAX_ENTRY} of one entry: send it in parts (stage) and make them \
         visible at once (commit)"
    )]
    TooLarge(usize),
    /// Nothing was written: too many requests are under way on this node.
    #[error("{0} requests are under way on this node already: nothing was written, try again")]
    Busy(usize),
    /// This node writes nothing any more; it goes on answering.
    #[error("this node has stopped writing: {0}")]
    Stopped(String),
    /// Against a rule of membership; the text says which and what to do.
    #[error("{0}")]
    Refused(String),
    /// The node was added, but does not catch up. It stays a learner.
    #[error(
        "node {node} has {matched} of {last} entries and does not catch up: is it running and reachable?"
    )]
    Behind {
        /// The node.
        node: NodeId,
        /// Last index that it has.
        matched: u64,
        /// Last index of the leader.
        last: u64,
    },
}
