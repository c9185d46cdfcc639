//! `zonekeeper serve`: a one-node cluster from flags alone. It is the real node with the real state, so what begins
//! here can grow into a cluster later.

use crate::{
    command::{Signals, chain, control_runtime, data_runtime, inherit, log_to_stderr, until_end},
    keys,
    node::{self, CERTIFICATE_LIFETIME, Node, Start},
};
use clap::{Args, ValueEnum};
use std::{
    borrow::Cow,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
};
use zonekeeper_config::{
    AdminConfig, ClusterConfig, DRAIN_MS, DnsConfig, LogLevel, NodeConfig, OnStale, PeerConfig, ProxyConfig,
    TCP_CONNECTIONS, TCP_CONNECTIONS_PER_NETWORK, TCP_IDLE, UDP_PAYLOAD, plan, stages,
};
use zonekeeper_consensus::Consensus;
use zonekeeper_core::{
    Command,
    entry::{Duty, Object, Read},
    id::{PoolId, SiteId},
    model::{Backend, Balance, Bind, Listener, Pool, Protocol, Route, TlsFiles, ZoneOwner},
    name::Name,
    zone::{RrSet, rtype},
};
use zonekeeper_peer::keys::{Ca, ClusterKey, save_cluster_key};

/// How long the flags may take to be in force.
const SERVING: std::time::Duration = std::time::Duration::from_secs(20);
/// The stage of the flags: `serve` is alone on its state.
const STAGE: u64 = u64::from_be_bytes(*b"zk-serve");
/// Who makes the changes.
const AUTHOR: &str = "serve";
/// Listeners and pools whose name begins so belong to the flags.
const PREFIX: &str = "serve-";

/// Flags of `serve`.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Answer DNS here, over UDP and TCP (repeatable)
    #[arg(long, value_name = "ADDR:PORT")]
    dns: Vec<SocketAddr>,
    /// Serve a zone; edits made through the API outlive a restart in the same folder (repeatable)
    #[arg(long, value_name = "ORIGIN=FILE", requires = "dns")]
    zone: Vec<ZoneArg>,
    /// Balance HTTP/1.1 requests (repeatable)
    #[arg(long, value_name = "LISTEN=BACKEND,BACKEND")]
    http: Vec<Forward>,
    /// Balance TCP connections (repeatable)
    #[arg(long, value_name = "LISTEN=BACKEND,BACKEND")]
    tcp: Vec<Forward>,
    /// Clients of --tcp speak first, as those of HTTP do: a connection costs less
    #[arg(long, requires = "tcp")]
    client_first: bool,
    /// Terminate TLS and balance HTTP/1.1 requests (repeatable)
    #[arg(long, value_name = "LISTEN=BACKEND,BACKEND", requires = "cert")]
    tls: Vec<Forward>,
    /// Certificate chain of --tls, PEM
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Private key of --tls, PEM
    #[arg(long, value_name = "FILE", requires = "cert")]
    key: Option<PathBuf>,
    /// How a backend is chosen
    #[arg(long, value_enum, default_value = "least-connections")]
    balance: BalanceArg,
    /// Threads of DNS over UDP and of the proxy, each; default: one per core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// Where the state lives; default: a temporary folder that goes with the process
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
    /// Admin API; default: a free port on loopback, printed at the start
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    admin_listen: SocketAddr,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BalanceArg {
    LeastConnections,
    RoundRobin,
    ResponseTime,
}

/// Whether both hold the same records; the serial of a zone that is edited is its own.
fn same_but_serial(a: &[RrSet], b: &[RrSet]) -> bool {
    fn sorted(sets: &[RrSet]) -> Vec<Cow<'_, RrSet>> {
        let mut sets: Vec<_> = sets.iter().map(without_serial).collect();
        sets.sort_by(|a, b| (&a.name, a.rtype).cmp(&(&b.name, b.rtype)));
        sets
    }
    sorted(a) == sorted(b)
}

