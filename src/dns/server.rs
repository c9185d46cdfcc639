//! Binds the addresses, starts the workers, stops them.

use crate::{
    bind::Sockets,
    connections::Connections,
    counters::{Counters, Totals},
    encrypted::{Encrypted, EncryptedConfig, Failure},
    rate::{RateConfig, RateLimit},
    responder::{DnsFlags, Setup, Transport, UDP_PAYLOAD},
    tap::{Tap, TapConfig},
    tcp, udp, udp_sys,
};
use arc_swap::ArcSwap;
use socket2::Socket;
use std::{
    io,
    net::{Shutdown, SocketAddr},
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};
use zonekeeper_core::Published;

/// How a server listens.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// Addresses for UDP and TCP; port 0 takes a free one, the same for both.
    pub addrs: Vec<SocketAddr>,
    /// UDP threads per address; at least 1.
    pub workers: usize,
    /// How this node names itself to those who ask (RFC 5001 NSID, RFC 4892 `id.server` and `hostname.bind`); empty: it
    /// does not.
    pub nsid: Vec<u8>,
    /// What `version.bind` says (class CHAOS, TXT); empty, the default: it is refused.
    pub version: String,
    /// Response rate limiting of UDP; default none, as Knot and BIND.
    pub rate: Option<RateConfig>,
    /// Largest message over UDP, 512 to 4096 bytes; default 1232, above which fragmentation begins.
    pub udp_payload: u16,
    /// The query log; default none.
    pub tap: Option<TapConfig>,
    /// Encrypted transports; default none.
    pub encrypted: Option<EncryptedConfig>,
    /// TCP connections at once, and as many encrypted ones (TLS, HTTPS and QUIC); for one more the one that has waited
    /// for a query for longest is closed. Default 1000.
    pub tcp_connections: usize,
    /// Of each of them from one address of IPv4 or one /56 of IPv6; default 100.
    pub tcp_connections_per_network: usize,
    /// Longest wait for a query, or for a client that does not read; default 10 s (RFC 7766 §6.2.3 wants seconds).
    pub tcp_idle: Duration,
}

