//! The replicated log: openraft over sled. The only place that names either.
//!
//! [`Consensus::open`] checks a data directory and replays it up to what this node had published, so that it can be
//! served at once, with or without a quorum. [`Opened::start`] runs Raft on it. [`Consensus`] then proposes, reads,
//! changes members and reports; a [`Sink`] hears of every applied batch in log order.
//!
//! # What lies where, and what a crash leaves behind
//!
//! ```text
//! log/         sled, one tree       00 kind          vote, purged, committed, watermark, identity
//!                                   01 index piece   log entries, in pieces of 4 KiB
//! witness      one record           last durable vote and log id, a second time
//! snapshots/   ordinary files       the state at an index; the two newest
//! ```
//!
//! The state itself lives in memory: snapshot plus log is all there is.
//!
//! - **Atomicity.** One thread writes, in the order of the calls. It gathers what waits into one batch on one tree (all
//!   or nothing in sled), flushes once, and acknowledges after it. Vote, append, truncate, purge, watermark and
//!   identity are flushed before they are acknowledged; `committed` rides along with the next of them.
//! - **Order.** An entry is appended before it is applied and applied before its index becomes the watermark, and all go
//!   through the one thread, so a durable watermark has its entries below it.
//! - **sled 0.34.7 is not durable by itself.** Its flush calls `sync_file_range`; this crate defines that symbol as "not
//!   implemented", so that sled takes its own way out, an fsync (`fsync.rs`; [`Consensus::open`] refuses a binary in
//!   which the symbol is not ours). Its directories are synced when they are opened. A page above 128 KiB would go to a
//!   file that sled never syncs, and a page holds 17 values of any size, so no value is above 4 KiB.
//! - **sled forgets silently.** It takes a damaged record for the end of its log. So what was stored is remembered a
//!   second time in `witness`, written after each flush and not synced: it may lag behind sled and never lead, except
//!   that a truncation is synced there first.
//! - **A crash** at any point leaves whole batches, a watermark with its entries, snapshots that are whole or `.tmp` and
//!   deleted at start. Lost is at most what nobody was told.
//! - **Damage** that no crash leaves (a checksum, a hole, a log without a vote, less than the witness or the watermark
//!   says) is refused at start with the way back: remove the node, wipe, join under a new id. A directory is never
//!   taken for empty because it lost its content.
//! - **A write error** is final ([`Consensus::failed`]): after a failed fsync the kernel may have dropped what it could
//!   not write, and the next fsync would succeed over the loss. Raft stops here; readers go on. A full disk stops
//!   writing, not answering.
//!
//! # Dispatch
//!
//! [`Consensus::handler`] answers the lanes Heartbeat, Raft and Bulk. Other services share Heartbeat or Control with it:
//! on Control, requests of this crate begin with the byte [`CONTROL_TAG`]; on Heartbeat with one of [`RAFT_TAGS`].
//!
//! # Trust
//!
//! Raft knows no liars: whoever holds a member's key can vote, lead and forward writes under any operator's name, so a
//! key folder is worth an admin token, and a member whose site was broken into is removed at once. What is held all the
//! same: a node speaks for itself alone (the leader or candidate of a call is the node of its certificate), automation's
//! decisions are taken from the leader itself and never from another node, `apply` counts their evidence again, a node
//! that was removed has no word, and a node that lost its data is not let in again ([`Consensus::is_fresh`]).
//!
//! # Simulation
//!
//! [`Machine`] and the [`config`] builder are free of tokio's runtime and of files: [`Machine::in_memory`] implements
//! openraft's state machine for every [`types::Types`], that is, for any runtime with this crate's types. The
//! simulation in `tests/sim` does not run it yet: its checkers need to see each entry, so it has a machine of its own.

mod admission;
mod clock;
mod consensus;
mod error;
mod fsync;
mod gate;
mod handler;
mod machine;
mod membership;
mod network;
mod pace;
mod propose;
mod rebuild;
pub mod snapshot;
mod stage;
mod status;
mod store;
mod takeover;
mod timing;
mod transfer;
mod transport;
pub mod types;
mod wire;

pub use consensus::{Consensus, Opened};
pub use error::{AnewError, OpenError, ProposeError};
pub use machine::{Applied, Builder, Image, Machine, Sink};
pub use propose::PROPOSE_WITHIN;
pub use status::{Peer, Role, Status};
pub use store::{Anew, Begun, FLUSH_BOUNDS_US, FlushTimes, Identity, recover, restore};
pub use timing::{
    KEEP_BEHIND_SNAPSHOT, SNAPSHOT_EVERY, config, election_max_ms, election_min_ms, timing_warning,
};
pub use transport::{Transport, TransportError};
pub use wire::{CONTROL_TAG, RAFT_TAGS};
pub use zonekeeper_peer::{BoxFuture, Handler, Lane};

#[cfg(test)]
mod tests;
