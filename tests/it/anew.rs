//! A new incarnation: a backup restored into a new cluster, and a survivor of a lost majority.

use crate::{
    load::{Writer, nothing_acknowledged_is_lost},
    support::{lab, options, turn, until, wait},
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::PermissionsExt, time::Duration};
use zonekeeper_chaos::{
    asker::{self, A, Answer, SOA},
    http,
    lab::{ADMIN, DNS, Lab, NAME},
};

fn ask(lab: &Lab, i: usize, name: &str, rtype: u16) -> Option<Answer> {
    asker::ask(lab.nodes[i].at(DNS), name, rtype, Duration::from_millis(500)).ok()
}

fn serial(lab: &Lab, i: usize) -> u32 {
    ask(lab, i, "example.com", SOA).and_then(|a| a.serial).expect("an SOA with a serial")
}

/// Later by RFC 1982, and by a step that no edits explain.
#[track_caller]
fn far_ahead(serial: u32, before: u32) {
    let ahead = serial.wrapping_sub(before);
    assert!((1 << 23..1 << 31).contains(&ahead), "serial {serial} after {before}");
}

fn addresses(lab: &Lab, i: usize) -> Vec<Answer> {
    ["mail.example.com", "any.wild.example.com", "nothing.example.com", "w7.example.com", NAME]
        .iter()
        .map(|name| {
            let mut answer = ask(lab, i, name, A).unwrap_or_else(|| panic!("no answer to {name}"));
            answer.serial = None; // of a negative answer's SOA
            answer
        })
        .collect()
}

fn cluster(lab: &Lab, i: usize) -> Value {
    lab.get(i, "/v1/cluster").unwrap_or_default()
}

