//! A restart into a new binary under load: not one refused connection, failed request or lost answer; alone, and as a node
//! of a cluster.

use crate::{
    load::Dnsperf,
    proxy::{nothing_failed, wrk},
    serve::certificate,
    support::{Process, address, exe, lab, options, output, tools, turn, until, wait},
};
use serde_json::json;
use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{IpAddr, SocketAddr},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::Duration,
};
use zonekeeper_chaos::{
    asker,
    backend::Backend,
    http,
    lab::{DNS, HTTP, Lab, NAME, TCP},
};

const ZONE: &str = "\
$ORIGIN example.com.\n$TTL 300\n\
@ SOA ns1 hostmaster ( 1 3600 600 604800 60 )\n@ NS ns1\nns1 A 192.0.2.53\nmail A 192.0.2.25\n";
/// Of HTTP/2 on each connection.
const REQUESTS: usize = 240;
const LONG: Duration = Duration::from_secs(30);

fn signal(name: &str, pid: u32) {
    assert!(output("kill", &[name, &pid.to_string()]).status.success(), "{name} {pid}");
}

/// A process that another one started; killed when dropped.
struct Heir(u32);

impl Heir {
    /// The child that a process has started.
    fn of(pid: u32) -> Heir {
        let children = || fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let child = || (1..100).find_map(|task| threads_child(pid, task)).or(children().trim().parse().ok());
        until("there is a new process", LONG, || child().is_some());
        Heir(child().unwrap())
    }

    fn runs(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.0)).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|s| !s.trim().is_empty() && !s.trim().starts_with('Z'))
    }
}

/// A child of one of a process's threads, for whoever starts a process is its parent.
fn threads_child(pid: u32, nth: usize) -> Option<u32> {
    let thread = fs::read_dir(format!("/proc/{pid}/task")).ok()?.nth(nth - 1)?.ok()?;
    let children = fs::read_to_string(thread.path().join("children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

impl Drop for Heir {
    fn drop(&mut self) {
        if self.runs() {
            let _ = output("kill", &["-KILL", &self.0.to_string()]);
        }
    }
}

/// Does something over and over until it is dropped; every failure is kept.
struct Hammer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<(u64, Vec<String>)>>,
}

impl Hammer {
    fn start(mut once: impl FnMut() -> Result<(), String> + Send + 'static) -> Hammer {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let (mut done, mut failures) = (0, Vec::new());
            while !stopped.load(Relaxed) {
                done += 1;
                failures.extend(once().err());
            }
            (done, failures)
        });
        Hammer { stop, thread: Some(thread) }
    }

    fn nothing_failed(mut self, what: &str) {
        self.stop.store(true, Relaxed);
        let (done, failures) = self.thread.take().unwrap().join().unwrap();
        assert!(failures.is_empty(), "{what}: {} of {done} failed: {:?}", failures.len(), failures.first());
        assert!(done > 100, "{what}: only {done}");
    }
}

/// Puts a program where one may be running, as a package does.
fn install(from: &Path, to: &Path) {
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh).unwrap();
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&fresh, to).unwrap();
}

struct World {
    folder: tempfile::TempDir,
    program: PathBuf,
    process: Process,
    http: SocketAddr,
    tcp: SocketAddr,
    tls: SocketAddr,
    dns: SocketAddr,
    _backends: Vec<Backend>,
}

fn world() -> World {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    fs::write(path("example.com.zone"), ZONE).unwrap();
    let program = folder.path().join("zonekeeper");
    install(&exe(), &program);
    let ip = address();
    let at = |port| SocketAddr::new(ip, port);
    let backends: Vec<Backend> =
        [9001, 9002].map(|port| Backend::start(at(port), &port.to_string()).unwrap()).into();
    let list = format!("{},{}", at(9001), at(9002));
    let (http, tcp, tls, dns) = (at(8080), at(8081), at(8443), at(5300));
    let (cert, key) = certificate(folder.path());
    let mut command = Command::new(&program);
    command.args(["serve", "--dir", &path("state"), "--workers", "2"]);
    command.args(["--dns", &dns.to_string(), "--zone", &format!("example.com={}", path("example.com.zone"))]);
    command.args(["--http", &format!("{http}={list}"), "--tcp", &format!("{tcp}={list}")]);
    command.args(["--tls", &format!("{tls}={list}"), "--cert", &cert, "--key", &key]);
    let mut process = Process::start(command.stdout(Stdio::piped()));
    let mut stdout = BufReader::new(process.0.stdout.take().unwrap());
    let mut line = String::new();
    while !line.starts_with("admin") {
        line.clear();
        assert!(stdout.read_line(&mut line).unwrap() > 0, "it ended without a greeting");
    }
    std::thread::spawn(move || stdout.lines().for_each(drop)); // those that come later greet, too
    World { folder, program, process, http, tcp, tls, dns, _backends: backends }
}

