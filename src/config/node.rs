//! The node file: what belongs to one process and is never shared with the cluster.

use crate::{
    cluster::{ClusterConfig, SECTIONS},
    duration::millis,
    problem::Problems,
    reader::{Log, Parsed, Source, Table, Value},
    service::socket,
    validate::listener::overlap,
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};
use zonekeeper_core::{
    entry::Duty,
    id::{NodeId, SiteId},
};

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
    /// A node that heard no leader for longer follows `on_stale`; none: never.
    pub max_stale: Option<Duration>,
    /// What it does then.
    pub on_stale: OnStale,
}

/// Proxy engine of this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProxyConfig {
    /// Event loops; default: one per core.
    pub workers: usize,
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

impl NodeConfig {
    /// Reads and validates a node file; all problems at once.
    pub fn load(path: &Path) -> Result<NodeConfig, Problems> {
        let log = Log::default();
        let config = read_file(path, &log);
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
                for (field, own) in self.listens().into_iter().filter(|(_, own)| overlap(*own, bind.addr)) {
                    let message =
                        format!("{own} overlaps {} of listener {id}; use another port or address", bind.addr);
                    log.error_at(&field, message);
                }
            }
        }
        log.into_problems()
    }

    /// Every TCP address that the node itself binds, with its field.
    fn listens(&self) -> Vec<(String, SocketAddr)> {
        let mut all =
            vec![("peer.listen".to_string(), self.peer.listen), ("admin.listen".into(), self.admin.listen)];
        all.extend(self.dns.listen.iter().enumerate().map(|(i, a)| (format!("dns.listen[{i}]"), *a)));
        all
    }
}

pub(crate) const FIELDS: &[&str] =
    &["id", "site", "duty", "data_dir", "keys_dir", "log_level", "peer", "admin", "dns", "proxy"];
pub(crate) const PEER_FIELDS: &[&str] = &["listen", "advertise"];
pub(crate) const ADMIN_FIELDS: &[&str] = &["listen", "advertise", "allow_remote"];
pub(crate) const DNS_FIELDS: &[&str] = &["listen", "workers", "nsid", "max_stale", "on_stale"];
pub(crate) const PROXY_FIELDS: &[&str] = &["workers"];

const DUTIES: [(&str, Duty); 2] = [("full", Duty::Full), ("witness", Duty::Witness)];
const LEVELS: [(&str, LogLevel); 5] = [
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
    ("trace", LogLevel::Trace),
];
const ADMIN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8053);
/// JSON numbers are exact up to here, and ids travel as such.
const MAX_ID: u64 = (1 << 53) - 1;
const MONTH_MS: u64 = 30 * 86_400_000;

fn read_file(path: &Path, log: &Log) -> Option<NodeConfig> {
    let source = Source::read(path, log)?;
    let raw = source.table(log)?;
    let root = Table::root(&raw, &source, log);
    if SECTIONS.iter().any(|s| root.has(s) && !FIELDS.contains(s)) && !root.has("id") {
        log.error(
            Some(root.place),
            "",
            "this is a file of the cluster; give it to `zonekeeper apply`, and a node file here",
        );
        return None;
    }
    root.sweep(FIELDS);
    let folder = path.parent().unwrap_or(Path::new(""));
    let duty = root.or("duty", Duty::Full, |v| v.word(&DUTIES));
    let id =
        root.need("id", "a number that no other node of the cluster ever had", |v| v.integer(1..=MAX_ID, ""));
    let site = root.need("site", "the name of the site that the node is in", Value::parse);
    let data_dir =
        root.need("data_dir", "a folder for log and snapshots", |v| v.text(4096).map(|p| folder.join(p)));
    let keys_dir = root
        .need("keys_dir", "the folder that `zonekeeper keys` made", |v| v.text(4096).map(|p| folder.join(p)));
    let log_level = root.or("log_level", LogLevel::Info, |v| v.word(&LEVELS));
    let give = "the section [peer] with listen = \"ADDRESS:PORT\"";
    let peer = root.need("peer", give, peer).flatten();
    let (admin, dns, proxy) = (admin(&root), dns(&root, duty), proxy(&root, duty));
    let (data_dir, keys_dir) = (data_dir?, keys_dir?);
    if data_dir == keys_dir {
        log.error_at(
            "keys_dir",
            "is the same as data_dir; keep keys apart, so that a copy of the data holds no secret",
        );
    }
    let config = NodeConfig {
        id: id?,
        site: site?,
        duty,
        data_dir,
        keys_dir,
        log_level,
        peer: peer?,
        admin,
        dns,
        proxy,
    };
    distinct(&config, log);
    Some(config)
}

