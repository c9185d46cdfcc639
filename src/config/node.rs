//! The node file: what belongs to one process and is never shared with the cluster.

mod folder;
mod read;

use crate::{cluster::ClusterConfig, log::Log, problem::Problems, validate::listener::overlap};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use zonekeeper_core::{
    entry::Duty,
    id::{CertificateId, NodeId, SiteId},
    model::Protocol,
};

pub(crate) const FIELDS: &[&str] =
    &["id", "site", "duty", "data_dir", "keys_dir", "log_level", "peer", "admin", "dns", "proxy"];
pub(crate) const PEER_FIELDS: &[&str] = &["listen", "advertise"];
pub(crate) const ADMIN_FIELDS: &[&str] = &["listen", "advertise", "allow_remote", "open_metrics"];
pub(crate) const DNS_FIELDS: &[&str] = &[
    "listen",
    "workers",
    "nsid",
    "version",
    "rate_limit",
    "slip",
    "udp_payload",
    "tcp_connections",
    "tcp_connections_per_network",
    "tcp_idle",
    "query_log",
    "query_log_sample",
    "encrypted",
    "geo",
    "max_stale",
    "on_stale",
];
pub(crate) const ENCRYPTED_FIELDS: &[&str] = &["tls", "https", "quic", "path", "cert", "key", "certificate"];
pub(crate) const PROXY_FIELDS: &[&str] = &["workers", "drain"];
/// [`DnsConfig::udp_payload`] where the file says nothing: above it fragmentation begins (DNS flag day 2020).
pub const UDP_PAYLOAD: u16 = 1232;
/// [`DnsConfig::tcp_connections`] where the file says nothing.
pub const TCP_CONNECTIONS: usize = 1000;
/// [`DnsConfig::tcp_connections_per_network`] where the file says nothing.
pub const TCP_CONNECTIONS_PER_NETWORK: usize = 100;
/// [`DnsConfig::tcp_idle`] where the file says nothing (RFC 7766 §6.2.3 wants seconds).
pub const TCP_IDLE: Duration = Duration::from_secs(10);
/// How long open connections may go on at a stop, in milliseconds.
pub const DRAIN_MS: u32 = 5000;

/// A validated node file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// Raft id, from 1. Never reused after the disk was wiped.
    pub id: NodeId,
    /// The site it belongs to.
    pub site: SiteId,
    /// Full node or witness.
    pub duty: Duty,
    /// Log, snapshots and watermark. Relative paths count from the node file's folder.
    pub data_dir: PathBuf,
    /// Node key, certificate, cluster CA and cluster key. Relative paths count from the node file's folder.
    pub keys_dir: PathBuf,
    /// Least severe level that is logged.
    pub log_level: LogLevel,
    /// Node to node.
    pub peer: PeerConfig,
    /// Admin API.
    pub admin: AdminConfig,
    /// DNS server.
    pub dns: DnsConfig,
    /// Proxy engine.
    pub proxy: ProxyConfig,
}

/// Node to node transport.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerConfig {
    /// Address that is bound (TCP).
    pub listen: SocketAddr,
    /// Address that other nodes connect to.
    pub advertise: SocketAddr,
}

/// Admin API and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Address that is bound (TCP); loopback unless `allow_remote`.
    pub listen: SocketAddr,
    /// Address that other nodes and the CLI are redirected to; none: loopback only.
    pub advertise: Option<SocketAddr>,
    /// The operator wants it reachable from other hosts.
    pub allow_remote: bool,
    /// `/metrics` answers clients on loopback without a token.
    pub open_metrics: bool,
}

/// DNS server of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Addresses bound for UDP and TCP; empty: no DNS on this node.
    pub listen: Vec<SocketAddr>,
    /// UDP threads; default: one per core.
    pub workers: usize,
    /// Name Server Identifier (RFC 5001); none: the option is not answered.
    pub nsid: Option<String>,
    /// What `version.bind` says (class CHAOS); none: it is refused.
    pub version: Option<String>,
    /// Response rate limiting of UDP; none: off.
    pub rate_limit: Option<RateLimit>,
    /// Largest message over UDP, in bytes.
    pub udp_payload: u16,
    /// TCP connections at once, and as many encrypted ones.
    pub tcp_connections: usize,
    /// Of each of them from one network (one address of IPv4, /56 of IPv6).
    pub tcp_connections_per_network: usize,
    /// Longest wait for a query on such a connection.
    pub tcp_idle: Duration,
    /// The query log (dnstap); none: off.
    pub query_log: Option<QueryLog>,
    /// DNS over TLS, HTTPS and QUIC; none: off.
    pub encrypted: Option<EncryptedDns>,
    /// Databases of clients' whereabouts in MaxMind's format, read again when they change; empty: none. Relative paths count
    /// from the node file's folder.
    pub geo: Vec<PathBuf>,
    /// A node that heard no leader for longer follows `on_stale`; none: never.
    pub max_stale: Option<Duration>,
    /// What it does then.
    pub on_stale: OnStale,
}

