//! All decisions of Zonekeeper, pure and deterministic.
//!
//! One fact travels one way: observation → verdict ([`detector`]) → report → evidence ([`evidence`]) →
//! decision ([`decide`]) → proposal → entry ([`entry`]) → applied ([`State::apply`]) → published ([`publish`]).
//!
//! # Architecture invariants
//!
//! - **No I/O, no clock, no randomness.** The crate is `no_std`: `Instant`, sockets and `HashMap` do not compile.
//!   Time is an argument ([`time::Mono`] on one node, [`time::LogTime`] in the log).
//! - **`apply` cannot fail.** A refused entry is a value ([`Outcome::Refused`]), and the same log gives the same state
//!   hash on every node and in every later version.
//! - **Nothing here imports another part of the project.** Everything else imports this.

#![no_std]

extern crate alloc;

pub mod answer;
mod apply;
pub mod assign;
pub mod codec;
mod configure;
pub mod cookies;
pub mod decide;
pub mod detector;
pub mod entry;
pub mod evidence;
pub mod id;
pub mod invariant;
mod members;
pub mod model;
pub mod mutant;
pub mod name;
pub mod placement;
pub mod publish;
mod recover;
pub mod route;
pub mod secrets;
pub mod stage;
pub mod state;
pub mod takeover;
pub mod time;
pub mod zone;

pub use apply::VERSION;
pub use entry::{Command, Entry, Outcome, Proposal};
pub use publish::Published;
pub use state::State;
