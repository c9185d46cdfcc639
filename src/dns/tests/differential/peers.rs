//! Knot, NSD and BIND as Debian installs them, each with the same zones, and many questions asked at once.

use crate::common::{Answer, query, read, read_name};
use std::{
    env, fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Queries in flight over UDP: few enough for any socket buffer.
const WINDOW: usize = 64;
/// Longest wait for a peer's answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server.
pub(crate) struct Peer {
    /// For messages.
    pub(crate) name: &'static str,
    child: Child,
    port: u16,
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A zone that the peers load: its origin and its file in the folder.
pub(crate) struct ZoneFile {
    pub(crate) origin: String,
    pub(crate) file: String,
}

/// A port that is free for UDP and TCP at this moment.
fn free_port() -> u16 {
    let free = || {
        let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
        UdpSocket::bind(tcp.local_addr().ok()?).ok()?;
        Some(tcp.local_addr().ok()?.port())
    };
    (0..100).find_map(|_| free()).expect("a free port")
}

/// Where a program is; when it is missing that is said loudly, and fails in CI.
pub(crate) fn installed(program: &str) -> Option<String> {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/sbin"]
        .iter()
        .map(|d| format!("{d}/{program}"))
        .find(|p| Path::new(p).exists());
    if found.is_none() {
        eprintln!("NOT RUN: {program} is not installed; the differential test with it is missing");
        assert!(env::var_os("CI").is_none(), "{program} must be installed in CI");
    }
    found
}

/// Starts all peers that are installed, over these zones; every zone is loaded when this returns.
pub(crate) fn start(dir: &Path, zones: &[ZoneFile]) -> Vec<Peer> {
    let peer = |name, program, args: &[&str], conf: &dyn Fn(u16) -> String| {
        let program = installed(program)?;
        fs::create_dir_all(dir.join(name)).unwrap();
        (0..5).find_map(|_| {
            let port = free_port();
            fs::write(dir.join(format!("{name}.conf")), conf(port)).unwrap();
            spawn(name, &program, args, dir, port, zones)
        })
    };
    let knot = peer("knot", "knotd", &["-c", "knot.conf"], &|port| knot_conf(dir, zones, port));
    let nsd = peer("nsd", "nsd", &["-d", "-c", "nsd.conf"], &|port| nsd_conf(dir, zones, port));
    let bind =
        peer("bind", "named", &["-g", "-n", "1", "-c", "bind.conf"], &|port| bind_conf(dir, zones, port));
    [knot, nsd, bind].into_iter().flatten().collect()
}

/// Starts BIND as a validating resolver that trusts the keys in these zones (origin, text) and forwards to a port. It makes
/// up no answers from denials that it has seen (RFC 8198): each answer is to be proven by our bytes for that question.
pub(crate) fn resolver(dir: &Path, zones: &[(&str, &str)], port: u16) -> Option<Peer> {
    let program = installed("named")?;
    fs::create_dir_all(dir.join("resolver")).unwrap();
    let anchor = |(origin, text): &(&str, &str)| {
        let key = text.split_once("DNSKEY\t257 3 13 (").and_then(|(_, k)| k.split_once(')')).unwrap().0;
        let key: String = key.lines().map(|l| l.split(';').next().unwrap().trim()).collect();
        format!("\"{origin}\" static-key 257 3 13 \"{key}\";\n")
    };
    let anchors: String = zones.iter().map(anchor).collect();
    let ready: Vec<ZoneFile> =
        zones.iter().map(|z| ZoneFile { origin: z.0.to_string(), file: String::new() }).collect();
    (0..5).find_map(|_| {
        let (own, d) = (free_port(), dir.display());
        let conf = format!(
            "options {{ directory \"{d}/resolver\"; pid-file \"{d}/resolver/pid\"; session-keyfile none;\n\
             listen-on port {own} {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; recursion yes; allow-recursion {{ any; }};\n\
             empty-zones-enable no; dnssec-validation yes; synth-from-dnssec no; forward only; forwarders {{ 127.0.0.1 port {port}; }};\n\
             qname-minimization off; }};\ncontrols {{ }};\ntrust-anchors {{\n{anchors}}};\n"
        );
        fs::write(dir.join("resolver.conf"), conf).unwrap();
        spawn("resolver", &program, &["-g", "-n", "1", "-c", "resolver.conf"], dir, own, &ready)
    })
}

fn spawn(
    name: &'static str,
    program: &str,
    args: &[&str],
    dir: &Path,
    port: u16,
    zones: &[ZoneFile],
) -> Option<Peer> {
    let path = dir.join(format!("{name}.log"));
    let log = fs::File::create(&path).unwrap();
    let child = Command::new(program)
        .args(args)
        .current_dir(dir)
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let mut peer = Peer { name, child, port };
    let recursive = |q: Vec<u8>| [&q[..2], &[1], &q[3..]].concat(); // RD: the peers do not care, the resolver does
    let soas: Vec<Vec<u8>> = zones.iter().map(|z| recursive(query(&z.origin, 6))).collect();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = || fs::read_to_string(&path).unwrap_or_default();
        if peer.child.try_wait().unwrap().is_some() {
            eprintln!("{name} ended at once, most likely because its port was taken meanwhile:\n{}", log());
            return None;
        }
        let missing = peer.udp(&soas[..1], Duration::from_millis(200)).first().is_none_or(|a| a.is_none());
        let missing = missing || peer.udp(&soas, PATIENCE).iter().flatten().any(|a| a.rcode != 0);
        if !missing {
            return Some(peer);
        }
        assert!(Instant::now() < deadline, "{name} does not serve all zones:\n{}", log());
        thread::sleep(Duration::from_millis(50));
    }
}

fn knot_conf(dir: &Path, zones: &[ZoneFile], port: u16) -> String {
    let d = dir.join("knot");
    let d = d.display();
    let mut conf = format!(
        "server:\n  listen: 127.0.0.1@{port}\n  rundir: \"{d}\"\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\n\
         \x20 udp-max-payload: 1232\ndatabase:\n  storage: \"{d}\"\ntemplate:\n  - id: default\n    zonefile-sync: -1\n\
         \x20   zonefile-load: whole\n    journal-content: none\n    semantic-checks: off\nzone:\n"
    );
    for z in zones {
        conf.push_str(&format!(
            "  - domain: \"{}\"\n    file: \"{}\"\n",
            z.origin,
            dir.join(&z.file).display()
        ));
    }
    conf
}

fn nsd_conf(dir: &Path, zones: &[ZoneFile], port: u16) -> String {
    let d = dir.display();
    let mut conf = format!(
        "server:\n ip-address: 127.0.0.1@{port}\n server-count: 1\n username: \"\"\n chroot: \"\"\n database: \"\"\n zonesdir: \"{d}\"\n\
         pidfile: \"{d}/nsd.pid\"\n xfrdfile: \"{d}/xfrd\"\n zonelistfile: \"{d}/list\"\n xfrdir: \"{d}\"\n rrl-ratelimit: 0\n\
         \x20minimal-responses: no\n ipv4-edns-size: 1232\nremote-control:\n control-enable: no\n"
    );
    for z in zones {
        conf.push_str(&format!("zone:\n name: \"{}\"\n zonefile: {d}/{}\n", z.origin, z.file));
    }
    conf
}

fn bind_conf(dir: &Path, zones: &[ZoneFile], port: u16) -> String {
    let d = dir.display();
    let mut conf = format!(
        "options {{ directory \"{d}/bind\"; pid-file \"{d}/bind/pid\"; session-keyfile none; listen-on port {port} {{ 127.0.0.1; }};\n\
         listen-on-v6 {{ none; }}; recursion no; notify no; empty-zones-enable no; dnssec-validation no; answer-cookie no;\n\
         minimal-responses no-auth; minimal-any no; max-udp-size 1232; nocookie-udp-size 1232; check-names primary ignore;\n\
         check-integrity no; check-mx ignore; check-mx-cname ignore; check-srv-cname ignore; check-sibling no; check-wildcard no;\n\
         check-dup-records ignore; check-spf ignore; send-cookie no; zero-no-soa-ttl no; }};\ncontrols {{ }};\n"
    );
    for z in zones {
        conf.push_str(&format!("zone \"{}\" {{ type primary; file \"{d}/{}\"; }};\n", z.origin, z.file));
    }
    conf
}

impl Peer {
    /// Answers in the order of the questions.
    pub(crate) fn ask(&self, queries: &[Vec<u8>], tcp: bool) -> Vec<Answer> {
        let answers = if tcp { self.tcp(queries) } else { self.udp(queries, PATIENCE) };
        let whole: Vec<Answer> = answers.into_iter().flatten().collect();
        assert_eq!(whole.len(), queries.len(), "{} leaves questions without an answer", self.name);
        whole
    }

    fn udp(&self, queries: &[Vec<u8>], patience: Duration) -> Vec<Option<Answer>> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.connect(("127.0.0.1", self.port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let (mut answers, mut buf) = (vec![None; queries.len()], [0u8; 4096]);
        let deadline = Instant::now() + patience;
        for (start, part) in (0..queries.len()).step_by(WINDOW).zip(queries.chunks(WINDOW)) {
            let open = |answers: &[Option<Answer>]| {
                (start..start + part.len()).filter(|i| answers[*i].is_none()).count()
            };
            while open(&answers) > 0 && Instant::now() < deadline {
                for i in (start..start + part.len()).filter(|i| answers[*i].is_none()) {
                    let _ = socket.send(&numbered(&queries[i], i));
                }
                while open(&answers) > 0 {
                    let Ok(n) = socket.recv(&mut buf) else { break };
                    take(&buf[..n], queries, &mut answers);
                }
            }
        }
        answers
    }

    fn tcp(&self, queries: &[Vec<u8>]) -> Vec<Option<Answer>> {
        let mut answers = vec![None; queries.len()];
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (mut reader, mut writer) = (&stream, &stream);
        thread::scope(|s| {
            s.spawn(move || {
                for (i, q) in queries.iter().enumerate() {
                    let q = numbered(q, i);
                    writer.write_all(&[&(q.len() as u16).to_be_bytes(), &q[..]].concat()).unwrap();
                }
            });
            let mut head = [0u8; 2];
            for _ in queries {
                reader.read_exact(&mut head).unwrap();
                let mut m = vec![0; usize::from(u16::from_be_bytes(head))];
                reader.read_exact(&mut m).unwrap();
                take(&m, queries, &mut answers);
            }
        });
        answers
    }
}

fn numbered(q: &[u8], i: usize) -> Vec<u8> {
    [&(i as u16).to_be_bytes(), &q[2..]].concat()
}

fn take(m: &[u8], queries: &[Vec<u8>], answers: &mut [Option<Answer>]) {
    let i = usize::from(u16::from_be_bytes([m[0], m[1]]));
    let Some(q) = queries.get(i) else { return };
    let mut end = 12;
    read_name(q, &mut end);
    // A late answer to an earlier question may have the same number.
    if m.len() >= end + 4 && m[12..end + 4].eq_ignore_ascii_case(&q[12..end + 4]) {
        answers[i] = Some(read(m));
    }
}
