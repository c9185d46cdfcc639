//! Other servers that fail over, measured as we are: the same sites, the same kill, the same askers.
//!
//! One name server and one sample service at each site; each name server checks both services over HTTP and answers the
//! first one that is up. Every run begins with fresh processes, and the kill comes at a random moment of the check's
//! period. Neither peer has agreement: each server decides alone, on one missed check where it is set so.

use crate::{
    asker::{A, Asker},
    backend::Backend,
    bench::{Kind, Line},
    lab::{DNS, HTTP, LabError, NAME, not_interrupted},
    net::{Net, Path, Rule},
    rng::Rng,
};
use std::{
    fmt, fs,
    net::SocketAddr,
    path::Path as FilePath,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

/// Sites.
const SITES: usize = 3;
/// Longest wait for a changed answer: gdnsd's defaults need 100 s.
const WITHIN: Duration = Duration::from_secs(150);
/// Longest wait for all servers to answer the first site.
const READY: Duration = Duration::from_secs(30);
/// Runs of a peer with its defaults, at most: they take minutes each, and differ little.
const SLOW_RUNS: usize = 5;
/// Between two questions of an asker.
const EVERY: Duration = Duration::from_millis(2);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Server {
    /// gdnsd: `http_status` and `simplefo`.
    Gdnsd,
    /// PowerDNS: a Lua record with `ifurlup`.
    PowerDns,
}

/// A server with one of two configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    server: Server,
    /// As fast as its documentation allows; otherwise its defaults.
    fastest: bool,
}

impl Peer {
    /// All that are measured.
    pub const ALL: [Peer; 4] = [
        Peer { server: Server::Gdnsd, fastest: true },
        Peer { server: Server::PowerDns, fastest: true },
        Peer { server: Server::Gdnsd, fastest: false },
        Peer { server: Server::PowerDns, fastest: false },
    ];

    fn program(self) -> &'static FilePath {
        FilePath::new(match self.server {
            Server::Gdnsd => "/usr/sbin/gdnsd",
            Server::PowerDns => "/usr/sbin/pdns_server",
        })
    }

    /// The longest period of a check, over which the kill is spread.
    fn period_ms(self) -> u64 {
        match (self.server, self.fastest) {
            (Server::Gdnsd, true) => 2_000,
            (Server::Gdnsd, false) => 10_000,
            (Server::PowerDns, true) => 1_000,
            (Server::PowerDns, false) => 5_000,
        }
    }

    /// Writes what the server reads, for site `i`; its arguments.
    fn configure(self, net: &Net, folder: &FilePath, i: usize) -> std::io::Result<Vec<String>> {
        let dir = folder.join(format!("site-{i}"));
        fs::create_dir_all(dir.join("zones"))?;
        let here = dir.display();
        let (first, second, own) = (net.address(0), net.address(1), net.address(i));
        let soa = "@ 300 SOA ns1 hostmaster 1 3600 600 604800 60\n@ 300 NS ns1\n";
        match self.server {
            Server::Gdnsd => {
                let check = match self.fastest {
                    true => ", interval => 2, timeout => 1, up_thresh => 1, ok_thresh => 1, down_thresh => 1",
                    false => "",
                };
                let config = format!(
                    "options => {{ listen => [ \"{own}:{DNS}\" ], run_dir => \"{here}/run\", state_dir => \"{here}/state\" }}\n\
                     service_types => {{ web => {{ plugin => http_status, port => {HTTP}{check} }} }}\n\
                     plugins => {{ simplefo => {{ service_types => [web], www => {{ primary => {first}, secondary => {second} }} }} }}\n"
                );
                fs::write(dir.join("config"), config)?;
                let zone = format!("{soa}ns1 300 A {own}\nwww 30 DYNA simplefo!www\n");
                fs::write(dir.join("zones/example.com"), zone)?;
                Ok(vec!["-c".into(), here.to_string(), "start".into()])
            }
            Server::PowerDns => {
                let fast = match self.fastest {
                    true => {
                        "lua-health-checks-interval=1\ncache-ttl=0\nquery-cache-ttl=0\nnegquery-cache-ttl=0\n"
                    }
                    false => "",
                };
                let config = format!(
                    "launch=bind\nbind-config={here}/named.conf\nlocal-address={own}\nlocal-port={DNS}\n\
                     enable-lua-records=yes\nsocket-dir={here}\ndaemon=no\nguardian=no\nsetuid=\nsetgid=\n\
                     security-poll-suffix=\n{fast}"
                );
                fs::write(dir.join("pdns.conf"), config)?;
                let named =
                    format!("zone \"example.com\" {{ type master; file \"{here}/zones/example.com\"; }};\n");
                fs::write(dir.join("named.conf"), named)?;
                let timeout = if self.fastest { ", {timeout=1}" } else { "" };
                let zone = format!(
                    "{soa}ns1 300 IN A {own}\nwww 30 IN LUA A \"ifurlup('http://{NAME}:{HTTP}/', \
                     {{{{'{first}'}},{{'{second}'}}}}{timeout})\"\n"
                );
                fs::write(dir.join("zones/example.com"), zone)?;
                Ok(vec![format!("--config-dir={here}")])
            }
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let server = match self.server {
            Server::Gdnsd => "gdnsd",
            Server::PowerDns => "PowerDNS Lua",
        };
        write!(f, "{server}, {}", if self.fastest { "fastest" } else { "defaults" })
    }
}

