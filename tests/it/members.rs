//! Members come and go while one client writes and others ask: nothing acknowledged is lost, nothing is answered wrong.

use crate::{
    load::{Askers, Writer, nothing_acknowledged_is_lost},
    support::{lab, options, turn, wait},
};
use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use zonekeeper_chaos::lab::{ADMIN, Lab, PEER};

fn voters(lab: &Lab, i: usize) -> BTreeSet<u64> {
    let cluster = lab.get(i, "/v1/cluster").unwrap_or_default();
    cluster["data"]["voters"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect()
}

#[track_caller]
fn votes(lab: &Lab, wanted: &[u64]) {
    let wanted: BTreeSet<u64> = wanted.iter().copied().collect();
    wait(lab, &format!("the voters are {wanted:?}"), Duration::from_secs(30), |lab| {
        let up = |i: &usize| lab.nodes[*i].runs() && wanted.contains(&lab.nodes[*i].id);
        (0..lab.nodes.len()).filter(up).all(|i| voters(lab, i) == wanted)
    });
    std::thread::sleep(Duration::from_millis(500)); // the clients see this cluster for a while
}

#[test]
fn a_cluster_grows_replaces_hands_over_and_shrinks_under_load() {
    let _turn = turn();
    let mut options = options();
    // the sixth node stands at the third site and takes the third node's place
    options.sites = ["fra", "ams", "iad", "sin", "gru", "iad"].map(String::from).to_vec();
    options.founders = 1;
    options.backends = 1;
    let mut lab = lab(options);
    let writer = Writer::start(vec![lab.nodes[0].at(ADMIN)], lab.token().to_owned());
    let mut askers = Askers::default();
    askers.begin(&lab, 0);

    // 1 → 3: with the keys that `keys new` made; the third one by the command line
    lab.add(1).unwrap();
    askers.begin(&lab, 1);
    lab.spawn(2, &["--new"]).unwrap();
    wait(&lab, "the third node listens", Duration::from_secs(20), |lab| lab.lives(2));
    let peer = lab.nodes[2].at(PEER).to_string();
    lab.cli(&["member", "add", "3", "--site", "iad", "--peer", &peer]).unwrap();
    lab.cli(&["member", "promote", "3"]).unwrap();
    askers.begin(&lab, 2);
    votes(&lab, &[1, 2, 3]);
    writer.use_nodes(&lab, &[0, 1, 2]);

    // 3 → 5: one by token, with no keys of its own
    lab.add(3).unwrap();
    askers.begin(&lab, 3);
    join_with_a_token(&mut lab, 4);
    askers.begin(&lab, 4);
    votes(&lab, &[1, 2, 3, 4, 5]);

    // a dead node is replaced, its id is not used again
    writer.use_nodes(&lab, &[0, 1, 3, 4]);
    std::thread::sleep(Duration::from_millis(300)); // a write on its way to the node that dies comes back
    askers.end(&lab, 2);
    lab.kill(2).unwrap();
    lab.cli(&["member", "remove", "3", "--yes"]).unwrap();
    join_with_a_token(&mut lab, 5);
    askers.begin(&lab, 5);
    votes(&lab, &[1, 2, 4, 5, 6]);
    let again = json!({"id": 3, "site": "iad", "peer": lab.nodes[2].at(PEER).to_string()});
    let refused = lab.request(0, "POST", "/v1/members", Some(&again)).unwrap();
    assert_eq!(refused.status, 422, "an id is never used again: {}", String::from_utf8_lossy(&refused.body));

    // leadership is handed over, to the newest and back
    for i in [5, 0, 1] {
        lab.lead(i).unwrap();
    }

    // 5 → 3: a demoted follower, and the leader itself
    lab.cli(&["member", "demote", "5"]).unwrap();
    votes(&lab, &[1, 2, 4, 6]);
    writer.use_nodes(&lab, &[0, 3, 5]);
    std::thread::sleep(Duration::from_millis(300));
    for (i, id) in [(4, "5"), (1, "2")] {
        askers.end(&lab, i);
        lab.cli(&["member", "remove", id, "--yes"]).unwrap();
        lab.kill(i).unwrap();
    }
    votes(&lab, &[1, 4, 6]);
    nothing_acknowledged_is_lost(&lab, writer.finish(), &[0, 3, 5]);
    for i in [0, 3, 5] {
        askers.end(&lab, i);
    }
}

fn join_with_a_token(lab: &mut Lab, i: usize) {
    let keys = lab.folder().join(format!("keys/node-{}", lab.nodes[i].id));
    std::fs::remove_dir_all(keys).unwrap();
    let made: Value =
        serde_json::from_str(&lab.cli(&["member", "token", "--for", "5m", "--json"]).unwrap()).unwrap();
    lab.join(i, 0, made["token"].as_str().unwrap()).unwrap();
}

#[test]
fn a_wiped_disk_under_a_known_id_is_refused_with_the_remedy() {
    let _turn = turn();
    let mut lab = lab(options());
    lab.kill(1).unwrap();
    std::fs::remove_dir_all(lab.data(1)).unwrap();
    let said = lab.refused(1, &[]).unwrap();
    for part in ["member remove 2", "data-2"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    // the operator's word that it is new does not help: the leader knows better, now and at a later start
    for more in [&["--new"][..], &[]] {
        let said = lab.refused(1, more).unwrap();
        assert!(
            said.contains("a voter of the cluster") && said.contains("member remove 2"),
            "{more:?}: {said}"
        );
    }
    lab.put(0, "/v1/zones/example.com/records/after/A", &json!({"ttl": 60, "records": ["198.18.0.9"]}))
        .unwrap();
    // nor does the cluster take the old id for a new one
    let again = json!({"id": 2, "site": "ams", "peer": lab.nodes[1].at(PEER).to_string()});
    lab.cli(&["member", "remove", "2", "--yes"]).unwrap();
    let refused = lab.request(0, "POST", "/v1/members", Some(&again)).unwrap();
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(refused.status == 422 && text.contains("take a new one"), "{} {text}", refused.status);
}

/// The operator repeats the line that founded the cluster. Raft of the others must not take the empty node for one of theirs.
#[test]
fn a_wiped_founder_that_bootstraps_again_is_a_cluster_of_its_own() {
    let _turn = turn();
    let mut lab = lab(options());
    lab.kill(0).unwrap();
    std::fs::remove_dir_all(lab.data(0)).unwrap();
    lab.spawn(0, &["--bootstrap"]).unwrap();
    let token = lab.data(0).join("admin.token");
    wait(&lab, "it founds a cluster", Duration::from_secs(30), |lab| token.exists() && lab.ready(0));
    let put = |lab: &Lab, name: &str| {
        let path = format!("/v1/zones/example.com/records/{name}/A");
        lab.put(1, &path, &json!({"ttl": 60, "records": ["198.18.0.9"]}))
    };
    for name in ["one", "two", "three"] {
        put(&lab, name).unwrap();
        std::thread::sleep(Duration::from_secs(1)); // the others call it again and again
    }
    for i in [1, 2] {
        let cluster = lab.get(i, "/v1/cluster").unwrap();
        assert_eq!(cluster["data"]["voters"], json!([1, 2, 3]), "the others are who they were");
        assert_ne!(cluster["data"]["role"], "stopped", "{cluster}");
    }
    let secret = std::fs::read_to_string(token).unwrap();
    let own = zonekeeper_chaos::http::request(
        lab.nodes[0].at(zonekeeper_chaos::lab::ADMIN),
        "GET",
        "/v1/cluster",
        Some(secret.trim()),
        None,
        Duration::from_secs(5),
    );
    let own = own.unwrap().json().unwrap();
    assert_eq!(own["data"]["voters"], json!([1]), "it is alone");
    assert_eq!(own["data"]["role"], "leader");
}