fn hammers(world: &World) -> Vec<(&'static str, Hammer)> {
    let (http, tcp, dns) = (world.http, world.tcp, world.dns);
    let get = move |addr| {
        let answer = http::get(addr, "/", Duration::from_secs(10)).map_err(|e| e.to_string())?;
        if answer.status == 200 { Ok(()) } else { Err(format!("status {}", answer.status)) }
    };
    let ask = move || {
        let answer = asker::ask(dns, "mail.example.com", asker::A, Duration::from_secs(5));
        let answer = answer.map_err(|e| e.to_string())?;
        if answer.addrs.len() == 1 { Ok(()) } else { Err(format!("{answer:?}")) }
    };
    let ask_tcp = move || {
        let mut line = asker::Line::tcp(dns, Duration::from_secs(5));
        let answer = line.ask(7, "mail.example.com", asker::A);
        let answer = answer.map_err(|e| e.to_string())?;
        if answer.addrs.len() == 1 { Ok(()) } else { Err(format!("{answer:?}")) }
    };
    vec![
        ("a connection for each request", Hammer::start(move || get(http))),
        ("TCP", Hammer::start(move || get(tcp))),
        ("DNS over UDP", Hammer::start(ask)),
        ("DNS over TCP", Hammer::start(ask_tcp)),
    ]
}