fn without_serial(set: &RrSet) -> Cow<'_, RrSet> {
    let mut set = Cow::Borrowed(set);
    if set.rtype == rtype::SOA {
        for soa in &mut set.to_mut().rdata {
            // behind it are four other numbers (RFC 1035 §3.3.13)
            if let Some(serial) = soa.len().checked_sub(20) {
                soa[serial..serial + 4].fill(0);
            }
        }
    }
    set
}

/// `example.com=example.com.zone`.
#[derive(Debug, Clone)]
struct ZoneArg {
    origin: Name,
    file: PathBuf,
}

impl FromStr for ZoneArg {
    type Err = String;
    fn from_str(s: &str) -> Result<ZoneArg, String> {
        let (origin, file) =
            s.split_once('=').ok_or("expected ORIGIN=FILE, as example.com=example.com.zone")?;
        let origin = Name::parse(origin).map_err(|e| format!("zone name {origin:?} {e}"))?;
        Ok(ZoneArg { origin, file: file.into() })
    }
}

/// `127.0.0.1:8080=127.0.0.1:9001,127.0.0.1:9002`.
#[derive(Debug, Clone)]
struct Forward {
    listen: SocketAddr,
    backends: Vec<SocketAddr>,
}

impl FromStr for Forward {
    type Err = String;
    fn from_str(s: &str) -> Result<Forward, String> {
        let addr =
            |a: &str| a.parse().map_err(|_| format!("{a:?} is no address with a port, as 127.0.0.1:9001"));
        let (listen, backends) = s.split_once('=').ok_or("expected LISTEN=BACKEND,BACKEND")?;
        Ok(Forward {
            listen: addr(listen)?,
            backends: backends.split(',').map(addr).collect::<Result<_, _>>()?,
        })
    }
}

