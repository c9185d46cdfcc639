//! The command line's client half: every command speaks the admin API like any other client.
//!
//! ```text
//! command   what can be typed: clap types, one file per topic, with examples that a test runs
//! client    HTTP: address, token, errors with the next step        show     tables and words
//! run       one command against one node                           files    check, plan, apply, export
//! ```
//!
//! The binary flattens [`ClientArgs`] into its own commands and calls [`run()`].

mod client;
pub mod command;
mod error;
mod files;
mod run;
mod show;

pub use command::{ClientArgs, duration};
pub use error::CliError;
pub use run::run;
