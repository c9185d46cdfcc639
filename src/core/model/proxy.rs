//! The declared objects of the proxy: pools and listeners.

use super::{Check, Network, Route};
use crate::id::{CertificateId, SiteId};
use alloc::{string::String, vec::Vec};
use core::net::SocketAddr;
use serde::{Deserialize, Serialize};

/// How a pool chooses a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// Smooth weighted round-robin.
    RoundRobin,
    /// Fewest requests (or connections) in flight per weight.
    #[default]
    LeastConnections,
    /// Shortest time to first byte, weighted by load.
    ResponseTime,
    /// The one of two picked at random that has fewer in flight per weight.
    TwoChoices,
    /// The same backend for the same [`HashKey`], by weighted rendezvous hashing: a backend that comes or goes moves only
    /// its own share.
    Hash,
}

/// What [`Balance::Hash`] hashes. A request that lacks it is hashed by its source.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum HashKey {
    /// The client's address.
    #[default]
    Source,
    /// A header's value; the name in lower case.
    Header(String),
    /// A cookie's value.
    Cookie(String),
    /// The path without the query.
    Path,
}

/// How a backend is told whose connection it is (the PROXY protocol of HAProxy).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyHeader {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// How many requests are taken, by what they have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// So many in each period, 1 to 1,000,000.
    pub requests: u32,
    /// The period in milliseconds.
    pub per_ms: u32,
    /// So many may come at once, at least 1.
    pub burst: u32,
    /// What requests are counted by. An IPv6 source is its /64.
    pub key: HashKey,
}

/// One backend of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// The site whose proxy uses it; none: every site's.
    pub site: Option<SiteId>,
    /// Where it listens.
    pub addr: SocketAddr,
    /// 1 to 255; 0 takes no new traffic.
    pub weight: u8,
}

/// A backend whose addresses each node asks its system for, again and again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedBackend {
    /// The site whose proxy uses it; none: every site's.
    pub site: Option<SiteId>,
    /// A host name.
    pub name: String,
    /// The port at each of its addresses.
    pub port: u16,
    /// Of each of its addresses: 1 to 255; 0 takes no new traffic.
    pub weight: u8,
}

/// A pool of backends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// The backends of all sites.
    pub backends: Vec<Backend>,
    /// Those of all sites that have names.
    pub names: Vec<NamedBackend>,
    /// How one is chosen.
    pub balance: Balance,
    /// How the local node checks them; none: only passive ejection.
    pub check: Option<Check>,
    /// Longest wait for a connection.
    pub connect_timeout_ms: u32,
    /// Longest wait for the first byte of a response (L7). At L4 the listener's idle timeout rules.
    pub response_timeout_ms: u32,
    /// Connections or requests in flight per backend; 0 for no limit.
    pub max_connections: u32,
    /// How often a request that no backend has seen is tried on another backend.
    pub retries: u8,
    /// How long a backend is left out after a hard failure, unless a check says otherwise.
    pub eject_ms: u32,
    /// What [`Balance::Hash`] hashes.
    pub hash: HashKey,
    /// A backend that returns gets its whole share after so many milliseconds; 0: at once.
    pub slow_start_ms: u32,
    /// A backend whose requests fail more often than those of its peers, by so many percentage points, is ejected; 0:
    /// never.
    pub eject_errors: u8,
    /// At most so many percent of the backends, but one at least, are ejected for their errors or for being late at the
    /// same time.
    pub max_ejected: u8,
    /// Backends are spoken to in HTTP/2 (L7).
    pub http2: bool,
    /// Backends are spoken to over TLS.
    pub tls: Option<BackendTls>,
    /// How each connection to a backend begins; none: with the client's bytes.
    pub send_proxy: Option<ProxyHeader>,
    /// The cookie by which a client comes back to its backend (L7).
    pub sticky: Option<String>,
    /// Requests or connections that wait for a place when all backends are at their limit; 0: none does.
    pub max_queue: u32,
    /// Longest wait for a place.
    pub queue_timeout_ms: u32,
    /// Retries are at most so many percent of the requests of the last 5 to 10 seconds, and 50.
    pub retry_budget: u8,
}

impl Default for Pool {
    /// Without a backend; everything else as the configuration has it by default.
    fn default() -> Pool {
        Pool {
            backends: Vec::new(),
            names: Vec::new(),
            balance: Balance::default(),
            check: None,
            connect_timeout_ms: 1000,
            response_timeout_ms: 30_000,
            max_connections: 0,
            retries: 2,
            eject_ms: 10_000,
            hash: HashKey::default(),
            slow_start_ms: 0,
            eject_errors: 50,
            max_ejected: 50,
            http2: false,
            tls: None,
            send_proxy: None,
            sticky: None,
            max_queue: 1000,
            queue_timeout_ms: 5000,
            retry_budget: 20,
        }
    }
}

/// What a listener speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// L4: bytes both ways.
    Tcp,
    /// L4: bytes both ways, to where the name in the client's TLS greeting leads (SNI, RFC 6066 §3). Nothing is decrypted.
    Tls,
    /// L7: HTTP/1.1 and HTTP/2.
    Http,
    /// L4: datagrams both ways, by the client's address.
    Udp,
}

/// Which clients of an HTTP listener may speak HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Http2 {
    /// None.
    Off,
    /// Those that ask for it in the TLS handshake (RFC 7301).
    #[default]
    Tls,
    /// Those, and the ones that begin with it without TLS (RFC 9113 §3.3).
    PriorKnowledge,
}

