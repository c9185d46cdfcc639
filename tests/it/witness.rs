//! Two sites and a witness: three votes, two sites that serve.

use crate::{
    load::Askers,
    support::{lab, options, share, wait},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    net::TcpStream,
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    asker::{self, A},
    lab::{DNS, HTTP, Lab, NAME, TCP},
};

const WITHIN: Duration = Duration::from_secs(30);

#[test]
fn two_sites_and_a_witness_outlive_any_one_of_them() {
    let _turn = share();
    let mut options = options();
    options.sites = ["fra", "ams", "wit"].map(String::from).to_vec();
    options.witnesses = vec![2];
    let mut lab = lab(options);
    it_serves_nobody_and_is_shown_as_a_witness(&lab);
    its_death_moves_nothing(&mut lab);
    the_primary_s_death_moves_the_answer(&mut lab);
    without_witness_and_primary_the_last_one_goes_on_and_decides_nothing(&mut lab);
}

fn it_serves_nobody_and_is_shown_as_a_witness(lab: &Lab) {
    for port in [DNS, HTTP, TCP] {
        for (i, listens) in [(1, true), (2, false)] {
            let open = TcpStream::connect_timeout(&lab.nodes[i].at(port), Duration::from_secs(2)).is_ok();
            assert_eq!(open, listens, "port {port} of {}", lab.nodes[i].site);
        }
    }
    let status = lab.cli(&["status"]).unwrap();
    let row = status.lines().find(|l| l.starts_with("3 ")).unwrap_or_else(|| panic!("{status}"));
    assert!(row.contains("wit") && row.contains("voter") && row.contains("witness"), "{status}");
    assert!(!status.contains("PROBLEM") && !status.contains("ALARM"), "{status}");
    let evidence = lab.get(0, "/v1/evidence").unwrap();
    let own = evidence["data"]["own"].as_array().unwrap().clone();
    assert!(own.iter().all(|o| o["node"] != 3), "it says nothing of pools that it does not see: {own:?}");
}

/// Whether a node's reports still count, as `i` has heard.
fn heard(lab: &Lab, i: usize, node: u64) -> bool {
    let members = lab.get(i, "/v1/members").unwrap_or_default();
    let all = members["data"].as_array().cloned().unwrap_or_default();
    all.iter().any(|m| m["id"] == node && !m["report_age_ms"].is_null())
}

fn its_death_moves_nothing(lab: &mut Lab) {
    lab.lead(2).unwrap(); // a witness may lead
    let askers = Askers::of(lab, &[0, 1]);
    lab.kill(2).unwrap();
    wait(lab, "the others do without it", WITHIN, |lab| {
        lab.leader().is_some_and(|leader| leader != 2) && !heard(lab, 0, 3) && !heard(lab, 1, 3)
    });
    let body = json!({"ttl": 60, "records": ["192.0.2.77"]});
    lab.put(1, "/v1/zones/example.com/records/two-of-three/A", &body).unwrap();
    wait(lab, "two sites are no majority to judge the third, and that is said", WITHIN, |lab| {
        let cluster = lab.get(0, "/v1/cluster").unwrap_or_default();
        cluster["data"]["alarms"].to_string().contains("disarmed")
    });
    askers.nothing_moved(lab, 0);
    lab.restart(2).unwrap();
    wait(lab, "it is back", WITHIN, Lab::settled);
}

fn the_primary_s_death_moves_the_answer(lab: &mut Lab) {
    lab.lead(2).unwrap();
    let mut askers = Askers::of(lab, &[1]);
    let (fra, ams) = (lab.nodes[0].ip, lab.nodes[1].ip);
    lab.kill(0).unwrap();
    askers.see(lab, 1, 1);
    assert_eq!(lab.leader(), Some(2), "the witness decided");
    let decision = last_move(lab);
    let votes = &decision["rows"][0]["votes"];
    let sites: BTreeSet<&str> =
        votes.as_array().into_iter().flatten().filter_map(|v| v["site"].as_str()).collect();
    assert_eq!(sites, ["ams", "wit"].into(), "{decision}");
    lab.restart(0).unwrap();
    wait(lab, "fra is back", WITHIN, Lab::settled);
    askers.see(lab, 1, 0);
    assert_eq!(askers.end(lab, 1), [fra, ams, fra]);
}

/// The newest decision that moved the service because a site was seen down.
fn last_move(lab: &Lab) -> Value {
    let decisions = lab.get(1, "/v1/decisions?limit=20").unwrap();
    let all = decisions["data"].as_array().unwrap();
    let down = |d: &&Value| d["rows"][0]["verdict"] == "down";
    all.iter().find(down).unwrap_or_else(|| panic!("{decisions}")).clone()
}

fn without_witness_and_primary_the_last_one_goes_on_and_decides_nothing(lab: &mut Lab) {
    let askers = Askers::of(lab, &[1]);
    lab.kill(2).unwrap();
    lab.kill(0).unwrap();
    wait(lab, "it has noticed that it is alone", WITHIN, |lab| {
        let cluster = lab.get(1, "/v1/cluster").unwrap_or_default();
        cluster["data"]["quorum_age_ms"].as_u64().is_some_and(|ms| ms > 3_000)
    });
    let body = json!({"ttl": 60, "records": ["192.0.2.78"]});
    let refused = lab.request(1, "PUT", "/v1/zones/example.com/records/never/A", Some(&body)).unwrap();
    assert!([503, 504].contains(&refused.status), "{}", refused.status);
    askers.nothing_moved(lab, 0); // to a dead site: one vote of three is no majority
    let back = Instant::now();
    lab.restart(2).unwrap();
    wait(lab, "with the witness there is a majority again", WITHIN, |lab| lab.answered(1) == ["ams"]);
    eprintln!("moved {:?} after the witness was started", back.elapsed());
    let answer = asker::ask(lab.nodes[1].at(DNS), NAME, A, Duration::from_secs(5)).unwrap();
    assert_eq!(answer.addrs, [lab.nodes[1].ip].into());
}
