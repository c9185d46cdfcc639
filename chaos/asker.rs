//! Asks DNS servers every few milliseconds and writes down when an answer changed.
//!
//! Has its own clock, sockets and codec, so that it does not share a mistake with what it judges.

use crate::process;
use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// Type A.
pub const A: u16 = 1;
/// Type SOA.
pub const SOA: u16 = 6;
/// Type AAAA.
pub const AAAA: u16 = 28;

/// What a server said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// RCODE.
    pub rcode: u8,
    /// AA bit.
    pub authoritative: bool,
    /// Addresses of the answer section.
    pub addrs: BTreeSet<IpAddr>,
    /// Serial, when a SOA was answered.
    pub serial: Option<u32>,
    /// TTL of the first record of the answer section.
    pub ttl: Option<u32>,
}

/// Asks once.
pub fn ask(server: SocketAddr, name: &str, rtype: u16, within: Duration) -> io::Result<Answer> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(within))?;
    ask_on(&socket, 1, name, rtype)
}

fn ask_on(socket: &UdpSocket, id: u16, name: &str, rtype: u16) -> io::Result<Answer> {
    socket.send(&query(id, name, rtype))?;
    let mut buffer = [0; 4096];
    loop {
        let n = socket.recv(&mut buffer)?;
        if buffer[..n].starts_with(&id.to_be_bytes()) {
            return parse(&buffer[..n])
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a DNS answer"));
        }
    }
}

fn query(id: u16, name: &str, rtype: u16) -> Vec<u8> {
    let mut q = id.to_be_bytes().to_vec();
    q.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        q.push(label.len() as u8);
        q.extend_from_slice(label.as_bytes());
    }
    q.push(0);
    q.extend_from_slice(&rtype.to_be_bytes());
    q.extend_from_slice(&[0, 1]);
    q
}

fn parse(m: &[u8]) -> Option<Answer> {
    let short = |at: usize| Some(u16::from_be_bytes([*m.get(at)?, *m.get(at + 1)?]));
    let long = |at: usize| Some(u32::from_be_bytes(m.get(at..at + 4)?.try_into().ok()?));
    let mut at = 12;
    for _ in 0..short(4)? {
        at = skip_name(m, at)? + 4;
    }
    let mut answer = Answer {
        rcode: *m.get(3)? & 15,
        authoritative: *m.get(2)? & 4 != 0,
        addrs: BTreeSet::new(),
        serial: None,
        ttl: None,
    };
    for _ in 0..short(6)? {
        at = skip_name(m, at)?;
        let (rtype, ttl, len) = (short(at)?, long(at + 4)?, short(at + 8)? as usize);
        let data = m.get(at + 10..at + 10 + len)?;
        answer.ttl = answer.ttl.or(Some(ttl));
        match rtype {
            A => _ = answer.addrs.insert(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?).into()),
            AAAA => _ = answer.addrs.insert(Ipv6Addr::from(<[u8; 16]>::try_from(data).ok()?).into()),
            SOA => answer.serial = long(skip_name(m, skip_name(m, at + 10)?)?),
            _ => {}
        }
        at += 10 + len;
    }
    Some(answer)
}

fn skip_name(m: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *m.get(at)? {
            0 => return Some(at + 1),
            n if n >= 0xc0 => return Some(at + 2),
            n => at += 1 + n as usize,
        }
    }
}

/// One change of what a server answers.
#[derive(Debug, Clone)]
pub struct Seen {
    /// When the question went out.
    pub asked: Instant,
    /// When the answer came in.
    pub at: Instant,
    /// The answer; none: no answer within the timeout.
    pub answer: Option<Answer>,
}

/// How a server is asked.
pub enum Line {
    /// One socket, one packet each way.
    Udp(UdpSocket),
    /// One connection for many questions (RFC 7766 §6.2.1), made again when it fails.
    Tcp {
        /// The server.
        server: SocketAddr,
        /// Longest wait for a connection, and for an answer.
        within: Duration,
        /// The connection, when there is one.
        stream: Option<TcpStream>,
    },
}

impl Line {
    /// Over UDP.
    pub fn udp(server: SocketAddr, within: Duration) -> io::Result<Line> {
        let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(within))?;
        Ok(Line::Udp(socket))
    }

    /// Over TCP.
    pub fn tcp(server: SocketAddr, within: Duration) -> Line {
        Line::Tcp { server, within, stream: None }
    }

    /// Asks once. A connection that was closed in the meantime is made again, once.
    pub fn ask(&mut self, id: u16, name: &str, rtype: u16) -> io::Result<Answer> {
        let (server, within, stream) = match self {
            Line::Udp(socket) => return ask_on(socket, id, name, rtype),
            Line::Tcp { server, within, stream } => (server, within, stream),
        };
        if let Some(mut held) = stream.take()
            && let Ok(answer) = ask_stream(&mut held, id, name, rtype)
        {
            *stream = Some(held);
            return Ok(answer);
        }
        let mut fresh = TcpStream::connect_timeout(server, *within)?;
        fresh.set_read_timeout(Some(*within))?;
        fresh.set_nodelay(true)?;
        let answer = ask_stream(&mut fresh, id, name, rtype)?;
        *stream = Some(fresh);
        Ok(answer)
    }
}

