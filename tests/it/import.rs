//! Large zones come into a running cluster: a failover does not wait for them, and a new node takes them over a thin line.

use crate::support::{lab, not_run, options, turn, wait};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    asker::{self, A, Asker},
    lab::{DNS, Lab, NAME, Options},
    net::{Net, possible},
};

/// Names of the zone; a million where time does not matter.
fn names(short: usize) -> usize {
    if std::env::var_os("ZONEKEEPER_LONG").is_some() { 1_000_000 } else { short }
}

/// `big.test` with so many names of two addresses.
fn zone(names: usize) -> String {
    let mut text = String::from(
        "$ORIGIN big.test.\n$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n",
    );
    for i in 0..names {
        let (a, b) = (i / 250 % 256, i % 250 + 1);
        let _ = writeln!(text, "h{i} A 10.0.{a}.{b}\nh{i} A 10.1.{a}.{b}");
    }
    text
}

/// An answer is seen so late, at most.
const ASKED_EVERY: Duration = Duration::from_millis(2);

fn has(lab: &Lab, i: usize, name: &str) -> bool {
    asker::ask(lab.nodes[i].at(DNS), name, A, Duration::from_secs(1)).is_ok_and(|a| a.addrs.len() == 2)
}

fn answers(lab: &Lab, to: IpAddr) -> bool {
    let wanted = BTreeSet::from([to]);
    let asked = |n: &zonekeeper_chaos::lab::Node| asker::ask(n.at(DNS), NAME, A, Duration::from_millis(500));
    lab.nodes.iter().all(|n| asked(n).is_ok_and(|a| a.addrs == wanted))
}

