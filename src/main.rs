//! Zonekeeper keeps a service reachable when a whole site dies.
//!
//! # Architecture
//!
//! ```text
//! main        arguments in, exit code out
//! node/       composition root: build, bind, wire, run, drain
//! control/    drives core; the one writer of what is published
//! probe/      heartbeats and checks -> observations
//! keys, anew, serve, demo    commands that are not the admin API's
//! ```
//!
//! The parts that can live alone are crates: `core` (all decisions, pure), `consensus`, `dns`, `proxy`, `peer`,
//! `config`, `api`, `cli`. A test (`tests/tidy.rs`) holds who may import whom.
//!
//! # Architecture invariants
//!
//! - **One publication**: DNS, proxy and API read one pointer; `control` alone writes it.
//! - **The data path never waits for Raft**: no leader never means SERVFAIL.
//! - **Raft's threads are apart from the data path's**, in runtime and priority.

mod anew;
mod clock;
mod command;
mod control;
mod demo;
mod handover;
mod keys;
mod memory;
mod node;
mod priority;
mod probe;
mod serve;

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    command::Args::parse().run()
}
