//! The cluster's keys: one CA, a certificate per node, and the folder they lie in.
//!
//! # What lies where
//!
//! | file | what | mode |
//! |---|---|---|
//! | `ca.pem` | trust bundle: certificates of every CA whose nodes we accept | 0644 |
//! | `ca.key` | the CA's private key; only where certificates are issued | 0600 |
//! | `node.pem` | the node's certificate | 0644 |
//! | `node.key` | the node's private key | 0600 |
//!
//! # The CA's replacement
//!
//! 1. `Ca::create` a second CA for the same cluster id in a new folder. 2. Put both CA certificates into every node's
//! `ca.pem` ([`Credentials::trust`], then `Peers::set_credentials`). 3. Issue node certificates from the new CA. 4. When every node has
//! one, take the old CA's certificate out of the bundles. At no step does a connection between two members fail.

mod ca;
mod credentials;
mod error;
mod file;
mod identity;

pub use ca::{Ca, Issued};
pub use credentials::{Credentials, Request};
pub use error::KeyError;
pub use identity::Identity;
pub(crate) use identity::name;