#[test]
fn a_backup_under_writes_becomes_a_new_cluster_that_never_goes_back() {
    let _turn = turn();
    let mut old = lab(options());
    let writer = Writer::start(old.nodes.iter().map(|n| n.at(ADMIN)).collect(), old.token().to_owned());
    writer.goes_on(30);
    let file = old.folder().join("state.zkb");
    let path = file.to_str().unwrap();
    let third = format!("http://{}", old.nodes[2].at(ADMIN)); // a follower, while it runs and writes go on
    let said = old.cli(&["backup", path, "--admin", &third, "--linearizable"]).unwrap();
    assert!(said.contains("generation 0."), "{said}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "it holds secrets");
    let again = old.cli(&["backup", path]).unwrap_err();
    assert!(again.0.contains("exists already"), "{again}");
    writer.goes_on(30);
    let later = old.folder().join("later.zkb").to_string_lossy().into_owned();
    old.cli(&["backup", &later]).unwrap();
    let tried = writer.finish();
    let before = serial(&old, 2);
    let answers = addresses(&old, 2);

    let mut new = Lab::empty(options()).unwrap();
    new.prepare().unwrap();
    refuses_what_is_no_backup(&new, &file);
    let refused = new.offline(0, "restore", &[&later, "--incarnation", "0"]).unwrap_err();
    assert!(refused.0.contains("incarnation"), "{refused}");
    let said = new.offline(0, "restore", &[path]).unwrap();
    assert!(said.contains("only voter") && said.contains("incarnation 1"), "{said}");
    let twice = new.offline(0, "restore", &[path]).unwrap_err();
    assert!(twice.0.contains("holds data already"), "{twice}");
    (0..3).for_each(|i| _ = old.kill(i).unwrap()); // both would stand at the same addresses
    new.spawn(0, &[]).unwrap();
    new.read_token().unwrap();
    assert_eq!(addresses(&new, 0), answers, "the same answers from the new cluster");
    far_ahead(serial(&new, 0), before);
    let state = cluster(&new, 0);
    assert_eq!((&state["generation"]["incarnation"], &state["data"]["voters"]), (&json!(1), &json!([1])));
    assert!(state["data"]["origin"]["reason"].as_str().unwrap().contains("state.zkb"), "{state}");
    // whatever was acknowledged before the backup began is in it: the first thirty writes
    for n in tried.iter().filter(|(_, ok)| **ok).map(|(n, _)| n).take(30) {
        assert_eq!(ask(&new, 0, &format!("w{n}.example.com"), A).unwrap().addrs.len(), 1, "write {n}");
    }
    // and nothing of the later one, which was refused
    let last = tried.iter().filter(|(_, ok)| **ok).map(|(n, _)| n).next_back().unwrap();
    assert_eq!(ask(&new, 0, &format!("w{last}.example.com"), A).unwrap().addrs.len(), 0, "write {last}");
    // it grows under the ids of old, and the old tokens are good
    for i in [1, 2] {
        new.add(i).unwrap();
    }
    new.put(2, "/v1/zones/example.com/records/after/A", &json!({"ttl": 60, "records": ["192.0.2.9"]}))
        .unwrap();
    wait(&new, "every node answers the new record", Duration::from_secs(20), |lab| {
        (0..3).all(|i| ask(lab, i, "after.example.com", A).is_some_and(|a| a.addrs.len() == 1))
    });
}

/// Each with its reason, and nothing left behind.
fn refuses_what_is_no_backup(lab: &Lab, backup: &std::path::Path) {
    let whole = fs::read(backup).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 4;
    let mut later = whole.clone();
    later[2] = 9; // the envelope's format
    let cases = [
        ("text", b"$ORIGIN example.com.\n".to_vec(), "is no backup"),
        ("cut", whole[..whole.len() - 10].to_vec(), "another copy"),
        ("flipped", flipped, "damaged"),
        ("later", later, "another version"),
    ];
    for (name, bytes, why) in cases {
        let path = lab.folder().join(name);
        fs::write(&path, bytes).unwrap();
        let said = lab.offline(0, "restore", &[path.to_str().unwrap()]).unwrap_err().0;
        assert!(said.contains(why) && said.contains(name), "{name}: {said}");
    }
    let said = lab.offline(0, "recover", &["--reason", "none", "--yes"]).unwrap_err().0;
    assert!(said.contains("nothing to recover"), "{said}");
}

#[test]
fn a_survivor_is_recovered_and_grows_to_three_again() {
    let _turn = turn();
    let mut options = options();
    // the fourth and fifth node stand at the sites of those that will be lost
    options.sites = ["fra", "ams", "iad", "ams", "iad"].map(String::from).to_vec();
    let mut lab = lab(options);
    lab.lead(1).unwrap();
    let writer = Writer::start((0..3).map(|i| lab.nodes[i].at(ADMIN)).collect(), lab.token().to_owned());
    writer.goes_on(60);
    let recover = ["--reason", "ams and iad burnt down", "--yes"];
    let said = lab.offline(0, "recover", &recover).unwrap_err().0;
    assert!(said.contains("is the node running?"), "{said}");
    let tried = writer.finish();
    wait(&lab, "all nodes hold the same state", Duration::from_secs(20), |lab| {
        let hash = |i| cluster(lab, i)["data"]["hash"].clone();
        hash(0) == hash(1) && hash(1) == hash(2)
    });
    let (before, answers) = (serial(&lab, 0), addresses(&lab, 0));
    lab.stop(0).unwrap();
    let said = lab.offline(0, "recover", &recover).unwrap_err().0;
    assert!(said.contains("3 of 3 voters may be alive") && said.contains("node 2 at"), "{said}");

    lab.restart(0).unwrap();
    wait(&lab, "the survivor is back", Duration::from_secs(20), |lab| lab.ready(0) && lab.leader().is_some());
    wait(&lab, "fra is answered again", Duration::from_secs(30), |lab| addresses(lab, 0) == answers);
    (0..3).for_each(|i| _ = lab.kill(i).unwrap());
    let said = lab.offline(0, "recover", &recover).unwrap();
    assert!(said.contains("old disks of node 2, 3"), "{said}");
    let wrong = lab.offline(0, "recover", &["--reason", "twice"]).unwrap_err().0;
    assert!(wrong.contains("--yes"), "{wrong}");
    let old_token = lab.token().to_owned();
    lab.restart(0).unwrap();
    lab.read_token().unwrap();
    assert_eq!(addresses(&lab, 0), answers, "the same answers from the survivor");
    far_ahead(serial(&lab, 0), before);
    nothing_acknowledged_is_lost(&lab, tried, &[0]);
    let status = lab.cli(&["status"]).unwrap();
    assert!(status.contains("incarnation 1") && status.contains("ams and iad burnt down"), "{status}");
    let events = lab.cli(&["events", "--service", "www", "--limit", "5"]).unwrap();
    assert!(events.contains("ams and iad burnt down"), "the log says who and why: {events}");
    left_behind(&mut lab, &old_token);
    for i in [3, 4] {
        lab.add(i).unwrap();
    }
    wait(&lab, "three voters hold one state", Duration::from_secs(30), |lab| {
        [0, 3, 4].iter().all(|i| cluster(lab, *i)["data"]["voters"] == json!([1, 4, 5]))
    });
    lab.put(4, "/v1/zones/example.com/records/after/A", &json!({"ttl": 60, "records": ["192.0.2.9"]}))
        .unwrap();
    far_ahead(serial(&lab, 4), before);
}

/// A lost node that is started against all advice changes nothing for the survivor.
fn left_behind(lab: &mut Lab, old_token: &str) {
    lab.restart(1).unwrap();
    wait(lab, "the lost node listens", Duration::from_secs(20), |lab| lab.lives(1));
    let index = |lab: &Lab| cluster(lab, 0)["generation"]["index"].as_u64();
    for n in 0..20 {
        let path = format!("/v1/zones/example.com/records/left{n}/A");
        lab.put(0, &path, &json!({"ttl": 60, "records": ["192.0.2.8"]})).unwrap();
    }
    until("the survivor goes on", Duration::from_secs(10), || index(lab) > Some(20));
    let state = cluster(lab, 0);
    assert_eq!((&state["data"]["role"], &state["data"]["voters"]), (&json!("leader"), &json!([1])));
    let within = Duration::from_secs(5);
    let left = http::request(lab.nodes[1].at(ADMIN), "GET", "/v1/cluster", Some(old_token), None, within);
    let left = left.unwrap().json().unwrap();
    assert_eq!(left["generation"]["incarnation"], json!(0), "it is no part of the new incarnation: {left}");
    assert_ne!(left["data"]["leader"], json!(2), "alone it leads nothing: {left}");
    lab.kill(1).unwrap();
}
