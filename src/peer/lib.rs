//! Node-to-node transport: mutual TLS 1.3, framed, versioned, in lanes; and the keys of a cluster.
//!
//! ```text
//! peers     the handle that everybody holds           shared       what all tasks share
//! keys      CA, node certificates, the key folder     tls          rustls configurations, who is who
//! frame     envelope of everything on the wire        hello        first and last frames, versions
//! link      one lane to one peer, for ever            server       accept, handshake, who may stay
//! dial      connecting                                serve        one connection from a peer: calls in
//! conn      one connection to a peer: calls out       socket       TCP options
//! join      token, the joiner's side                  join_server  the member's side
//! ```
//!
//! A connection carries one [`Lane`] in one direction of calls: the node that connects asks, the other answers. Calls
//! are multiplexed. Two nodes that call each other on two lanes hold four connections.
//!
//! # Architecture invariants
//!
//! - **`from` is verified.** What a handler sees as the caller's id is in the caller's certificate, which a CA of our
//!   bundle signed for our cluster, is equal to the hello's, and was a member's when the call came in.
//! - **No connection outlives the certificates that made it.** TLS sessions are never resumed, since a resumed session
//!   would not look at the certificate again.
//! - **Everything from the network has a bound**: frame sizes per lane, calls per connection, connections per peer,
//!   handshakes at once and their time, failed joins per minute.
//! - **No process-wide TLS provider**; aws-lc-rs is passed explicitly.
//! - This crate knows bytes. It does not know Raft, probes or state.

mod conn;
mod dial;
mod error;
mod frame;
mod hello;
mod join;
mod join_server;
pub mod keys;
mod lane;
mod link;
mod peers;
mod refusal;
mod rtt;
mod serve;
mod server;
mod shared;
mod socket;
mod tls;

pub use error::{LinkChange, LinkEvent, Loss, PeerError, StartError};
pub use join::{JoinError, JoinGrant, JoinHandler, JoinRequest, JoinToken, Joined, TokenError, join};
pub use lane::Lane;
pub use peers::{BoxFuture, Handler, PeerConfig, Peers};
pub use refusal::Refusal;
pub use rtt::RttStats;
pub use zonekeeper_core::id::{NodeId, SiteId};
