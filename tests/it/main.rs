//! Integration tests on the real binary: real processes, real sockets, the tools that people use.
//!
//! ```text
//! failover   a site dies: who is answered, how soon
//! steer      operators' hands and the rules: drain, force, move, hold-down, expiry, safety limit
//! dns        dig, kdig and drill agree on every node
//! partition  a site is cut off and healed (network namespaces)
//! members    grow, replace, hand over, shrink, under load
//! proxy      a backend is killed under wrk
//! serve      one node from flags alone
//! restart    all nodes killed, one started alone
//! flood      both cores saturated
//! docs       what the documents say can be typed
//! ```
//!
//! One laboratory runs at a time (see [`support::turn`]): the bounds on time mean something, and two cores suffice.
//! `ZONEKEEPER_EXE` names another binary to test, as one built with `--release`.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is their way to fail")]

mod ask;
mod load;
mod support;

mod demo;
mod disk;
mod dns;
mod docs;
mod failover;
mod families;
mod flood;
mod learner;
mod members;
mod partition;
mod proxy;
mod renewal;
mod restart;
mod serve;
mod sites;
mod steer;
mod strangers;
mod timing;
mod witness;
