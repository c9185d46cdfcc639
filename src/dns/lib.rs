//! Authoritative DNS server over the published state.
//!
//! Zone semantics live in [`zonekeeper_core::answer`]; here is the wire. One function turns the bytes of a query into the
//! bytes of its answer ([`Responder::answer`]), in place and without allocation, and every transport uses it: UDP workers
//! (one thread and one socket per worker and address), and TCP connections on the caller's runtime. Standard zone files
//! are read and written in [`zonefile`].
//!
//! Extended errors (RFC 8914) say why: 3 and 19, the data is older than the operator allows; 14, a service fails closed, an
//! ALIAS leads where we cannot look, or a zone lacks SOA or NS; 18, transfers are refused; 20, the name is in no zone of ours;
//! 21, a type that nobody serves.

mod bind;
mod connections;
mod cookie;
mod counters;
mod encrypted;
mod geo;
mod https;
mod message;
mod prefetch;
mod quic;
mod rate;
mod responder;
mod server;
mod subnet;
mod tap;
mod tcp;
mod udp;
mod udp_sys;
mod wire;
pub mod zonefile;

pub use cookie::{CookieSecret, CookieSecrets};
pub use counters::{Counters, Totals};
pub use encrypted::EncryptedConfig;
pub use geo::{Geo, GeoError};
pub use rate::{RateConfig, RateLimit};
pub use responder::{
    BATCH, Condition, Datagrams, DnsFlags, Responder, Secrets, Transport, UDP_PAYLOAD, View,
};
pub use server::{BindError, DnsConfig, DnsServer};
pub use tap::{TapConfig, TapTarget};
