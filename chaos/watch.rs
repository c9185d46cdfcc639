//! Looks on: what each node shows through its admin API, a few times a second.

use crate::{
    history::{Mark, Move, Shown, Verdict, Vote},
    http,
    lab::{ADMIN, Lab},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// From one look at a node to the next.
const EVERY: Duration = Duration::from_millis(120);
/// A node that does not answer within this time shows nothing.
const WITHIN: Duration = Duration::from_millis(700);
/// Remembered per node and kind; more would mean that something flaps, which is a result too.
const REMEMBERED: usize = 200_000;

/// Everything seen so far.
#[derive(Debug, Default)]
pub struct Seen {
    /// By node, changes of what is shown.
    pub shown: Vec<Vec<Shown>>,
    /// By node, when the newest look that was answered began, in microseconds since the run began.
    pub looked: Vec<u64>,
    /// By node, index and hash at each look.
    pub marks: Vec<Vec<Mark>>,
    /// Verdicts of all nodes, changes only.
    pub verdicts: Vec<Verdict>,
    /// Moves by epoch and family.
    pub moves: BTreeMap<(u32, u64, String), Move>,
}

/// The lookers-on, one thread per node.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    /// Begins; times count from `start`.
    pub fn start(lab: &Lab, start: Instant) -> Watch {
        let nodes = lab.nodes.len();
        let (shown, marks) = (vec![Vec::new(); nodes], vec![Vec::new(); nodes]);
        let seen = Seen { shown, marks, looked: vec![0; nodes], ..Seen::default() };
        let (seen, stop) = (Arc::new(Mutex::new(seen)), Arc::new(AtomicBool::new(false)));
        let look = |node: usize| {
            let one = Look {
                node,
                id: lab.nodes[node].id,
                at: lab.nodes[node].at(ADMIN),
                token: lab.token().to_owned(),
                start,
                seen: seen.clone(),
            };
            let stop = stop.clone();
            std::thread::spawn(move || {
                while !stop.load(Relaxed) {
                    one.once();
                    std::thread::sleep(EVERY);
                }
            })
        };
        let threads = (0..nodes).map(look).collect();
        Watch { seen, stop, threads }
    }

    /// Everything seen so far.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What each node showed last.
    pub fn last(&self) -> Vec<Shown> {
        self.seen().shown.iter().map(|s| s.last().cloned().unwrap_or_default()).collect()
    }

    /// Whether every node was looked at, and answered, since `us`.
    pub fn fresh(&self, us: u64) -> bool {
        self.seen().looked.iter().all(|looked| *looked >= us)
    }

    /// Ends, and gives all that was seen.
    pub fn finish(mut self) -> Seen {
        self.end();
        std::mem::take(&mut *self.seen())
    }

    fn end(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.end();
    }
}

struct Look {
    node: usize,
    id: u64,
    at: SocketAddr,
    token: String,
    start: Instant,
    seen: Arc<Mutex<Seen>>,
}

