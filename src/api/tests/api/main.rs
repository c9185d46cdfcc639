//! The API against a real node: Raft, disk, HTTP.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod access;
mod config;
mod harness;
mod many;
mod news;
mod reading;
mod steering;
mod webhooks;
mod zones;