/// An operator forces the answered site down; how long until every node answers another, and back.
fn failover(lab: &Lab) -> Duration {
    let at = Instant::now();
    let down = json!({"scope": {"site": "fra", "service": "www"}, "force": "down", "reason": "test"});
    lab.put(0, "/v1/overrides", &down).unwrap_or_else(|e| panic!("{e}"));
    while !answers(lab, lab.nodes[1].ip) {
        assert!(at.elapsed() < Duration::from_secs(60), "no failover{}", lab.tails());
    }
    let took = at.elapsed();
    let released = lab.request(0, "DELETE", "/v1/overrides?site=fra&service=www", None).unwrap();
    assert_eq!(released.status, 200, "{}", String::from_utf8_lossy(&released.body));
    lab.post(0, "/v1/services/www/move", &json!({"to": "fra"})).unwrap();
    let back = Instant::now();
    while !answers(lab, lab.nodes[0].ip) {
        assert!(back.elapsed() < Duration::from_secs(60), "no way back{}", lab.tails());
    }
    took
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

#[test]
fn a_failover_does_not_wait_for_an_import() {
    let _turn = turn();
    let lab = lab(options());
    let before = median((0..15).map(|_| failover(&lab)).collect());
    let count = names(150_000);
    let body = json!({ "file": zone(count) });
    let (done, mut during) = (AtomicBool::new(false), Vec::new());
    let took = std::thread::scope(|scope| {
        let import = scope.spawn(|| {
            let at = Instant::now();
            let put = lab.put(0, "/v1/zones/big.test", &body);
            done.store(true, Relaxed);
            put.map(|_| at.elapsed())
        });
        while !done.load(Relaxed) {
            during.push(failover(&lab));
        }
        import.join().unwrap().unwrap_or_else(|e| panic!("{e}"))
    });
    let failovers = during.len();
    let (after, worst) = (median(during.clone()), during.iter().max().copied().unwrap_or_default());
    eprintln!(
        "{count} names imported in {took:?}; a failover took {before:?} before, {after:?} beside it ({failovers} of them, {worst:?} at the worst)"
    );
    for i in 0..3 {
        wait(&lab, "the zone is everywhere", Duration::from_secs(120), |lab| {
            has(lab, i, &format!("h{}.big.test", count - 1))
        });
    }
    assert!(failovers >= 5, "only {failovers} failovers beside the import prove nothing");
    // on two cores that parse, send and apply the zone three times over, a failover shares them
    assert!(
        after <= before * 4 + Duration::from_millis(250),
        "{after:?} beside an import, {before:?} without"
    );
}

/// Services in a zone of 100,000 names, all at one site until an operator forces that down: from the request, so with the
/// commit, to the answer of every node. The median of some moves there and back. A thousand where `ZONEKEEPER_EXE` is a
/// release build; the program of the tests needs two seconds for so many, three times over on two cores.
#[test]
fn many_services_leave_a_site_at_once() {
    let _turn = turn();
    let release = std::env::var_os("ZONEKEEPER_EXE").is_some();
    let (services, most) = if release { (1000, 50) } else { (100, 500) };
    let (mut records, mut more) = (String::new(), String::new());
    for i in 0..100_000 {
        let _ = writeln!(records, "h{i} A 10.{}.{}.{}", i >> 16, i >> 8 & 255, i & 255);
    }
    for i in 0..services {
        let _ = writeln!(
            more,
            "[service.s{i}]\nnames = [\"s{i}.example.com\"]\nsites = [\"fra\", \"ams\"]\npool = \"web\"\n\
             hold_down = \"0s\"\nfailback_after = \"0s\"\nendpoint = {{ fra = \"{{fra}}:8080\", ams = \"{{ams}}:8080\" }}"
        );
    }
    let lab = lab(Options { records, more, ..options() });
    let (fra, ams) = (BTreeSet::from([lab.nodes[0].ip]), BTreeSet::from([lab.nodes[1].ip]));
    let within = Duration::from_secs(60);
    let name = |i: usize| format!("s{i}.example.com");
    let askers: Vec<Asker> = lab
        .nodes
        .iter()
        .flat_map(|node| {
            [0, services - 1].map(|i| Asker::start(node.at(DNS), &name(i), A, ASKED_EVERY).unwrap())
        })
        .collect();
    let everywhere = |to: &BTreeSet<IpAddr>, from: Instant| {
        askers.iter().map(|a| a.wait(to, from, within).expect("the move reaches every node") - from).max()
    };
    everywhere(&fra, Instant::now());
    let mut times = Vec::new();
    for _ in 0..5 {
        let down = json!({"scope": {"site": "fra"}, "force": "down", "reason": "test"});
        let from = Instant::now();
        lab.put(0, "/v1/overrides", &down).unwrap_or_else(|e| panic!("{e}"));
        times.extend(everywhere(&ams, from));
        for (node, i) in lab.nodes.iter().flat_map(|node| (0..services).step_by(37).map(move |i| (node, i))) {
            let all = asker::ask(node.at(DNS), &name(i), A, Duration::from_secs(5)).unwrap();
            assert_eq!(all.addrs, ams, "{} on {}", name(i), node.site);
        }
        let released = lab.request(0, "DELETE", "/v1/overrides?site=fra", None).unwrap();
        assert_eq!(released.status, 200, "{}", String::from_utf8_lossy(&released.body));
        everywhere(&fra, Instant::now());
    }
    let took = median(times.clone());
    eprintln!("{services} services moved everywhere in {took:?}, {:?} at the worst", times.iter().max());
    assert!(took <= Duration::from_millis(most), "{took:?}");
}

fn term(lab: &Lab) -> u64 {
    lab.get(0, "/v1/cluster").unwrap()["data"]["term"].as_u64().unwrap()
}

/// The index that node `i` has published.
fn index(lab: &Lab, i: usize) -> u64 {
    let cluster = lab.get(i, "/v1/cluster").unwrap_or_default();
    cluster["generation"]["index"].as_u64().unwrap_or_default()
}

#[test]
fn a_new_node_takes_a_large_state_over_a_thin_line_and_resumes_after_a_cut() {
    if let Err(why) = possible() {
        not_run(&why);
        return;
    }
    let _turn = turn();
    let net = Arc::new(Net::new(4).unwrap());
    net.inside(|| thin_line(&net)).unwrap();
}

/// An entry of 64 KiB takes 52 ms at 10 Mbit/s, and openraft would give it the 50 ms of a heartbeat.
fn thin_line(net: &Arc<Net>) {
    let mut options = options();
    options.net = Some(net.clone());
    options.sites.push("sin".into());
    options.learners = vec![3];
    let mut lab = lab(options);
    lab.lead(0).unwrap(); // its API need not forward the zone
    let count = names(30_000);
    lab.put(0, "/v1/zones/big.test", &json!({ "file": zone(count) })).unwrap_or_else(|e| panic!("{e}"));
    let last = format!("h{}.big.test", count - 1);
    wait(&lab, "the zone is on the first node", Duration::from_secs(120), |lab| has(lab, 0, &last));
    let state = lab.get(0, "/v1/zones/big.test").unwrap();
    let (before, carried) = (term(&lab), net.carried(3).unwrap());

    net.slow(3, 10).unwrap();
    let at = Instant::now();
    lab.spawn(3, &["--new"]).unwrap();
    wait(&lab, "the new node listens", Duration::from_secs(30), |lab| lab.lives(3));
    let node = json!({"id": 4, "site": "sin", "duty": "full", "peer": lab.nodes[3].at(zonekeeper_chaos::lab::PEER).to_string()});
    let added = std::thread::scope(|scope| {
        // adding waits until it has caught up, or says that it goes on
        let adding = scope.spawn(|| lab.request(0, "POST", "/v1/members", Some(&node)));
        let third = 400_000 * u64::try_from(count).unwrap() / 60_000;
        wait(&lab, "a part of the state has come", Duration::from_secs(60), |_| {
            net.carried(3).unwrap() - carried > third
        });
        net.cut(&[3]).unwrap();
        std::thread::sleep(Duration::from_secs(3)); // a cut of so long, not a wait
        assert!(!has(&lab, 3, &last), "all of it came before the cut: it proves nothing");
        net.cut(&[]).unwrap();
        adding.join().unwrap()
    });
    eprintln!("adding said {:?}", added.map(|a| (a.status, String::from_utf8_lossy(&a.body).into_owned())));
    let within = Duration::from_secs(if count > 500_000 { 600 } else { 120 });
    wait(&lab, "the new node answers from the state", within, |lab| has(lab, 3, &last));
    let bytes = net.carried(3).unwrap() - carried;
    eprintln!(
        "{count} names came in {:?}, {bytes} bytes over the line, index {} of {}; the zone: {}",
        at.elapsed(),
        index(&lab, 3),
        index(&lab, 0),
        state["data"]
    );
    assert_eq!(term(&lab), before, "nobody was elected{}", lab.tails());
    let size = u64::try_from(count).unwrap() * 60; // what a name of two addresses takes, about
    assert!(bytes < size * 8 / 5, "{bytes} bytes for a state of {size}: it was sent anew after the cut");
    let members = lab.get(0, "/v1/members").unwrap()["data"].clone();
    assert!(members.as_array().unwrap().iter().any(|m| m["id"] == 4), "{members}{}", lab.tails());
}
