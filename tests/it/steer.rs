//! Operators' hands, and the rules that hold without them, as seen from DNS, the proxy and the API.

use crate::{
    ask::{TOOLS, addresses},
    support::{lab, options, tools, turn, wait},
};
use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    asker::{self, Asker},
    http,
    lab::{BACKEND, DNS, HTTP, Lab, NAME, TCP},
};

/// Longer than a hold-down of [`the_rules_hold_back_and_let_go`].
const WITHIN: Duration = Duration::from_secs(40);

/// Services beside `www`: one that goes back by hand only, and one that answers all sites and keeps two.
const MORE: &str = "
[service.man]
names = [\"man.example.com\"]
sites = [\"fra\", \"ams\", \"iad\"]
pool = \"web\"
hold_down = \"1s\"
failback = \"manual\"
endpoint = { fra = \"{fra}:8080\", ams = \"{ams}:8080\", iad = \"{iad}:8080\" }

[service.all]
names = [\"all.example.com\"]
policy = \"all\"
min_answers = 2
pool = \"web\"
hold_down = \"1s\"
failback_after = \"1s\"
endpoint = { fra = \"{fra}:8080\", ams = \"{ams}:8080\", iad = \"{iad}:8080\" }
";

fn ip(lab: &Lab, site: &str) -> String {
    lab.nodes.iter().find(|n| n.site == site).unwrap().ip.to_string()
}

/// What our own asker reads on node `i`, as addresses.
fn read(lab: &Lab, i: usize, name: &str) -> BTreeSet<String> {
    let answer = asker::ask(lab.nodes[i].at(DNS), name, asker::A, Duration::from_secs(2));
    answer.map(|a| a.addrs.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// Waits until every node answers these sites for `name`; then all tools must agree.
#[track_caller]
fn answers(lab: &Lab, name: &str, sites: &[&str]) {
    let wanted: BTreeSet<String> = sites.iter().map(|s| ip(lab, s)).collect();
    wait(lab, &format!("every node answers {sites:?} for {name}"), WITHIN, |lab| {
        (0..lab.nodes.len()).all(|i| read(lab, i, name) == wanted)
    });
    for node in &lab.nodes {
        assert_eq!(addresses(node.at(DNS), name), wanted, "{name} on {}", node.site);
    }
}

/// Like [`answers`], and a user's request is served there.
#[track_caller]
fn served(lab: &Lab, site: &str) {
    answers(lab, NAME, &[site]);
    let to = SocketAddr::new(ip(lab, site).parse().unwrap(), HTTP);
    let answer = http::get(to, "/", Duration::from_secs(5)).unwrap();
    let body = String::from_utf8_lossy(&answer.body).into_owned();
    assert!(answer.status == 200 && body.starts_with(&format!("{site} backend")), "{} {body}", answer.status);
    let index = lab.nodes.iter().position(|n| n.site == site).unwrap();
    assert_eq!(lab.answered(index), [site], "the API says what DNS says");
}

/// What the API says of a service at a site.
fn seen(lab: &Lab, service: &str, site: &str) -> serde_json::Value {
    let service = lab.get(0, &format!("/v1/services/{service}")).unwrap();
    let sites = service["data"]["lanes"][0]["sites"].as_array().unwrap().clone();
    sites.into_iter().find(|s| s["site"] == site).unwrap()
}

#[track_caller]
fn cli(lab: &Lab, line: &str) -> String {
    let args: Vec<&str> = line.split(' ').collect();
    lab.cli(&args).unwrap_or_else(|e| panic!("{line}: {e}"))
}

#[test]
fn an_operator_drains_forces_moves_and_releases() {
    if !tools(&TOOLS) {
        return;
    }
    let _turn = turn();
    let lab = lab(options());
    served(&lab, "fra");

    cli(&lab, "site drain fra --reason power-work");
    served(&lab, "ams");
    let fra = seen(&lab, "www", "fra");
    assert_ne!(fra["observed"], "down", "what is observed stays apart: {fra}");
    assert_eq!(fra["class"], "drained", "{fra}");
    assert_eq!((&fra["forced"]["author"], &fra["forced"]["reason"]), (&"admin".into(), &"power-work".into()));
    let why = cli(&lab, "service show www");
    assert!(why.contains("drained by an operator"), "{why}");
    let why = cli(&lab, "explain www.example.com");
    assert!(why.contains(&ip(&lab, "ams")) && why.contains("service www stands at this name"), "{why}");
    cli(&lab, "site release fra");
    served(&lab, "fra");

    cli(&lab, "site force-down fra --reason wrong-data");
    served(&lab, "ams");
    assert_eq!(seen(&lab, "www", "fra")["class"], "forced down");
    // a word on the service at a site counts before one on the whole site
    cli(&lab, "service force-up www fra --reason only-www-is-right");
    served(&lab, "fra");
    cli(&lab, "service release www fra");
    served(&lab, "ams");
    cli(&lab, "site release fra");
    served(&lab, "fra");

    cli(&lab, "service move www iad");
    served(&lab, "iad");
    std::thread::sleep(Duration::from_secs(3)); // longer than failback_after: whoever would go back does so now
    served(&lab, "iad");
    let note = seen(&lab, "www", "fra")["notes"].to_string();
    assert!(note.contains("an operator moved the service to iad"), "{note}");
    cli(&lab, "service failback www");
    served(&lab, "fra");
    cli(&lab, "service failover www");
    served(&lab, "ams");
    cli(&lab, "service failback www");
    served(&lab, "fra");
    an_override_ends_by_itself(&lab);
    nobody_can_force_everything_down(&lab);
    a_drained_backend_gets_nothing(&lab);
}

fn an_override_ends_by_itself(lab: &Lab) {
    let begun = Instant::now();
    cli(lab, "site drain fra --reason short --for 12s");
    served(lab, "ams");
    let back = ip(lab, "fra");
    wait(lab, "the override expires", Duration::from_secs(40), |lab| read(lab, 0, NAME).contains(&back));
    let after = begun.elapsed();
    // counted in log time, which a follower knows to a few heartbeats
    assert!(after >= Duration::from_millis(11_500), "the override ended after {after:?}");
    served(lab, "fra");
    assert_eq!(lab.get(0, "/v1/overrides").unwrap()["data"], serde_json::json!([]));
}

fn nobody_can_force_everything_down(lab: &Lab) {
    cli(lab, "site force-down ams --reason x");
    cli(lab, "site force-down iad --reason x");
    let refused = lab.cli(&["site", "force-down", "fra", "--reason", "x"]).unwrap_err().to_string();
    assert!(refused.contains("release one first"), "{refused}");
    served(lab, "fra");
    cli(lab, "site release ams");
    cli(lab, "site release iad");
}

/// Who answers at a listener of `fra`, of 40 requests.
fn who(lab: &Lab, port: u16) -> BTreeSet<String> {
    let to = lab.nodes[0].at(port);
    let one = |_| {
        http::get(to, "/", Duration::from_secs(5)).map(|a| String::from_utf8_lossy(&a.body).trim().to_owned())
    };
    (0..40).filter_map(|i| one(i).ok()).collect()
}

fn a_drained_backend_gets_nothing(lab: &Lab) {
    let both: BTreeSet<String> = ["fra backend 1", "fra backend 2"].map(String::from).into();
    for port in [HTTP, TCP] {
        assert_eq!(who(lab, port), both, "port {port}");
    }
    let first = lab.nodes[0].at(BACKEND);
    cli(lab, &format!("backend drain web {first} --reason new-kernel"));
    wait(lab, "the drained backend gets no new requests", WITHIN, |lab| {
        [HTTP, TCP].iter().all(|p| who(lab, *p) == BTreeSet::from(["fra backend 2".to_owned()]))
    });
    cli(lab, &format!("backend release web {first}"));
    wait(lab, "the released backend gets requests again", WITHIN, |lab| who(lab, HTTP) == both);
}

#[test]
fn the_rules_hold_back_and_let_go() {
    if !tools(&TOOLS) {
        return;
    }
    let _turn = turn();
    let mut options = options();
    options.more = MORE.into();
    options.service = "hold_down = \"15s\"\nhold_down_max = \"15s\"\nfailback_after = \"2s\"\n".into();
    let mut lab = lab(options);
    for (name, sites) in [("man.example.com", &["fra"][..]), ("all.example.com", &["fra", "ams", "iad"])] {
        answers(&lab, name, sites);
    }
    nothing_moves_without_automation(&mut lab);
    nothing_goes_back_too_early(&mut lab);
    automation_keeps_as_many_answers_as_it_must(&mut lab);
}

fn stop_backends(lab: &mut Lab, site: usize) {
    lab.backends[site].iter_mut().for_each(|b| *b = None);
}

fn revive_backends(lab: &mut Lab, site: usize) {
    (0..2).for_each(|i| lab.revive_backend(site, i).unwrap());
}

fn nothing_moves_without_automation(lab: &mut Lab) {
    cli(lab, "automation off");
    stop_backends(lab, 0);
    wait(lab, "fra is seen down", WITHIN, |lab| seen(lab, "www", "fra")["observed"] == "down");
    std::thread::sleep(Duration::from_secs(2)); // whoever would move does so now
    answers(lab, NAME, &["fra"]);
    let notes = seen(lab, "www", "fra")["notes"].to_string();
    assert!(notes.contains("down, but automation is off"), "{notes}");
}

fn nothing_goes_back_too_early(lab: &mut Lab) {
    revive_backends(lab, 0);
    wait(lab, "fra is seen up", WITHIN, |lab| seen(lab, "www", "fra")["observed"] == "up");
    cli(lab, "automation on");
    answers(lab, NAME, &["fra"]); // in use and up again: it stays, hold-down or not
    let asker = Asker::start(lab.nodes[1].at(DNS), NAME, asker::A, Duration::from_millis(5)).unwrap();
    let (fra, ams) = (lab.nodes[0].ip, lab.nodes[1].ip);
    let failed = Instant::now();
    stop_backends(lab, 0);
    let moved = asker.wait(&BTreeSet::from([ams]), failed, WITHIN).expect("a site without backends is left");
    revive_backends(lab, 0);
    wait(lab, "the API says why fra is not used", WITHIN, |lab| {
        // it was down a while ago too, when automation was off
        seen(lab, "www", "fra")["notes"].to_string().contains("quarantine after 2 failures")
    });
    let why = cli(lab, "service show www");
    assert!(why.contains("quarantine after 2 failures"), "{why}");
    let back = asker
        .wait(&BTreeSet::from([fra]), moved + Duration::from_millis(1), Duration::from_secs(60))
        .expect("it goes back");
    let held = back - failed;
    assert!(held >= Duration::from_secs(15), "it went back after {held:?}, in spite of a hold-down of 15 s");
    served(lab, "fra");
    // what goes back by hand only is still where it went
    answers(lab, "man.example.com", &["ams"]);
    let notes = seen(lab, "man", "fra")["notes"].to_string();
    assert!(notes.contains("failback is manual"), "{notes}");
    cli(lab, "service failback man");
    answers(lab, "man.example.com", &["fra"]);
    answers(lab, "all.example.com", &["fra", "ams", "iad"]);
}

fn automation_keeps_as_many_answers_as_it_must(lab: &mut Lab) {
    stop_backends(lab, 0);
    answers(lab, "all.example.com", &["ams", "iad"]);
    stop_backends(lab, 1);
    served(lab, "iad");
    answers(lab, "all.example.com", &["ams", "iad"]);
    let notes = seen(lab, "all", "ams")["notes"].to_string();
    assert!(notes.contains("kept by the safety limit of 2"), "{notes}");
    stop_backends(lab, 2); // nothing is usable: fail open
    wait(lab, "iad is seen down", WITHIN, |lab| seen(lab, "www", "iad")["observed"] == "down");
    answers(lab, NAME, &["iad"]);
    assert_eq!(lab.get(0, "/v1/services/www").unwrap()["data"]["lanes"][0]["basis"], "last-set");
    (0..3).for_each(|site| revive_backends(lab, site));
    served(lab, "fra");
}
