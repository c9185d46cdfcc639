//! Node-to-node transport: mutual TLS 1.3, framed, versioned, in lanes; and the keys of a cluster.
//!
//! ```text
//! keys      cluster CA, node certificates, the key folder        tls     rustls configurations, who is who
//! join      token, joiner's side                                 hello   first frame each way, versions
//! frame     envelope around everything on the wire               server  connections from peers
//! link      one lane to one peer: connect, lose, try again       conn    one established connection to a peer
//! peers     the handle that everybody holds                      rtt, refusal, error
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

mod error;
mod join;
pub mod keys;
mod lane;
mod peers;
mod refusal;
mod rtt;
mod tls;

pub use error::{LinkChange, LinkEvent, Loss, PeerError, StartError};
pub use join::{JoinError, JoinGrant, JoinHandler, JoinRequest, JoinToken, Joined, TokenError, join};
pub use lane::Lane;
pub use peers::{BoxFuture, Handler, PeerConfig, Peers};
pub use refusal::Refusal;
pub use rtt::RttStats;
pub use zonekeeper_core::id::{NodeId, SiteId};