impl Serve {
    /// Runs until a signal.
    pub(crate) fn run(self) -> Result<(), String> {
        if self.dns.is_empty() && self.http.is_empty() && self.tcp.is_empty() && self.tls.is_empty() {
            return Err("nothing to serve: give --dns with --zone, or --http, --tcp, --tls; see `zonekeeper serve --help`".into());
        }
        log_to_stderr("warn");
        let temporary = match &self.dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().map_err(|e| format!("no temporary folder: {e}; give --dir"))?),
        };
        let dir = match (&self.dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(t)) => t.path().to_owned(),
            (None, None) => unreachable!("one of the two is made above"),
        };
        let (control, data) =
            (control_runtime().map_err(|e| e.to_string())?, data_runtime().map_err(|e| e.to_string())?);
        let handle = data.handle().clone();
        let done = control.spawn(async move { self.serve(&dir, &handle).await });
        control.block_on(done).map_err(|e| e.to_string())?
    }

    async fn serve(self, dir: &Path, data: &tokio::runtime::Handle) -> Result<(), String> {
        let config = self.node(dir)?;
        let (sockets, line) = inherit().await?;
        let node = Node::start(config, Start::Alone, data, sockets).await.map_err(|e| chain(&e))?;
        let index = self.declare(&node.consensus).await?;
        node.serving(index, |listener| listener.as_str().starts_with(PREFIX), SERVING).await?;
        crate::memory::give_back();
        let signals = Signals::new()?;
        let _ = self.greet(&node, dir); // whoever closed the output does not want to read it
        line.ready();
        until_end(node, signals, self.dir.is_some()).await
    }

    /// The node file that the flags stand for; its keys are made at the first start in a folder.
    fn node(&self, dir: &Path) -> Result<NodeConfig, String> {
        let site = site();
        let keys_dir = dir.join("keys");
        if !keys_dir.exists() {
            make_keys(&keys_dir, &site)?;
        }
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = self.workers.map_or(cores, usize::from);
        Ok(NodeConfig {
            id: 1,
            site,
            duty: Duty::Full,
            data_dir: dir.join("data"),
            keys_dir,
            log_level: LogLevel::Warn,
            peer: PeerConfig { listen: loopback, advertise: loopback },
            admin: AdminConfig {
                listen: self.admin_listen,
                advertise: None,
                allow_remote: !self.admin_listen.ip().is_loopback(),
                open_metrics: false,
            },
            dns: DnsConfig {
                listen: self.dns.clone(),
                workers,
                nsid: None,
                version: None,
                rate_limit: None,
                udp_payload: UDP_PAYLOAD,
                tcp_connections: TCP_CONNECTIONS,
                tcp_connections_per_network: TCP_CONNECTIONS_PER_NETWORK,
                tcp_idle: TCP_IDLE,
                query_log: None,
                encrypted: None,
                geo: Vec::new(),
                max_stale: None,
                on_stale: OnStale::Keep,
            },
            proxy: ProxyConfig { workers, drain_ms: DRAIN_MS },
        })
    }

    /// Brings the state to what the flags say; zones that are there already keep their edits. The index at which that
    /// is so.
    async fn declare(&self, consensus: &Consensus) -> Result<u64, String> {
        // all that an earlier run committed is applied before it is compared
        consensus.read_index(SERVING).await.map_err(|e| e.to_string())?;
        let state = consensus.state();
        let running = ClusterConfig::current(&state);
        let mut wanted = running.clone();
        wanted.pools.retain(|id, _| !id.as_str().starts_with(PREFIX));
        wanted.listeners.retain(|id, _| !id.as_str().starts_with(PREFIX));
        for zone in &self.zone {
            let (origin, file) = (&zone.origin, zone.file.display());
            let records = zonekeeper_dns::zonefile::load(&zone.file, origin).map_err(|e| e.to_string());
            match (running.zones.get(origin), records) {
                (None, records) => drop(wanted.zones.insert(origin.clone(), (ZoneOwner::Api, records?))),
                (Some((_, kept)), Ok(records)) if same_but_serial(kept, &records) => {}
                (Some(_), Ok(_)) => tracing::warn!(
                    "zone {origin} is served as the folder of --dir has it, with the edits made there; {file} differs. \
                     `zonekeeper zone delete {origin} --yes` and a restart, until which it is refused, take what the file says"
                ),
                (Some(_), Err(e)) => {
                    tracing::warn!("zone {origin} is served as the folder of --dir has it: {e}")
                }
            }
        }
        let kinds = [("http", &self.http), ("tcp", &self.tcp), ("tls", &self.tls)];
        for (kind, forwards) in kinds {
            for (i, forward) in forwards.iter().enumerate() {
                self.forward(kind, i + 1, forward, &mut wanted)?;
            }
        }
        match plan(&running, wanted).changes {
            changes if changes.is_empty() => Ok(state.generation.index),
            changes => configure(consensus, changes, state.revision).await,
        }
    }

    fn forward(
        &self,
        kind: &str,
        number: usize,
        f: &Forward,
        wanted: &mut ClusterConfig,
    ) -> Result<(), String> {
        let label = format!("{PREFIX}{kind}-{number}");
        let pool_id: PoolId = label.parse().map_err(|e| format!("{label}: {e}"))?;
        let listener_id = label.parse().map_err(|e| format!("{label}: {e}"))?;
        let backend = |addr: &SocketAddr| Backend { site: None, addr: *addr, weight: 1 };
        let pool = Pool {
            backends: f.backends.iter().map(backend).collect(),
            balance: self.balance.into(),
            check: None, // passive ejection: flags name no health check
            connect_timeout_ms: 1_000,
            response_timeout_ms: 60_000,
            eject_ms: 2_000,
            ..Pool::default()
        };
        let tls = match (kind, &self.cert, &self.key) {
            ("tls", Some(cert), Some(key)) => Some(TlsFiles { cert: absolute(cert)?, key: absolute(key)? }),
            _ => None,
        };
        let listener = Listener {
            binds: vec![Bind { site: None, addr: f.listen }],
            protocol: if kind == "tcp" { Protocol::Tcp } else { Protocol::Http },
            tls: tls.map(Into::into),
            routes: vec![Route::to(pool_id.clone())],
            max_connections: 0,
            client_first: kind == "tcp" && self.client_first,
            ..Listener::default()
        };
        wanted.pools.insert(pool_id, pool);
        wanted.listeners.insert(listener_id, listener);
        Ok(())
    }

    fn greet(&self, node: &Node, dir: &Path) -> std::io::Result<()> {
        let mut out = std::io::stdout();
        for addr in &self.dns {
            let zones: Vec<String> = self.zone.iter().map(|z| z.origin.to_string()).collect();
            writeln!(out, "dns    {addr}  {}", zones.join(" "))?;
        }
        for (kind, forwards) in [("http", &self.http), ("tcp", &self.tcp), ("tls", &self.tls)] {
            for f in forwards {
                writeln!(out, "{kind:<6} {} -> {:?}", f.listen, f.backends)?;
            }
        }
        writeln!(out, "admin  http://{}  token in {}", node.admin, dir.join("data/admin.token").display())?;
        if self.dir.is_none() {
            writeln!(out, "state  temporary; give --dir to keep it")?;
        }
        out.flush()
    }
}