/// Response rate limiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Answers a second to one network (/24, /56), of one kind.
    pub rate: u32,
    /// Every how many limited answers one goes out, cut to nothing with TC; 1: all of them, 0: none.
    pub slip: u32,
}

/// A query log in dnstap's form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLog {
    /// A file, begun anew at each start; or a unix socket on which somebody listens, when `socket`.
    pub path: PathBuf,
    /// `path` is a socket.
    pub socket: bool,
    /// One answer of so many is logged.
    pub sample: u32,
}

/// Encrypted DNS of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptedDns {
    /// Addresses of DNS over TLS (RFC 7858).
    pub tls: Vec<SocketAddr>,
    /// Addresses of DNS over HTTPS (RFC 8484).
    pub https: Vec<SocketAddr>,
    /// Addresses of DNS over QUIC (RFC 9250).
    pub quic: Vec<SocketAddr>,
    /// Path of DNS over HTTPS.
    pub path: String,
    /// Certificate and key.
    pub certificate: DnsCertificate,
}

/// Where the certificate of encrypted DNS is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DnsCertificate {
    /// On the node's disk, read again when they change. Relative paths count from the node file's folder.
    Files {
        /// PEM chain.
        cert: PathBuf,
        /// PEM key.
        key: PathBuf,
    },
    /// With the cluster.
    Held(CertificateId),
}

/// Proxy engine of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Event loops; default: one per core.
    pub workers: usize,
    /// How long open connections may go on when the node stops or hands over; default 5 s.
    pub drain_ms: u32,
}

/// What a node without a leader answers after `max_stale`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnStale {
    /// The last published answers.
    Keep,
    /// SERVFAIL, so that resolvers ask another server.
    ServFail,
}

/// Least severe level that is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Errors only.
    Error,
    /// And warnings.
    Warn,
    /// And what an operator follows.
    Info,
    /// And what a developer follows.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// As `tracing` names it.
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

/// TCP, not UDP.
const TCP: (bool, bool) = (true, false);
/// UDP, not TCP.
const UDP: (bool, bool) = (false, true);

/// An address that the node itself binds.
struct Own {
    field: String,
    addr: SocketAddr,
    /// TCP, UDP.
    protocols: (bool, bool),
}

impl Own {
    /// Whether it cannot be bound beside another one.
    fn meets(&self, addr: SocketAddr, (tcp, udp): (bool, bool)) -> bool {
        (self.protocols.0 && tcp || self.protocols.1 && udp) && overlap(self.addr, addr)
    }
}

impl NodeConfig {
    /// Reads and validates a node file; all problems at once.
    pub fn load(path: &Path) -> Result<NodeConfig, Problems> {
        let log = Log::default();
        let config = read::file(path, &log);
        let problems = log.into_problems();
        match config {
            Some(config) if !problems.has_errors() => Ok(config),
            _ => Err(problems),
        }
    }

    /// What does not fit between this node and the cluster's configuration: its site is not declared, or a listener's
    /// port is taken by the node itself.
    pub fn against(&self, cluster: &ClusterConfig) -> Problems {
        let log = Log::default();
        self.fits(cluster, &log);
        log.into_problems()
    }

    fn fits(&self, cluster: &ClusterConfig, log: &Log) {
        if !cluster.sites.contains_key(&self.site) {
            let sites: Vec<&str> = cluster.sites.keys().map(SiteId::as_str).collect();
            log.error_at(
                "site",
                format!("\"{}\" is not declared; declared are {}", self.site, sites.join(", ")),
            );
        }
        for (id, listener) in &cluster.listeners {
            let here = |site: &Option<SiteId>| site.as_ref().is_none_or(|s| *s == self.site);
            for bind in listener.binds.iter().filter(|b| here(&b.site)) {
                let bound = if listener.protocol == Protocol::Udp { UDP } else { TCP };
                for own in self.listens().iter().filter(|own| own.meets(bind.addr, bound)) {
                    let (addr, theirs) = (own.addr, bind.addr);
                    let message =
                        format!("{addr} overlaps {theirs} of listener {id}; use another port or address");
                    log.error_at(&own.field, message);
                }
            }
        }
    }

    /// Every address that the node itself binds, with its field.
    fn listens(&self) -> Vec<Own> {
        let mut all = Vec::new();
        let mut put = |field: String, addr, protocols| all.push(Own { field, addr, protocols });
        put("peer.listen".into(), self.peer.listen, TCP);
        put("admin.listen".into(), self.admin.listen, TCP);
        let mut lists = vec![("dns.listen", &self.dns.listen, (true, true))];
        if let Some(encrypted) = &self.dns.encrypted {
            lists.push(("dns.encrypted.tls", &encrypted.tls, TCP));
            lists.push(("dns.encrypted.https", &encrypted.https, TCP));
            lists.push(("dns.encrypted.quic", &encrypted.quic, UDP));
        }
        for (field, addrs, protocols) in lists {
            for (i, addr) in addrs.iter().enumerate() {
                put(format!("{field}[{i}]"), *addr, protocols);
            }
        }
        all
    }
}
