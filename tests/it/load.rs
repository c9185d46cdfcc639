//! Load while something happens: one client writes, others ask, and both are judged afterwards.

use crate::support::{output, until, wait};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use zonekeeper_chaos::{
    asker::{self, A, Asker, Line},
    http,
    lab::{ADMIN, DNS, Lab, NAME},
};

/// `dnsperf` against a server, in a thread of its own: the questions of a file, so many a second, for so many seconds. One
/// that has no answer after its time is lost.
pub(crate) struct Dnsperf(JoinHandle<String>);

impl Dnsperf {
    pub(crate) fn start(
        server: SocketAddr,
        questions: &Path,
        (clients, rate): (u32, u32),
        (seconds, patience): (u64, u32),
    ) -> Dnsperf {
        let (ip, port) = (server.ip().to_string(), server.port().to_string());
        let (file, time) = (questions.display().to_string(), seconds.to_string());
        let (clients, rate, patience) = (clients.to_string(), rate.to_string(), patience.to_string());
        Dnsperf(std::thread::spawn(move || {
            let args = [
                "-s", &ip, "-p", &port, "-d", &file, "-l", &time, "-c", &clients, "-Q", &rate, "-t",
                &patience,
            ];
            String::from_utf8_lossy(&output("dnsperf", &args).stdout).into_owned()
        }))
    }

    /// Its report, once it has ended: no question was lost, and more than so many were answered.
    #[track_caller]
    pub(crate) fn lost_nothing(self, at_least: u64) -> String {
        let report = self.0.join().unwrap();
        let number = |of: &str| {
            report.lines().find(|l| l.contains(of))?.split_whitespace().nth(2)?.parse::<u64>().ok()
        };
        assert_eq!(number("Queries lost:"), Some(0), "{report}");
        assert!(number("Queries completed:").is_some_and(|n| n > at_least), "{report}");
        report
    }
}

/// Writes records with values of their own, and remembers which were acknowledged.
pub(crate) struct Writer {
    to: Arc<Mutex<Vec<SocketAddr>>>,
    acknowledged: Arc<Mutex<BTreeMap<u32, bool>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Writes to these nodes in turn, until it is finished.
    pub(crate) fn start(to: Vec<SocketAddr>, token: String) -> Writer {
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
                let ok = done.as_ref().is_ok_and(|a| a.status == 200);
                if !ok {
                    let why = done.map(|a| format!("{} {}", a.status, String::from_utf8_lossy(&a.body)));
                    eprintln!("write {n} at {node}: {why:?}");
                }
                acknowledged_.lock().unwrap_or_else(PoisonError::into_inner).insert(n, ok);
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        Writer { to, acknowledged, stop, thread: Some(thread) }
    }

    /// From now on only these nodes are asked to write.
    pub(crate) fn use_nodes(&self, lab: &Lab, nodes: &[usize]) {
        let addrs = nodes.iter().map(|i| lab.nodes[*i].at(ADMIN)).collect();
        *self.to.lock().unwrap_or_else(PoisonError::into_inner) = addrs;
    }

    /// Waits until so many more writes were acknowledged.
    #[track_caller]
    pub(crate) fn goes_on(&self, more: usize) {
        let count = || {
            let all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
            all.values().filter(|ok| **ok).count()
        };
        let wanted = count() + more;
        until(&format!("{more} more writes are acknowledged"), Duration::from_secs(60), || count() >= wanted);
    }

