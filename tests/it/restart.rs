//! All nodes are killed, and one comes back alone: it answers at once what was answered last.

use crate::support::{lab, options, turn, wait};
use serde_json::json;
use std::time::{Duration, Instant};
use zonekeeper_chaos::{
    asker::{self, A, Answer, SOA},
    lab::{DNS, Lab, NAME},
};

fn ask(lab: &Lab, i: usize, name: &str, rtype: u16) -> Option<Answer> {
    asker::ask(lab.nodes[i].at(DNS), name, rtype, Duration::from_millis(300)).ok()
}

#[test]
fn one_node_of_three_answers_alone_at_once_and_not_older_than_before() {
    let _turn = turn();
    let mut lab = lab(options());
    lab.cli(&["service", "move", "www", "iad"]).unwrap();
    lab.put(0, "/v1/zones/example.com/records/last/A", &json!({"ttl": 60, "records": ["192.0.2.200"]}))
        .unwrap();
    wait(&lab, "all nodes answer the last edit", Duration::from_secs(10), |lab| {
        (0..3).all(|i| ask(lab, i, "last.example.com", A).is_some_and(|a| a.addrs.len() == 1))
    });
    let iad = lab.nodes[2].ip;
    for alone in [0, 1] {
        wait(&lab, "all nodes answer iad", Duration::from_secs(20), |lab| {
            (0..3).all(|i| ask(lab, i, NAME, A).is_some_and(|a| a.addrs == [iad].into()))
        });
        let before = ask(&lab, alone, "example.com", SOA).unwrap().serial.unwrap();
        (0..3).for_each(|i| _ = lab.kill(i).unwrap());
        let begun = lab.restart(alone).unwrap();
        // not one wrong answer on the way: silence, then the last answers
        let first = loop {
            if let Some(answer) = ask(&lab, alone, NAME, A) {
                break answer;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "no answer{}", lab.tails());
        };
        let took = begun.elapsed();
        eprintln!("answers {took:?} after its start");
        assert_eq!((first.rcode, first.addrs), (0, [iad].into()), "the last answer, alone");
        assert!(took < Duration::from_secs(10), "answers only after {took:?}");
        let serial = ask(&lab, alone, "example.com", SOA).unwrap().serial.unwrap();
        assert!(serial.wrapping_sub(before) < 1 << 31, "serial {serial} is older than {before}");
        assert_eq!(
            ask(&lab, alone, "last.example.com", A).unwrap().addrs.len(),
            1,
            "an acknowledged edit is there"
        );
        alone_it_changes_nothing(&lab, alone);
        for i in (0..3).filter(|i| *i != alone) {
            lab.restart(i).unwrap();
        }
        wait(&lab, "the cluster is whole again", Duration::from_secs(30), |lab| {
            (0..3).all(|i| lab.ready(i)) && lab.leader().is_some()
        });
    }
    let at = Instant::now();
    lab.put(0, "/v1/zones/example.com/records/after/A", &json!({"ttl": 60, "records": ["192.0.2.201"]}))
        .unwrap();
    eprintln!("writes again after {:?}", at.elapsed());
}

/// Without a quorum nothing is committed, and that is said.
fn alone_it_changes_nothing(lab: &Lab, alone: usize) {
    wait(lab, "its API answers", Duration::from_secs(20), |lab| lab.lives(alone));
    let cluster = lab.get(alone, "/v1/cluster").unwrap();
    let heard = &cluster["data"]["leader_heard_ms"];
    assert!(
        cluster["age_ms"].is_null() && heard.is_null(),
        "no quorum, no leader since the start: {cluster}"
    );
    let body = json!({"ttl": 60, "records": ["192.0.2.202"]});
    let refused = lab.request(alone, "PUT", "/v1/zones/example.com/records/never/A", Some(&body)).unwrap();
    assert!(
        [503, 504].contains(&refused.status),
        "{} {}",
        refused.status,
        String::from_utf8_lossy(&refused.body)
    );
    assert_eq!(ask(lab, alone, "never.example.com", A).unwrap().rcode, 3);
}
