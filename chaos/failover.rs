//! The scripted failover: wait for health, kill a node, measure until users are served, restart it, measure until it
//! is back.
//!
//! Times are the judge's own: the clock, sockets and codec of [`crate::asker`].

use crate::{
    asker::{self, Asker},
    client::Client,
    http,
    lab::{ADMIN, DNS, HTTP, Lab, LabError, NAME},
};
use serde::Serialize;
use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Victim {
    /// The site that is answered; it does not lead.
    Primary,
    /// The site that is answered; it leads.
    Leader,
    /// A site that is neither: nothing may move.
    Standby,
}

/// What one run showed. Times in milliseconds since the kill (or since the restart, where it says so).
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// From 1.
    pub run: usize,
    /// Who was killed.
    pub victim: Victim,
    /// Its site.
    pub site: String,
    /// First red verdict that a survivor shows.
    pub first_red_ms: Option<f64>,
    /// First survivor that shows the committed decision.
    pub committed_ms: Option<f64>,
    /// Changed answer on each survivor.
    pub answered_ms: Vec<Option<f64>>,
    /// First request that another site served.
    pub served_ms: Option<f64>,
    /// Requests that failed, of so many, from the kill to the restart.
    pub failed_requests: usize,
    /// Requests from the kill to the restart.
    pub requests: usize,
    /// Serial on a survivor before and after.
    pub serial: (Option<u32>, Option<u32>),
    /// Since the restart: the restarted node has caught up and answers as the others do.
    pub caught_up_ms: Option<f64>,
    /// Since the restart: every node answers the first site again.
    pub failback_ms: Option<f64>,
    /// What was wrong; empty for a good run.
    pub wrong: Vec<String>,
}

/// Longest wait for each step.
const STEP: Duration = Duration::from_secs(20);
/// Between two questions of an asker.
const EVERY: Duration = Duration::from_millis(2);

/// One run of the script.
pub fn run(lab: &mut Lab, number: usize, victim: Victim) -> Result<Run, LabError> {
    lab.wait("every node answers the first site", Duration::from_secs(60), Lab::settled)?;
    let dead = prepare(lab, victim)?;
    let survivors: Vec<usize> = (0..lab.nodes.len()).filter(|i| *i != dead).collect();
    let watch = Watch::start(lab, &survivors)?;
    rest(lab, Duration::from_millis(500))?; // a calm second half for the askers to begin in
    let serial_before = serial(lab, survivors[0]);

    let at = lab.kill(dead)?;
    let (old, next) = (address(lab, 0), address(lab, 1));
    let expected = if victim == Victim::Standby { &old } else { &next };
    let mut out = Run {
        run: number,
        victim,
        site: lab.nodes[dead].site.clone(),
        first_red_ms: None,
        committed_ms: None,
        answered_ms: Vec::new(),
        served_ms: None,
        failed_requests: 0,
        requests: 0,
        serial: (serial_before, None),
        caught_up_ms: None,
        failback_ms: None,
        wrong: Vec::new(),
    };
    let since = |from: Instant, t: Instant| (t - from).as_secs_f64() * 1e3;
    for i in &survivors {
        let changed = lab.poll(STEP, EVERY, || watch.askers[*i].0.first(expected, at))?;
        if changed.is_none() {
            out.wrong.push(format!("{} never answered {expected:?}", lab.nodes[*i].site));
        }
        out.answered_ms.push(changed.map(|t| since(at, t)));
    }
    let elsewhere = |r: &crate::client::Request| r.body.as_ref().is_some_and(|b| !b.starts_with(&out.site));
    let served = || watch.client.since(at).iter().find(|r| elsewhere(r)).map(|r| since(at, r.done));
    out.served_ms = lab.poll(STEP, EVERY, served)?;
    rest(lab, Duration::from_secs(1))?; // whoever would go back does so now
    let seen = *watch.seen.lock().unwrap_or_else(PoisonError::into_inner);
    out.first_red_ms = seen.red.map(|t| since(at, t));
    out.committed_ms = seen.committed.map(|t| since(at, t));
    let requests = watch.client.since(at);
    out.requests = requests.len();
    out.failed_requests = requests.iter().filter(|r| r.body.is_none()).count();
    out.serial.1 = serial(lab, survivors[0]);
    judge_survivors(lab, &watch, &survivors, at, expected, &mut out);
    restore(lab, &watch, dead, &mut out)?;
    Ok(out)
}

/// A pause that an interruption ends.
fn rest(lab: &Lab, pause: Duration) -> Result<(), LabError> {
    lab.poll(pause, Duration::from_millis(10), || None::<()>).map(drop)
}

/// Puts leadership where the victim's name asks for it, and says who dies.
fn prepare(lab: &Lab, victim: Victim) -> Result<usize, LabError> {
    let dead = if victim == Victim::Standby { lab.nodes.len() - 1 } else { 0 };
    lab.lead(match victim {
        Victim::Primary => 1,
        Victim::Leader => 0,
        Victim::Standby => 1,
    })?;
    Ok(dead)
}

fn address(lab: &Lab, i: usize) -> BTreeSet<IpAddr> {
    BTreeSet::from([lab.nodes[i].ip])
}

fn serial(lab: &Lab, i: usize) -> Option<u32> {
    asker::ask(lab.nodes[i].at(DNS), "example.com", asker::SOA, Duration::from_millis(500)).ok()?.serial
}