/// TLS termination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// At least one; a client gets the first that names what it asks for and that it can verify, else the first of all.
    pub certificates: Vec<Certificate>,
    /// PEM certificates of those who sign certificates of clients; none: clients are not asked.
    pub client_ca: Option<String>,
    /// Clients may come without a certificate.
    pub client_optional: bool,
    /// TLS 1.3 only.
    pub only_13: bool,
}

impl From<TlsFiles> for Tls {
    fn from(files: TlsFiles) -> Tls {
        let certificates = alloc::vec![Certificate::Files(files)];
        Tls { certificates, client_ca: None, client_optional: false, only_13: false }
    }
}

/// TLS to the backends of a pool. They are always verified.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct BackendTls {
    /// PEM certificates that are trusted; none: those of the system.
    pub ca: Option<String>,
    /// The name that a backend's certificate must have, and that it is asked for; none: its address.
    pub name: Option<String>,
    /// Certificate and key that we show.
    pub client: Option<TlsFiles>,
}

/// Where a listener's certificate and its key are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "TlsFiles", into = "TlsFiles")]
pub enum Certificate {
    /// On the node's disk.
    Files(TlsFiles),
    /// With the cluster. Since version 2.
    Held(CertificateId),
}

/// Version 1 knew files alone; what the cluster holds is stored as a name without a file for the key.
impl From<TlsFiles> for Certificate {
    fn from(files: TlsFiles) -> Certificate {
        match files.cert.parse() {
            Ok(id) if files.key.is_empty() => Certificate::Held(id),
            _ => Certificate::Files(files),
        }
    }
}

impl From<Certificate> for TlsFiles {
    fn from(certificate: Certificate) -> TlsFiles {
        match certificate {
            Certificate::Files(files) => files,
            Certificate::Held(id) => TlsFiles { cert: id.into(), key: String::new() },
        }
    }
}

/// Certificate and key on the node's disk.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct TlsFiles {
    /// PEM chain.
    pub cert: String,
    /// PEM key.
    pub key: String,
}

/// One address of a listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The site whose proxies bind it; none: every site's.
    pub site: Option<SiteId>,
    /// Address and port.
    pub addr: SocketAddr,
}

/// A proxy listener.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Where it listens.
    pub binds: Vec<Bind>,
    /// What it speaks.
    pub protocol: Protocol,
    /// TLS termination.
    pub tls: Option<Tls>,
    /// First match wins; L4 listeners have one route without conditions.
    pub routes: Vec<Route>,
    /// Client connections at once; 0 for no limit.
    pub max_connections: u32,
    /// Longest wait for a whole request head.
    pub header_timeout_ms: u32,
    /// Longest quiet time of a kept connection, or of a tunnel.
    pub idle_timeout_ms: u32,
    /// Largest request body, in bytes; 0 for no limit.
    pub max_body: u64,
    /// One of so many requests, or L4 connections, is written to the access log; 0 for none.
    pub access_log: u32,
    /// Requests are given `X-Request-Id` and `traceparent` where they come without.
    pub identify: bool,
    /// TCP: clients send first, so that a connection need not be taken up before its first bytes.
    pub client_first: bool,
    /// HTTP: who may speak HTTP/2.
    pub http2: Http2,
    /// Connections from these networks begin with a PROXY protocol header, others must not.
    pub proxy_from: Vec<Network>,
    /// Proxies whose word on the client is taken: `X-Forwarded-*` and `Forwarded`.
    pub trusted: Vec<Network>,
    /// Client connections at once from one address (IPv6: one /64); 0 for no limit.
    pub max_per_address: u32,
    /// Requests (L7) or connections (L4) are taken at this rate.
    pub rate_limit: Option<RateLimit>,
    /// Slowest request body, in bytes a second, after the first ten seconds; 0 for no limit.
    pub min_rate: u32,
    /// Longest time from a request's head to the end of its response; 0 for no limit. Tunnels are not counted.
    pub request_timeout_ms: u32,
    /// Longest quiet time of a tunnel after an upgrade.
    pub tunnel_timeout_ms: u32,
}

impl Listener {
    /// The certificates that the cluster holds for it.
    pub fn certificates(&self) -> impl Iterator<Item = &CertificateId> {
        let all = self.tls.iter().flat_map(|tls| &tls.certificates);
        all.filter_map(|c| match c {
            Certificate::Held(id) => Some(id),
            Certificate::Files(_) => None,
        })
    }

    /// The cluster version that first knows it.
    pub fn since(&self) -> u32 {
        let held = if self.certificates().next().is_some() { 2 } else { 1 };
        self.routes.iter().map(Route::since).max().unwrap_or(1).max(held)
    }
}

impl Default for Listener {
    /// Without an address and a route; everything else as the configuration has it by default.
    fn default() -> Listener {
        Listener {
            binds: Vec::new(),
            protocol: Protocol::Http,
            tls: None,
            routes: Vec::new(),
            max_connections: 10_000,
            header_timeout_ms: 10_000,
            idle_timeout_ms: 60_000,
            max_body: 0,
            access_log: 0,
            identify: false,
            client_first: false,
            http2: Http2::default(),
            proxy_from: Vec::new(),
            trusted: Vec::new(),
            max_per_address: 0,
            rate_limit: None,
            min_rate: 100,
            request_timeout_ms: 0,
            tunnel_timeout_ms: 3_600_000,
        }
    }
}
