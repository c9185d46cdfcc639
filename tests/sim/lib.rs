//! A whole cluster in one thread on a virtual clock: real openraft, the real replicated state, the real detector,
//! evidence and decisions; simulated network, disks, clocks, sites, operators and faults, all from one seed.
//!
//! A run has two phases: faults with every invariant checked at each step, then everything heals and the cluster must
//! too. A quiet run has only what must never move anything (bursty loss to 5 %, jitter, short pauses).
//!
//! # Replaying a seed
//!
//! ```text
//! SIM_SEED=17 cargo test -p zonekeeper-sim -- --exact replay --nocapture
//! ```
//!
//! prints the whole trace; `SIM_NODES=3|5`, `SIM_QUIET=0|1` and `SIM_MINUTES` override what follows from the seed. `SIM_FIRST` and
//! `SIM_SEEDS` choose the seeds of the suite. Every seed runs in a process of its own: openraft's `select!` draws from a
//! generator that is per process, so that two seeds in one process would not replay alone.
//!
//! # At scale
//!
//! ```text
//! SIM_SEEDS=2000   cargo test --release -p zonekeeper-sim --test simulation no_seed -- --nocapture
//! SIM_HOURS=100    cargo test --release -p zonekeeper-sim --test simulation hours_of -- --nocapture
//! SIM_HOURS=10000  cargo test --release -p zonekeeper-sim --test ordinary -- --nocapture
//! ```
//!
//! All faults with openraft; ordinary trouble alone with openraft; ordinary trouble without openraft ([`calm`]), for each
//! preset.
//!
//! # What is simulated, and how
//!
//! | part | model |
//! |---|---|
//! | network ([`network`]) | one-way delay with jitter, the same on all links or longer to one site, packets that overtake each other, Gilbert–Elliott loss per link, cuts per direction, links that flap; calls between nodes retransmit as TCP does, a client's probe does not |
//! | disk ([`store`]) | writes are readable at once and durable after an fsync; a crash keeps a random prefix of the rest; slow; full, or with fsyncs that fail, until its program is started anew |
//! | members ([`members`]) | leadership is handed over, a voter demoted and promoted again |
//! | process ([`node`]) | killed (its host refuses connections, and tells whoever was connected: [`takeover`]), once or in a storm, stopped in order, or without power (silence); stalled: takes nothing in and sends nothing out |
//! | clock | monotonic per boot, wall clock with jumps, both with drift; the timers of openraft and of the loops run true |
//! | clients ([`client`]) | edits with values of their own, registers that are written and read at the same time ([`history`]), operators' commands |
//! | site | backends dead (it says so itself), endpoint refusing, silent or wrong, client path cut for one observer |

pub mod bug;
pub mod calm;
pub mod check;
pub mod client;
pub mod cluster;
pub mod faults;
pub mod history;
pub mod machine;
pub mod members;
pub mod network;
pub mod node;
pub mod rng;
pub mod run;
pub mod store;
pub mod takeover;
pub mod types;
pub mod watch;
pub mod world;
