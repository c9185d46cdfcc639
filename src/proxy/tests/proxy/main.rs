//! The proxy on real sockets: tiny backends in this process, raw clients, and what they see.

#![allow(clippy::unwrap_used, unreachable_pub)] // helpers stand outside of the tests, in a crate that nobody imports

mod churn;
mod config;
mod death;
mod eject;
mod exchange;
mod framing;
mod http;
mod http2;
mod l4;
mod preamble;
mod private;
mod protect;
mod queue;
mod routes;
mod seeing;
mod share;
mod sticky;
mod support;
mod tls;
mod udp;
mod websocket;
