//! The load of a run: clients that write and read registers, one that writes names of its own, DNS askers of every
//! node, and users who come through the proxies.

use crate::{
    asker::{self, Asker, Line},
    client::Client,
    history::{Answer, Asked, Kind, Op, Said, Served, User},
    http,
    lab::{ADMIN, DNS, HTTP, Lab, LabError, NAME, TCP},
    rng::Rng,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Registers, each a TXT record; one more is the reason of an override.
pub const KEYS: usize = 5;
/// The service that the override is about.
pub const SPARE: &str = "spare";
/// Clients of the registers.
const CLIENTS: usize = 3;
/// Pause of a client between two operations.
const THINK: Duration = Duration::from_millis(25);
/// A client waits so long for an answer; after it the operation's fate is unknown.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two questions of an asker. Every node has three.
const ASK: Duration = Duration::from_millis(8);
/// A server that does not answer within this time did not answer. Long, so that a busy machine is no silent server.
const SILENCE: Duration = Duration::from_millis(1_500);

/// What one thread of the load gathers, with what ends it.
struct Gatherer<T> {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Vec<T>>>,
}

impl<T: Send + 'static> Gatherer<T> {
    fn start(
        count: usize,
        mut step: impl FnMut(usize) -> Box<dyn FnMut() -> Option<T> + Send>,
    ) -> Gatherer<T> {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|i| {
            let (mut step, stop) = (step(i), stop.clone());
            std::thread::spawn(move || {
                let mut out = Vec::new();
                while !stop.load(Relaxed) {
                    out.extend(step());
                    std::thread::sleep(THINK);
                }
                out
            })
        });
        Gatherer { threads: threads.collect(), stop }
    }

    fn finish(&mut self) -> Vec<T> {
        self.stop.store(true, Relaxed);
        self.threads.drain(..).flat_map(|t| t.join().unwrap_or_default()).collect()
    }
}

impl<T> Drop for Gatherer<T> {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

/// Everything at work.
pub struct Load {
    start: Instant,
    /// When the newest write that was acknowledged was called, in microseconds since the run began.
    wrote_us: Arc<AtomicU64>,
    writers: Gatherer<Op>,
    names: Gatherer<(u64, bool)>,
    askers: Vec<(usize, &'static str, &'static str, Asker)>,
    users: Vec<(User, Client)>,
    wrote: (Vec<Op>, BTreeMap<u64, bool>),
}

/// What the load did and saw.
pub struct Done {
    /// Operations on registers, in order of their calls.
    pub ops: Vec<Op>,
    /// Names written, and whether that was acknowledged.
    pub names: BTreeMap<u64, bool>,
    /// What each asker saw.
    pub asked: Vec<Asked>,
    /// Requests of users.
    pub served: Vec<Served>,
}

impl Load {
    /// Begins; times count from `start`.
    pub fn start(lab: &Lab, start: Instant, seed: u64) -> Result<Load, LabError> {
        let nodes: Vec<SocketAddr> = lab.nodes.iter().map(|n| n.at(ADMIN)).collect();
        let wrote_us = Arc::new(AtomicU64::new(0));
        let api = |i: usize| Api {
            wrote_us: wrote_us.clone(),
            nodes: nodes.clone(),
            token: lab.token().to_owned(),
            site: lab.nodes[0].site.clone(),
            start,
            rng: Rng::new(seed ^ (i as u64 + 1) << 32),
        };
        let writers = Gatherer::start(CLIENTS, |client| {
            let (mut api, mut number) = (api(client), 0);
            Box::new(move || {
                number += 1;
                Some(api.register(client, number))
            })
        });
        let names = Gatherer::start(1, |_| {
            let (mut api, mut number) = (api(99), 0);
            Box::new(move || {
                number += 1;
                std::thread::sleep(4 * THINK);
                Some((number, api.name(number)))
            })
        });
        let servers: Vec<SocketAddr> = lab.nodes.iter().map(|n| n.at(DNS)).collect();
        let user = |user| match user {
            User::Http => Client::start(servers.clone(), NAME, HTTP, THINK),
            User::Tcp => Client::start(servers.clone(), NAME, TCP, 2 * THINK),
            User::Frozen => Client::frozen(lab.nodes[0].at(HTTP), 2 * THINK),
        };
        let users = User::ALL.map(|u| (u, user(u))).into();
        Ok(Load { start, wrote_us, writers, names, askers: askers(lab)?, users, wrote: Default::default() })
    }

    /// Whether a write that was called at or after `us` has been acknowledged.
    pub fn wrote_since(&self, us: u64) -> bool {
        self.wrote_us.load(Relaxed) >= us
    }

    /// Whether every asker's last question was answered with these addresses.
    pub fn all_answer(&self, addr: std::net::IpAddr) -> bool {
        let answers = |a: &Asker| {
            a.changes().last().is_some_and(|s| s.answer.as_ref().is_some_and(|a| a.addrs == [addr].into()))
        };
        self.askers.iter().filter(|a| a.2 == "A").all(|(.., a)| answers(a))
    }

    /// The clients that write stop, so that the nodes come to rest.
    pub fn pause(&mut self) {
        self.wrote.0.extend(self.writers.finish());
        self.wrote.1.extend(self.names.finish());
    }

