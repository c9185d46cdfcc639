//! Sites with several nodes have one vote, sites without a node have none and are judged like any other.

use crate::{
    load::{Askers, patient, unmoved},
    support::{address, lab, not_run, options, share, wait},
};
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use zonekeeper_chaos::{
    asker::{self, A, Asker},
    backend::Backend,
    lab::{DNS, HTTP, Lab},
    net::{Net, possible},
};

const WITHIN: Duration = Duration::from_secs(30);

/// A service at a site that has no node, and one at an address in front of both nodes of a site.
fn more(out: SocketAddr, front: SocketAddr) -> String {
    let service = |name: &str, sites: [(&str, String); 2]| {
        let [(first, at), (second, beside)] = sites;
        format!(
            "\n[service.{name}]\nnames = [\"{name}.example.com\"]\nsites = [{first:?}, {second:?}]\n\
             hold_down = \"1s\"\nfailback_after = \"1s\"\ncheck = {{ kind = \"http\", path = \"/\" }}\n\
             endpoint = {{ {first} = {at:?}, {second} = {beside:?} }}\n"
        )
    };
    let ams = || ("ams", format!("{{ams}}:{HTTP}"));
    String::from("\n[site.out]\nvoting = false\n")
        + &service("far", [("out", out.to_string()), ams()])
        + &service("pair", [("fra", front.to_string()), ams()])
}

fn two_of_each_but_one() -> Vec<String> {
    ["fra", "fra", "ams", "ams", "iad"].map(String::from).to_vec()
}

#[test]
fn a_site_of_two_nodes_votes_while_one_lives_and_sites_serve_without_a_node() {
    let _turn = share();
    let [out, front] = [0, 0].map(|_| SocketAddr::new(address(), HTTP));
    let start = |at: SocketAddr| Some(Backend::start(at, "endpoint").unwrap());
    let (mut at_out, mut at_front) = (start(out), start(front));
    let mut options = options();
    (options.sites, options.founders) = (two_of_each_but_one(), 5);
    options.more = more(out, front);
    let mut lab = lab(options);
    let ams = lab.nodes[2].ip;
    answered(&lab, "far.example.com", out.ip());
    answered(&lab, "pair.example.com", front.ip());
    let askers: Vec<Asker> =
        lab.nodes[2..].iter().map(|n| patient(n.at(DNS), "pair.example.com", A)).collect();

    // nobody is at home at `out`, and it is left and used again like any other site
    at_out.take();
    answered(&lab, "far.example.com", ams);
    assert_eq!(votes(&lab, "far"), ["ams", "fra", "iad"]);
    at_out = start(out);
    answered(&lab, "far.example.com", out.ip());

    // one node of fra is enough for its vote
    lab.kill(0).unwrap();
    wait(&lab, "the others have noticed", WITHIN, |lab| (2..5).all(|i| unheard(lab, i, 1)));
    at_out.take();
    answered(&lab, "far.example.com", ams);
    assert_eq!(votes(&lab, "far"), ["ams", "fra", "iad"]);

    // a site whose nodes are all dead may still serve
    lab.kill(1).unwrap();
    wait(&lab, "the others have noticed", WITHIN, |lab| (2..5).all(|i| unheard(lab, i, 2)));
    unmoved(&askers, front.ip());
    at_front.take();
    answered(&lab, "pair.example.com", ams);
    assert_eq!(votes(&lab, "pair"), ["ams", "iad"], "two nodes, one vote");
}

/// Whether node `i` holds no report of a node any more.
fn unheard(lab: &Lab, i: usize, node: u64) -> bool {
    let members = lab.get(i, "/v1/members").unwrap_or_default();
    let all = members["data"].as_array().cloned().unwrap_or_default();
    all.iter().any(|m| m["id"] == node && m["report_age_ms"].is_null())
}

