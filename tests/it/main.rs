//! Integration tests on the real binary: real processes, real sockets, the tools that people use.
//!
//! ```text
//! failover   a site dies: who is answered, how soon
//! steer      operators' hands and the rules: drain, force, move, hold-down, expiry, safety limit
//! dns        dig, kdig and drill agree on every node
//! partition  a site is cut off and healed (network namespaces)
//! members    grow, replace, hand over, shrink, under load
//! proxy      a backend is killed under wrk
//! memory     idle connections beside HAProxy's, and a mixed load that leaves nothing behind
//! handover   a restart into a new binary under load
//! serve      one node from flags alone
//! witness    two sites and a witness
//! learner    a learner on duty: serves, forwards, neither votes nor judges
//! sites      two nodes of one site, and a site without a node
//! families   IPv4 and IPv6 of a site are judged apart (network namespaces)
//! timing     another Raft timing while it runs
//! renewal    certificates end: lived through, or told the way back
//! strangers  other clusters, strangers and wrong keys
//! anew       backup, restore, and the recovery of a survivor
//! certificates  put once, shown by every node, for TLS and encrypted DNS
//! secrets    common to all nodes, sealed on every disk, under a key that is replaced
//! restart    all nodes killed, one started alone
//! disk       a whole disk is full
//! flood      both cores saturated
//! churn      dnsperf while services move and records change
//! import     large zones beside failovers, and over a thin line
//! abuse      loss, garbage, oversized, looping and spoofed packets
//! demo       interrupted, nothing stays behind
//! docs       what the documents say can be typed
//! ```
//!
//! A test that measures has the machine to itself (see [`support::turn`]): its bounds on time mean something. The others
//! share it (see [`support::share`]), and wait for levels with deadlines that bear a busy machine.
//! `ZONEKEEPER_EXE` names another binary to test, as one built with `--release`.

#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is their way to fail")]

mod ask;
mod load;
mod support;

mod abuse;
mod anew;
mod certificates;
mod changes;
mod churn;
mod demo;
mod disk;
mod dns;
mod docs;
mod encrypted;
mod failover;
mod families;
mod flood;
mod handover;
mod import;
mod learner;
mod members;
mod memory;
mod partition;
mod proxy;
mod renewal;
mod restart;
mod secrets;
mod serve;
mod sites;
mod steer;
mod strangers;
mod timing;
mod witness;
