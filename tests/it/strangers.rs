//! Whoever does not belong is refused, counted and explained: other clusters, strangers, wrong keys.

use crate::support::{lab, options, output, share, tools, wait};
use serde_json::json;
use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};
use zonekeeper_chaos::{
    http,
    lab::{ADMIN, Lab, Options, PEER},
};

const WITHIN: Duration = Duration::from_secs(30);

/// The smallest cluster.
fn alone() -> Options {
    let mut options = options();
    (options.sites, options.founders, options.backends) = (vec!["fra".into()], 1, 1);
    options
}

fn refused(lab: &Lab, reason: &str) -> u64 {
    let text =
        http::request(lab.nodes[0].at(ADMIN), "GET", "/metrics", Some(lab.token()), None, WITHIN).unwrap();
    let text = String::from_utf8_lossy(&text.body).into_owned();
    let line = format!("zonekeeper_peer_refused_total{{reason=\"{reason}\"}} ");
    let count = text.lines().find_map(|l| l.strip_prefix(&line));
    count.unwrap_or_else(|| panic!("no {line} in {text}")).parse().unwrap()
}

/// Waits until a reason was counted, and explained in the log.
#[track_caller]
fn explained(lab: &Lab, reason: &str, words: &str) {
    wait(lab, &format!("{reason} is counted"), WITHIN, |lab| refused(lab, reason) > 0);
    wait(lab, &format!("{reason} is explained by {words:?}"), WITHIN, |lab| {
        fs::read_to_string(lab.log(0)).is_ok_and(|log| log.lines().any(|l| l.contains(words)))
    });
}

/// Not even on loopback, unless the node file opens them.
fn no_token_no_metrics(lab: &Lab) {
    let answer = http::request(lab.nodes[0].at(ADMIN), "GET", "/metrics", None, None, WITHIN).unwrap();
    assert_eq!(answer.status, 401);
}

#[test]
fn other_clusters_strangers_and_wrong_keys_are_refused_counted_and_explained() {
    if !tools(&["openssl"]) {
        return;
    }
    let _turn = share();
    let (mut ours, theirs) = (lab(alone()), lab(alone()));
    let before = ours.get(0, "/v1/cluster").unwrap()["data"]["hash"].clone();
    we_call_another_cluster(&ours, &theirs);
    no_token_no_metrics(&ours);
    not_a_peer_calls(&ours);
    another_cluster_calls(&ours, &theirs);
    a_stranger_calls(&ours);
    let cluster = ours.get(0, "/v1/cluster").unwrap();
    assert_eq!(cluster["data"]["hash"], before, "nothing of this has changed the state");
    assert!(ours.settled());
    wrong_keys_stop_a_node_at_the_start(&mut ours, &theirs);
}

/// An operator gives an address in another cluster for a new member's.
fn we_call_another_cluster(ours: &Lab, theirs: &Lab) {
    let new = json!({"id": 7, "site": "ams", "peer": ours.nodes[0].at(PEER).to_string()});
    let (admin, token) = (theirs.nodes[0].at(ADMIN), theirs.token());
    std::thread::scope(|scope| {
        // it waits for the member, much longer than we do
        scope.spawn(|| {
            http::request(admin, "POST", "/v1/members", Some(token), Some(&new), Duration::from_secs(1))
        });
        explained(theirs, "wrong_cluster", "node of another cluster; check the addresses of the peers");
    });
}

fn not_a_peer_calls(ours: &Lab) {
    let mut stream = TcpStream::connect(ours.nodes[0].at(PEER)).unwrap();
    stream.set_read_timeout(Some(WITHIN)).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: here\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() < 64, "a TLS alert at most: {answer:?}");
    explained(ours, "garbage", "check that a node of this program is at the address");
}

/// Calls like a peer, with this certificate, and trusts whoever answers.
fn call(ours: &Lab, cert: &str, key: &str) {
    let at = ours.nodes[0].at(PEER).to_string();
    let args = ["s_client", "-connect", &at, "-alpn", "zonekeeper-peer/1", "-cert", cert, "-key", key];
    let _ = output("openssl", &args);
}

fn another_cluster_calls(ours: &Lab, theirs: &Lab) {
    let file = |name: &str| theirs.folder().join("keys/node-1").join(name).to_str().unwrap().to_owned();
    call(ours, &file("node.pem"), &file("node.key"));
    explained(ours, "wrong_cluster", "node of another cluster; check the addresses of the peers");
}

fn a_stranger_calls(ours: &Lab) {
    let file = |name: &str| ours.folder().join(name).to_str().unwrap().to_owned();
    let (cert, key) = (file("stranger.pem"), file("stranger.key"));
    let new = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    let of = ["-keyout", &key, "-out", &cert, "-days", "1", "-subj", "/CN=stranger"];
    let made = output("openssl", &[&new[..], &of[..]].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    call(ours, &cert, &key);
    explained(ours, "stranger", "certificate is not from a CA of the cluster");
}

fn wrong_keys_stop_a_node_at_the_start(ours: &mut Lab, theirs: &Lab) {
    ours.stop(0).unwrap();
    let keys = ours.folder().join("keys/node-1");
    let own = ours.folder().join("own-keys");
    fs::rename(&keys, &own).unwrap();
    fs::create_dir(&keys).unwrap();
    for file in fs::read_dir(theirs.folder().join("keys/node-1")).unwrap().map(|e| e.unwrap()) {
        fs::copy(file.path(), keys.join(file.file_name())).unwrap();
    }
    let said = ours.refused(0, &[]).unwrap();
    for part in ["holds the data of node 1 of cluster", "point the node at its own data directory"] {
        assert!(said.contains(part), "{part:?} is not in: {said}");
    }
    fs::remove_dir_all(&keys).unwrap();
    fs::rename(&own, &keys).unwrap();
    ours.restart(0).unwrap();
    wait(ours, "with its own keys it is back", WITHIN, Lab::settled);
}
