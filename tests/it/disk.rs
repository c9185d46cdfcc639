//! A node's whole disk is full: it stops writing and says so, answers on, and comes back when there is room again.

use crate::{
    load::{Askers, Writer, nothing_acknowledged_is_lost},
    support::{not_run, options, share, wait},
};
use serde_json::json;
use std::{
    fs,
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    asker::{self, A},
    http,
    lab::{ADMIN, DNS, HTTP, Lab},
    net::possible,
};

const WITHIN: Duration = Duration::from_secs(30);

#[test]
fn a_full_disk_stops_a_node_from_writing_and_nothing_else() {
    if let Err(why) = possible() {
        not_run(&why); // mounts need root too
        return;
    }
    let _turn = share();
    let mut lab = Lab::empty(options()).unwrap();
    lab.prepare().unwrap();
    lab.small_disk(2, 32).unwrap();
    lab.found(&mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    // as a follower, then as the leader
    for leads in [0, 2] {
        lab.lead(leads).unwrap();
        fill_and_free(&mut lab, leads == 2);
    }
}

fn fill_and_free(lab: &mut Lab, leads: bool) {
    let askers = Askers::of(lab, &[0, 1, 2]);
    let writer = Writer::start(vec![lab.nodes[0].at(ADMIN), lab.nodes[1].at(ADMIN)], lab.token().to_owned());
    writer.goes_on(20);
    let filler = fill(lab);
    let full = Instant::now();
    let large: Vec<String> = (0..100).map(|n| format!("\"{n:0250}\"")).collect();
    let large = json!({"ttl": 60, "records": large});
    wait(lab, "it notices and says what to do", WITHIN, |lab| {
        // what sled has reserved is used up soon
        let _ = lab.request(0, "PUT", "/v1/zones/example.com/records/large/TXT", Some(&large));
        let cluster = lab.get(2, "/v1/cluster").unwrap_or_default();
        let problems = cluster["data"]["problems"].as_array().cloned().unwrap_or_default();
        let store = problems.iter().filter(|p| p["code"] == "store");
        let told = |text: &str| text.contains("No space left") && text.contains("restart");
        store.filter_map(|p| p["text"].as_str()).any(told)
    });
    let log = fs::read_to_string(lab.log(2)).unwrap();
    assert!(log.contains("No space left on device") && log.contains("restart"), "{log}");
    assert!(metric(lab, "zonekeeper_raft_stopped") == "1");
    wait(lab, "another one leads", WITHIN, |lab| lab.leader().is_some_and(|i| i != 2));
    writer.goes_on(20);
    eprintln!("the others write on {:?} after the disk was full", full.elapsed());

    // it answers what it knew, and proxies
    let one = json!({"ttl": 60, "records": ["192.0.2.41"]});
    let name = format!("unseen-{leads}");
    lab.put(0, &format!("/v1/zones/example.com/records/{name}/A"), &one).unwrap();
    let fqdn = format!("{name}.example.com");
    let ask = |lab: &Lab| asker::ask(lab.nodes[2].at(DNS), &fqdn, A, Duration::from_secs(1));
    assert_eq!(ask(lab).unwrap().rcode, 3, "it does not know what was written since");
    let served = http::get(lab.nodes[2].at(HTTP), "/", Duration::from_secs(5)).unwrap();
    assert_eq!(served.status, 200);
    assert!(lab.ready(2), "it is worth asking");
    let mut askers = askers;
    assert_eq!(askers.end(lab, 2), [lab.nodes[0].ip]);

    // started without room it would leave data behind that does not open
    lab.kill(2).unwrap();
    for _ in 0..2 {
        let said = lab.refused(2, &[]).unwrap();
        assert!(said.contains("Free space, then start it again"), "{said}");
    }
    fs::remove_file(filler).unwrap();
    lab.restart(2).unwrap();
    wait(lab, "it has caught up", WITHIN, |lab| ask(lab).is_ok_and(|a| a.addrs.len() == 1));
    nothing_acknowledged_is_lost(lab, writer.finish(), &[0, 1, 2]);
    askers.nothing_moved(lab, 0);
    wait(lab, "everything is as before", WITHIN, Lab::settled);
}

/// Takes the last byte of the node's disk.
fn fill(lab: &Lab) -> PathBuf {
    let path = lab.data(2).join("filler");
    let mut file = fs::File::create(&path).unwrap();
    let block = vec![1; 4096];
    let full = loop {
        if let Err(error) = file.write_all(&block) {
            break error;
        }
    };
    assert_eq!(full.raw_os_error(), Some(28), "{full}");
    path
}

fn metric(lab: &Lab, name: &str) -> String {
    let text =
        http::request(lab.nodes[2].at(ADMIN), "GET", "/metrics", Some(lab.token()), None, WITHIN).unwrap();
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}
