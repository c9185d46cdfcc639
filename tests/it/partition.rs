//! A site is cut off from the others, and healed. Each site is a network namespace; the judge sits in the hub between
//! them and reaches everybody all the time.

use crate::support::{lab, not_run, options, turn, wait};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    asker::{self, A, Asker, SOA},
    http,
    lab::{ADMIN, DNS, Lab, NAME},
    net::{Net, Path, Rule, possible},
};

const WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_site_that_is_cut_off_keeps_answering_commits_nothing_and_converges_when_healed() {
    if let Err(why) = possible() {
        not_run(&why);
        return;
    }
    let _turn = turn();
    let net = Arc::new(Net::new(3).unwrap());
    net.inside(|| {
        let mut options = options();
        options.net = Some(net.clone());
        let mut lab = lab(options);
        // the site that is answered is cut off: first as a follower, then as the leader
        for leads in [1, 0] {
            wait(&lab, "every node answers the first site", Duration::from_secs(60), Lab::settled);
            lab.lead(leads).unwrap();
            cut_and_heal(&mut lab, &net);
        }
    })
    .unwrap();
}

/// Whether a node says that it is behind, to people and to Prometheus.
fn says_behind(lab: &Lab, i: usize) -> bool {
    let problems = lab.get(i, "/v1/cluster").unwrap_or_default()["data"]["problems"].clone();
    let said = problems.as_array().is_some_and(|all| all.iter().any(|p| p["code"] == "behind"));
    let metrics = http::request(lab.nodes[i].at(ADMIN), "GET", "/metrics", Some(lab.token()), None, WITHIN);
    let counted = metrics.is_ok_and(|m| String::from_utf8_lossy(&m.body).contains("zonekeeper_behind 1"));
    said && counted
}

#[test]
fn a_node_that_is_cut_off_from_the_leader_alone_says_so_until_the_one_between_them_leads() {
    if let Err(why) = possible() {
        not_run(&why);
        return;
    }
    let _turn = turn();
    let net = Arc::new(Net::new(3).unwrap());
    net.inside(|| {
        let mut options = options();
        options.net = Some(net.clone());
        let lab = lab(options);
        wait(&lab, "every node answers the first site", Duration::from_secs(60), Lab::settled);
        lab.lead(0).unwrap();
        let cut = [(0, 2), (2, 0)].map(|(from, to)| Rule { from, to, path: Path::All, loss: 1000 });
        net.rules(&cut).unwrap();
        let at = Instant::now();
        wait(&lab, "it says that it is behind", WITHIN, |lab| says_behind(lab, 2));
        eprintln!("behind after {:?}", at.elapsed());
        wait(&lab, "the node between them leads", Duration::from_secs(60), |lab| lab.leader() == Some(1));
        wait(&lab, "nobody is behind", WITHIN, |lab| (0..3).all(|i| !says_behind(lab, i)));
        eprintln!("nobody is behind after {:?}", at.elapsed());
        let body = json!({"ttl": 60, "records": ["192.0.2.113"]});
        lab.put(2, "/v1/zones/example.com/records/bridged/A", &body).unwrap();
        net.rules(&[]).unwrap();
        wait(&lab, "every node answers the first site", Duration::from_secs(60), Lab::settled);
    })
    .unwrap();
}

fn cluster(lab: &Lab, i: usize) -> Value {
    lab.get(i, "/v1/cluster").unwrap_or_else(|e| panic!("{e}{}", lab.tails()))["data"].clone()
}

/// What the nodes know and said, for whoever reads a failure.
fn story(lab: &Lab) -> String {
    let mut text = String::new();
    for i in 0..lab.nodes.len() {
        for path in ["/v1/cluster", "/v1/evidence", "/v1/services/www", "/v1/decisions?limit=3"] {
            text += &format!("\nnode {} {path}: {}", i + 1, lab.get(i, path).unwrap_or_default());
        }
    }
    text + &lab.tails()
}