impl From<BalanceArg> for Balance {
    fn from(b: BalanceArg) -> Balance {
        match b {
            BalanceArg::LeastConnections => Balance::LeastConnections,
            BalanceArg::RoundRobin => Balance::RoundRobin,
            BalanceArg::ResponseTime => Balance::ResponseTime,
        }
    }
}

fn site() -> SiteId {
    "local".parse().unwrap_or_else(|e| unreachable!("a fixed label: {e}"))
}

/// Makes the keys beside their place and moves them there, so that a start that is killed leaves all or none.
fn make_keys(dir: &Path, site: &SiteId) -> Result<(), String> {
    let made = dir.with_extension("new");
    let io = |e: std::io::Error| format!("{}: {e}", made.display());
    if made.exists() {
        std::fs::remove_dir_all(&made).map_err(io)?;
    }
    let ca = Ca::create(keys::cluster_id().map_err(|e| e.to_string())?).map_err(|e| chain(&e))?;
    let issued = ca.issue(1, site, CERTIFICATE_LIFETIME).map_err(|e| chain(&e))?;
    let key = ClusterKey::generate(ca.cluster()).map_err(|e| chain(&e))?;
    let saved = ca.save(&made).and_then(|()| issued.save(&made)).and_then(|()| save_cluster_key(&made, &key));
    saved.map_err(|e| chain(&e))?;
    std::fs::rename(&made, dir).map_err(io)
}

fn absolute(path: &Path) -> Result<String, String> {
    let path = std::fs::canonicalize(path).map_err(|e| format!("{}: {e}", path.display()))?;
    path.into_os_string().into_string().map_err(|p| format!("{} is not UTF-8; rename it", p.display()))
}

/// Commits changes, staged where they are large, guarded by the revision that they were planned on.
async fn configure(
    consensus: &Consensus,
    changes: Vec<zonekeeper_core::model::Change>,
    revision: u64,
) -> Result<u64, String> {
    let mut parts = stages(changes).map_err(|e| e.to_string())?;
    let reads = vec![Read { object: Object::Config, version: revision }];
    let command = match parts.len() {
        0 | 1 => Command::Configure(parts.pop().unwrap_or_default()),
        count => {
            // what a run that was killed half way has left is forgotten first
            let _ = propose(consensus, Vec::new(), Command::Abort { id: STAGE }).await;
            let staged = consensus.stage(AUTHOR, STAGE, parts, |done| progress(done, count as u32));
            staged.await.map_err(|e| e.to_string())?;
            Command::Commit { id: STAGE, parts: count as u32 }
        }
    };
    propose(consensus, reads, command).await
}

/// Large imports say how far they are, ten times.
#[allow(clippy::print_stderr, reason = "progress of a long command, apart from its output")]
fn progress(done: u32, count: u32) {
    if count >= 50 && done.is_multiple_of(count / 10) {
        eprintln!("loading: {} %", done * 100 / count);
    }
}

async fn propose(consensus: &Consensus, reads: Vec<Read>, command: Command) -> Result<u64, String> {
    let done = node::propose(consensus, AUTHOR, reads, command).await?;
    done.ok_or_else(|| "the configuration changed meanwhile; start again".into())
}
