//! Tests of the crate as a whole. A module of the library and not test targets, for two reasons: one binary to link,
//! and reach of the test-only switch that takes the durability remedy out.

mod admission;
mod child;
mod cluster;
mod damage;
mod disk_full;
mod golden;
mod import;
mod kill;
mod line;
mod power_cut;
mod snapshots;
mod stage;
mod suite;
mod support;
mod takeover;
mod timing;
