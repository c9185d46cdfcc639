//! Sites with several nodes have one vote, sites without a node have none and are judged like any other.

use crate::{
    load::Askers,
    support::{address, lab, not_run, options, share, wait},
};
use serde_json::Value;
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use zonekeeper_chaos::{
    asker::{self, A},
    backend::Backend,
    http,
    lab::{DNS, HTTP, Lab},
    net::{Net, possible},
};

const WITHIN: Duration = Duration::from_secs(30);

/// A service at a site that has no node, and at one that has.
fn far(out: SocketAddr) -> String {
    format!(
        "\n[site.out]\nvoting = false\n\n[service.far]\nnames = [\"far.example.com\"]\nsites = [\"out\", \"ams\"]\n\
         hold_down = \"1s\"\nfailback_after = \"1s\"\ncheck = {{ kind = \"http\", path = \"/\" }}\n\
         endpoint = {{ out = \"{out}\", ams = \"{{ams}}:{HTTP}\" }}\n"
    )
}

fn two_of_each_but_one() -> Vec<String> {
    ["fra", "fra", "ams", "ams", "iad"].map(String::from).to_vec()
}

#[test]
fn a_site_of_two_nodes_outlives_one_and_a_site_without_a_node_fails_over() {
    let _turn = share();
    let out = SocketAddr::new(address(), HTTP);
    let mut endpoint = Some(Backend::start(out, "out").unwrap());
    let mut options = options();
    (options.sites, options.founders) = (two_of_each_but_one(), 5);
    options.more = far(out);
    let mut lab = lab(options);

    answered(&lab, "far.example.com", out.ip());
    let askers = Askers::of(&lab, &[0, 1, 2, 3, 4]);
    endpoint.take();
    answered(&lab, "far.example.com", lab.nodes[2].ip);
    assert_eq!(
        votes(&lab, "far"),
        ["ams", "fra", "iad"],
        "it has no vote on itself, and the others one each"
    );
    endpoint.replace(Backend::start(out, "out").unwrap());
    answered(&lab, "far.example.com", out.ip());
    askers.nothing_moved(&lab, 0);

    // both nodes of fra listen at its address: one is enough
    let askers = Askers::of(&lab, &[1, 2, 3, 4]);
    lab.kill(0).unwrap();
    wait(&lab, "the others have noticed, and the site is up", WITHIN, |lab| {
        let leads = lab.leader().is_some_and(|i| i != 0);
        leads && (2..5).all(|i| unheard(lab, i, 1)) && lab.settled()
    });
    let served = http::get(SocketAddr::new(lab.nodes[0].ip, HTTP), "/", Duration::from_secs(5)).unwrap();
    assert!(served.status == 200 && served.body.starts_with(b"fra backend"), "by its other node");
    askers.nothing_moved(&lab, 0);

    lab.kill(1).unwrap();
    answered(&lab, "www.example.com", lab.nodes[2].ip);
    assert_eq!(votes(&lab, "www"), ["ams", "iad"], "two nodes, one vote");
    lab.restart(1).unwrap();
    answered(&lab, "www.example.com", lab.nodes[0].ip); // by its second node alone
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
