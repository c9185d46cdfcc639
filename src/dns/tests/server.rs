//! The real sockets: UDP and TCP on one port, the address that was asked, limits, a change that is seen at once.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use arc_swap::ArcSwap;
use common::{Answer, published, query, read, state, with_edns};
use std::{
    env,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    process::Command,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};
use zonekeeper_core::Published;
use zonekeeper_dns::{BindError, DnsConfig, DnsFlags, DnsServer, RateConfig};

const HEAD: &str = "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\n";

struct Running {
    server: DnsServer,
    published: Arc<ArcSwap<Published>>,
    flags: Arc<DnsFlags>,
}

fn zone_text(www: &str) -> String {
    let big: String = (0..100).map(|i| format!("big A 10.0.0.{i}\n")).collect();
    format!("{HEAD}www A {www}\n{big}")
}

fn start(config: DnsConfig) -> Running {
    let published =
        Arc::new(ArcSwap::from_pointee(published(state(&[("example.", &zone_text("192.0.2.80"))]), 1)));
    let flags = Arc::new(DnsFlags::default());
    let server = DnsServer::start(config, published.clone(), flags.clone()).unwrap();
    Running { server, published, flags }
}

fn on(addr: &str) -> DnsConfig {
    DnsConfig { addrs: vec![addr.parse().unwrap()], workers: 2, nsid: b"n1".to_vec(), ..DnsConfig::default() }
}

fn udp(to: SocketAddr, q: &[u8]) -> Answer {
    let local = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let s = UdpSocket::bind(local).unwrap();
    s.connect(to).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    s.send(q).unwrap();
    let mut buf = [0; 4096];
    let n = s.recv(&mut buf).expect("an answer from the address that was asked");
    read(&buf[..n])
}

fn frame(q: &[u8]) -> Vec<u8> {
    [&(q.len() as u16).to_be_bytes(), q].concat()
}

fn connect(to: SocketAddr) -> TcpStream {
    let s = TcpStream::connect(to).unwrap();
    s.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    s
}

fn receive(s: &mut TcpStream) -> Answer {
    let mut len = [0; 2];
    s.read_exact(&mut len).unwrap();
    let mut m = vec![0; usize::from(u16::from_be_bytes(len))];
    s.read_exact(&mut m).unwrap();
    read(&m)
}

fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !ready() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn udp_and_tcp_answer_on_one_port_and_stop() {
    let r = start(on("127.0.0.1:0"));
    let addr = r.server.local_addrs()[0];
    assert_eq!(udp(addr, &query("www.example", 1)).answer.len(), 1);
    assert!(udp(addr, &query("big.example", 1)).tc);
    let mut tcp = connect(addr);
    let all = [
        frame(&query("big.example", 1)),
        frame(&query("absent.example", 1)),
        frame(&query("www.example", 1)),
    ]
    .concat();
    tcp.write_all(&all[..1]).unwrap();
    tcp.write_all(&all[1..]).unwrap();
    let answers = [receive(&mut tcp), receive(&mut tcp), receive(&mut tcp)];
    assert_eq!(
        answers.map(|a| (a.rcode, a.tc, a.answer.len())),
        [(0, false, 100), (3, false, 0), (0, false, 1)]
    );
    let totals = r.server.counters();
    assert_eq!((totals.udp, totals.tcp, totals.truncated, totals.panics), (2, 3, 1, 0));
    assert_eq!(totals.rcodes.iter().find(|c| c.0 == "NXDOMAIN"), Some(&("NXDOMAIN", 1)));
    r.server.shutdown().await;
    assert!(matches!(tcp.read(&mut [0; 1]), Ok(0) | Err(_)), "connections end");
    assert!(TcpStream::connect(addr).is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wildcard_bind_answers_from_the_address_that_was_asked() {
    for (bind, asked) in [("0.0.0.0:0", "127.0.0.7"), ("[::]:0", "::1")] {
        let r = start(on(bind));
        let to = SocketAddr::new(asked.parse().unwrap(), r.server.local_addrs()[0].port());
        assert_eq!(udp(to, &query("www.example", 1)).answer.len(), 1, "{bind}");
        r.server.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_and_a_flag_are_seen_by_the_next_query() {
    let r = start(on("127.0.0.1:0"));
    let addr = r.server.local_addrs()[0];
    let mut tcp = connect(addr);
    r.published.store(Arc::new(published(state(&[("example.", &zone_text("192.0.2.99"))]), 2)));
    for _ in 0..8 {
        assert_eq!(udp(addr, &query("www.example", 1)).answer[0].3, "192.0.2.99");
    }
    tcp.write_all(&frame(&query("www.example", 1))).unwrap();
    assert_eq!(receive(&mut tcp).answer[0].3, "192.0.2.99");
    r.flags.stale.store(true, Relaxed);
    let q = with_edns(query("www.example", 1), 1232, 0, &[]);
    assert_eq!(udp(addr, &q).opt.unwrap().2, [0, 15, 0, 2, 0, 3]);
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_are_counted_by_zone_and_by_the_time_they_took() {
    let r = start(on("127.0.0.1:0"));
    let to = r.server.local_addrs()[0];
    let publish = |zones: &[&str], index| {
        let texts: Vec<(&str, &str)> = zones.iter().map(|z| (*z, HEAD)).collect();
        r.published.store(Arc::new(published(state(&texts), index)));
    };
    let counted = || {
        let zones = r.server.counters().zones;
        zones.into_iter().map(|(z, n)| (z.to_string(), n)).collect::<Vec<_>>()
    };
    publish(&["example.", "b.test."], 2);
    for _ in 0..40 {
        udp(to, &query("ns.example", 1));
        udp(to, &query("absent.b.test", 1));
        udp(to, &query("nowhere.else", 1));
    }
    let mut tcp = connect(to);
    tcp.write_all(&frame(&query("ns.b.test", 15))).unwrap();
    receive(&mut tcp);
    assert_eq!(counted(), [("example.".to_string(), 40), ("b.test.".to_string(), 41)]);
    publish(&["a.test.", "b.test."], 3); // other numbers
    for _ in 0..40 {
        udp(to, &query("ns.a.test", 1));
        udp(to, &query("ns.b.test", 1));
    }
    assert_eq!(counted(), [("a.test.".to_string(), 40), ("b.test.".to_string(), 81)]);
    let totals = r.server.counters();
    let timed: u64 = totals.latency.iter().map(|(_, n)| n).sum();
    assert!(timed > 5, "one batch in 16 of {} is timed, {timed}", totals.udp);
    let most: u128 = totals.latency.iter().map(|(d, n)| d.as_micros().min(1 << 30) * u128::from(*n)).sum();
    assert!(totals.latency_sum.as_micros() <= most, "{:?} of at most {most} us", totals.latency_sum);
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_is_bounded() {
    let idle = Duration::from_millis(300);
    let r = start(DnsConfig { tcp_connections_per_network: 2, tcp_idle: idle, ..on("127.0.0.1:0") });
    let addr = r.server.local_addrs()[0];
    let mut quiet = connect(addr);
    quiet.write_all(&[0]).unwrap(); // half a length: the clock runs
    assert_eq!(quiet.read(&mut [0; 1]).unwrap(), 0, "closed when idle");
    for bad in [&[0xff, 0xff, 0][..], &frame(b"short"), &frame(&[0x80; 12])] {
        let mut s = connect(addr);
        s.write_all(bad).unwrap();
        assert!(matches!(s.read(&mut [0; 1]), Ok(0) | Err(_)), "closed on {bad:?}");
    }
    wait_until("a third connection is refused", || {
        let mut open: Vec<TcpStream> = (0..3).map(|_| connect(addr)).collect();
        open.iter_mut().for_each(|s| drop(s.write_all(&frame(&query("www.example", 1)))));
        let answered = open.iter_mut().map(|s| s.read(&mut [0; 2])).filter(|n| matches!(n, Ok(2))).count();
        assert!(answered <= 2);
        answered == 2
    });
    assert!(r.server.counters().limited > 0);
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_longest_makes_room() {
    let r = start(DnsConfig { tcp_connections: 3, ..on("127.0.0.1:0") });
    let mut open = [0; 3].map(|_| connect(r.server.local_addrs()[0]));
    let q = frame(&query("www.example", 1));
    let ask = |s: &mut TcpStream| {
        s.write_all(&q).unwrap();
        assert_eq!(receive(s).answer.len(), 1);
        std::thread::sleep(Duration::from_millis(20)); // the server sees that it waits
    };
    open.iter_mut().for_each(ask);
    let mut new = connect(r.server.local_addrs()[0]);
    ask(&mut new);
    let [first, others @ ..] = &mut open;
    assert_eq!(first.read(&mut [0; 1]).unwrap(), 0, "closed, not reset");
    others.iter_mut().for_each(ask);
    ask(&mut new);
    assert_eq!((r.server.counters().limited, r.server.counters().replaced), (0, 1));
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_before_a_bad_one_have_their_answers() {
    let r = start(on("127.0.0.1:0"));
    let mut s = connect(r.server.local_addrs()[0]);
    let good = frame(&query("www.example", 1));
    s.write_all(&[&good[..], &good, &frame(b"short"), &good].concat()).unwrap();
    for _ in 0..2 {
        receive(&mut s);
    }
    assert!(matches!(s.read(&mut [0; 1]), Ok(0) | Err(_)), "and then it is closed");
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_is_named_with_its_remedy() {
    let r = start(on("127.0.0.1:0"));
    let addr = r.server.local_addrs()[0];
    let again = DnsServer::start(
        DnsConfig { addrs: vec![addr], ..DnsConfig::default() },
        r.published.clone(),
        r.flags.clone(),
    );
    let e = again.err().unwrap();
    assert!(matches!(e, BindError::Address { .. }));
    let text = e.to_string();
    assert!(text.contains(&addr.to_string()) && text.contains("stop it or choose another port"), "{text}");
    r.server.shutdown().await;
    // a port that another program has for TCP would be named for that
    let free = |udp: &UdpSocket| std::net::TcpListener::bind(udp.local_addr().unwrap()).is_ok();
    let udp_only = std::iter::repeat_with(|| UdpSocket::bind("127.0.0.1:0").unwrap()).find(free).unwrap();
    let taken = DnsConfig { addrs: vec![udp_only.local_addr().unwrap()], ..DnsConfig::default() };
    let e = DnsServer::start(taken, r.published, r.flags).err().unwrap().to_string();
    assert!(e.contains("(UDP)"), "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_kdig_and_drill_read_the_answers() {
    let r = start(on("127.0.0.1:0"));
    let port = r.server.local_addrs()[0].port().to_string();
    for (program, flags) in [
        ("dig", vec!["+short"]),
        ("dig", vec!["+tcp", "+short"]),
        ("kdig", vec!["+short", "+nsid"]),
        ("drill", vec![]),
    ] {
        let mut args = vec!["@127.0.0.1", "-p", port.as_str(), "www.example"];
        args.extend(flags);
        match Command::new(program).args(&args).output() {
            Ok(out) => {
                let text = String::from_utf8_lossy(&out.stdout);
                assert!(out.status.success() && text.contains("192.0.2.80"), "{program} {args:?}: {text}");
                assert!(
                    !text.to_lowercase().contains("warning") && !text.contains("malformed"),
                    "{program}: {text}"
                );
            }
            Err(e) => {
                eprintln!("NOT RUN: {program}: {e}");
                assert!(env::var_os("CI").is_none(), "{program} must be installed in CI");
            }
        }
    }
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_sent_to_tcp_whichever_worker_gets_it() {
    for bind in ["127.0.0.1:0", "[::1]:0"] {
        let r = start(DnsConfig { rate: Some(RateConfig { rate: 1, slip: 1, size: 1024 }), ..on(bind) });
        let addr = r.server.local_addrs()[0];
        let whole = (0..40).filter(|_| !udp(addr, &query("www.example", 1)).tc).count();
        let totals = r.server.counters();
        assert!((1..20).contains(&whole), "{whole} whole answers from {bind}");
        assert_eq!((totals.udp, totals.slipped, totals.withheld), (40, 40 - whole as u64, 0));
        r.server.shutdown().await;
    }
}

/// Both clients compare what comes back with what they sent, and say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dig_and_kdig_find_the_cookie_good() {
    let r = start(on("127.0.0.1:0"));
    let port = r.server.local_addrs()[0].port().to_string();
    for (program, flags, says) in [
        ("dig", ["+cookie", "+qr"], "(good)"),
        ("dig", ["+tcp", "+keepalive"], "KEEPALIVE: 10.0 secs"),
        ("kdig", ["+cookie", "+nsid"], "COOKIE: "),
    ] {
        let args = ["@127.0.0.1", "-p", port.as_str(), "www.example", flags[0], flags[1]];
        match Command::new(program).args(args).output() {
            Ok(out) => {
                let text = String::from_utf8_lossy(&out.stdout);
                assert!(text.contains("192.0.2.80"), "{program} {flags:?}: {text}");
                assert!(text.to_uppercase().contains(&says.to_uppercase()), "{program} {flags:?}: {text}");
            }
            Err(e) => {
                eprintln!("NOT RUN: {program}: {e}");
                assert!(env::var_os("CI").is_none(), "{program} must be installed in CI");
            }
        }
    }
    r.server.shutdown().await;
}
