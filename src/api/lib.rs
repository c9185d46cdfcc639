//! The admin API: what is declared, observed, forced and decided, over HTTP and JSON.
//!
//! ```text
//! wire      types of requests and answers, shared with the command line
//! handles   what the node gives: the publication, Raft, its local view
//! auth      who asks, and what a token allows      extract   consistent reads, writes with an outcome
//! routes    one file per topic                     error     the one place that maps errors to HTTP
//! events    the live stream                        webhook   the same news, pushed and signed
//! metrics   Prometheus text                        server    connections, limits, shutdown
//! ```
//!
//! # Architecture invariants
//!
//! - **Without a valid token nothing is learned**: one answer (401) for every path, known or not. `/healthz` and
//!   `/readyz` say one word.
//! - **The API decides nothing.** It proposes, and tells what `apply` said.
//! - **A read says how old it is**; a linearizable one asks a quorum first or fails.
//! - **An unknown outcome is called unknown** (504), never failed.
//! - **Every route is in the OpenAPI document**, because one call registers both.

mod api;
mod auth;
mod error;
mod events;
mod extract;
mod handles;
pub mod metrics;
mod question;
mod records;
mod routes;
mod server;
mod webhook;
pub mod wire;

pub use auth::{Secret, hash as token_hash};
pub use events::Events;
pub use handles::{Handles, LocalView, Totals};
pub use server::serve;
pub use wire::stamp;