    /// Ends.
    pub fn finish(mut self) -> Done {
        self.pause();
        let (mut ops, names) = std::mem::take(&mut self.wrote);
        ops.sort_by_key(|o| o.called_us);
        let us = |t: Instant| t.saturating_duration_since(self.start).as_micros() as u64;
        let said = |s: asker::Seen| Said {
            asked_us: us(s.asked),
            at_us: us(s.at),
            answer: s.answer.map(|a| Answer {
                rcode: a.rcode,
                addrs: a.addrs.iter().map(ToString::to_string).collect(),
                serial: a.serial,
            }),
        };
        let asked = self.askers.iter().map(|(node, over, rtype, asker)| Asked {
            node: *node,
            over: (*over).into(),
            rtype: (*rtype).into(),
            questions: asker.totals(),
            changes: asker.changes().into_iter().map(said).collect(),
        });
        let site = |body: String| body.split(' ').next().unwrap_or_default().to_owned();
        let of = |(user, client): &(User, Client)| {
            let one = |r: crate::client::Request| Served {
                at_us: us(r.at),
                done_us: us(r.done),
                site: r.body.map(site),
                user: *user,
            };
            client.since(self.start).into_iter().map(one).collect::<Vec<_>>()
        };
        let served = self.users.iter().flat_map(of);
        Done { ops, names, asked: asked.collect(), served: served.collect() }
    }
}

fn askers(lab: &Lab) -> Result<Vec<(usize, &'static str, &'static str, Asker)>, LabError> {
    let mut out = Vec::new();
    for (i, node) in lab.nodes.iter().enumerate() {
        let at = node.at(DNS);
        let udp = || Line::udp(at, SILENCE);
        out.push((i, "udp", "A", Asker::begin(udp()?, NAME, asker::A, ASK)?));
        out.push((i, "udp", "SOA", Asker::begin(udp()?, "example.com", asker::SOA, ASK)?));
        out.push((i, "tcp", "A", Asker::begin(Line::tcp(at, SILENCE), NAME, asker::A, 2 * ASK)?));
    }
    Ok(out)
}

struct Api {
    wrote_us: Arc<AtomicU64>,
    nodes: Vec<SocketAddr>,
    token: String,
    /// The site that the override is about.
    site: String,
    start: Instant,
    rng: Rng,
}

impl Api {
    fn call(&self, node: usize, method: &str, path: &str, body: Option<&Value>) -> (u16, Option<Value>) {
        match http::request(self.nodes[node], method, path, Some(&self.token), body, PATIENCE) {
            Ok(answer) => (answer.status, answer.json().ok()),
            Err(_) => (0, None),
        }
    }

    /// One operation on a register, through any node.
    fn register(&mut self, client: usize, number: u64) -> Op {
        let (node, key) =
            (self.rng.below(self.nodes.len() as u64) as usize, self.rng.below(KEYS as u64 + 1) as usize);
        let called_us = self.start.elapsed().as_micros() as u64;
        let value = (client as u64) << 32 | number;
        let (kind, status, good) = if key == KEYS {
            self.override_(node, value)
        } else if self.rng.chance(500) {
            let body = json!({"ttl": 60, "records": [format!("\"{value}\"")]});
            let (status, _) =
                self.call(node, "PUT", &format!("/v1/zones/example.com/records/k{key}/TXT"), Some(&body));
            (Kind::Write(value), status, status == 200)
        } else {
            let path = format!(
                "/v1/zones/example.com/records?name=k{key}.example.com.&type=TXT&consistency=linearizable"
            );
            let (status, body) = self.call(node, "GET", &path, None);
            let read = body.as_ref().filter(|_| status == 200).and_then(read_value);
            (Kind::Read(read.flatten()), status, read.is_some())
        };
        let returned_us = good.then(|| self.start.elapsed().as_micros() as u64);
        if good && matches!(kind, Kind::Write(_)) {
            self.wrote_us.fetch_max(called_us, Relaxed);
        }
        Op { client, node, key, kind, called_us, returned_us, status }
    }

    /// Writes or reads the override's reason.
    fn override_(&mut self, node: usize, value: u64) -> (Kind, u16, bool) {
        if self.rng.chance(500) {
            let scope = json!({"site": self.site, "service": SPARE});
            let body = json!({"scope": scope, "force": "down", "reason": value.to_string()});
            let (status, _) = self.call(node, "PUT", "/v1/overrides", Some(&body));
            return (Kind::Write(value), status, status == 200);
        }
        let (status, body) = self.call(node, "GET", "/v1/overrides?consistency=linearizable", None);
        let read = body.as_ref().filter(|_| status == 200).and_then(read_reason);
        (Kind::Read(read.flatten()), status, read.is_some())
    }

    /// A name of its own; whether that was acknowledged.
    fn name(&mut self, number: u64) -> bool {
        let node = self.rng.below(self.nodes.len() as u64) as usize;
        let body = json!({"ttl": 60, "records": [address(number)]});
        self.call(node, "PUT", &format!("/v1/zones/example.com/records/w{number}/A"), Some(&body)).0 == 200
    }
}

/// The value of a register: none when the answer is none of ours, and none inside when there is no value.
fn read_value(answer: &Value) -> Option<Option<u64>> {
    let sets = answer["data"]["rrsets"].as_array()?;
    let Some(set) = sets.first() else { return Some(None) };
    let text = set["records"][0].as_str()?;
    Some(Some(text.trim_matches('"').parse().ok()?))
}

/// The value in the override's reason, as [`read_value`].
fn read_reason(answer: &Value) -> Option<Option<u64>> {
    let held = answer["data"].as_array()?.iter().find(|o| o["scope"]["service"] == SPARE);
    let Some(held) = held else { return Some(None) };
    Some(Some(held["reason"].as_str()?.parse().ok()?))
}

/// The address that stands at name `number`.
pub fn address(number: u64) -> String {
    format!("198.{}.{}.{}", 18 + (number >> 16 & 1), number >> 8 & 255, number & 255)
}
