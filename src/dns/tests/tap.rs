//! The query log, as its readers see it: `dnstap-read`, and a listener of our own on a unix socket.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use arc_swap::ArcSwap;
use common::{published, query, state};
use std::{
    env,
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use zonekeeper_dns::{DnsConfig, DnsFlags, DnsServer, TapConfig, TapTarget};

const ZONE: &str = "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n";
const PATIENCE: Duration = Duration::from_secs(20);

fn start(target: TapTarget, sample: u32) -> DnsServer {
    let config = DnsConfig {
        addrs: vec!["127.0.0.1:0".parse().unwrap()],
        tap: Some(TapConfig { target, sample, identity: "node-1".into() }),
        ..DnsConfig::default()
    };
    let now = Arc::new(ArcSwap::from_pointee(published(state(&[("example.", ZONE)]), 1)));
    DnsServer::start(config, now, Arc::new(DnsFlags::default())).unwrap()
}

fn udp(to: SocketAddr, q: &[u8]) {
    let s = UdpSocket::bind("127.0.0.1:0").unwrap();
    s.set_read_timeout(Some(PATIENCE)).unwrap();
    s.send_to(q, to).unwrap();
    s.recv(&mut [0; 4096]).unwrap();
}

fn tcp(to: SocketAddr, q: &[u8]) {
    let mut s = TcpStream::connect(to).unwrap();
    s.write_all(&[&(q.len() as u16).to_be_bytes(), q].concat()).unwrap();
    s.read_exact(&mut [0; 14]).unwrap();
}

/// What `dnstap-read` prints once it has read so many messages; none when it is not installed.
fn printed(path: &Path, messages: usize) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let out = match Command::new("dnstap-read").arg("-p").arg(path).output() {
            Ok(out) => String::from_utf8_lossy(&out.stdout).into_owned(),
            Err(e) => {
                eprintln!("NOT RUN: dnstap-read: {e}");
                assert!(env::var_os("CI").is_none(), "dnstap-read must be installed in CI");
                return None;
            }
        };
        if out.matches("ANSWER SECTION").count() + out.matches("AUTHORITY SECTION").count() >= messages {
            return Some(out);
        }
        assert!(Instant::now() < deadline, "{messages} messages in {out}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dnstap_read_prints_every_answer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log.dnstap");
    let server = start(TapTarget::File(path.clone()), 1);
    let to = server.local_addrs()[0];
    udp(to, &query("www.example", 1));
    udp(to, &query("absent.example", 1));
    tcp(to, &query("WWW.example", 1));
    if let Some(text) = printed(&path, 3) {
        for line in ["AR 127.0.0.1:", "UDP", "TCP", "www.example", "WWW.example", "192.0.2.80", "NXDOMAIN"] {
            assert!(text.contains(line), "{line:?} is missing in {text}");
        }
    }
    assert_eq!(server.counters().untapped, 0);
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_was_moved_away_is_whole_and_another_begins() {
    let dir = tempfile::tempdir().unwrap();
    let (path, old) = (dir.path().join("log.dnstap"), dir.path().join("log.dnstap.1"));
    let server = start(TapTarget::File(path.clone()), 1);
    let to = server.local_addrs()[0];
    udp(to, &query("www.example", 1));
    std::fs::rename(&path, &old).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !path.exists() {
        assert!(Instant::now() < deadline, "no file comes");
        std::thread::sleep(Duration::from_millis(50));
    }
    udp(to, &query("ns.example", 1));
    if let (Some(old), Some(new)) = (printed(&old, 1), printed(&path, 1)) {
        assert!(old.contains("www.example") && !old.contains("ns.example. "), "{old}");
        assert!(new.contains("192.0.2.1") && !new.contains("192.0.2.80"), "{new}");
    }
    assert!(std::fs::read(&old).unwrap().ends_with(&[0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3]), "STOP");
    assert_eq!(server.counters().untapped, 0);
    server.shutdown().await;
}

/// A file system of 64 KiB, as long as the test runs.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let dir = tempfile::tempdir().unwrap();
        let args = ["-t", "tmpfs", "-o", "size=64k", "tmpfs"];
        let mounted = Command::new("mount").args(args).arg(dir.path()).status().is_ok_and(|s| s.success());
        if !mounted {
            eprintln!("NOT RUN: a full disk needs root, to mount a small one");
            assert!(env::var_os("CI").is_none(), "CI runs as root");
        }
        mounted.then_some(Small(dir))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status(); // the folder is removed behind it
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_answers_of_the_log_and_tears_none() {
    let Some(disk) = Small::mount() else { return };
    let (path, other) = (disk.0.path().join("log.dnstap"), disk.0.path().join("other"));
    let server = start(TapTarget::File(path.clone()), 1);
    let to = server.local_addrs()[0];
    std::fs::write(&other, [0; 50_000]).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while server.counters().untapped == 0 {
        assert!(Instant::now() < deadline, "nothing is lost");
        (0..100).for_each(|_| udp(to, &query("www.example", 1)));
    }
    std::thread::sleep(Duration::from_millis(700)); // what waited is written, or lost
    std::fs::remove_file(other).unwrap();
    udp(to, &query("ns.example", 1));
    if let Some(text) = printed(&path, 1) {
        assert!(text.contains("192.0.2.80"), "{text}");
        let deadline = Instant::now() + PATIENCE;
        while !printed(&path, 1).unwrap().contains("192.0.2.1\n") {
            assert!(Instant::now() < deadline, "what follows is not read");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    server.shutdown().await;
}

/// A control frame: its kind.
fn control(s: &mut UnixStream) -> u32 {
    let mut head = [0; 8];
    s.read_exact(&mut head).unwrap();
    assert_eq!(head[..4], [0; 4], "a control frame");
    let mut body = vec![0; u32::from_be_bytes(head[4..].try_into().unwrap()) as usize];
    s.read_exact(&mut body).unwrap();
    assert!(body.len() == 4 || body.ends_with(b"protobuf:dnstap.Dnstap"));
    u32::from_be_bytes(body[..4].try_into().unwrap())
}

fn frame(s: &mut UnixStream) -> Vec<u8> {
    let mut head = [0; 4];
    s.read_exact(&mut head).unwrap();
    let mut body = vec![0; u32::from_be_bytes(head) as usize];
    s.read_exact(&mut body).unwrap();
    body
}

fn accept(listener: &UnixListener) -> UnixStream {
    let (mut s, _) = listener.accept().unwrap();
    s.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(control(&mut s), 4, "READY");
    let content = b"protobuf:dnstap.Dnstap";
    let body = [&1u32.to_be_bytes()[..], &1u32.to_be_bytes(), &(content.len() as u32).to_be_bytes(), content]
        .concat();
    s.write_all(&[&[0; 4][..], &(body.len() as u32).to_be_bytes(), &body].concat()).unwrap();
    assert_eq!(control(&mut s), 2, "START");
    s
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_gets_a_sample_and_answers_do_not_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tap.sock");
    let server = start(TapTarget::Socket(path.clone()), 4);
    let to = server.local_addrs()[0];
    for _ in 0..40 {
        udp(to, &query("www.example", 1)); // nobody listens yet: answered all the same
    }
    let listener = UnixListener::bind(&path).unwrap();
    for _ in 0..8 {
        udp(to, &query("www.example", 1));
    }
    let mut s = tokio::task::spawn_blocking(move || accept(&listener)).await.unwrap();
    let asked = query("ns.example", 1);
    let (name, mut seen) = (asked[12..24].to_vec(), false);
    for _ in 0..8 {
        udp(to, &asked);
    }
    while !seen {
        let body = frame(&mut s);
        assert!(body.windows(6).any(|w| w == b"node-1"), "the identity");
        seen = body.windows(name.len()).any(|w| w == name);
    }
    server.shutdown().await;
    loop {
        let mut head = [0; 4];
        s.read_exact(&mut head).unwrap();
        match u32::from_be_bytes(head) {
            0 => break,
            len => s.read_exact(&mut vec![0; len as usize]).unwrap(),
        }
    }
    let mut stop = [0; 8];
    s.read_exact(&mut stop).unwrap();
    assert_eq!(stop, [0, 0, 0, 4, 0, 0, 0, 3], "STOP");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_over_udp_names_its_client() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tap.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = start(TapTarget::Socket(path), 1);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    let ask = || {
        client.send_to(&query("www.example", 1), server.local_addrs()[0]).unwrap();
        client.recv(&mut [0; 4096]).unwrap();
    };
    ask(); // the first event is why it connects
    let mut s = tokio::task::spawn_blocking(move || accept(&listener)).await.unwrap();
    ask();
    let body = tokio::task::spawn_blocking(move || frame(&mut s)).await.unwrap();
    let port = client.local_addr().unwrap().port();
    let varint = [port as u8 | 0x80, (port >> 7) as u8 | 0x80, (port >> 14) as u8];
    let varint = if port < 1 << 14 { vec![varint[0], varint[1] & 0x7f] } else { varint.to_vec() };
    // AUTH_RESPONSE, INET, its address, its port, UDP
    let says = [&[0x08, 2, 0x10, 1, 0x22, 4, 127, 0, 0, 1, 0x30][..], &varint, &[0x18, 1]].concat();
    assert!(body.windows(says.len()).any(|w| w == says), "{says:02x?} is missing in {body:02x?}");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_that_cannot_be_written_is_told_at_the_start() {
    let target = TapTarget::File("/nowhere/at/all.dnstap".into());
    let config = DnsConfig {
        tap: Some(TapConfig { target, sample: 1, identity: String::new() }),
        ..DnsConfig::default()
    };
    let now = Arc::new(ArcSwap::from_pointee(published(state(&[]), 1)));
    let e = DnsServer::start(config, now, Arc::new(DnsFlags::default())).err().unwrap();
    assert!(e.to_string().contains("query log"), "{e}");
}
