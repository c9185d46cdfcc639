//! A minute of loss, garbage, oversized, looping and spoofed packets: good clients are answered, and memory stays flat.

use crate::support::{exe, not_run, resident, turn, until};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};
use zonekeeper_chaos::{
    asker::{self, A},
    net::{Net, possible},
};

const ZONE: &str = "$TTL 300\n@ SOA ns host 1 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\nwww A 192.0.2.81\n\
    big TXT \"0123456789012345678901234567890123456789012345678901234567890123456789\"\n";
const PORT: u16 = 5300;
/// Loss on the good client's way, each way, per mille: of 1000 questions, 190 go without an answer.
const LOSS: u32 = 100;
/// How often a good client asks before it gives up: by [`LOSS`] alone that happens twice in a thousand million times.
const ATTEMPTS: u32 = 12;

/// A number that differs from call to call.
fn random(seed: &mut u64) -> u64 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed
}

/// Whoever does harm, until the end.
struct Abuse {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Abuse {
    fn add(&mut self, mut one: impl FnMut(&mut u64) -> bool + Send + 'static) {
        let (stop, sent, mut seed) =
            (self.stop.clone(), self.sent.clone(), 88172645463325252 + self.threads.len() as u64);
        self.threads.push(std::thread::spawn(move || {
            while !stop.load(Relaxed) {
                sent.fetch_add(u64::from(one(&mut seed)), Relaxed);
            }
        }));
    }

    fn end(self) -> u64 {
        self.stop.store(true, Relaxed);
        self.threads.into_iter().for_each(|t| t.join().unwrap());
        self.sent.load(Relaxed)
    }
}

/// `www.example A` with its id at random.
fn question(seed: &mut u64) -> Vec<u8> {
    let mut q = (random(seed) as u16).to_be_bytes().to_vec();
    q.extend_from_slice(b"\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03www\x07example\x00\x00\x01\x00\x01");
    q
}

/// Anything that comes to an attacker's mind.
fn bad(seed: &mut u64) -> Vec<u8> {
    let mut m = question(seed);
    match random(seed) % 6 {
        0 => (0..random(seed) % 600).map(|_| random(seed) as u8).collect(),
        1 => {
            let (at, to) = (random(seed) as usize % m.len(), random(seed) as u8);
            m[at] = to;
            m
        }
        2 => vec![random(seed) as u8; 4096 + random(seed) as usize % 60_000], // oversized
        3 => {
            m[2] |= 0x80; // an answer, so that a careless server answers it
            m
        }
        4 => {
            m.truncate(random(seed) as usize % m.len());
            m
        }
        _ => {
            m[12] = 0xc0; // a name that points to itself
            m[13] = 12;
            m
        }
    }
}

/// An IPv4 packet with a source of one's own choice.
fn packet(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let (total, udp) = ((28 + payload.len()) as u16, (8 + payload.len()) as u16);
    let mut p = vec![0x45, 0];
    p.extend_from_slice(&total.to_be_bytes());
    p.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]); // the kernel fills in id and checksum
    p.extend_from_slice(&from.ip().octets());
    p.extend_from_slice(&to.ip().octets());
    p.extend_from_slice(&from.port().to_be_bytes());
    p.extend_from_slice(&to.port().to_be_bytes());
    p.extend_from_slice(&udp.to_be_bytes());
    p.extend_from_slice(&[0, 0]); // no UDP checksum
    p.extend_from_slice(payload);
    p
}

/// Attackers at the second site.
fn attack(net: &Net, server: SocketAddr) -> Abuse {
    let mut abuse = Abuse { stop: Arc::default(), sent: Arc::default(), threads: Vec::new() };
    let IpAddr::V4(ip) = server.ip() else { unreachable!() };
    let to = SocketAddrV4::new(ip, PORT);
    let (garbage, raw) = net
        .at_site(1, || {
            let garbage = UdpSocket::bind("0.0.0.0:0").unwrap();
            garbage.connect(server).unwrap();
            garbage.set_nonblocking(true).unwrap();
            let raw = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
            (garbage, raw)
        })
        .unwrap();
    abuse.add(move |seed| {
        let sent = garbage.send(&bad(seed)).is_ok();
        let mut buf = [0; 512];
        while garbage.recv(&mut buf).is_ok() {}
        sent
    });
    let destination = SockAddr::from(SocketAddr::from(to));
    abuse.add(move |seed| {
        let from = match random(seed) % 3 {
            0 => to, // the server itself: a loop, if it answered answers
            1 => SocketAddrV4::new(Ipv4Addr::new(10, 77, 1, 1), 53), // another server
            _ => SocketAddrV4::new(
                Ipv4Addr::from(0x0a4d_0200 | (random(seed) as u32 & 0xff)),
                random(seed) as u16,
            ),
        };
        let mut payload = question(seed);
        if random(seed).is_multiple_of(4) {
            payload[2] |= 0x80;
        }
        std::thread::sleep(Duration::from_micros(20)); // it shall not be the flood of one test that hides the other
        raw.send_to(&packet(from, to, &payload), &destination).is_ok()
    });
    // connections that say nothing, half a frame, or too much
    let mut streams = net.at_site(1, || tcp_sockets(server, 60)).unwrap();
    abuse.add(move |seed| {
        let at = random(seed) as usize % streams.len().max(1);
        std::thread::sleep(Duration::from_millis(2));
        let Some(stream) = streams.get_mut(at) else { return false };
        let frame = [&[0xff, 0xff][..], &[random(seed) as u8; 64]].concat();
        stream.write(&frame).is_ok()
    });
    abuse
}