/// No two listening addresses meet.
fn distinct(config: &NodeConfig, log: &Log) {
    let listens = config.listens();
    for (i, (field, addr)) in listens.iter().enumerate() {
        if let Some((other, first)) = listens[..i].iter().find(|(_, a)| overlap(*a, *addr)) {
            log.error_at(field, format!("{addr} overlaps {first} of {other}; use another port or address"));
        }
    }
}

/// An address with a port; port 0 lets the kernel choose one.
fn listen(value: &Value<'_>) -> Parsed<SocketAddr> {
    value.parse_as("an address with a port; write \"127.0.0.1:8053\" or \"[::1]:8053\"")
}

fn reachable(value: &Value<'_>) -> Parsed<SocketAddr> {
    let addr = socket(value)?;
    match addr.ip().is_unspecified() {
        true => Err(format!("{addr} is no address that others can connect to; give the node's own")),
        false => Ok(addr),
    }
}

fn peer(value: &Value<'_>) -> Parsed<Option<PeerConfig>> {
    let table = value.table(PEER_FIELDS)?;
    let listen =
        table.need("listen", "the address that other nodes connect to, as \"192.0.2.1:8054\"", socket);
    if !table.has("advertise") && listen.is_some_and(|l| !l.ip().is_unspecified()) {
        return Ok(listen.map(|listen| PeerConfig { listen, advertise: listen }));
    }
    let give = "the address that other nodes connect to, because listen takes any";
    let advertise = table.need("advertise", give, reachable);
    Ok(listen.zip(advertise).map(|(listen, advertise)| PeerConfig { listen, advertise }))
}

fn admin(root: &Table<'_>) -> AdminConfig {
    let read = |v: &Value<'_>| {
        let table = v.table(ADMIN_FIELDS)?;
        let allow_remote = table.or("allow_remote", false, Value::boolean);
        let listen = table.or("listen", ADMIN, |v| match listen(v)? {
            addr if addr.ip().is_loopback() || allow_remote => Ok(addr),
            addr => Err(format!("{addr} can be reached from other hosts; set admin.allow_remote = true if that is meant, or listen on 127.0.0.1:8053")),
        });
        Ok(AdminConfig { listen, advertise: table.opt("advertise", reachable), allow_remote })
    };
    root.or("admin", AdminConfig { listen: ADMIN, advertise: None, allow_remote: false }, read)
}

/// A witness serves no clients.
fn no_witness(value: &Value<'_>, duty: Duty, what: &str) -> Parsed<()> {
    match duty {
        Duty::Witness => Err(format!("a witness {what}; take this section out, or set duty = \"full\"")),
        Duty::Full => value.entries().map(|_| ()),
    }
}

fn dns(root: &Table<'_>, duty: Duty) -> DnsConfig {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let default = DnsConfig {
        listen: if duty == Duty::Full { any.map(|ip| SocketAddr::new(ip, 53)).into() } else { Vec::new() },
        workers: cores(),
        nsid: None,
        max_stale: None,
        on_stale: OnStale::Keep,
    };
    let read = |v: &Value<'_>| {
        no_witness(v, duty, "answers no DNS")?;
        let table = v.table(DNS_FIELDS)?;
        let max_stale = table.opt("max_stale", |v| millis(v, 1000..=MONTH_MS)).map(Duration::from_millis);
        let words = [("keep", OnStale::Keep), ("servfail", OnStale::ServFail)];
        let on_stale = table.opt("on_stale", |v| match table.has("max_stale") {
            true => v.word(&words),
            false => Err("does nothing without max_stale; give that too, as \"1h\"".into()),
        });
        Ok(DnsConfig {
            listen: table.or("listen", default.listen.clone(), |v| v.each(listen)),
            workers: workers(&table),
            nsid: table.opt("nsid", |v| v.text(128)),
            max_stale,
            on_stale: on_stale.unwrap_or(OnStale::Keep),
        })
    };
    root.opt("dns", read).unwrap_or(default)
}

fn proxy(root: &Table<'_>, duty: Duty) -> ProxyConfig {
    let read = |v: &Value<'_>| {
        no_witness(v, duty, "proxies nothing")?;
        v.table(PROXY_FIELDS).map(|t| ProxyConfig { workers: workers(&t) })
    };
    root.opt("proxy", read).unwrap_or(ProxyConfig { workers: cores() })
}

fn workers(table: &Table<'_>) -> usize {
    table.or("workers", cores(), |v| v.integer(1..=1024, "threads"))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
