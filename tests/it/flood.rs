//! Floods on DNS and HTTP that take both cores: Raft does not notice.

use crate::support::{lab, options, output, tools, turn};
use serde_json::Value;
use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use zonekeeper_chaos::lab::{DNS, HTTP, Lab};

/// Sends questions as fast as one thread can, and reads whatever comes back.
struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// `www.example.com A`, id 7.
const QUESTION: &[u8] =
    b"\x00\x07\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x03com\x00\x00\x01\x00\x01";

impl Flood {
    fn start(to: SocketAddr) -> Flood {
        let (stop, sent) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let socket = UdpSocket::bind((to.ip(), 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (stop_, sent_) = (stop.clone(), sent.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 512];
            while !stop_.load(Relaxed) {
                for _ in 0..32 {
                    sent_.fetch_add(u64::from(socket.send(QUESTION).is_ok()), Relaxed);
                }
                while socket.recv(&mut buffer).is_ok() {}
            }
        });
        Flood { stop, sent, thread: Some(thread) }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Longest silence of a leader: a heartbeat comes every 50 ms, and after five that did not come on time its lease is over.
const SILENCE_MS: u64 = 250;

/// Jiffies of all cores: busy and all.
fn cpu() -> (u64, u64) {
    let text = std::fs::read_to_string("/proc/stat").unwrap();
    let all: Vec<u64> =
        text.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
    let sum: u64 = all.iter().sum();
    (sum - all[3] - all[4], sum)
}

fn term(lab: &Lab) -> u64 {
    lab.get(0, "/v1/cluster").unwrap()["data"]["term"].as_u64().unwrap()
}

fn decisions(lab: &Lab) -> Value {
    lab.get(0, "/v1/decisions").unwrap()["data"].clone()
}

#[test]
fn a_flood_that_takes_both_cores_moves_nothing_and_elects_nobody() {
    if !tools(&["wrk"]) {
        return;
    }
    let _turn = turn();
    let lab = lab(options());
    let long = ["ZONEKEEPER_LONG", "CI"].iter().any(|name| std::env::var_os(name).is_some());
    let seconds = if long { 60 } else { 20 };
    let (term_before, decisions_before, cpu_before) = (term(&lab), decisions(&lab), cpu());

    let floods: Vec<Flood> = lab.nodes.iter().map(|n| Flood::start(n.at(DNS))).collect();
    let url = format!("http://{}/", lab.nodes[0].at(HTTP));
    let wrk = std::thread::spawn(move || output("wrk", &["-t1", "-c64", &format!("-d{seconds}s"), &url]));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut worst, mut looks) = (0, vec![0; lab.nodes.len()]);
    while Instant::now() < end {
        worst = worst.max(look(&lab, &mut looks));
        std::thread::sleep(Duration::from_millis(250));
    }
    let cpu_after = cpu();
    let report = wrk.join().unwrap();
    let sent: u64 = floods.iter().map(|f| f.sent.load(Relaxed)).sum();
    drop(floods);

    let busy = (cpu_after.0 - cpu_before.0) * 100 / (cpu_after.1 - cpu_before.1).max(1);
    eprintln!("{sent} questions, cores {busy} % busy, a leader was heard every {worst} ms at the worst");
    assert!(busy >= 85, "the flood is too small to prove anything: {busy} %");
    assert!(
        String::from_utf8_lossy(&report.stdout).contains("requests in"),
        "HTTP was served too: {report:?}"
    );
    assert!(looks.iter().all(|n| *n >= 5), "the API answered {looks:?} times");
    assert!(worst < SILENCE_MS, "a leader was not heard for {worst} ms{}", lab.tails());
    assert_eq!(term(&lab), term_before, "nobody was elected{}", lab.tails());
    assert_eq!(decisions(&lab), decisions_before, "nothing moved{}", lab.tails());
}

/// One look at all nodes: links up, a leader heard. The longest silence of a leader that a follower shows, in
/// milliseconds; counts the nodes that could be looked at.
fn look(lab: &Lab, looks: &mut [usize]) -> u64 {
    let mut worst = 0;
    for (i, count) in looks.iter_mut().enumerate() {
        let Ok(cluster) = lab.get(i, "/v1/cluster") else { continue };
        *count += 1;
        worst = worst.max(cluster["data"]["leader_heard_ms"].as_u64().unwrap_or(u64::MAX));
        let Ok(members) = lab.get(i, "/v1/members") else { continue };
        for member in members["data"].as_array().into_iter().flatten() {
            assert_ne!(member["link"]["up"], false, "a link is down: {member}{}", lab.tails());
        }
    }
    worst
}