/// RFC 1035 §4.2.2: a length of two bytes before each message.
fn ask_stream(stream: &mut TcpStream, id: u16, name: &str, rtype: u16) -> io::Result<Answer> {
    let message = query(id, name, rtype);
    let mut framed = (message.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&message);
    stream.write_all(&framed)?;
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer)?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "not the answer to the question");
    parse(&answer).filter(|_| answer.starts_with(&id.to_be_bytes())).ok_or_else(bad)
}

/// Asks one server for ever, on a thread of its own.
pub struct Asker {
    changes: Arc<Mutex<Vec<Seen>>>,
    lost: Arc<Mutex<(u64, u64)>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// An asker remembers so many changes; more means that something flaps, which is a result too.
const REMEMBERED: usize = 100_000;

impl Asker {
    /// Asks `server` for `name` over UDP every `every`; after 250 ms without an answer there is none.
    pub fn start(server: SocketAddr, name: &str, rtype: u16, every: Duration) -> io::Result<Asker> {
        let within = Duration::from_millis(250);
        Asker::begin(Line::udp(server, within)?, name, rtype, every)
    }

    /// Asks over a line for ever.
    pub fn begin(mut line: Line, name: &str, rtype: u16, every: Duration) -> io::Result<Asker> {
        let (changes, lost, stop) =
            <(Arc<Mutex<Vec<Seen>>>, Arc<Mutex<(u64, u64)>>, Arc<AtomicBool>)>::default();
        let (changes_, lost_, stop_, name) = (changes.clone(), lost.clone(), stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut id = 0u16;
            while !stop_.load(Relaxed) {
                id = id.wrapping_add(1);
                let asked = Instant::now();
                let answer = line.ask(id, &name, rtype).ok();
                let mut lost = lost_.lock().unwrap_or_else(PoisonError::into_inner);
                lost.0 += 1;
                lost.1 += u64::from(answer.is_none());
                drop(lost);
                let mut changes = changes_.lock().unwrap_or_else(PoisonError::into_inner);
                if changes.len() < REMEMBERED && changes.last().is_none_or(|l: &Seen| l.answer != answer) {
                    changes.push(Seen { asked, at: Instant::now(), answer });
                }
                drop(changes);
                std::thread::sleep(every);
            }
        });
        Ok(Asker { changes, lost, stop, thread: Some(thread) })
    }

    /// Every change so far, oldest first.
    pub fn changes(&self) -> Vec<Seen> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Questions asked, and of those the ones without an answer.
    pub fn totals(&self) -> (u64, u64) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When an answer first held exactly these addresses, at or after `from`.
    pub fn first(&self, addrs: &BTreeSet<IpAddr>, from: Instant) -> Option<Instant> {
        let changes = self.changes();
        let held = changes.iter().rev().find(|s| s.at < from);
        if held.and_then(|s| s.answer.as_ref()).is_some_and(|a| a.addrs == *addrs) {
            return Some(from);
        }
        let hit = |s: &&Seen| s.at >= from && s.answer.as_ref().is_some_and(|a| a.addrs == *addrs);
        changes.iter().find(hit).map(|s| s.at)
    }

    /// Waits for [`Asker::first`], in vain once a signal has come that ends the program.
    pub fn wait(&self, addrs: &BTreeSet<IpAddr>, from: Instant, within: Duration) -> Option<Instant> {
        let end = Instant::now() + within;
        loop {
            if let Some(at) = self.first(addrs, from) {
                return Some(at);
            }
            if Instant::now() > end || process::interrupted() {
                return None;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_compressed_owners_is_read() {
        let mut m = query(7, "www.example.com", A);
        (m[2], m[7]) = (0x84, 2);
        for last in [1, 2] {
            m.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 10, 0, 4, 192, 0, 2, last]);
        }
        let answer = parse(&m).unwrap();
        assert!(answer.authoritative && answer.rcode == 0 && answer.ttl == Some(10));
        assert_eq!(answer.addrs.len(), 2);
        assert!(parse(&m[..m.len() - 1]).is_none());
    }
}
