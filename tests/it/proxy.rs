//! A backend dies under load: nobody sees it whose response had not begun.

use crate::{
    serve::Serve,
    support::{Process, address, output, tools, turn, until},
};
use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};
use zonekeeper_chaos::backend::Backend;

/// Tells the re-executed test binary to be a backend.
const ROLE: &str = "ZONEKEEPER_IT_BACKEND";

#[test]
#[ignore = "a backend process that the tests below start and kill"]
fn backend_process() {
    let Ok(addr) = std::env::var(ROLE) else { return };
    let _backend = Backend::start(addr.parse().unwrap(), &addr).unwrap();
    loop {
        std::thread::park();
    }
}

fn backend(addr: SocketAddr) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "proxy::backend_process"]).env(ROLE, addr.to_string());
    let process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
    until("the backend listens", Duration::from_secs(10), || TcpStream::connect(addr).is_ok());
    process
}

/// `wrk` for `seconds`, while `meanwhile` runs; what it printed.
pub(crate) fn wrk(url: &str, seconds: u32, meanwhile: impl FnOnce()) -> String {
    let for_so_long = format!("-d{seconds}s");
    let url = url.to_owned();
    let load =
        std::thread::spawn(move || output("wrk", &["-t1", "-c24", &for_so_long, "--timeout", "5s", &url]));
    meanwhile();
    assert!(!load.is_finished(), "the load ended before what was to happen under it");
    let done = load.join().unwrap();
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success() && text.contains("requests in"), "{text}");
    text
}

pub(crate) fn nothing_failed(report: &str) {
    let bad = |line: &&str| line.contains("Socket errors") || line.contains("Non-2xx");
    let errors: Vec<&str> = report.lines().filter(bad).collect();
    assert!(errors.is_empty(), "{errors:?} in\n{report}");
}

fn three(ip: IpAddr) -> ([SocketAddr; 3], String) {
    let addrs = [9001, 9002, 9003].map(|port| SocketAddr::new(ip, port));
    (addrs, addrs.map(|a| a.to_string()).join(","))
}

#[test]
fn no_get_fails_while_backends_are_killed() {
    if !tools(&["wrk"]) {
        return;
    }
    let _turn = turn();
    let ip = address();
    let (addrs, list) = three(ip);
    let mut backends = addrs.map(backend);
    for balance in ["least-connections", "round-robin"] {
        let listen = SocketAddr::new(ip, 8080);
        let mut serve =
            Serve::start(&["--http", &format!("{listen}={list}"), "--balance", balance, "--workers", "1"]);
        let report = wrk(&format!("http://{listen}/"), 15, || {
            for victim in [0, 1, 2] {
                std::thread::sleep(Duration::from_millis(1200));
                backends[victim].0.kill().unwrap(); // SIGKILL
                backends[victim].0.wait().unwrap();
                std::thread::sleep(Duration::from_millis(800));
                backends[victim] = backend(addrs[victim]);
            }
        });
        nothing_failed(&report);
        serve.stop();
    }
}

#[test]
fn new_tcp_connections_avoid_a_killed_backend() {
    let _turn = turn();
    let ip = address();
    let (addrs, list) = three(ip);
    let mut backends = addrs.map(backend);
    let listen = SocketAddr::new(ip, 8081);
    let _serve =
        Serve::start(&["--tcp", &format!("{listen}={list}"), "--balance", "round-robin", "--workers", "1"]);
    let ask = || {
        let begun = std::time::Instant::now();
        let answer = zonekeeper_chaos::http::get(listen, "/", Duration::from_secs(5));
        let answer = answer.unwrap_or_else(|e| panic!("after {:?}: {e}", begun.elapsed()));
        String::from_utf8_lossy(&answer.body).trim().to_owned()
    };
    let who = |n: usize| (0..n).map(|_| ask()).collect::<std::collections::BTreeSet<String>>();
    assert_eq!(who(30).len(), 3, "all three get connections");
    backends[1].0.kill().unwrap();
    backends[1].0.wait().unwrap();
    let left = who(60); // each of these connections must be served: a refused backend costs the client nothing
    assert_eq!(left, [addrs[0].to_string(), addrs[2].to_string()].into());
    backends[1] = backend(addrs[1]);
    until("the backend is used again", Duration::from_secs(20), || who(9).len() == 3);
}
