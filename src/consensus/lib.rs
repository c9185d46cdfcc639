//! The replicated log: openraft over sled. The only place that names either.

mod clock;
mod consensus;
mod error;
mod fsync;
mod handler;
mod machine;
mod membership;
mod network;
mod propose;
pub mod snapshot;
mod status;
mod store;
mod timing;
mod transfer;
mod transport;
pub mod types;
mod wire;

pub use consensus::{Consensus, Opened};
pub use error::{OpenError, ProposeError};
pub use machine::{Applied, Image, Machine, Sink};
pub use propose::PROPOSE_WITHIN;
pub use status::{Peer, Role, Status};
pub use store::Identity;
pub use timing::{
    KEEP_BEHIND_SNAPSHOT, SNAPSHOT_EVERY, config, election_max_ms, election_min_ms, timing_warning,
};
pub use transport::{Transport, TransportError};
pub use wire::CONTROL_TAG;
pub use zonekeeper_peer::{BoxFuture, Handler, Lane};

#[cfg(test)]
mod tests;