fn cut_and_heal(lab: &mut Lab, net: &Net) {
    let (fra, ams) = (BTreeSet::from([lab.nodes[0].ip]), BTreeSet::from([lab.nodes[1].ip]));
    let every = Duration::from_millis(5);
    let askers: Vec<Asker> =
        lab.nodes.iter().map(|n| Asker::start(n.at(DNS), NAME, A, every).unwrap()).collect();
    let serials: Vec<Asker> =
        lab.nodes.iter().map(|n| Asker::start(n.at(DNS), "example.com", SOA, 2 * every).unwrap()).collect();
    std::thread::sleep(Duration::from_millis(300));

    let at = Instant::now();
    net.cut(&[0]).unwrap();
    for (asker, node) in askers[1..].iter().zip(&lab.nodes[1..]) {
        let moved = asker.wait(&ams, at, WITHIN);
        let moved = moved.unwrap_or_else(|| panic!("{} did not move away{}", node.site, story(lab)));
        eprintln!("{} answers ams {:?} after the cut", node.site, moved - at);
    }
    let before = cluster(lab, 0); // what was on its way before the cut has long arrived
    // the majority writes on
    let body = json!({"ttl": 60, "records": ["192.0.2.111"]});
    lab.put(1, "/v1/zones/example.com/records/majority/A", &body).unwrap();
    the_minority_is_old_and_says_so(lab, &before);

    net.cut(&[]).unwrap();
    let healed = Instant::now();
    wait(lab, "healed, all nodes hold the same state", Duration::from_secs(60), |lab| {
        let seen: BTreeSet<String> = (0..3)
            .filter_map(|i| lab.get(i, "/v1/cluster").ok())
            .map(|c| format!("{} {}", c["generation"], c["data"]["hash"]))
            .collect();
        let known = |i: usize| {
            asker::ask(lab.nodes[i].at(DNS), "majority.example.com", A, WITHIN).map(|a| a.addrs.len())
        };
        seen.len() == 1 && (0..3).all(|i| known(i).is_ok_and(|n| n == 1))
    });
    eprintln!("one state {:?} after healing", healed.elapsed());
    for i in 0..3 {
        let lost = asker::ask(lab.nodes[i].at(DNS), "minority.example.com", A, WITHIN).unwrap();
        assert_eq!(lost.rcode, 3, "what the minority was asked to write was never committed");
    }
    for (asker, node) in askers.iter().zip(&lab.nodes) {
        asker
            .wait(&fra, healed, Duration::from_secs(60))
            .unwrap_or_else(|| panic!("no failback{}", lab.tails()));
        let seen = asker.changes();
        let silent = seen.iter().filter(|s| s.answer.is_none()).count();
        assert_eq!(silent, 0, "{} left a question unanswered", node.site);
        let wrong = seen.iter().filter_map(|s| s.answer.as_ref()).find(|a| a.addrs != fra && a.addrs != ams);
        assert!(wrong.is_none(), "{} answered {wrong:?}", node.site);
    }
    for (asker, node) in serials.iter().zip(&lab.nodes) {
        let seen: Vec<u32> = asker.changes().iter().filter_map(|s| s.answer.as_ref()?.serial).collect();
        assert!(seen.windows(2).all(|p| p[1].wrapping_sub(p[0]) < 1 << 31), "{}: {seen:?}", node.site);
    }
    lab.cli(&["zone", "remove", "example.com", "majority", "A"]).unwrap();
}

fn the_minority_is_old_and_says_so(lab: &Lab, before: &Value) {
    let started = Instant::now();
    let body = json!({"ttl": 60, "records": ["192.0.2.112"]});
    let refused = lab.request(0, "PUT", "/v1/zones/example.com/records/minority/A", Some(&body)).unwrap();
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!([503, 504].contains(&refused.status), "{} {text}", refused.status);
    eprintln!("the minority refused a write after {:?}: {text}", started.elapsed());
    let linearizable = lab.request(0, "GET", "/v1/cluster?consistency=linearizable", None).unwrap();
    let text = String::from_utf8_lossy(&linearizable.body).into_owned();
    assert!([503, 504].contains(&linearizable.status), "{} {text}", linearizable.status);
    let now = cluster(lab, 0);
    assert_eq!(now["hash"], before["hash"], "the minority changed nothing");
    assert_eq!(now["log"]["committed"], before["log"]["committed"], "the minority committed nothing");
    assert!(now["quorum_age_ms"].as_u64().is_some_and(|ms| ms >= 1_000), "it shows its age: {now}");
    let heard = now["leader_heard_ms"].as_u64();
    assert!(
        now["role"] == "leader" || heard.is_some_and(|ms| ms >= 1_000),
        "and that it hears no leader: {now}"
    );
    let next = cluster(lab, 0);
    assert!(next["quorum_age_ms"].as_u64() >= now["quorum_age_ms"].as_u64(), "which grows: {now} {next}");
    let metrics =
        http::request(lab.nodes[0].at(ADMIN), "GET", "/metrics", Some(lab.token()), None, WITHIN).unwrap();
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let value = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
    };
    assert!(value("zonekeeper_quorum_age_seconds") >= 1.0);
    let answer = asker::ask(lab.nodes[0].at(DNS), NAME, A, WITHIN).unwrap();
    assert_eq!(answer.addrs, [lab.nodes[0].ip].into(), "the minority goes on with its last answer");
}
