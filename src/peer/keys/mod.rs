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
//! | `cluster.key` | what the common secrets are sealed under | 0600 |
//!
//! `ca.key` need not be on any node: nodes run without it, and only joins and renewals need a place that has it. Keep a
//! copy off the cluster; who holds it can make a certificate for any node id (though not a member: see
//! `Peers::set_allowed`).
//!
//! # The CA's replacement
//!
//! 1. [`Ca::create`] a second CA for the same cluster id, in a folder of its own.
//! 2. Put both CA certificates into every node's `ca.pem` ([`Credentials::trust`], then `Peers::set_credentials`).
//! 3. Issue new node certificates from the new CA, with both in the bundle.
//! 4. When every node has one, take the old CA's certificate out of the bundles.
//!
//! At no step does a handshake between two members fail. When the old key was stolen, restart the nodes after step 4:
//! connections that were made before it may last as long as their certificates.

mod ca;
mod cluster_key;
mod credentials;
mod error;
mod file;
mod identity;

pub use ca::{Ca, Issued};
pub use cluster_key::{ClusterKey, FILE as CLUSTER_KEY_FILE, Keyring, save_first as save_cluster_key};
pub use credentials::{Credentials, Request};
pub use error::KeyError;
pub use identity::Identity;
pub(crate) use identity::name;
