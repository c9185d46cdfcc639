//! `dnsperf` while services move ten times a second and records are edited: no lost, wrong or torn answer, and no serial
//! goes back.

use crate::{
    load::Dnsperf,
    support::{lab, options, tools, turn},
};
use serde_json::json;
use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    asker::{A, Line, SOA},
    lab::{DNS, Lab, NAME, Node},
};

/// Its two addresses are always edited together.
const PAIR: &str = "pair.example.com";

/// Asks one node about a service, a record and its serial, over and over.
struct Judge {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicU64>,
    thread: Option<JoinHandle<Seen>>,
}

#[derive(Default)]
struct Seen {
    sites: BTreeSet<IpAddr>,
    pairs: BTreeSet<u8>,
    serials: u64,
    wrong: Vec<String>,
}

impl Judge {
    fn start(node: SocketAddr, sites: BTreeSet<IpAddr>) -> Judge {
        let (stop, asked) = <(Arc<AtomicBool>, Arc<AtomicU64>)>::default();
        let (stop_, asked_) = (stop.clone(), asked.clone());
        let thread = std::thread::spawn(move || {
            let (mut seen, mut last) = (Seen::default(), None);
            let mut line = Line::udp(node, Duration::from_secs(10)).unwrap();
            let mut id = 0u16;
            while !stop_.load(Relaxed) {
                id = id.wrapping_add(1);
                asked_.fetch_add(1, Relaxed);
                if let Err(wrong) = look(&mut line, id, &sites, &mut seen, &mut last) {
                    seen.wrong.push(wrong);
                }
            }
            seen
        });
        Judge { stop, asked, thread: Some(thread) }
    }

    fn end(mut self) -> Seen {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn look(
    line: &mut Line,
    id: u16,
    sites: &BTreeSet<IpAddr>,
    seen: &mut Seen,
    last: &mut Option<u32>,
) -> Result<(), String> {
    let mut ask = |name: &str, rtype| line.ask(id, name, rtype).map_err(|e| format!("{name} is lost: {e}"));
    let service = ask(NAME, A)?;
    if service.rcode != 0 || service.addrs.len() != 1 || !service.addrs.is_subset(sites) {
        return Err(format!("{NAME}: {service:?}"));
    }
    seen.sites.extend(&service.addrs);
    let pair = ask(PAIR, A)?;
    let halves: Vec<[u8; 4]> = pair
        .addrs
        .iter()
        .filter_map(|a| if let IpAddr::V4(a) = a { Some(a.octets()) } else { None })
        .collect();
    match halves[..] {
        [[10, 1, 0, a], [10, 2, 0, b]] if a == b => seen.pairs.extend([a]),
        _ => return Err(format!("{PAIR} is torn: {pair:?}")),
    }
    let serial = ask("example.com", SOA)?.serial.ok_or("no serial")?;
    if last.is_some_and(|l: u32| (serial.wrapping_sub(l) as i32) < 0) {
        return Err(format!("the serial went back from {last:?} to {serial}"));
    }
    seen.serials += u64::from(*last != Some(serial));
    *last = Some(serial);
    Ok(())
}

/// Moves and edits, in turn, ten of each a second, or as many as the cluster can.
fn churn(lab: &Lab, seconds: u64) -> u64 {
    let (end, mut rounds) = (Instant::now() + Duration::from_secs(seconds), 0u64);
    while Instant::now() < end {
        let due = Instant::now() + Duration::from_millis(100);
        let to = &lab.nodes[rounds as usize % lab.nodes.len()].site;
        lab.post(0, "/v1/services/www/move", &json!({ "to": to })).unwrap();
        edit(lab, 1 + (rounds % 250) as u8);
        rounds += 1;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    rounds
}

fn edit(lab: &Lab, n: u8) {
    let pair = [Ipv4Addr::new(10, 1, 0, n), Ipv4Addr::new(10, 2, 0, n)].map(|a| a.to_string());
    lab.put(0, "/v1/zones/example.com/records/pair/A", &json!({"ttl": 60, "records": pair})).unwrap();
}

#[test]
fn nothing_is_lost_wrong_or_torn_while_services_move_and_records_change() {
    if !tools(&["dnsperf"]) {
        return;
    }
    let _turn = turn();
    let lab = lab(options());
    edit(&lab, 1);
    lab.wait("the pair is everywhere", Duration::from_secs(20), |lab| {
        lab.nodes.iter().all(|n| {
            let asked = zonekeeper_chaos::asker::ask(n.at(DNS), PAIR, A, Duration::from_secs(1));
            asked.is_ok_and(|a| a.addrs.len() == 2)
        })
    })
    .unwrap();
    let seconds: u64 = if std::env::var_os("ZONEKEEPER_LONG").is_some() { 60 } else { 10 };
    let questions = lab.folder().join("questions");
    std::fs::write(&questions, format!("{NAME} A\n{PAIR} A\nmail.example.com A\nexample.com SOA\n")).unwrap();
    let sites: BTreeSet<IpAddr> = lab.nodes.iter().map(|n| n.ip).collect();
    let judges: Vec<Judge> = lab.nodes.iter().map(|n| Judge::start(n.at(DNS), sites.clone())).collect();
    let load = |n: &Node| Dnsperf::start(n.at(DNS), &questions, (20, 1000), (seconds, 10));
    let loads: Vec<Dnsperf> = lab.nodes.iter().map(load).collect();
    let rounds = churn(&lab, seconds);
    for load in loads {
        let report = load.lost_nothing(100 * seconds);
        let codes = report.lines().find(|l| l.contains("Response codes:")).unwrap_or_default();
        assert!(codes.contains("NOERROR") && codes.contains("(100.00%)"), "{report}");
    }
    for (judge, node) in judges.into_iter().zip(&lab.nodes) {
        let asked = judge.asked.load(Relaxed);
        let seen = judge.end();
        eprintln!(
            "{}: {rounds} rounds of a move and an edit in {seconds} s; {asked} looks saw {} sites, {} pairs, {} serials",
            node.site,
            seen.sites.len(),
            seen.pairs.len(),
            seen.serials
        );
        assert!(seen.wrong.is_empty(), "{}: {:?}{}", node.site, seen.wrong, lab.tails());
        assert_eq!(seen.sites, sites, "{} answered each site in its turn", node.site);
        assert!(seen.pairs.len() > 3 && seen.serials > 3, "{} saw the edits", node.site);
    }
    assert!(rounds >= seconds * 2, "only {rounds} rounds in {seconds} s prove nothing");
}
