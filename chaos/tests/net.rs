//! The network of the laboratory does what the faults promise. Needs root.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    lab::{HTTP, PEER},
    net::{Net, Path, Rule, possible},
    wan::{Link, Wan},
};

fn net(sites: usize) -> Option<Arc<Net>> {
    if let Err(why) = possible() {
        assert!(std::env::var_os("CI").is_none(), "NOT RUN, and CI is set: {why}");
        eprintln!("NOT RUN: {why}");
        return None;
    }
    Some(Arc::new(Net::new(sites).unwrap()))
}

/// Connects from a site to an address; how long it took, and how it ended.
fn connect(net: &Net, from: usize, to: SocketAddr) -> (Duration, Result<(), ErrorKind>) {
    net.at_site(from, || {
        let at = Instant::now();
        let done = TcpStream::connect_timeout(&to, Duration::from_millis(700));
        (at.elapsed(), done.map(drop).map_err(|e| e.kind()))
    })
    .unwrap()
}

/// The same from where clients are.
fn connect_from_outside(net: &Net, to: SocketAddr) -> Result<(), ErrorKind> {
    let connect =
        || TcpStream::connect_timeout(&to, Duration::from_millis(700)).map(drop).map_err(|e| e.kind());
    net.inside(connect).unwrap()
}

fn listen(net: &Net, site: usize, port: u16) -> TcpListener {
    net.at_site(site, || TcpListener::bind(SocketAddr::new(net.address(site), port))).unwrap().unwrap()
}

#[test]
fn a_round_trip_takes_its_time_for_answers_and_for_refusals() {
    let Some(net) = net(2) else { return };
    let listener = listen(&net, 1, HTTP);
    let (to, closed) = (listener.local_addr().unwrap(), SocketAddr::new(net.address(1), 9));
    let wan = Wan::start(&net, Link::rtt(60), 1).unwrap();
    let rtt = Duration::from_millis(60);
    let (took, done) = connect(&net, 0, to);
    assert!(done.is_ok() && took >= rtt, "{done:?} after {took:?}");
    let (took, done) = connect(&net, 0, closed);
    assert!(done == Err(ErrorKind::ConnectionRefused) && took >= rtt, "{done:?} after {took:?}");
    assert!(wan.totals().0 >= 4);

    wan.set(0, 1, Link { loss: 1000, ..Link::rtt(60) });
    assert_eq!(connect(&net, 0, to).1, Err(ErrorKind::TimedOut), "all is lost");
    drop(wan);
    let (took, done) = connect(&net, 0, to);
    assert!(done.is_ok() && took < rtt, "straight again: {done:?} after {took:?}");
}

#[test]
fn rules_cut_one_way_and_one_path_and_are_taken_back() {
    let Some(net) = net(3) else { return };
    let (web, peer) = (listen(&net, 1, HTTP), listen(&net, 1, PEER));
    let (web, peer) = (web.local_addr().unwrap(), peer.local_addr().unwrap());
    net.rules(&[Rule { from: 0, to: 1, path: Path::Client, loss: 1000 }]).unwrap();
    assert_eq!(connect(&net, 0, web).1, Err(ErrorKind::TimedOut), "the client path is cut");
    assert_eq!(connect(&net, 0, peer).1, Ok(()), "the node path is not");
    assert_eq!(connect(&net, 2, web).1, Ok(()), "and another site goes on");

    net.rules(&[Rule { from: 1, to: 0, path: Path::All, loss: 1000 }]).unwrap();
    let udp = |i: usize| net.at_site(i, || UdpSocket::bind((net.address(i), 7))).unwrap().unwrap();
    let (a, b) = (udp(0), udp(1));
    b.set_read_timeout(Some(Duration::from_millis(700))).unwrap();
    a.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    a.send_to(b"there", (net.address(1), 7)).unwrap();
    assert_eq!(b.recv(&mut [0; 8]).unwrap(), 5, "what goes there arrives");
    b.send_to(b"back", (net.address(0), 7)).unwrap();
    assert!(a.recv(&mut [0; 8]).is_err(), "what goes back does not");

    net.rules(&[]).unwrap();
    assert_eq!(connect(&net, 0, web).1, Ok(()));
}

#[test]
fn a_hidden_site_is_reached_by_sites_and_not_by_clients() {
    let Some(net) = net(2) else { return };
    let (web, peer) = (listen(&net, 1, HTTP), listen(&net, 1, PEER));
    let (web, peer) = (web.local_addr().unwrap(), peer.local_addr().unwrap());
    assert_eq!(connect_from_outside(&net, web), Ok(()));
    net.hide(&[1]).unwrap();
    assert_eq!(connect_from_outside(&net, web), Err(ErrorKind::TimedOut));
    assert_eq!(connect_from_outside(&net, peer), Ok(()), "the judge still looks on");
    assert_eq!(connect(&net, 0, web).1, Ok(()));
    net.hide(&[]).unwrap();
    assert_eq!(connect_from_outside(&net, web), Ok(()));
}

#[test]
fn what_a_killed_program_left_is_removed_by_the_next_one() {
    if net(1).is_none() {
        return;
    }
    // no process has such an id: it is beyond the greatest
    let left = "zk4194305x0s1";
    let ip = |args: &[&str]| Command::new("ip").args(args).output().unwrap();
    assert!(ip(&["netns", "add", left]).status.success());
    let mut inside = Command::new("ip").args(["netns", "exec", left, "sleep", "60"]).spawn().unwrap();
    let pids = || String::from_utf8_lossy(&ip(&["netns", "pids", left]).stdout).into_owned();
    // until `ip` has become `sleep` there; another program that begins meanwhile may sweep it as well
    while pids().is_empty() && inside.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(5));
    }
    let next = net(1);
    let all = String::from_utf8_lossy(&ip(&["netns", "list"]).stdout).into_owned();
    assert!(!all.contains(left), "{all}");
    assert!(!inside.wait().unwrap().success(), "killed");
    drop(next);
}