impl Look {
    fn get(&self, path: &str) -> Option<Value> {
        let answer = http::request(self.at, "GET", path, Some(&self.token), None, WITHIN).ok()?;
        answer.json().ok().filter(|_| answer.status == 200)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn once(&self) {
        let began = self.start.elapsed().as_micros() as u64;
        let cluster = self.get("/v1/cluster");
        let now = || self.start.elapsed().as_micros() as u64;
        let (mark, shown) = match &cluster {
            None => (None, Shown::default()),
            Some(c) => {
                let service = self.get("/v1/services/www").unwrap_or_default();
                (Some(mark(c, now())), shown(c, &service))
            }
        };
        let (mut held, node) = (self.seen(), self.node);
        let seen = &mut *held;
        if cluster.is_some() {
            seen.looked[node] = began;
        }
        if seen.marks[node].len() < REMEMBERED {
            seen.marks[node].extend(mark);
        }
        let last = seen.shown[node].last();
        let moved = last.map(|l| l.epoch) != Some(shown.epoch) && !shown.role.is_empty();
        if last.is_none_or(|l| Shown { at_us: 0, ..l.clone() } != shown)
            && seen.shown[node].len() < REMEMBERED
        {
            seen.shown[node].push(Shown { at_us: now(), ..shown });
        }
        drop(held);
        if cluster.is_some() {
            self.verdicts();
        }
        if moved {
            self.moves();
        }
    }

    /// What this node itself sees of every endpoint.
    fn verdicts(&self) {
        let Some(evidence) = self.get("/v1/evidence") else { return };
        let at_us = self.start.elapsed().as_micros() as u64;
        let seen = &mut *self.seen();
        for target in list(&evidence["data"]["targets"]).filter(|t| t["service"] == "www") {
            let Some(own) = list(&target["verdicts"]).find(|v| v["from"] == self.id) else { continue };
            let verdict = Verdict {
                at_us,
                observer: self.node,
                site: text(&target["site"]),
                colour: text(&own["colour"]),
                kind: text(&own["kind"]),
            };
            let same = |v: &&Verdict| v.observer == verdict.observer && v.site == verdict.site;
            let held = seen.verdicts.iter().rev().find(same);
            let news = held.is_none_or(|h| (&h.colour, &h.kind) != (&verdict.colour, &verdict.kind));
            if news && seen.verdicts.len() < REMEMBERED {
                seen.verdicts.push(verdict);
            }
        }
    }

    /// All moves that this node remembers.
    fn moves(&self) {
        let Some(decisions) = self.get("/v1/decisions?service=www") else { return };
        let at_us = self.start.elapsed().as_micros() as u64;
        for d in list(&decisions["data"]) {
            let made = decision(d, at_us, self.node);
            let key = (made.epoch.0, made.epoch.1, made.family.clone());
            self.seen().moves.entry(key).or_insert(made);
        }
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    list(value).map(text).collect()
}

fn epoch(value: &Value) -> (u32, u64) {
    (value["incarnation"].as_u64().unwrap_or_default() as u32, value["index"].as_u64().unwrap_or_default())
}

fn mark(cluster: &Value, at_us: u64) -> Mark {
    let (incarnation, index) = epoch(&cluster["generation"]);
    Mark { at_us, incarnation, index, hash: text(&cluster["data"]["hash"]) }
}

fn shown(cluster: &Value, service: &Value) -> Shown {
    let (data, lane) = (&cluster["data"], &service["data"]["lanes"][0]);
    Shown {
        at_us: 0,
        role: text(&data["role"]),
        leader: data["leader"].as_u64(),
        term: data["term"].as_u64().unwrap_or_default(),
        answered: texts(&lane["answered"]),
        basis: text(&lane["basis"]),
        epoch: epoch(&lane["epoch"]),
        standing: list(&lane["sites"]).map(|s| (text(&s["site"]), text(&s["observed"]))).collect(),
        alarms: texts(&data["alarms"]),
        abstains: data["abstains"].as_str().map(String::from),
        voters: list(&data["voters"]).filter_map(Value::as_u64).collect(),
    }
}

fn decision(d: &Value, seen_us: u64, node: usize) -> Move {
    let votes = |row: &Value| {
        list(&row["votes"]).map(|v| Vote { site: text(&v["site"]), vote: text(&v["vote"]) }).collect()
    };
    // of several rows that one matters which says why a site was left
    let leaves = |r: &&Value| r["verdict"] == "down" && list(&d["from"]).any(|s| *s == r["site"]);
    let row = list(&d["rows"]).find(leaves).or(list(&d["rows"]).next());
    Move {
        seen_us,
        node,
        epoch: epoch(&d["epoch"]),
        time: text(&d["time"]),
        family: text(&d["family"]),
        from: texts(&d["from"]),
        to: texts(&d["to"]),
        basis: text(&d["basis"]),
        cause: text(&d["cause"]),
        own: row.and_then(|r| r["own"].as_str()).map(String::from),
        about: row.map(|r| text(&r["site"])).unwrap_or_default(),
        verdict: row.map(|r| text(&r["verdict"])).unwrap_or_default(),
        votes: row.map(votes).unwrap_or_default(),
        rows: list(&d["rows"]).count(),
    }
}