/// Requests over kept connections of HTTP/2, twenty a second on each; what curl says of each.
fn over_http2(tls: SocketAddr) -> Vec<JoinHandle<String>> {
    let url = format!("https://{tls}/[1-{REQUESTS}]");
    let args =
        ["-sk", "--http2", "--rate", "20/s", "-o", "/dev/null", "-w", "%{http_code} %{http_version}\n"];
    let curl = move || {
        let done = output("curl", &[&args[..], &[&url]].concat());
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    (0..4).map(|_| std::thread::spawn(curl.clone())).collect()
}

#[test]
fn three_restarts_into_new_binaries_lose_nothing() {
    if !tools(&["wrk", "dnsperf", "curl", "openssl"]) {
        return;
    }
    let _turn = turn();
    let mut world = world();
    let hammers = hammers(&world);
    let http2 = over_http2(world.tls);
    let handshakes = format!("https://{}/", world.tls);
    let handshakes = std::thread::spawn(move || {
        let args = ["-t1", "-c2", "-d", "14", "-H", "Connection: close", &handshakes];
        String::from_utf8_lossy(&output("wrk", &args).stdout).into_owned()
    });
    // many questions on their way at any moment
    let questions = world.folder.path().join("questions");
    fs::write(&questions, "mail.example.com A\nexample.com SOA\nnone.example.com A\n").unwrap();
    let flood = Dnsperf::start(world.dns, &questions, (16, 2000), (14, 5));
    let mut heir = None;
    let report = wrk(&format!("http://{}/", world.http), 15, || {
        for round in 0..3 {
            std::thread::sleep(Duration::from_millis(700));
            install(&exe(), &world.program);
            let inode = fs::metadata(&world.program).unwrap().ino();
            let old = heir.as_ref().map_or(world.process.0.id(), |h: &Heir| h.0);
            signal("-USR2", old);
            let new = Heir::of(old);
            match heir.take() {
                None => {
                    until("the first process ends", LONG, || world.process.0.try_wait().unwrap().is_some());
                    assert!(world.process.0.try_wait().unwrap().unwrap().success(), "exit status");
                }
                Some(before) => until("the old process ends", LONG, || !before.runs()),
            }
            let file = fs::metadata(format!("/proc/{}/exe", new.0)).unwrap();
            assert_eq!(file.ino(), inode, "round {round}: it is the new binary");
            heir = Some(new);
        }
    });
    nothing_failed(&report);
    nothing_failed(&handshakes.join().unwrap());
    for said in http2.into_iter().map(|curl| curl.join().unwrap()) {
        assert!(
            said.lines().count() == REQUESTS && said.lines().all(|line| line == "200 2"),
            "HTTP/2: {said}"
        );
    }
    flood.lost_nothing(5_000);
    hammers.into_iter().for_each(|(what, hammer)| hammer.nothing_failed(what));
    let last = heir.unwrap();
    signal("-TERM", last.0);
    until("the last process ends", LONG, || !last.runs());
}

/// Users of one node of a cluster: what it proxies, and that it answers this address for the service. With pauses, so that
/// three nodes and their users have room on two cores.
fn users(lab: &Lab, i: usize, answer: IpAddr) -> Vec<(String, Hammer)> {
    let node = &lab.nodes[i];
    let pause = || std::thread::sleep(Duration::from_millis(5));
    let get = move |addr| {
        pause();
        let got = http::get(addr, "/", Duration::from_secs(10)).map_err(|e| e.to_string())?;
        if got.status == 200 { Ok(()) } else { Err(format!("status {}", got.status)) }
    };
    let right = move |got: std::io::Result<asker::Answer>| {
        pause();
        let got = got.map_err(|e| e.to_string())?;
        if got.rcode == 0 && got.addrs == [answer].into() { Ok(()) } else { Err(format!("{got:?}")) }
    };
    let (http, tcp, dns) = (node.at(HTTP), node.at(TCP), node.at(DNS));
    let within = Duration::from_secs(5);
    let ask = move || right(asker::ask(dns, NAME, asker::A, within));
    let ask_tcp = move || right(asker::Line::tcp(dns, within).ask(7, NAME, asker::A));
    let all = [
        ("HTTP", Hammer::start(move || get(http))),
        ("TCP", Hammer::start(move || get(tcp))),
        ("DNS over UDP", Hammer::start(ask)),
        ("DNS over TCP", Hammer::start(ask_tcp)),
    ];
    all.into_iter().map(|(what, hammer)| (format!("{what} at {}", node.site), hammer)).collect()
}

fn term(lab: &Lab) -> u64 {
    let of = |i| lab.get(i, "/v1/cluster").ok()?["data"]["term"].as_u64();
    (0..3).filter_map(of).max().unwrap()
}

/// Each node leads or follows the same leader, is who it was, and holds the same state.
fn whole(lab: &Lab) -> bool {
    let seen: Vec<_> = (0..3).filter_map(|i| lab.get(i, "/v1/cluster").ok()).collect();
    let data = |i: usize| &seen[i]["data"];
    let alike = |what: &str| (1..3).all(|i| data(i)[what] == data(0)[what]);
    seen.len() == 3
        && (0..3).all(|i| lab.ready(i) && data(i)["node"] == json!(lab.nodes[i].id))
        && data(0)["leader"].is_u64()
        && data(0)["voters"] == json!([1, 2, 3])
        && ["leader", "voters", "hash", "id"].into_iter().all(alike)
}

/// How a process that nobody has waited for has ended (proc(5), `exit_code`).
fn exit_code(pid: u32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.split_whitespace().next_back()?.parse().ok()
}

#[test]
fn nodes_of_a_cluster_are_handed_over_one_by_one_and_it_stays_one() {
    let _turn = turn();
    let lab = lab(options());
    wait(&lab, "the cluster is settled", LONG, |lab| lab.settled() && whole(lab));
    let leads = lab.leader().unwrap();
    let follows = (leads + 1) % 3;
    let users: Vec<_> = (0..3).flat_map(|i| users(&lab, i, lab.nodes[0].ip)).collect();
    let mut heirs: [Option<Heir>; 3] = Default::default();
    // A follower, the leader, and a process that was handed a node itself.
    for (round, i) in [follows, leads, follows].into_iter().enumerate() {
        let (before, led) = (term(&lab), lab.leader() == Some(i));
        let first = lab.nodes[i].pid().unwrap();
        let old = heirs[i].as_ref().map_or(first, |h| h.0);
        signal("-USR2", old);
        let new = Heir::of(old);
        let gone = heirs[i].replace(new).unwrap_or(Heir(first));
        until("the old process ends", LONG, || !gone.runs());
        if old == first {
            assert_eq!(exit_code(old), Some(0), "round {round}");
        }
        wait(&lab, "the cluster is whole", LONG, whole);
        let path = format!("/v1/zones/example.com/records/round{round}/A");
        lab.put(i, &path, &json!({"ttl": 60, "records": ["192.0.2.200"]})).unwrap();
        std::thread::sleep(Duration::from_secs(2)); // elections that follow each other would show
        let elections = term(&lab) - before;
        eprintln!("round {round}: {elections} elections, the leader: {led}");
        assert!(elections <= if led { 2 } else { 1 }, "round {round}: {elections} elections{}", lab.tails());
        assert!(heirs[i].as_ref().is_some_and(Heir::runs), "round {round}: the new process goes on");
        assert!((0..3).all(|i| lab.answered(i) == [lab.nodes[0].site.clone()]), "no service has moved");
    }
    wait(&lab, "the cluster is whole", LONG, whole);
    users.into_iter().for_each(|(what, hammer)| hammer.nothing_failed(&what));
}

#[test]
fn a_binary_that_does_not_start_changes_nothing() {
    if !tools(&["openssl"]) {
        return;
    }
    let _turn = turn();
    let mut world = world();
    let hammers = hammers(&world);
    let broken = world.program.with_extension("broken");
    fs::write(&broken, "#!/bin/sh\nexit 3\n").unwrap();
    for _ in 0..3 {
        install(&broken, &world.program);
        signal("-USR2", world.process.0.id());
        std::thread::sleep(Duration::from_millis(500));
        assert!(world.process.0.try_wait().unwrap().is_none(), "it goes on");
    }
    hammers.into_iter().for_each(|(what, hammer)| hammer.nothing_failed(what));
    install(&exe(), &world.program);
    signal("-USR2", world.process.0.id());
    let heir = Heir::of(world.process.0.id());
    until("the old process ends", LONG, || world.process.0.try_wait().unwrap().is_some());
    assert!(http::get(world.http, "/", LONG).is_ok_and(|a| a.status == 200), "and the next one takes over");
    signal("-TERM", heir.0);
    until("the last process ends", LONG, || !heir.runs());
}
