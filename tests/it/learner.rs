//! A learner on duty: it answers, proxies, forwards and receives like everybody, and neither votes nor judges.

use crate::{
    load::{Askers, Writer, nothing_acknowledged_is_lost},
    support::{lab, options, share, wait},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use zonekeeper_chaos::{
    asker::{self, A},
    http,
    lab::{ADMIN, DNS, HTTP, Lab},
};

const WITHIN: Duration = Duration::from_secs(30);

/// A service that prefers the learner's site.
const MORE: &str = "
[service.far]
names = [\"far.example.com\"]
sites = [\"sin\", \"fra\"]
pool = \"web\"
hold_down = \"1s\"
failback_after = \"1s\"
endpoint = { fra = \"{fra}:8080\", sin = \"{sin}:8080\" }
";

#[test]
fn a_learner_does_everything_but_vote_and_judge() {
    let _turn = share();
    let mut options = options();
    options.sites.push("sin".into());
    options.founders = 4;
    options.learners = vec![3];
    options.more = MORE.into();
    let mut lab = lab(options);
    far_is_answered_from(&lab, &[0, 1, 2, 3], 3);

    it_neither_votes_nor_judges(&lab);
    it_serves_and_forwards(&lab);
    it_survives_a_change_of_leader_and_its_own_death(&mut lab);
    its_site_is_left_when_it_says_so_or_dies(&mut lab);
    promoted_it_counts_and_demoted_it_does_not(&mut lab);
}

fn voters(lab: &Lab, i: usize) -> BTreeSet<u64> {
    let cluster = lab.get(i, "/v1/cluster").unwrap_or_default();
    cluster["data"]["voters"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// The nodes whose verdicts node `i` holds. Only voters are sent reports.
fn judges(lab: &Lab, i: usize) -> BTreeSet<u64> {
    let evidence = lab.get(i, "/v1/evidence").unwrap_or_default();
    let targets = evidence["data"]["targets"].as_array().cloned().unwrap_or_default();
    let verdicts = targets.iter().flat_map(|t| t["verdicts"].as_array().cloned().unwrap_or_default());
    verdicts.filter_map(|v| v["from"].as_u64()).collect()
}

fn it_neither_votes_nor_judges(lab: &Lab) {
    for i in 0..4 {
        let (votes, judges) = (voters(lab, i), judges(lab, i));
        assert_eq!(votes, [1, 2, 3].into(), "at node {}", i + 1);
        assert!(judges == votes || i == 3 && judges.is_empty(), "at node {}: {judges:?}", i + 1);
    }
    let status = lab.cli(&["status"]).unwrap();
    let row = status.lines().find(|l| l.starts_with("4 ")).unwrap_or_else(|| panic!("{status}"));
    assert!(row.contains("learner") && !status.contains("PROBLEM"), "{status}");
    assert_eq!(lab.get(3, "/v1/cluster").unwrap()["data"]["role"], "learner");
}

#[track_caller]
fn record(lab: &Lab, name: &str, at: &[usize]) {
    wait(lab, &format!("{name} is answered at {at:?}"), WITHIN, |lab| {
        let asked = |i: &usize| asker::ask(lab.nodes[*i].at(DNS), name, A, Duration::from_millis(300));
        at.iter().all(|i| asked(i).is_ok_and(|a| a.addrs.len() == 1))
    });
}

fn it_serves_and_forwards(lab: &Lab) {
    let served = http::get(lab.nodes[3].at(HTTP), "/", Duration::from_secs(5)).unwrap();
    let body = String::from_utf8_lossy(&served.body).into_owned();
    assert!(served.status == 200 && body.starts_with("sin backend"), "{} {body}", served.status);
    let one = json!({"ttl": 60, "records": ["192.0.2.31"]});
    lab.put(3, "/v1/zones/example.com/records/forwarded/A", &one).unwrap();
    record(lab, "forwarded.example.com", &[0, 1, 2, 3]);
    let read = lab.get(3, "/v1/cluster?consistency=linearizable").unwrap();
    assert_eq!(read["data"]["node"], 4, "it reads what a quorum confirms, and answers itself");
}

fn it_survives_a_change_of_leader_and_its_own_death(lab: &mut Lab) {
    let askers = Askers::of(lab, &[0, 1, 2]);
    let writer = Writer::start(vec![lab.nodes[3].at(ADMIN)], lab.token().to_owned());
    let at_learner = Askers::of(lab, &[3]);
    for leader in [1, 2, 0] {
        lab.lead(leader).unwrap();
        wait(lab, "the learner follows", WITHIN, |lab| {
            let cluster = lab.get(3, "/v1/cluster").unwrap_or_default();
            cluster["data"]["leader"] == lab.nodes[leader].id
        });
    }
    writer.goes_on(10);
    at_learner.nothing_moved(lab, 0);
    writer.use_nodes(lab, &[0, 1, 2]);
    lab.kill(3).unwrap();
    let missed = json!({"ttl": 60, "records": ["192.0.2.32"]});
    lab.put(0, "/v1/zones/example.com/records/missed/A", &missed).unwrap();
    wait(lab, "the others see its site down", WITHIN, |lab| held(lab, 0, "far", "sin") == "down");
    far_is_answered_from(lab, &[0, 1, 2], 0);
    askers.nothing_moved(lab, 0);
    lab.restart(3).unwrap();
    record(lab, "missed.example.com", &[3]);
    far_is_answered_from(lab, &[0, 1, 2, 3], 3);
    writer.goes_on(50);
    nothing_acknowledged_is_lost(lab, writer.finish(), &[0, 1, 2, 3]);
}

fn held(lab: &Lab, i: usize, service: &str, site: &str) -> String {
    let evidence = lab.get(i, "/v1/evidence").unwrap_or_default();
    let targets = evidence["data"]["targets"].as_array().cloned().unwrap_or_default();
    let target = targets.iter().find(|t| t["service"] == service && t["site"] == site);
    target.and_then(|t| t["held"].as_str()).unwrap_or_default().to_owned()
}

#[track_caller]
fn far_is_answered_from(lab: &Lab, nodes: &[usize], site: usize) {
    wait(lab, &format!("far is answered from {}", lab.nodes[site].site), WITHIN, |lab| {
        let asked = |i: &usize| {
            asker::ask(lab.nodes[*i].at(DNS), "far.example.com", A, Duration::from_millis(300)).ok()
        };
        nodes.iter().all(|i| asked(i).is_some_and(|a| a.addrs == [lab.nodes[site].ip].into()))
    });
}

/// A learner has no vote on others; its word on its own pools counts.
fn its_site_is_left_when_it_says_so_or_dies(lab: &mut Lab) {
    lab.backends[3].iter_mut().for_each(|b| *b = None);
    far_is_answered_from(lab, &[0, 1, 2, 3], 0);
    let decisions = lab.get(0, "/v1/decisions?service=far&limit=20").unwrap();
    let said = decisions["data"][0]["rows"][0]["own"].as_str().unwrap_or_default().to_owned();
    assert_eq!(said, "unhealthy", "{decisions}");
    (0..2).for_each(|i| lab.revive_backend(3, i).unwrap());
    far_is_answered_from(lab, &[0, 1, 2, 3], 3);
}

fn promoted_it_counts_and_demoted_it_does_not(lab: &mut Lab) {
    for (command, all, votes) in [
        ("promote", vec![1, 2, 3, 4], vec!["ams", "iad", "sin"]),
        ("demote", vec![1, 2, 3], vec!["ams", "iad"]),
    ] {
        let all: BTreeSet<u64> = all.into_iter().collect();
        lab.cli(&["member", command, "4"]).unwrap();
        wait(lab, &format!("{command}: {all:?} vote and judge"), WITHIN, |lab| {
            (0..4).all(|i| voters(lab, i) == all) && (0..3).all(|i| judges(lab, i) == all) && lab.settled()
        });
        lab.lead(1).unwrap();
        lab.kill(0).unwrap();
        wait(lab, "fra is left", WITHIN, |lab| (1..4).all(|i| lab.answered(i) == ["ams"]));
        assert_eq!(votes_of_last_move(lab), votes.into_iter().map(String::from).collect());
        lab.restart(0).unwrap();
        wait(lab, "fra is back", WITHIN, Lab::settled);
    }
}

/// Sites whose votes stand in the newest decision that left a site.
fn votes_of_last_move(lab: &Lab) -> BTreeSet<String> {
    let decisions = lab.get(1, "/v1/decisions?service=www&limit=20").unwrap();
    let all = decisions["data"].as_array().unwrap();
    let left = all.iter().find(|d| d["rows"][0]["verdict"] == "down");
    let votes = left.unwrap_or_else(|| panic!("{decisions}"))["rows"][0]["votes"].as_array().unwrap().clone();
    votes.iter().filter_map(|v| v["site"].as_str().map(String::from)).collect()
}
