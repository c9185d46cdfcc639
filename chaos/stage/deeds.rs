//! What an operator does in the middle of faults, each on a thread of its own: it may take long, and may fail.

use crate::{
    fault::Fault,
    http,
    lab::{ADMIN, Lab},
};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// An operator tries again until then.
const INSIST: Duration = Duration::from_secs(45);
/// Longest wait for one answer.
const WITHIN: Duration = Duration::from_secs(15);

/// One request, and whether it is done again until it succeeds.
pub(super) struct Deed {
    method: &'static str,
    path: Place,
    body: Option<Value>,
    insist: bool,
}

/// Paths name nodes by id, which the laboratory knows.
enum Place {
    Member(usize, &'static str),
    /// A zone of the event's own.
    Zone,
    /// So many records in a zone of the event's own.
    Records(usize),
}

/// What is done when a fault begins.
pub(super) fn of(fault: &Fault, nodes: &[usize]) -> Option<Deed> {
    let node = nodes.first().copied().unwrap_or_default();
    let post = |verb, insist| Deed {
        method: "POST",
        path: Place::Member(node, verb),
        body: Some(json!({})),
        insist,
    };
    match fault {
        Fault::Lead { .. } => Some(post("lead", false)),
        Fault::Demote { .. } => Some(post("demote", false)),
        Fault::Import { names } => {
            let body = Some(json!({ "file": zone(*names) }));
            Some(Deed { method: "PUT", path: Place::Zone, body, insist: false })
        }
        Fault::Flood { writes } => {
            Some(Deed { method: "PUT", path: Place::Records(*writes), body: None, insist: false })
        }
        _ => None,
    }
}

/// What is done when it ends.
pub(super) fn undo(fault: &Fault, nodes: &[usize]) -> Option<Deed> {
    let node = nodes.first().copied().unwrap_or_default();
    match fault {
        Fault::Demote { .. } => Some(Deed {
            method: "POST",
            path: Place::Member(node, "promote"),
            body: Some(json!({})),
            insist: true,
        }),
        Fault::Import { .. } | Fault::Flood { .. } => {
            Some(Deed { method: "DELETE", path: Place::Zone, body: None, insist: false })
        }
        _ => None,
    }
}

fn zone_path(place: usize) -> String {
    format!("/v1/zones/import{place}.example.")
}

/// Clients of a flood.
const FLOODERS: usize = 16;

/// Writes so many records into a zone of its own, one entry each. What fails is tried at the next node; an error says
/// that the log did not come to a snapshot by it.
fn flood(nodes: &[(u64, SocketAddr)], token: &str, place: usize, writes: usize) -> Result<(), String> {
    let zone_path = zone_path(place);
    let call = |round: usize, method: &str, path: &str, body: Option<Value>| {
        let (_, at) = nodes[round % nodes.len()];
        http::request(at, method, path, Some(token), body.as_ref(), WITHIN).ok().filter(|a| a.status < 300)
    };
    let again = |method: &str, path: &str, body: &Value| {
        (0..100).find_map(|round| call(round, method, path, Some(body.clone())))
    };
    let snapshots = || -> u64 {
        let of = |(_, at): &(u64, SocketAddr)| {
            let answer =
                http::request(*at, "GET", "/v1/cluster", Some(token), None, WITHIN).ok()?.json().ok()?;
            answer["data"]["log"]["snapshot"].as_u64()
        };
        nodes.iter().filter_map(of).max().unwrap_or_default()
    };
    let before = snapshots();
    again("PUT", &zone_path, &json!({ "file": zone(0) })).ok_or("the zone of the flood was not made")?;
    std::thread::scope(|scope| {
        for client in 0..FLOODERS {
            let (again, zone_path) = (&again, &zone_path);
            scope.spawn(move || {
                for n in (client..writes).step_by(FLOODERS) {
                    let body = json!({"ttl": 60, "records": [format!("10.{}.{}.1", n >> 8 & 255, n & 255)]});
                    again("PUT", &format!("{zone_path}/records/f{n}/A"), &body);
                }
            });
        }
    });
    let end = Instant::now() + WITHIN;
    while snapshots() == before {
        if Instant::now() > end {
            return Err(format!("{writes} records made no snapshot after index {before}"));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

/// A zone file of so many names.
fn zone(names: usize) -> String {
    let mut t =
        String::from("$TTL 300\n@ SOA ns1 hostmaster 1 3600 600 604800 60\n@ NS ns1\nns1 A 192.0.2.1\n");
    (0..names).for_each(|n| t += &format!("n{n} A 10.{}.{}.{}\n", n >> 16 & 255, n >> 8 & 255, n & 255));
    t
}

/// Deeds under way.
pub(super) struct Deeds {
    nodes: Vec<(u64, SocketAddr)>,
    token: String,
    start: Instant,
    running: Vec<Running>,
}

struct Running {
    /// The event that it belongs to.
    place: usize,
    /// Whether it is not wanted any more.
    over: Arc<AtomicBool>,
    /// What went wrong.
    thread: JoinHandle<Option<String>>,
}

impl Deeds {
    pub(super) fn new(lab: &Lab, start: Instant) -> Deeds {
        let nodes = lab.nodes.iter().map(|n| (n.id, n.at(ADMIN))).collect();
        Deeds { nodes, token: lab.token().to_owned(), start, running: Vec::new() }
    }

    /// Begins one, for the event at `place`. What was begun for the same event is not tried again, and has come to its end
    /// before: a demotion that is repeated after the promotion would stay.
    pub(super) fn begin(&mut self, place: usize, deed: Deed) {
        if let Place::Records(writes) = deed.path {
            let (nodes, token) = (self.nodes.clone(), self.token.clone());
            let thread = std::thread::spawn(move || flood(&nodes, &token, place, writes).err());
            return self.running.push(Running { place, over: Arc::default(), thread });
        }
        let before: Vec<Running> = self.running.extract_if(.., |r| r.place == place).collect();
        before.iter().for_each(|r| r.over.store(true, Relaxed));
        let over = Arc::new(AtomicBool::new(false));
        let unwanted = over.clone();
        let path = match deed.path {
            Place::Member(i, verb) => format!("/v1/members/{}/{verb}", self.nodes[i].0),
            Place::Zone | Place::Records(_) => zone_path(place),
        };
        let (nodes, token, start) = (self.nodes.clone(), self.token.clone(), self.start);
        let insist = deed.insist;
        let once = move |round: usize| {
            let (_, at) = nodes[round % nodes.len()];
            match http::request(at, deed.method, &path, Some(&token), deed.body.as_ref(), WITHIN) {
                Ok(a) if a.status < 300 => Ok(()),
                Ok(a) => {
                    Err(format!("{} {path}: {} {}", deed.method, a.status, String::from_utf8_lossy(&a.body)))
                }
                Err(e) => Err(format!("{} {path}: {e}", deed.method)),
            }
        };
        let thread = std::thread::spawn(move || {
            let trouble = before.into_iter().find_map(|r| r.thread.join().ok()?);
            let began = start.elapsed();
            for round in 0.. {
                match once(round) {
                    Ok(()) => return trouble,
                    Err(why) if (!insist && round >= 2) || start.elapsed() > began + INSIST => {
                        return Some(why);
                    }
                    Err(why) if unwanted.load(Relaxed) => return Some(why),
                    Err(_) => std::thread::sleep(Duration::from_millis(200)),
                }
            }
            None
        });
        self.running.push(Running { place, over, thread });
    }

    /// Waits for all of them; what went wrong, by event. Deeds in the middle of faults may well fail.
    pub(super) fn finish(&mut self) -> Vec<(usize, Option<String>)> {
        let done = self.running.drain(..).filter_map(|r| Some((r.place, Some(r.thread.join().ok()??))));
        done.collect()
    }
}
