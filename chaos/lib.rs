//! Real processes, real faults: the laboratory that demo, tests and operators share.
//!
//! ```text
//! lab       a cluster of real processes: keys, configuration, start, kill, restart
//! net       network namespaces, so that a site can be cut off
//! backend   small sample backends behind each proxy
//! asker     asks DNS servers every few milliseconds, with its own clock, sockets and codec
//! client    requests through the proxies, with honest DNS
//! peers     gdnsd and PowerDNS, measured the same way
//! users     a thousand requests a second while a site dies
//! failover  the scripted failover: kill, measure, restart, measure
//! ```
//!
//! # Architecture invariant
//!
//! **Of the project only `zonekeeper-core` is imported, and of that only the checkers of the invariants and words of
//! its model.** It judges the binary by what a client and an operator see: DNS packets, HTTP, the command line. It is
//! blocking code on threads of its own, apart from the code that it judges.

pub mod asker;
pub mod backend;
pub mod bench;
pub mod check;
pub mod client;
pub mod failover;
pub mod fault;
pub mod history;
pub mod http;
pub mod lab;
pub mod load;
pub mod net;
pub mod peers;
pub mod plan;
pub mod process;
pub mod record;
pub mod report;
pub mod rng;
pub mod run;
pub mod scenario;
mod shim;
pub mod stage;
mod tun;
pub mod users;
pub mod wan;
pub mod watch;
