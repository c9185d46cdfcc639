//! The proxy on real sockets: tiny backends in this process, raw clients, and what they see.

mod config;
mod death;
mod http;
mod l4;
mod share;
mod smuggling;
mod support;
