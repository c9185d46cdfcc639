//! Our answers beside those of Knot and NSD, for the same zone and some thousand generated questions.
//!
//! A peer that is not installed is `NOT RUN`, loudly, and fails where `CI` is set. The seed is printed; `ZK_SEED` sets it.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use common::{Answer, Asker, Rr, query, read, wire};
use std::{
    collections::BTreeMap,
    env, fs,
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use zonekeeper_dns::Transport;

const ZONE: &str = include_str!("differential.zone");
const QUESTIONS: usize = 4000;

struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n as u64) as usize
    }
}

struct Peer {
    name: &'static str,
    child: Child,
    socket: UdpSocket,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn installed(program: &str) -> Option<String> {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
        .iter()
        .map(|d| format!("{d}/{program}"))
        .find(|p| Path::new(p).exists());
    if found.is_none() {
        eprintln!("NOT RUN: {program} is not installed; the differential test against it is missing");
        assert!(env::var_os("CI").is_none(), "{program} must be installed in CI");
    }
    found
}

fn start(name: &'static str, program: &str, args: &[&str], dir: &Path, port: u16) -> Peer {
    let log = fs::File::create(dir.join(format!("{name}.log"))).unwrap();
    let child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(("127.0.0.1", port)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let peer = Peer { name, child, socket };
    let deadline = Instant::now() + Duration::from_secs(20);
    while peer.try_ask(&query("example.", 6)).is_none_or(|a| a.rcode != 0) {
        let log = || fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
        assert!(Instant::now() < deadline, "{name} does not answer:\n{}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    peer
}

impl Peer {
    fn try_ask(&self, q: &[u8]) -> Option<Answer> {
        let mut buf = [0; 4096];
        self.socket.send(q).ok()?;
        let n = self.socket.recv(&mut buf).ok()?;
        Some(read(&buf[..n]))
    }

    fn ask(&self, q: &[u8]) -> Answer {
        (0..10).find_map(|_| self.try_ask(q)).unwrap_or_else(|| panic!("{} stopped answering", self.name))
    }
}

fn knot(dir: &Path) -> Option<Peer> {
    let (program, port) = (installed("knotd")?, free_port());
    let d = dir.join("knot");
    fs::create_dir_all(&d).unwrap();
    let d = d.display();
    let conf = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: \"{d}\"\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: \"{d}\"\nzone:\n  - domain: example\n    file: \"{}\"\n    zonefile-sync: -1\n    semantic-checks: off\n",
        dir.join("example.zone").display()
    );
    fs::write(dir.join("knot.conf"), conf).unwrap();
    Some(start("knot", &program, &["-c", "knot.conf"], dir, port))
}

fn nsd(dir: &Path) -> Option<Peer> {
    let (program, port) = (installed("nsd")?, free_port());
    let d = dir.display();
    let conf = format!(
        "server:\n ip-address: 127.0.0.1@{port}\n server-count: 1\n username: \"\"\n chroot: \"\"\n database: \"\"\n zonesdir: \"{d}\"\n\
         pidfile: \"{d}/nsd.pid\"\n xfrdfile: \"{d}/xfrd\"\n zonelistfile: \"{d}/list\"\n xfrdir: \"{d}\"\n rrl-ratelimit: 0\n minimal-responses: no\n\
         remote-control:\n control-enable: no\nzone:\n name: example\n zonefile: {d}/example.zone\n"
    );
    fs::write(dir.join("nsd.conf"), conf).unwrap();
    Some(start("nsd", &program, &["-d", "-c", "nsd.conf"], dir, port))
}

/// Names that lie where rules meet: every owner, its ancestors, its children, its neighbours.
fn names() -> Vec<String> {
    let mut out: Vec<String> = vec!["example.".into(), ".".into(), "com.".into(), "xexample.".into()];
    for set in common::zone("example.", ZONE).iter() {
        let owner = set.name.to_string();
        for prefix in ["", "x.", "*.", "a.b.", "x.*.", "www.", "ns1."] {
            out.push(format!("{prefix}{owner}"));
        }
        let mut rest = owner.as_str();
        while let Some((_, parent)) = rest.split_once('.').filter(|(_, p)| p.len() > "example.".len()) {
            out.extend([parent.to_string(), format!("sibling.{parent}")]);
            rest = parent;
        }
        if let Some((label, rest)) = owner.split_once('.') {
            out.extend([format!("{label}0.{rest}"), format!("{}.{rest}", label.to_uppercase())]);
        }
    }
    out.retain(|n| wire(n).len() <= 255);
    out.sort();
    out.dedup();
    out
}

const TYPES: [u16; 14] = [1, 28, 2, 5, 6, 12, 15, 16, 33, 39, 43, 65, 257, 4711];

fn sorted(rrs: &[Rr]) -> Vec<Rr> {
    let mut rrs = rrs.to_vec();
    rrs.sort();
    rrs.dedup();
    rrs
}

/// What must be equal. A positive answer's authority may carry the zone's NS (NSD) or not (Knot and ours).
fn essence(a: &Answer) -> (u16, bool, Vec<Rr>, Vec<Rr>) {
    let positive =
        a.rcode == 0 && !a.answer.is_empty() && a.authority.iter().all(|r| r.1 == 2 && r.0 == "example.");
    (a.rcode, a.aa, sorted(&a.answer), if positive { Vec::new() } else { sorted(&a.authority) })
}

/// Differences that are right, each with its reason.
fn known(ours: &Answer, theirs: &Answer) -> bool {
    // Outside the zone all refuse; a referral to the root beside it is each server's own choice (RFC 8906 §3.1.4 asks for
    // the code only).
    ours.rcode == 5 && theirs.rcode == 5
}

#[test]
fn knot_and_nsd_answer_alike() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), ZONE).unwrap();
    let peers: Vec<Peer> = [knot(dir.path()), nsd(dir.path())].into_iter().flatten().collect();
    let seed: u64 = env::var("ZK_SEED")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or_else(|| u64::from(std::process::id()));
    println!("seed {seed}: ZK_SEED={seed} asks the same questions");
    let (mut rng, names, mut asker) = (Rng(seed), names(), Asker::new(&[("example.", ZONE)]));
    let mut different: BTreeMap<(&str, String, u16), String> = BTreeMap::new();
    let all = names.iter().flat_map(|n| [1u16, 2, 5].map(|t| (n.clone(), t)));
    let random: Vec<(String, u16)> = (0..QUESTIONS)
        .map(|_| (names[rng.below(names.len())].clone(), TYPES[rng.below(TYPES.len())]))
        .collect();
    let mut asked = 0;
    for (qname, qtype) in all.chain(random) {
        let q = query(&qname, qtype);
        let ours = read(&asker.raw(Transport::Udp, &q).unwrap());
        for peer in &peers {
            let theirs = peer.ask(&q);
            asked += 1;
            let cut = ours.tc || theirs.tc; // what is left then is each server's own choice
            if !cut && essence(&ours) != essence(&theirs) && !known(&ours, &theirs) {
                different
                    .insert((peer.name, qname.clone(), qtype), format!("ours   {ours:?}\ntheirs {theirs:?}"));
            }
            // Addresses beside NS, MX and SRV, and glue: as Knot gives them.
            if peer.name == "knot"
                && !cut
                && ours.rcode == 0
                && sorted(&ours.additional) != sorted(&theirs.additional)
            {
                different.insert(
                    (peer.name, qname.clone(), qtype),
                    format!(
                        "additional ours   {:?}\n           theirs {:?}",
                        ours.additional, theirs.additional
                    ),
                );
            }
        }
    }
    println!("{asked} answers compared, {} different", different.len());
    for ((peer, qname, qtype), what) in different.iter().take(25) {
        println!("--- {peer}: {qname} type {qtype}\n{what}");
    }
    assert!(different.is_empty(), "{} differences, seed {seed}", different.len());
}