impl Default for DnsConfig {
    fn default() -> DnsConfig {
        DnsConfig {
            addrs: Vec::new(),
            workers: 1,
            nsid: Vec::new(),
            version: String::new(),
            rate: None,
            udp_payload: UDP_PAYLOAD,
            tap: None,
            encrypted: None,
            tcp_connections: 1000,
            tcp_connections_per_network: 100,
            tcp_idle: Duration::from_secs(10),
        }
    }
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// An address cannot be bound.
    #[error("cannot listen for DNS on {addr} ({transport}): {source}; {}", remedy(.source, .addr))]
    Address {
        /// The address as configured.
        addr: SocketAddr,
        /// `UDP`, `TCP`, `TLS`, `HTTPS` or `QUIC`.
        transport: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The query log cannot be opened.
    #[error("cannot write the query log: {0}; check its path and who may write there")]
    Tap(#[source] io::Error),
    /// A thread cannot be started.
    #[error("cannot start a DNS worker thread")]
    Thread(#[source] io::Error),
}

impl From<Failure> for BindError {
    fn from(Failure { addr, transport, source }: Failure) -> BindError {
        BindError::Address { addr, transport, source }
    }
}

fn remedy(e: &io::Error, addr: &SocketAddr) -> String {
    match e.kind() {
        io::ErrorKind::AddrInUse => {
            format!("another program has port {}: stop it or choose another port", addr.port())
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE: grant it or choose a higher port".into()
        }
        io::ErrorKind::AddrNotAvailable => {
            format!("{} is not an address of this machine: check the configuration", addr.ip())
        }
        _ => "check the address".into(),
    }
}

/// A running server.
pub struct DnsServer {
    addrs: Vec<SocketAddr>,
    counters: Vec<Arc<Counters>>,
    stop: Arc<AtomicBool>,
    leave: Arc<AtomicBool>,
    shared: Arc<tcp::Shared>,
    threads: Vec<JoinHandle<()>>,
    sockets: Vec<Arc<Socket>>,
    encrypted: Option<Encrypted>,
    /// Answers that the query log has lost.
    untapped: Option<Arc<AtomicU64>>,
    /// Tasks that accept TCP connections.
    accepting: Vec<tokio::task::JoinHandle<()>>,
    /// All sockets once more, to be handed over.
    handed: Vec<(String, OwnedFd)>,
}

impl DnsServer {
    /// Binds all addresses and starts to answer. TCP runs on the caller's tokio runtime.
    pub fn start(
        config: DnsConfig,
        published: Arc<ArcSwap<Published>>,
        flags: Arc<DnsFlags>,
    ) -> Result<DnsServer, BindError> {
        DnsServer::take_over(config, published, flags, &mut Vec::new())
    }

    /// As [`DnsServer::start`], with sockets of another process where it had them ([`DnsServer::sockets`]); they are taken
    /// out of `inherited`.
    pub fn take_over(
        config: DnsConfig,
        published: Arc<ArcSwap<Published>>,
        flags: Arc<DnsFlags>,
        inherited: &mut Vec<(String, OwnedFd)>,
    ) -> Result<DnsServer, BindError> {
        let mut sockets = Sockets::new(inherited);
        let connections = Connections::new(config.tcp_connections, config.tcp_connections_per_network);
        let limits = (connections, config.tcp_idle);
        let counters = Arc::new(Counters::default());
        let setup = Arc::new(Setup {
            nsid: config.nsid,
            version: config.version,
            payload: config.udp_payload,
            idle: config.tcp_idle,
            rate: config.rate.as_ref().map(|r| Arc::new(RateLimit::new(r))),
            tap: config.tap.as_ref().map(Tap::start).transpose().map_err(BindError::Tap)?,
        });
        let shared = tcp::Shared::new(limits, &setup, published.clone(), flags.clone(), counters.clone());
        let mut server = DnsServer {
            addrs: Vec::new(),
            counters: vec![counters],
            stop: Arc::default(),
            leave: Arc::default(),
            accepting: Vec::new(),
            shared: Arc::new(shared),
            threads: Vec::new(),
            sockets: Vec::new(),
            encrypted: None,
            untapped: setup.tap.as_ref().map(Tap::lost),
            handed: Vec::new(),
        };
        if let Some(encrypted) = &config.encrypted {
            let started = Encrypted::start(encrypted, server.shared.clone(), &mut sockets);
            server.encrypted = Some(started.map_err(BindError::from)?);
        }
        let workers = config.workers.max(1);
        let bound = config.addrs.iter().map(|a| sockets.bind(*a, workers)).collect::<Result<Vec<_>, _>>()?;
        server.handed = sockets.copies;
        for (addr, listener, sockets) in bound {
            server.addrs.push(addr);
            server.accepting.push(tokio::spawn(tcp::serve(listener, server.shared.clone(), None)));
            for (i, socket) in sockets.into_iter().enumerate() {
                let counters = Arc::new(Counters::default());
                server.counters.push(counters.clone());
                if config.udp_payload > UDP_PAYLOAD && addr.is_ipv4() {
                    let error = |source| BindError::Address { addr, transport: "UDP", source };
                    udp_sys::allow_fragments(&socket).map_err(error)?;
                }
                let socket = Arc::new(socket);
                server.sockets.push(socket.clone());
                let worker = udp::Worker {
                    socket,
                    wildcard: addr.ip().is_unspecified(),
                    setup: setup.clone(),
                    counters,
                    published: published.clone(),
                    flags: flags.clone(),
                    stop: server.stop.clone(),
                    leave: server.leave.clone(),
                };
                let thread = thread::Builder::new().name(format!("dns-udp-{i}")).spawn(|| worker.run());
                server.threads.push(thread.map_err(BindError::Thread)?);
            }
        }
        Ok(server)
    }

    /// The addresses with their real ports, in the order of the configuration.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.addrs
    }

    /// The addresses of encrypted transports with their real ports, in the order of the configuration.
    pub fn encrypted_addrs(&self) -> impl Iterator<Item = (Transport, SocketAddr)> + '_ {
        self.encrypted.iter().flat_map(|e| e.addrs.iter().copied())
    }

    /// The sum of all workers' counters.
    pub fn counters(&self) -> Totals {
        let untapped = self.untapped.as_ref().map_or(0, |lost| lost.load(Ordering::Relaxed));
        let mut totals = Totals { untapped, ..Totals::sum(self.counters.iter().map(|c| &**c)) };
        // A worker that has had no query since a zone went still counts it.
        let state = &self.shared.published.load().state;
        totals.zones.retain(|(zone, _)| state.zones.contains_key(zone));
        totals
    }

    /// The sockets, each with a name by which another process takes them over. While both have them, each of what comes
    /// goes to one of the two.
    pub fn sockets(&self) -> io::Result<Vec<(String, OwnedFd)>> {
        self.handed.iter().map(|(name, fd)| Ok((name.clone(), fd.try_clone()?))).collect()
    }

    /// Leaves the sockets to another process that reads from them already: what has come here is answered, open
    /// connections go on for at most `linger`, those over QUIC end.
    pub async fn leave(mut self, linger: Duration) {
        self.leave.store(true, Ordering::Relaxed);
        self.shared.leave.cancel();
        if let Some(encrypted) = self.encrypted.take() {
            encrypted.shutdown().await;
        }
        let end = tokio::time::Instant::now() + linger;
        let open =
            || self.shared.connections.open() + self.threads.iter().filter(|t| !t.is_finished()).count();
        // A thread that waits is the next to be woken by a query, answers it, and ends. Where none comes none is lost.
        while open() > 0 && tokio::time::Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.shared.stop.cancel();
        self.sockets.clear();
        std::mem::forget(std::mem::take(&mut self.threads));
    }

    /// Stops answering; returns when every socket is closed.
    pub async fn shutdown(mut self) {
        self.halt();
        if let Some(encrypted) = self.encrypted.take() {
            encrypted.shutdown().await;
        }
        for accepting in std::mem::take(&mut self.accepting) {
            let _ = accepting.await; // with it the listener is closed
        }
        let threads = std::mem::take(&mut self.threads);
        let join = tokio::task::spawn_blocking(|| threads.into_iter().for_each(|t| drop(t.join())));
        if join.await.is_err() {
            tracing::error!("a DNS worker ended in a panic");
        }
    }

    fn halt(&self) {
        if !self.leave.load(Ordering::Relaxed) {
            self.stop.store(true, Ordering::Relaxed); // what comes from now on is thrown away
        }
        for socket in &self.sockets {
            // It is not connected, which the system says, but only after it has woken who waits there.
            drop(socket.shutdown(Shutdown::Both));
        }
        self.shared.stop.cancel();
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.halt(); // the threads follow at once
    }
}
