//! The API against a real node: Raft, disk, HTTP.

mod access;
mod config;
mod harness;
mod news;
mod reading;
mod steering;
mod zones;
