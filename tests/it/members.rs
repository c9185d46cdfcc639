//! Members come and go while one client writes and others ask: nothing acknowledged is lost, nothing is answered wrong.

use crate::support::{lab, options, turn, wait};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use zonekeeper_chaos::{
    asker::{self, A, Asker},
    http,
    lab::{ADMIN, DNS, Lab, NAME, PEER},
};

/// Writes records with values of their own, and remembers which were acknowledged.
struct Writer {
    to: Arc<Mutex<Vec<SocketAddr>>>,
    acknowledged: Arc<Mutex<BTreeMap<u32, bool>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(to: Vec<SocketAddr>, token: String) -> Writer {
        let to = Arc::new(Mutex::new(to));
        let (acknowledged, stop) = <(Arc<Mutex<BTreeMap<u32, bool>>>, Arc<AtomicBool>)>::default();
        let (to_, acknowledged_, stop_) = (to.clone(), acknowledged.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for n in 0u32.. {
                if stop_.load(Relaxed) {
                    return;
                }
                let nodes = to_.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let node = nodes[n as usize % nodes.len()];
                let body = json!({"ttl": 60, "records": [value(n)]});
                let path = format!("/v1/zones/example.com/records/w{n}/A");
                let done =
                    http::request(node, "PUT", &path, Some(&token), Some(&body), Duration::from_secs(20));
                let ok = done.is_ok_and(|a| a.status == 200);
                acknowledged_.lock().unwrap_or_else(PoisonError::into_inner).insert(n, ok);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Writer { to, acknowledged, stop, thread: Some(thread) }
    }

    /// From now on only these nodes are asked to write.
    fn use_nodes(&self, lab: &Lab, nodes: &[usize]) {
        let addrs = nodes.iter().map(|i| lab.nodes[*i].at(ADMIN)).collect();
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
    }

    /// What was tried, and whether it was acknowledged.
    fn finish(mut self) -> BTreeMap<u32, bool> {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
    }
}

fn value(n: u32) -> String {
    format!("198.18.{}.{}", n >> 8 & 255, n & 255)
}

/// One asker per node that is up, each for a record and for the service.
#[derive(Default)]
struct Askers(BTreeMap<usize, [Asker; 2]>);

impl Askers {
    fn begin(&mut self, lab: &Lab, i: usize) {
        wait(lab, "the node answers", Duration::from_secs(30), |lab| {
            let at = lab.nodes[i].at(DNS);
            let of = |name: &str| asker::ask(at, name, A, Duration::from_millis(300));
            of("mail.example.com").is_ok_and(|a| a.addrs.len() == 1)
                && of(NAME).is_ok_and(|a| a.addrs.len() == 1)
        });
        let start =
            |name: &str| Asker::start(lab.nodes[i].at(DNS), name, A, Duration::from_millis(10)).unwrap();
        self.0.insert(i, [start("mail.example.com"), start(NAME)]);
    }

    /// Ends the askers of a node, and judges what they saw.
    fn end(&mut self, lab: &Lab, i: usize) {
        let Some([mail, www]) = self.0.remove(&i) else { return };
        let site = &lab.nodes[i].site;
        let (asked, lost) = mail.totals();
        assert_eq!(lost + www.totals().1, 0, "{site} left questions unanswered, of {asked}");
        let mail: Vec<_> = mail.changes().into_iter().map(|s| s.answer.unwrap().addrs).collect();
        assert_eq!(mail, [["192.0.2.25".parse().unwrap()].into()], "{site}: one answer, always the same");
        let sites: BTreeSet<_> = lab.nodes.iter().map(|n| n.ip).collect();
        for seen in www.changes() {
            let addrs = seen.answer.unwrap().addrs;
            assert!(addrs.len() == 1 && addrs.is_subset(&sites), "{site} answered {addrs:?}");
        }
    }
}

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
    [0, 3, 5].into_iter().for_each(|i| askers.end(&lab, i));
}

fn join_with_a_token(lab: &mut Lab, i: usize) {
    let keys = lab.folder().join(format!("keys/node-{}", lab.nodes[i].id));
    std::fs::remove_dir_all(keys).unwrap();
    let made: Value =
        serde_json::from_str(&lab.cli(&["member", "token", "--for", "5m", "--json"]).unwrap()).unwrap();
    lab.join(i, 0, made["token"].as_str().unwrap()).unwrap();
}

fn nothing_acknowledged_is_lost(lab: &Lab, tried: BTreeMap<u32, bool>, nodes: &[usize]) {
    let acknowledged: Vec<u32> = tried.iter().filter(|(_, ok)| **ok).map(|(n, _)| *n).collect();
    eprintln!("{} of {} writes were acknowledged", acknowledged.len(), tried.len());
    assert!(acknowledged.len() > 50 && acknowledged.len() * 2 > tried.len(), "{tried:?}");
    wait(lab, "all nodes hold the same state", Duration::from_secs(20), |lab| {
        let hashes: BTreeSet<String> = nodes
            .iter()
            .map(|i| lab.get(*i, "/v1/cluster").unwrap_or_default()["data"]["hash"].to_string())
            .collect();
        hashes.len() == 1
    });
    for &i in nodes {
        for n in &acknowledged {
            let name = format!("w{n}.example.com");
            let answer = asker::ask(lab.nodes[i].at(DNS), &name, A, Duration::from_secs(5)).unwrap();
            let wanted = value(*n).parse().unwrap();
            assert_eq!(
                answer.addrs,
                [wanted].into(),
                "{name} on {}: an acknowledged write",
                lab.nodes[i].site
            );
        }
    }
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
    // a start as a new node claims the directory, but the cluster does not take the old id for a new one
    let again = json!({"id": 2, "site": "ams", "peer": lab.nodes[1].at(PEER).to_string()});
    lab.cli(&["member", "remove", "2", "--yes"]).unwrap();
    let refused = lab.request(0, "POST", "/v1/members", Some(&again)).unwrap();
    let text = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(refused.status == 422 && text.contains("take a new one"), "{} {text}", refused.status);
}
