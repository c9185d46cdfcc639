//! The optional query log: dnstap messages (dnstap.info) in Frame Streams, to a file or a unix socket.
//!
//! A worker hands a sample of its answers to a thread that writes them. It never waits: when the thread is behind, the
//! sample is lost and counted. The protocol buffers are few and fixed, so they are written by hand.

use crate::responder::Transport;
use std::{
    fs::{self, File, Metadata},
    io::{self, Read, Seek, SeekFrom, Write},
    mem,
    net::{IpAddr, SocketAddr},
    os::unix::{fs::MetadataExt, net::UnixStream},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// Answers that wait to be written, and the bytes of theirs and of their queries.
const WAITING: usize = 4096;
const WAITING_BYTES: usize = 8 << 20;
/// The type of the frames.
const CONTENT: &[u8] = b"protobuf:dnstap.Dnstap";
/// Frames are held back no longer than this.
const FLUSH: Duration = Duration::from_millis(500);
/// After a lost connection, so that a missing reader costs nothing.
const RETRY: Duration = Duration::from_secs(5);
/// Bytes that are written at once.
const AT_ONCE: usize = 16 << 10;
/// Longest control frame that is read.
const MAX_CONTROL: usize = 512;

/// Where the log goes, and what of it.
#[derive(Debug, Clone)]
pub struct TapConfig {
    /// Where to.
    pub target: TapTarget,
    /// One answer of so many is logged, at least 1.
    pub sample: u32,
    /// How this server is called in it.
    pub identity: String,
}

/// Where the log goes.
#[derive(Debug, Clone)]
pub enum TapTarget {
    /// A file, begun anew at each start and after it was moved away; `dnstap-read` prints it.
    File(PathBuf),
    /// A unix socket on which somebody listens, as `fstrm_capture`; connected again when it goes.
    Socket(PathBuf),
}

/// One answer.
struct Event {
    transport: Transport,
    from: Option<SocketAddr>,
    at: SystemTime,
    query: Vec<u8>,
    answer: Vec<u8>,
}

impl Event {
    fn size(&self) -> usize {
        self.query.len() + self.answer.len()
    }
}

/// A worker's end of the log.
#[derive(Debug, Clone)]
pub(crate) struct Tap {
    sender: SyncSender<Event>,
    sample: u32,
    turn: u32,
    lost: Arc<AtomicU64>,
    bytes: Arc<AtomicUsize>,
}

/// What was taken of a query, to be completed by its answer.
pub(crate) struct Taken {
    query: Vec<u8>,
}

impl Tap {
    /// Opens the file, and starts the thread, which ends when no worker is left.
    pub(crate) fn start(config: &TapConfig) -> io::Result<Tap> {
        let (sender, receiver) = sync_channel(WAITING);
        let (lost, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut out = Out { target: config.target.clone(), stream: None, waiting: (Vec::new(), 0) };
        if matches!(config.target, TapTarget::File(_)) {
            out.open()?; // a wrong path is told at the start
        }
        let writer =
            Writer { out, identity: config.identity.clone(), lost: lost.clone(), bytes: bytes.clone() };
        thread::Builder::new().name("dns-tap".into()).spawn(|| writer.run(receiver))?;
        Ok(Tap { sender, sample: config.sample.max(1), turn: 0, lost, bytes })
    }

    /// Takes a query, if it is one of the sample.
    pub(crate) fn take(&mut self, query: &[u8]) -> Option<Taken> {
        self.turn = self.turn.wrapping_add(1);
        self.turn.is_multiple_of(self.sample).then(|| Taken { query: query.to_vec() })
    }

    /// Hands it over with its answer, or loses it.
    pub(crate) fn give(&self, taken: Taken, transport: Transport, from: Option<SocketAddr>, answer: &[u8]) {
        let event =
            Event { transport, from, at: SystemTime::now(), query: taken.query, answer: answer.to_vec() };
        let size = event.size();
        if self.bytes.fetch_add(size, Relaxed) + size > WAITING_BYTES || self.sender.try_send(event).is_err()
        {
            self.bytes.fetch_sub(size, Relaxed);
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Counts the answers of the sample that were not written.
    pub(crate) fn lost(&self) -> Arc<AtomicU64> {
        self.lost.clone()
    }
}

struct Writer {
    out: Out,
    identity: String,
    lost: Arc<AtomicU64>,
    bytes: Arc<AtomicUsize>,
}

impl Writer {
    fn run(mut self, receiver: Receiver<Event>) {
        let mut flushed = Instant::now();
        loop {
            let mut lost = match receiver.recv_timeout(FLUSH.saturating_sub(flushed.elapsed())) {
                Ok(event) => {
                    self.bytes.fetch_sub(event.size(), Relaxed);
                    self.out.frame(&dnstap(&self.identity, &event))
                }
                Err(RecvTimeoutError::Timeout) => 0,
                Err(RecvTimeoutError::Disconnected) => return self.out.finish(),
            };
            if flushed.elapsed() >= FLUSH {
                lost += self.out.write();
                self.out.follow();
                flushed = Instant::now();
            }
            self.lost.fetch_add(lost, Relaxed);
            if self.out.stream.is_none() && !self.reopen(&receiver) {
                return;
            }
        }
    }

    /// Tries until there is a reader again; meanwhile the channel fills and answers are lost. False: nobody is left.
    fn reopen(&mut self, receiver: &Receiver<Event>) -> bool {
        while self.out.open().is_err() {
            match receiver.recv_timeout(RETRY) {
                Ok(event) => {
                    self.bytes.fetch_sub(event.size(), Relaxed);
                    self.lost.fetch_add(1, Relaxed);
                    thread::sleep(RETRY.min(Duration::from_millis(100)));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
        true
    }
}

/// Frame Streams: frames with their length before them, control frames with a length of 0.
struct Out {
    target: TapTarget,
    stream: Option<Stream>,
    /// Whole frames that are to be written, and their number.
    waiting: (Vec<u8>, u64),
}

enum Stream {
    /// And its length, where a frame ends.
    File(File, u64),
    Socket(UnixStream),
}

#[derive(Clone, Copy)]
enum Control {
    Accept = 1,
    Start = 2,
    Stop = 3,
    Ready = 4,
}

fn control(kind: Control) -> Vec<u8> {
    let mut body = (kind as u32).to_be_bytes().to_vec();
    if !matches!(kind, Control::Stop) {
        body.extend_from_slice(&1u32.to_be_bytes()); // the field: content type
        body.extend_from_slice(&(CONTENT.len() as u32).to_be_bytes());
        body.extend_from_slice(CONTENT);
    }
    [&0u32.to_be_bytes()[..], &(body.len() as u32).to_be_bytes(), &body].concat()
}

impl Stream {
    /// Writes all of it or, to a file, nothing; where not even that, what follows cannot be read.
    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        match self {
            Stream::Socket(socket) => socket.write_all(data),
            Stream::File(file, len) => match file.write_all(data) {
                Ok(()) => {
                    *len += data.len() as u64;
                    Ok(())
                }
                Err(e) => {
                    file.set_len(*len)?;
                    file.seek(SeekFrom::Start(*len))?;
                    Err(e)
                }
            },
        }
    }
}

impl Out {
    fn open(&mut self) -> io::Result<()> {
        let mut stream = match &self.target {
            TapTarget::File(path) => {
                // A process that hands over to this one writes to its own file to the end.
                if fs::symlink_metadata(path).is_ok_and(|m| m.is_file() && m.len() > 0) {
                    let _ = fs::remove_file(path); // a folder that may not be written: the file is emptied
                }
                Stream::File(File::create(path)?, 0)
            }
            TapTarget::Socket(path) => {
                let mut socket = UnixStream::connect(path)?;
                socket.set_read_timeout(Some(RETRY))?;
                socket.set_write_timeout(Some(RETRY))?;
                socket.write_all(&control(Control::Ready))?;
                accepted(&mut socket)?;
                Stream::Socket(socket)
            }
        };
        stream.write(&control(Control::Start))?;
        self.stream = Some(stream);
        Ok(())
    }

    /// Takes a frame. How many were lost.
    fn frame(&mut self, frame: &[u8]) -> u64 {
        let (waiting, frames) = &mut self.waiting;
        waiting.extend_from_slice(&(frame.len() as u32).to_be_bytes());
        waiting.extend_from_slice(frame);
        *frames += 1;
        if waiting.len() < AT_ONCE { 0 } else { self.write() }
    }

    /// Writes what waits. How many frames were lost: all of them, so that what follows can be read.
    fn write(&mut self) -> u64 {
        let (waiting, frames) = &mut self.waiting;
        let written = match &mut self.stream {
            _ if waiting.is_empty() => Ok(()),
            Some(stream) => stream.write(waiting),
            None => Err(io::ErrorKind::NotConnected.into()),
        };
        waiting.clear();
        let frames = mem::take(frames);
        if written.is_ok() {
            return 0;
        }
        let whole = matches!(&self.stream, Some(Stream::File(file, len)) if file.metadata().is_ok_and(|m| m.len() == *len));
        if !whole {
            self.stream = None; // a file that ends with a frame stays open: it may have room again
        }
        frames
    }

    /// Begins another file when the one that is written to was moved away or emptied.
    fn follow(&mut self) {
        let (TapTarget::File(path), Some(Stream::File(file, len))) = (&self.target, &self.stream) else {
            return;
        };
        let place = |m: &Metadata| (m.dev(), m.ino());
        let ours = file.metadata();
        let moved = match (fs::metadata(path), ours) {
            (Ok(there), Ok(ours)) if place(&there) == place(&ours) && there.is_file() => {
                if there.len() >= *len {
                    return;
                }
                false
            }
            (Ok(there), Ok(_)) if there.is_file() && there.len() == 0 => true,
            (Err(e), _) if e.kind() == io::ErrorKind::NotFound => true,
            _ => return, // another process has it, or nobody knows
        };
        let old = self.stream.take();
        match (self.open(), old) {
            (Ok(()), Some(mut old)) if moved => {
                let _ = old.write(&control(Control::Stop)); // nobody is left to tell
            }
            (Ok(()), _) => {}
            (Err(_), old) => self.stream = old,
        }
    }

    fn finish(&mut self) {
        let _ = self.write(); // nobody is left to tell
        if let Some(stream) = &mut self.stream {
            let _ = stream.write(&control(Control::Stop));
        }
    }
}

/// Waits for the reader's ACCEPT.
fn accepted(socket: &mut UnixStream) -> io::Result<()> {
    let mut head = [0; 8];
    socket.read_exact(&mut head)?;
    let len = u32::from_be_bytes([head[4], head[5], head[6], head[7]]) as usize;
    if head[..4] != [0; 4] || !(4..=MAX_CONTROL).contains(&len) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; len];
    socket.read_exact(&mut body)?;
    let accept = (Control::Accept as u32).to_be_bytes();
    if body.starts_with(&accept) { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// A `Dnstap` message of the type AUTH_RESPONSE.
fn dnstap(identity: &str, event: &Event) -> Vec<u8> {
    let mut m = Vec::with_capacity(64 + event.query.len() + event.answer.len());
    number(&mut m, 1, 2); // type AUTH_RESPONSE
    if let Some(from) = event.from {
        let ip = from.ip().to_canonical();
        number(&mut m, 2, if ip.is_ipv4() { 1 } else { 2 });
        match ip {
            IpAddr::V4(ip) => bytes(&mut m, 4, &ip.octets()),
            IpAddr::V6(ip) => bytes(&mut m, 4, &ip.octets()),
        }
        number(&mut m, 6, u64::from(from.port()));
    }
    let protocol = match event.transport {
        Transport::Udp => 1,
        Transport::Tcp => 2,
        Transport::Tls => 3,
        Transport::Https => 4,
        Transport::Quic => 7,
    };
    number(&mut m, 3, protocol);
    let at = event.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    for (seconds, nanos) in [(8, 9), (12, 13)] {
        number(&mut m, seconds, at.as_secs());
        varint(&mut m, nanos << 3 | 5); // fixed32
        m.extend_from_slice(&at.subsec_nanos().to_le_bytes());
    }
    bytes(&mut m, 10, &event.query);
    bytes(&mut m, 14, &event.answer);
    let mut out = Vec::with_capacity(m.len() + identity.len() + 16);
    bytes(&mut out, 1, identity.as_bytes());
    bytes(&mut out, 14, &m);
    number(&mut out, 15, 1); // type MESSAGE
    out
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn number(out: &mut Vec<u8>, field: u64, n: u64) {
    varint(out, field << 3);
    varint(out, n);
}

fn bytes(out: &mut Vec<u8>, field: u64, b: &[u8]) {
    varint(out, field << 3 | 2);
    varint(out, b.len() as u64);
    out.extend_from_slice(b);
}
