//! Our answers beside those of Knot and NSD, for the same zone and some thousand generated questions.
//!
//! A peer that is not installed is `NOT RUN`, loudly, and fails where `CI` is set. `ZK_SEED` asks
//! other questions; the seed is printed.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // a test ends at the first surprise, and says what it compared

mod common;

use common::{Answer, Asker, Rr, query, read, wire};
use std::{
    collections::BTreeMap,
    env, fs,
    net::{TcpListener, UdpSocket},
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

/// A port that is free for UDP and TCP at this moment.
fn free_port() -> u16 {
    let free = || {
        let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
        UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
        Some(tcp.local_addr().ok()?.port())
    };
    (0..100).find_map(|_| free()).expect("a free port")
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

fn start(name: &'static str, program: &str, args: &[&str], dir: &Path, port: u16) -> Option<Peer> {
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
    let mut peer = Peer { name, child, socket };
    let deadline = Instant::now() + Duration::from_secs(20);
    while peer.try_ask(&query("example.", 6)).is_none_or(|a| a.rcode != 0) {
        let log = || fs::read_to_string(dir.join(format!("{name}.log"))).unwrap_or_default();
        assert!(Instant::now() < deadline, "{name} does not answer:\n{}", log());
        if peer.child.try_wait().unwrap().is_some() {
            eprintln!("{name} ended at once, most likely because its port was taken meanwhile:\n{}", log());
            return None;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Some(peer)
}

/// Starts a peer, on another port when one is taken meanwhile.
fn with_port(mut start: impl FnMut(u16) -> Option<Peer>) -> Peer {
    (0..5).find_map(|_| start(free_port())).expect("the peer starts")
}

impl Peer {
    fn try_ask(&self, q: &[u8]) -> Option<Answer> {
        let mut buf = [0; 4096];
        self.socket.send(q).ok()?;
        loop {
            let n = self.socket.recv(&mut buf).ok()?;
            let question = &buf[12..q.len().min(n)];
            if question.eq_ignore_ascii_case(&q[12..]) {
                return Some(read(&buf[..n])); // anything else is a late answer to an earlier question
            }
        }
    }

    fn ask(&self, q: &[u8]) -> Answer {
        (0..10).find_map(|_| self.try_ask(q)).unwrap_or_else(|| panic!("{} stopped answering", self.name))
    }
}

fn knot(dir: &Path) -> Option<Peer> {
    let program = installed("knotd")?;
    let d = dir.join("knot");
    fs::create_dir_all(&d).unwrap();
    let d = d.display();
    let conf = |port| {
        format!(
            "server:\n  listen: 127.0.0.1@{port}\n  rundir: \"{d}\"\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         database:\n  storage: \"{d}\"\nzone:\n  - domain: example\n    file: \"{}\"\n    zonefile-sync: -1\n    semantic-checks: off\n",
            dir.join("example.zone").display()
        )
    };
    Some(with_port(|port| {
        fs::write(dir.join("knot.conf"), conf(port)).unwrap();
        start("knot", &program, &["-c", "knot.conf"], dir, port)
    }))
}

fn nsd(dir: &Path) -> Option<Peer> {
    let program = installed("nsd")?;
    let d = dir.display();
    let conf = |port| {
        format!(
            "server:\n ip-address: 127.0.0.1@{port}\n server-count: 1\n username: \"\"\n chroot: \"\"\n database: \"\"\n zonesdir: \"{d}\"\n\
         pidfile: \"{d}/nsd.pid\"\n xfrdfile: \"{d}/xfrd\"\n zonelistfile: \"{d}/list\"\n xfrdir: \"{d}\"\n rrl-ratelimit: 0\n minimal-responses: no\n\
         remote-control:\n control-enable: no\nzone:\n name: example\n zonefile: {d}/example.zone\n"
        )
    };
    Some(with_port(|port| {
        fs::write(dir.join("nsd.conf"), conf(port)).unwrap();
        start("nsd", &program, &["-d", "-c", "nsd.conf"], dir, port)
    }))
}

/// Names that lie where rules meet: every owner, its ancestors, its children, its neighbours.
fn names(zone: &str) -> Vec<String> {
    let mut out: Vec<String> = vec!["example.".into(), ".".into(), "com.".into(), "xexample.".into()];
    for set in common::zone("example.", zone).iter() {
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

/// A zone of random names and types in a small alphabet, so that they meet: records that a server may refuse to load are
/// left out (a CNAME beside others, names below a DNAME, NS and DNAME at a wildcard).
fn random_zone(rng: &mut Rng) -> String {
    const LABELS: [&str; 5] = ["a", "b", "c", "*", "ns"];
    let mut text = String::from(
        "$ORIGIN example.\n$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n",
    );
    let mut types: BTreeMap<String, Vec<&str>> = BTreeMap::from([("ns".to_string(), vec!["A"])]);
    let name = |rng: &mut Rng| {
        let labels: Vec<&str> = (0..=rng.below(3)).map(|_| LABELS[rng.below(LABELS.len())]).collect();
        labels.join(".")
    };
    for i in 0..60 {
        let (owner, target) = (name(rng), name(rng));
        let (rtype, rdata) = match rng.below(8) {
            0 | 1 => ("A", format!("192.0.2.{i}")),
            2 => ("TXT", format!("t{i}")),
            3 => ("CNAME", target),
            4 => ("NS", target),
            5 => ("DNAME", target),
            6 => ("MX", format!("{i} {target}")),
            _ => ("AAAA", format!("2001:db8::{i}")),
        };
        let here = types.entry(owner.clone()).or_default();
        let single = |t: &str| matches!(t, "CNAME" | "DNAME");
        let clash = here.contains(&"CNAME")
            || (rtype == "CNAME" && !here.is_empty())
            || (single(rtype) && here.contains(&rtype));
        let star = owner.contains('*') && matches!(rtype, "NS" | "DNAME");
        let both = (rtype == "NS" && here.contains(&"DNAME")) || (rtype == "DNAME" && here.contains(&"NS"));
        if clash || star || both {
            continue;
        }
        here.push(rtype);
        if rtype == "DNAME" && types.keys().any(|o| o.ends_with(&format!(".{owner}"))) {
            types.entry(owner).or_default().pop();
            continue;
        }
        let mut above = owner.as_str();
        let mut below_dname = false;
        while let Some((_, parent)) = above.split_once('.') {
            below_dname |= types.get(parent).is_some_and(|t| t.contains(&"DNAME"));
            above = parent;
        }
        if below_dname {
            types.remove(&owner);
            continue;
        }
        text.push_str(&format!("{owner} {rtype} {rdata}\n"));
    }
    text
}

fn seed() -> u64 {
    let seed = env::var("ZK_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_122);
    println!("seed {seed}: ZK_SEED={seed} asks the same questions");
    seed
}

#[test]
fn knot_and_nsd_answer_alike_where_rules_meet() {
    compare(ZONE, &mut Rng(seed()), QUESTIONS);
}

#[test]
fn knot_and_nsd_answer_alike_for_random_zones() {
    let mut rng = Rng(seed());
    for _ in 0..5 {
        let zone = random_zone(&mut rng);
        compare(&zone, &mut rng, 1000);
    }
}

fn compare(zone: &str, rng: &mut Rng, questions: usize) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("example.zone"), zone).unwrap();
    let peers: Vec<Peer> = [knot(dir.path()), nsd(dir.path())].into_iter().flatten().collect();
    let (names, mut asker) = (names(zone), Asker::new(&[("example.", zone)]));
    let mut different: BTreeMap<(&str, String, u16), String> = BTreeMap::new();
    let all = names.iter().flat_map(|n| [1u16, 2, 5].map(|t| (n.clone(), t)));
    let random: Vec<(String, u16)> = (0..questions)
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
            // Addresses beside NS, MX and SRV, and glue: none that Knot does not give. (It also takes wildcards below a cut
            // for glue, RFC 4592 §4.2 notwithstanding.)
            let theirs: Vec<Rr> = sorted(&theirs.additional);
            let extra: Vec<Rr> =
                sorted(&ours.additional).into_iter().filter(|r| !theirs.contains(r)).collect();
            if peer.name == "knot"
                && !cut
                && ours.rcode == 0
                && (!extra.is_empty() || (zone == ZONE && ours.additional.len() != theirs.len()))
            {
                let what = format!("additional ours {:?}\n         theirs {theirs:?}", ours.additional);
                different.insert((peer.name, qname.clone(), qtype), what);
            }
        }
    }
    println!("{asked} answers compared, {} different", different.len());
    for ((peer, qname, qtype), what) in different.iter().take(25) {
        println!("--- {peer}: {qname} type {qtype}\n{what}");
    }
    assert!(different.is_empty(), "{} differences in\n{zone}", different.len());
}
