//! Configuration: file → raw → validated, with errors that name file, line and field.
//!
//! Two kinds of files, two types that never mix: [`NodeConfig`] is one process's own (`node.toml`), [`ClusterConfig`] is
//! the whole cluster's (`cluster-config/*.toml`) and becomes replicated state through [`plan()`].
//!
//! # Architecture invariants
//!
//! - **Every problem at once.** The reader never stops at the first: a bad field is reported and replaced
//!   by a harmless value, so that what follows is looked at too.
//! - **Nothing is opened or changed here.** Loading reads files; it binds no port and asks no network.
//! - **Files and state meet in one type.** `current(state)`, `load(files)` and `export(x)` all speak [`ClusterConfig`], so
//!   that a plan compares like with like and `load(export(x)) == x`.

mod check;
mod cluster;
mod duration;
mod export;
mod limit;
mod listener;
mod log;
mod nearest;
mod node;
mod plan;
mod pool;
mod problem;
mod reader;
mod route;
mod service;
mod site;
mod source;
mod validate;
mod zone;

pub use cluster::ClusterConfig;
pub use node::{
    AdminConfig, DRAIN_MS, DnsCertificate, DnsConfig, EncryptedDns, LogLevel, NodeConfig, OnStale,
    PeerConfig, ProxyConfig, QueryLog, RateLimit, TCP_CONNECTIONS, TCP_CONNECTIONS_PER_NETWORK, TCP_IDLE,
    UDP_PAYLOAD,
};
pub use plan::{Action, Drift, FieldChange, HEADROOM, Line, Plan, StageError, plan, stages};
pub use problem::{Place, Problem, Problems, Severity};

/// Every field that a file may have, by the heading under which `cluster-config/README.md` explains it.
pub fn fields() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("site.NAME", site::FIELDS),
        ("zone.\"ORIGIN\"", zone::FIELDS),
        ("service.NAME", service::FIELDS),
        ("service.NAME.endpoint.SITE", service::ENDPOINT_FIELDS),
        ("check", check::FIELDS),
        ("pool.NAME", pool::FIELDS),
        ("pool.NAME.tls", pool::TLS_FIELDS),
        ("pool.NAME.backends", pool::BACKEND_FIELDS),
        ("listener.NAME", listener::FIELDS),
        ("listener.NAME.bind", listener::BIND_FIELDS),
        ("listener.NAME.tls", listener::TLS_FIELDS),
        ("certs", listener::CERT_FIELDS),
        ("listener.NAME.route", route::FIELDS),
        ("query, header and cookie", route::PAIR_FIELDS),
        ("rate_limit", limit::FIELDS),
        ("redirect", route::REDIRECT_FIELDS),
        ("respond", route::RESPOND_FIELDS),
        ("rewrite", route::REWRITE_FIELDS),
        ("response", route::RESPONSE_FIELDS),
        ("node", node::FIELDS),
        ("peer", node::PEER_FIELDS),
        ("admin", node::ADMIN_FIELDS),
        ("dns", node::DNS_FIELDS),
        ("dns.encrypted", node::ENCRYPTED_FIELDS),
        ("proxy", node::PROXY_FIELDS),
    ]
}