/// What each peer took, by its name. Needs namespaces; a peer that is not installed is said and left out.
pub fn run(runs: usize, say: &mut (dyn FnMut(&str) + Send)) -> Result<Vec<(String, Line)>, LabError> {
    let net = Arc::new(Net::new(SITES)?);
    let mut lines = Vec::new();
    for peer in Peer::ALL {
        if !peer.program().exists() {
            say(&format!("NOT MEASURED: {peer}: {} is not installed", peer.program().display()));
            continue;
        }
        say(&format!("{peer}: {}", version(peer)));
        for kind in [Kind::Kill, Kind::Silence] {
            let count = if peer.fastest { runs } else { runs.min(SLOW_RUNS) };
            let line = net.inside(|| measure(&net, peer, kind, count, say))??;
            lines.push((peer.to_string(), line));
        }
    }
    Ok(lines)
}

fn version(peer: Peer) -> String {
    let arg = match peer.server {
        Server::Gdnsd => "-h",
        Server::PowerDns => "--version",
    };
    let done = Command::new(peer.program()).arg(arg).output();
    let text = done.map(|o| [o.stdout, o.stderr].concat()).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().find(|l| l.contains("ersion") || l.contains("PowerDNS")).unwrap_or_default().to_owned()
}

fn measure(
    net: &Arc<Net>,
    peer: Peer,
    kind: Kind,
    runs: usize,
    say: &mut (dyn FnMut(&str) + Send),
) -> Result<Line, LabError> {
    let mut line = Line::new(kind);
    let mut rng = Rng::new(7);
    for run in 1..=runs {
        not_interrupted()?;
        let phase = Duration::from_millis(rng.below(peer.period_ms()));
        let times = once(net, peer, kind, phase)?;
        let known: Vec<f64> = times.iter().flatten().copied().collect();
        let slowest = known.iter().copied().fold(0.0, f64::max);
        say(&format!("{peer}: {kind} {run}/{runs}: {slowest:.0} ms"));
        match known.len() == times.len() {
            true => line.slowest_ms.push(slowest),
            false => line.failed += 1,
        }
        line.times_ms.extend(known);
    }
    Ok(line)
}

/// A process that is killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn once(net: &Net, peer: Peer, kind: Kind, phase: Duration) -> Result<Vec<Option<f64>>, LabError> {
    let folder = tempfile::Builder::new().prefix("zonekeeper-peer-").tempdir()?;
    let serve = |i: usize| {
        let at = SocketAddr::new(net.address(i), HTTP);
        Ok::<_, LabError>(Some(net.at_site(i, || Backend::start(at, "peer"))??))
    };
    let mut services = (0..SITES).map(serve).collect::<Result<Vec<_>, _>>()?;
    let start = |i: usize| {
        let args = peer.configure(net, folder.path(), i)?;
        let log = fs::File::create(folder.path().join(format!("log-{i}")))?;
        let mut command = net.command(i, peer.program());
        command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok::<_, LabError>(Some(Running(command.spawn()?)))
    };
    let mut servers = (0..SITES).map(start).collect::<Result<Vec<_>, _>>()?;
    let survivors = 1..SITES;
    let ask = |i: usize| Asker::start(SocketAddr::new(net.address(i), DNS), NAME, A, EVERY);
    let askers: Vec<Asker> = survivors.map(ask).collect::<Result<_, _>>()?;
    let (first, second) = ([net.address(0)].into(), [net.address(1)].into());
    let began = Instant::now();
    for (i, asker) in askers.iter().enumerate() {
        if asker.wait(&first, began, READY).is_none() {
            let log = fs::read_to_string(folder.path().join(format!("log-{}", i + 1))).unwrap_or_default();
            return Err(LabError(format!("{peer} at site {} never answered the first site:\n{log}", i + 2)));
        }
    }
    // a whole period, so that each service was found up by a check, and then some part of one
    std::thread::sleep(Duration::from_millis(peer.period_ms() + 500) + phase);

    let at = Instant::now();
    if kind == Kind::Silence {
        let pairs = (1..SITES).flat_map(|o| [(0, o), (o, 0)]);
        let rules: Vec<Rule> =
            pairs.map(|(from, to)| Rule { from, to, path: Path::All, loss: 1000 }).collect();
        net.rules(&rules)?;
    } else {
        servers[0] = None;
        services[0] = None;
    }
    let took = |a: &Asker| a.wait(&second, at, WITHIN).map(|t| (t - at).as_secs_f64() * 1e3);
    let times = askers.iter().map(took).collect();
    net.rules(&[])?;
    Ok(times)
}
