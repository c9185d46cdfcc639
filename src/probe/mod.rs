//! Watching: heartbeats to every node, probes of every endpoint of other sites, checks of local backends.
//!
//! ```text
//! plan    which streams there are (deduplicated by address and check)        pure
//! client  one probe on the wire -> Observation
//! http2   the same in HTTP/2, and gRPC's health checking
//! tls     whom probes trust
//! stream  one task per stream: probe, detect, put the verdict on the board
//! board   the verdicts of all streams, as a report wants them
//! ```
//!
//! Probe load is bounded: one stream per (address, check) however many services share it, each at a place of its own in
//! the interval by a hash of node and stream, [`stream::IN_FLIGHT`] probes at once.

pub(crate) mod board;
mod client;
pub(crate) mod heartbeat;
mod http2;
#[cfg(test)]
mod http2_tests;
#[cfg(test)]
mod introduced_tests;
pub(crate) mod plan;
pub(crate) mod stream;
mod tls;