fn judge_survivors(
    lab: &Lab,
    watch: &Watch,
    survivors: &[usize],
    at: Instant,
    expected: &BTreeSet<IpAddr>,
    out: &mut Run,
) {
    for &i in survivors {
        let (answers, serials) = &watch.askers[i];
        let site = &lab.nodes[i].site;
        let mut moved = false;
        for seen in answers.changes().iter().filter(|s| s.at >= at) {
            match &seen.answer {
                None => out.wrong.push(format!("{site} did not answer a question")),
                Some(a) if a.addrs == *expected => moved = true,
                Some(a) if moved => out.wrong.push(format!("{site} went back to {:?}", a.addrs)),
                Some(a) if a.addrs.is_empty() => out.wrong.push(format!("{site} answered nothing")),
                Some(_) => {}
            }
        }
        judge_serials(site, serials, out);
    }
    if out.victim != Victim::Standby && out.serial.0 == out.serial.1 {
        out.wrong.push("the answers changed, but the serial did not".into());
    }
    if out.served_ms.is_none() {
        out.wrong.push("no request was served by another site".into());
    }
}

fn judge_serials(site: &str, serials: &Asker, out: &mut Run) {
    let seen: Vec<u32> = serials.changes().iter().filter_map(|s| s.answer.as_ref()?.serial).collect();
    // RFC 1982 §3.2: the later one is ahead by less than 2^31
    if let Some(pair) = seen.windows(2).find(|p| p[1].wrapping_sub(p[0]) >= 1 << 31) {
        out.wrong.push(format!("the serial on {site} went back from {} to {}", pair[0], pair[1]));
    }
}

fn restore(lab: &mut Lab, watch: &Watch, dead: usize, out: &mut Run) -> Result<(), LabError> {
    let at = lab.restart(dead)?;
    let since = |t: Instant| (t - at).as_secs_f64() * 1e3;
    let other = usize::from(dead == 0);
    let answers = |lab: &Lab, i: usize| {
        asker::ask(lab.nodes[i].at(DNS), NAME, asker::A, Duration::from_millis(100)).ok()
    };
    let caught_up = lab.wait("the restarted node catches up", Duration::from_secs(30), |lab| {
        let (mine, theirs) = (generation(lab, dead), generation(lab, other));
        mine.is_some() && mine >= theirs && answers(lab, dead) == answers(lab, other)
    });
    match caught_up {
        Ok(()) => out.caught_up_ms = Some(since(Instant::now())),
        Err(e) => out.wrong.push(e.to_string()),
    }
    let first = address(lab, 0);
    let mut last = Some(at);
    for (answers, _) in &watch.askers {
        let back = lab.poll(Duration::from_secs(60), EVERY, || answers.first(&first, at))?;
        last = last.max(back);
        if back.is_none() {
            out.wrong.push("a node never went back to the first site".into());
        }
    }
    out.failback_ms = last.map(since);
    Ok(())
}

fn generation(lab: &Lab, i: usize) -> Option<u64> {
    lab.get(i, "/v1/cluster").ok()?["generation"]["index"].as_u64()
}

/// What survivors show through their admin API.
#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    red: Option<Instant>,
    committed: Option<Instant>,
}

/// Everything that looks on during a run.
struct Watch {
    askers: Vec<(Asker, Asker)>,
    client: Client,
    seen: Arc<Mutex<Shown>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    fn start(lab: &Lab, survivors: &[usize]) -> Result<Watch, LabError> {
        let start = |addr: SocketAddr| -> Result<(Asker, Asker), LabError> {
            let serials = Asker::start(addr, "example.com", asker::SOA, 2 * EVERY)?;
            Ok((Asker::start(addr, NAME, asker::A, EVERY)?, serials))
        };
        let askers = lab.nodes.iter().map(|n| start(n.at(DNS))).collect::<Result<_, _>>()?;
        let servers = lab.nodes.iter().map(|n| n.at(DNS)).collect();
        let client = Client::start(servers, NAME, HTTP, 2 * EVERY);
        let (seen, stop) = <(Arc<Mutex<Shown>>, Arc<AtomicBool>)>::default();
        let nodes: Vec<SocketAddr> = survivors.iter().map(|i| lab.nodes[*i].at(ADMIN)).collect();
        let token = lab.token().to_owned();
        let (seen_, stop_) = (seen.clone(), stop.clone());
        let known = newest(nodes[0], &token);
        std::thread::spawn(move || {
            while !stop_.load(Relaxed) {
                look(&nodes, &token, known, &seen_);
                std::thread::sleep(2 * EVERY);
            }
        });
        Ok(Watch { askers, client, seen, stop })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn read(addr: SocketAddr, path: &str, token: &str) -> Option<serde_json::Value> {
    http::request(addr, "GET", path, Some(token), None, Duration::from_millis(500)).ok()?.json().ok()
}

/// Index of the newest decision.
fn newest(addr: SocketAddr, token: &str) -> Option<u64> {
    let decisions = read(addr, "/v1/decisions?limit=1", token)?;
    decisions["data"].as_array()?.iter().filter_map(|d| d["epoch"]["index"].as_u64()).max()
}

fn look(nodes: &[SocketAddr], token: &str, known: Option<u64>, seen: &Mutex<Shown>) {
    let is_red = |v: &serde_json::Value| {
        let targets = v["data"]["targets"].as_array();
        let verdicts = targets.into_iter().flatten().filter_map(|t| t["verdicts"].as_array()).flatten();
        verdicts.into_iter().any(|v| v["colour"] == "red")
    };
    let shown = *seen.lock().unwrap_or_else(PoisonError::into_inner);
    let red = shown.red.is_none()
        && nodes.iter().any(|n| read(*n, "/v1/evidence", token).is_some_and(|v| is_red(&v)));
    let committed = shown.committed.is_none() && nodes.iter().any(|n| newest(*n, token) > known);
    let mut shown = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if red {
        shown.red = Some(Instant::now());
    }
    if committed {
        shown.committed = Some(Instant::now());
    }
}
