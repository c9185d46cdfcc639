//! HTTP/2 (RFC 9113), by the `h2` crate on the event loop: the crate has framing, HPACK, flow control and the states of
//! streams; requests are routed, sent and retried by the code that serves HTTP/1.1.
//!
//! One task drives a connection, one more each of its streams. A stream is a [`Wire`](super::wire::Wire) of its bodies'
//! bytes; its request's head becomes the text of an HTTP/1.1 head, so that it is judged, routed and rewritten in one place.
//! A WebSocket (RFC 8441) becomes an upgrade, and then a tunnel like any other.
//!
//! Measured (h2load over TLS, eight streams on each of eight connections, 1 KiB): 0.76 of nginx's CPU per request and 1.04
//! of HAProxy's; 26.5 KB per idle connection, of which TLS has 5.2, for the crate keeps its buffers.

mod account;
mod bodies;
mod connection;
mod head;
mod io;
mod stream;
mod upstream;
mod websocket;

pub(crate) use connection::serve;
pub(crate) use head::{response as response_head, upstream as upstream_head};
pub(crate) use stream::Stream2;
pub(crate) use upstream::{Connections, Refused, Turn, Upstream2};
pub(crate) use websocket::accepted;

/// What a connection without TLS begins with when it speaks HTTP/2 (RFC 9113 §3.4), as far as it looks like a head.
pub(crate) const PREFACE_HEAD: &[u8] = b"PRI * HTTP/2.0\r\n\r\n";