/// Waits until every running node answers exactly this.
#[track_caller]
fn answered(lab: &Lab, name: &str, addr: IpAddr) {
    wait(lab, &format!("{name} is {addr} on every node"), WITHIN, |lab| {
        let asked = |at| asker::ask(at, name, A, Duration::from_millis(300));
        let mut running = lab.nodes.iter().filter(|n| n.runs());
        running.all(|n| asked(n.at(DNS)).is_ok_and(|a| a.addrs == [addr].into()))
    });
}

/// The sites whose votes stand in the newest decision that left a site because it was seen down.
fn votes(lab: &Lab, service: &str) -> Vec<String> {
    let decisions = lab.get(4, &format!("/v1/decisions?service={service}&limit=20")).unwrap();
    let all = decisions["data"].as_array().unwrap();
    let left = all.iter().find(|d| d["rows"][0]["verdict"] == "down");
    let row = &left.unwrap_or_else(|| panic!("{decisions}"))["rows"][0];
    assert!(row["own"].is_null(), "seen by others: {row}");
    let votes = row["votes"].as_array().unwrap().iter();
    votes.filter_map(|v| v["site"].as_str().map(String::from)).collect()
}

#[test]
fn two_nodes_of_one_site_are_no_majority() {
    if let Err(why) = possible() {
        not_run(&why);
        return;
    }
    let _turn = share();
    let net = Arc::new(Net::new(5).unwrap());
    net.inside(|| {
        let mut options = options();
        (options.sites, options.founders) = (two_of_each_but_one(), 5);
        options.net = Some(net.clone());
        let lab = lab(options);
        let askers = Askers::of(&lab, &[0, 1, 2, 3, 4]);
        unreachable_from(&lab, &[2, 3]);
        wait(&lab, "fra is degraded on every node, and that is an alarm", WITHIN, |lab| {
            (0..5).all(|i| {
                let cluster = lab.get(i, "/v1/cluster").unwrap_or_default();
                let alarms = cluster["data"]["alarms"].as_array().cloned().unwrap_or_default();
                let fra = |a: &Value| a.as_str().is_some_and(|a| a.starts_with("service www at fra"));
                alarms.iter().any(fra) && red(lab, i) == [3, 4]
            })
        });
        askers.nothing_moved(&lab, 0);
        unreachable_from(&lab, &[2, 3, 4]);
        answered(&lab, "www.example.com", lab.nodes[2].ip);
        assert_eq!(votes(&lab, "www"), ["ams", "iad"]);
        net.cut(&[]).unwrap();
        answered(&lab, "www.example.com", lab.nodes[0].ip);
    })
    .unwrap();
}

/// The nodes that see fra's endpoint red, as node `i` has heard.
fn red(lab: &Lab, i: usize) -> Vec<u64> {
    let evidence = lab.get(i, "/v1/evidence").unwrap_or_default();
    let targets = evidence["data"]["targets"].as_array().cloned().unwrap_or_default();
    let fra = targets.iter().filter(|t| t["service"] == "www" && t["site"] == "fra");
    let verdicts = fra.flat_map(|t| t["verdicts"].as_array().cloned().unwrap_or_default());
    let mut red: Vec<u64> =
        verdicts.filter(|v| v["colour"] == "red").filter_map(|v| v["from"].as_u64()).collect();
    red.sort_unstable();
    red
}

/// In the hub, in which this test runs: these nodes do not reach the first site's listener any more.
fn unreachable_from(lab: &Lab, nodes: &[usize]) {
    let from: Vec<String> = nodes.iter().map(|i| lab.nodes[*i].ip.to_string()).collect();
    let rules = format!(
        "table inet cut\ndelete table inet cut\ntable inet cut {{\nchain c {{\n\
         type filter hook forward priority 0; policy accept;\n\
         ip saddr {{ {} }} ip daddr {} tcp dport {HTTP} drop\n}}\n}}\n",
        from.join(", "),
        lab.nodes[0].ip
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules).unwrap();
    let done = crate::support::output("nft", &["-f", file.path().to_str().unwrap()]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