    /// What was tried, and whether it was acknowledged.
    pub(crate) fn finish(mut self) -> BTreeMap<u32, bool> {
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

/// An asker that waits for an answer as long as a resolver does: other tests may take the processors meanwhile.
#[track_caller]
pub(crate) fn patient(server: SocketAddr, name: &str, rtype: u16) -> Asker {
    let line = Line::udp(server, Duration::from_secs(2)).unwrap();
    Asker::begin(line, name, rtype, Duration::from_millis(10)).unwrap()
}

/// Each of these was answered this address and nothing else, all the time.
#[track_caller]
pub(crate) fn unmoved(askers: &[Asker], addr: IpAddr) {
    for asker in askers {
        let changes = asker.changes();
        assert!(!changes.is_empty());
        for seen in changes {
            assert_eq!(seen.answer.map(|a| a.addrs), Some([addr].into()));
        }
    }
}

/// One asker per node that is up, each for a record and for the service.
#[derive(Default)]
pub(crate) struct Askers(BTreeMap<usize, [Asker; 2]>);

impl Askers {
    /// Asks all of these nodes.
    pub(crate) fn of(lab: &Lab, nodes: &[usize]) -> Askers {
        let mut askers = Askers::default();
        nodes.iter().for_each(|i| askers.begin(lab, *i));
        askers
    }

    /// Asks a node from now on.
    pub(crate) fn begin(&mut self, lab: &Lab, i: usize) {
        wait(lab, "the node answers", Duration::from_secs(30), |lab| {
            let at = lab.nodes[i].at(DNS);
            let of = |name: &str| asker::ask(at, name, A, Duration::from_millis(300));
            of("mail.example.com").is_ok_and(|a| a.addrs.len() == 1)
                && of(NAME).is_ok_and(|a| a.addrs.len() == 1)
        });
        let start = |name: &str| patient(lab.nodes[i].at(DNS), name, A);
        self.0.insert(i, [start("mail.example.com"), start(NAME)]);
    }

    /// Waits until the service's newest answer of node `i` is that of `site`.
    #[track_caller]
    pub(crate) fn see(&self, lab: &Lab, i: usize, site: usize) {
        let addrs = [lab.nodes[site].ip].into();
        let newest = || self.0[&i][1].changes().pop().and_then(|seen| seen.answer);
        wait(lab, &format!("node {} answers {addrs:?}", i + 1), Duration::from_secs(30), |_| {
            newest().is_some_and(|a| a.addrs == addrs)
        });
    }

    /// Ends the askers of a node, and judges what they saw: every question answered, nothing wrong. Returns the answers
    /// for the service in the order in which they changed.
    pub(crate) fn end(&mut self, lab: &Lab, i: usize) -> Vec<IpAddr> {
        let Some([mail, www]) = self.0.remove(&i) else { return Vec::new() };
        let site = &lab.nodes[i].site;
        let (asked, lost) = mail.totals();
        assert_eq!(lost + www.totals().1, 0, "{site} left questions unanswered, of {asked}");
        let mail: Vec<_> = mail.changes().into_iter().map(|s| s.answer.unwrap().addrs).collect();
        assert_eq!(mail, [["192.0.2.25".parse().unwrap()].into()], "{site}: one answer, always the same");
        let sites: BTreeSet<_> = lab.nodes.iter().map(|n| n.ip).collect();
        let mut seen = Vec::new();
        for addrs in www.changes().into_iter().map(|s| s.answer.unwrap().addrs) {
            assert!(addrs.len() == 1 && addrs.is_subset(&sites), "{site} answered {addrs:?}");
            seen.extend(addrs);
        }
        seen.dedup(); // a change of the TTL is no move
        seen
    }

    /// Ends all askers; each must have been answered `site`'s address all the time.
    #[track_caller]
    pub(crate) fn nothing_moved(mut self, lab: &Lab, site: usize) {
        for i in self.0.keys().copied().collect::<Vec<_>>() {
            let (name, seen) = (&lab.nodes[i].site, self.end(lab, i));
            let why = || lab.get(i, "/v1/decisions?limit=5").unwrap_or_default();
            assert_eq!(seen, [lab.nodes[site].ip], "{name} answered otherwise for a while: {}", why());
        }
    }
}

/// Every acknowledged write is answered by each of these nodes.
#[track_caller]
pub(crate) fn nothing_acknowledged_is_lost(lab: &Lab, tried: BTreeMap<u32, bool>, nodes: &[usize]) {
    let acknowledged: Vec<u32> = tried.iter().filter(|(_, ok)| **ok).map(|(n, _)| *n).collect();
    eprintln!("{} of {} writes were acknowledged", acknowledged.len(), tried.len());
    assert!(acknowledged.len() >= 50 && acknowledged.len() * 2 > tried.len(), "{tried:?}");
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