fn tcp_sockets(server: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let stream = TcpStream::connect_timeout(&server, Duration::from_secs(5)).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    };
    (0..count).filter_map(open).collect()
}

/// One question as a resolver asks it: again after a timeout.
fn resolve(server: SocketAddr) -> Result<u32, String> {
    for attempt in 0..ATTEMPTS {
        if let Ok(answer) = asker::ask(server, "www.example", A, Duration::from_millis(400)) {
            return match (answer.rcode, answer.addrs.len()) {
                (0, 2) => Ok(attempt),
                _ => Err(format!("{answer:?}")),
            };
        }
    }
    Err(format!("{ATTEMPTS} questions without an answer"))
}

#[test]
fn abuse_for_a_minute_leaves_good_clients_served_and_memory_flat() {
    if let Err(why) = possible() {
        not_run(&why);
        return;
    }
    let _turn = turn();
    let net = Net::new(2).unwrap();
    net.inside(|| abused(&net)).unwrap();
}

fn abused(net: &Net) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("zone");
    fs::write(&file, ZONE).unwrap();
    let server = SocketAddr::from(([10, 77, 2, 254], PORT));
    let mut serve = Command::new(exe());
    serve.args(["serve", "--workers", "1", "--dns", &server.to_string(), "--zone"]);
    serve.arg(format!("example={}", file.display())).stdout(Stdio::null());
    let process = crate::support::Process::start(&mut serve);
    let pid = process.0.id();
    until("it answers", Duration::from_secs(30), || resolve(server).is_ok());
    lose();

    let seconds: u64 = if std::env::var_os("ZONEKEEPER_LONG").is_some() { 60 } else { 10 };
    let abuse = attack(net, server);
    std::thread::sleep(Duration::from_secs(2)); // buffers fill once
    let before = resident(pid);
    let (end, mut asked, mut again, mut peak) =
        (Instant::now() + Duration::from_secs(seconds), 0u64, 0u64, before);
    let mut failed = Vec::new();
    while Instant::now() < end {
        let answer = net.at_site(0, || resolve(server)).unwrap();
        asked += 1;
        match answer {
            Ok(attempts) => again += u64::from(attempts),
            Err(why) => failed.push(why),
        }
        peak = peak.max(resident(pid));
    }
    let sent = abuse.end();
    let after = resident(pid);
    eprintln!(
        "{sent} bad packets in {seconds} s; {asked} good questions, {again} asked again; {before} KiB before, {peak} at most, {after} after"
    );
    assert!(sent > 2000 * seconds, "only {sent} packets prove nothing");
    assert!(failed.is_empty(), "{} of {asked} good questions failed: {:?}", failed.len(), failed.first());
    // 0.19 by the loss alone; six standard deviations of a hundred questions above it
    let lost = again as f64 / (asked + again) as f64;
    assert!(lost < 0.42, "{lost:.2} of the questions went without an answer: the flood hides good clients");
    assert!(asked > 5 * seconds, "only {asked} questions got through in {seconds} s");
    assert!(peak < before + 8 * 1024, "memory grew from {before} to {peak} KiB");
    let mut over_tcp =
        net.at_site(0, || TcpStream::connect_timeout(&server, Duration::from_secs(20))).unwrap().unwrap();
    over_tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let q = question(&mut 7);
    over_tcp.write_all(&[&(q.len() as u16).to_be_bytes()[..], &q].concat()).unwrap();
    let mut head = [0; 2];
    over_tcp.read_exact(&mut head).unwrap();
    assert!(u16::from_be_bytes(head) > 60, "an answer over TCP");
}

/// One packet of ten is lost between the first site and the hub, in which the server stands; each way.
fn lose() {
    let chain = format!(
        "table inet loss {{\nchain i {{\ntype filter hook input priority 0; policy accept;\n\
         iifname \"s1\" numgen random mod 1000 < {LOSS} drop\n}}\nchain o {{\ntype filter hook output priority 0; \
         policy accept;\noifname \"s1\" numgen random mod 1000 < {LOSS} drop\n}}\n}}\n"
    );
    let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    nft.stdin.take().unwrap().write_all(chain.as_bytes()).unwrap();
    assert!(nft.wait().unwrap().success());
}
