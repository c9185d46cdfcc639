//! Certificates end: a cluster lives through it, a node that was away says how it comes back.

use crate::{
    load::{Askers, Writer, nothing_acknowledged_is_lost},
    support::{exe, lab, options, output, share, wait},
};
use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use zonekeeper_chaos::{
    http,
    lab::{ADMIN, Lab},
};

const WITHIN: Duration = Duration::from_secs(30);
/// Life of the first certificates. They are due after about two thirds of it.
const LIFE: Duration = Duration::from_secs(18);

#[test]
fn a_cluster_outlives_its_first_certificates_and_a_late_node_is_told_the_way_back() {
    let _turn = share();
    let mut options = options();
    options.keys = ["--lifetime".into(), format!("{}s", LIFE.as_secs())].to_vec();
    let mut lab = lab(options);
    let first: Vec<u64> = (0..3).map(|i| expires(&lab, i)).collect();
    let term = |lab: &Lab| lab.get(1, "/v1/cluster").unwrap()["data"]["term"].as_u64();
    let before = term(&lab);
    let askers = Askers::of(&lab, &[0, 1, 2]);
    let writer = Writer::start((0..3).map(|i| lab.nodes[i].at(ADMIN)).collect(), lab.token().to_owned());
    let last = first.iter().max().copied().unwrap();
    wait(&lab, "the first certificates have ended, and some time has passed", WITHIN, |_| now() > last + 2);
    for (i, first) in first.iter().enumerate() {
        assert!(expires(&lab, i) > first + 80 * 86_400, "node {} has a certificate of 90 days", i + 1);
    }
    writer.goes_on(20);
    nothing_acknowledged_is_lost(&lab, writer.finish(), &[0, 1, 2]);
    askers.nothing_moved(&lab, 0);
    assert_eq!(term(&lab), before, "nobody lost the leader");
    let status = lab.cli(&["status"]).unwrap();
    assert!(!status.contains("PROBLEM") && !status.contains("ALARM"), "{status}");

    a_late_node_is_told_the_way_back(&mut lab);
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn metric(lab: &Lab, i: usize, name: &str) -> u64 {
    let text =
        http::request(lab.nodes[i].at(ADMIN), "GET", "/metrics", Some(lab.token()), None, WITHIN).unwrap();
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// When the certificate ends that a node uses.
fn expires(lab: &Lab, i: usize) -> u64 {
    metric(lab, i, "zonekeeper_certificate_expires_timestamp_seconds")
}

/// `zonekeeper keys issue` at the first node, and the files moved to the third.
fn issue(lab: &Lab, lifetime: &str) {
    let (fresh, signer) = (lab.folder().join("fresh"), lab.folder().join("keys/node-1"));
    let text = |p: &Path| p.to_str().unwrap().to_owned();
    let (exe, fresh_, signer) = (text(&exe()), text(&fresh), text(&signer));
    let args = ["keys", "issue", &fresh_, "--ca", &signer, "--node", "3=iad", "--lifetime", lifetime];
    let done = output(&exe, &args);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    for file in std::fs::read_dir(&fresh).unwrap().map(|e| e.unwrap()) {
        std::fs::rename(file.path(), lab.folder().join("keys/node-3").join(file.file_name())).unwrap();
    }
    std::fs::remove_dir(fresh).unwrap();
}

fn a_late_node_is_told_the_way_back(lab: &mut Lab) {
    let askers = Askers::of(lab, &[0, 1]);
    lab.kill(2).unwrap();
    issue(lab, "1s");
    let made = now();
    wait(lab, "it has expired", WITHIN, |_| now() > made + 2);
    let refused = |lab: &Lab| {
        (0..2).map(|i| metric(lab, i, "zonekeeper_peer_refused_total{reason=\"expired\"}")).sum::<u64>()
    };
    let before = refused(lab);
    lab.restart(2).unwrap();
    let told = |text: &str| text.contains("zonekeeper keys issue new-keys") && text.contains("--node 3=iad");
    wait(lab, "it says why it is alone and how it comes back", WITHIN, |lab| {
        let cluster = lab.get(2, "/v1/cluster").unwrap_or_default();
        let problems = cluster["data"]["problems"].as_array().cloned().unwrap_or_default();
        let certificate = problems.iter().find(|p| p["code"] == "certificate");
        certificate.and_then(|p| p["text"].as_str()).is_some_and(told)
    });
    let log = std::fs::read_to_string(lab.log(2)).unwrap();
    assert!(log.lines().any(told), "{log}");
    wait(lab, "the others count it", WITHIN, |lab| refused(lab) > before);
    let log = std::fs::read_to_string(lab.log(0)).unwrap() + &std::fs::read_to_string(lab.log(1)).unwrap();
    assert!(log.contains("certificate has expired"), "and explain it: {log}");

    lab.kill(2).unwrap();
    issue(lab, "90d");
    lab.restart(2).unwrap();
    wait(lab, "it is back", WITHIN, Lab::settled);
    askers.nothing_moved(lab, 0);
    let status = lab.cli(&["status"]).unwrap();
    assert!(!status.contains("PROBLEM"), "{status}");
}
