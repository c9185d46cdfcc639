//! The access log. A worker hands over what it knows of a request, or of an L4 connection, that is sampled; a thread writes
//! it, off the request path, for whoever reads the log may be slow. What comes faster than it is written is counted and
//! left out.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};
use zonekeeper_core::id::{ListenerId, PoolId};

/// Most entries that wait to be written: some hundred bytes each, for a quarter of a second.
const WAITING: usize = 16_384;
/// The target of its events, which are of the level INFO.
pub const TARGET: &str = "access";
/// How often it is written.
const EVERY: Duration = Duration::from_millis(250);
/// Longest method, path or host in an entry, in bytes.
const TEXT: usize = 1024;

/// Whether the one of this number is written where one of so many is; never where that is 0.
pub(crate) fn sampled(every: u32, number: u64) -> bool {
    every > 0 && number.is_multiple_of(every.into())
}

/// What is known of a request, or of an L4 connection, when it is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) listener: ListenerId,
    pub(crate) client: IpAddr,
    pub(crate) of: Of,
    /// None when no backend got it.
    pub(crate) pool: Option<PoolId>,
    /// The last one that was tried.
    pub(crate) backend: Option<SocketAddr>,
    /// Bytes from the client (of a request: without the head), and bytes to it.
    pub(crate) bytes: (u64, u64),
    pub(crate) took_us: u64,
}

/// What an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Of {
    Request {
        /// What the client asked for; the ids as the backend got them.
        asked: Asked,
        /// What the client was answered; 0: nothing.
        status: u16,
    },
    Connection {
        /// How it ended.
        end: &'static str,
    },
}

/// The parts of a request's head that a log shows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Asked {
    method: String,
    path: String,
    host: String,
    request_id: String,
    traceparent: String,
}

impl Asked {
    /// Of a head, or of its beginning.
    pub(crate) fn of(head: &[u8]) -> Asked {
        let mut asked = Asked::default();
        let mut lines = head.split(|b| *b == b'\n');
        let mut words = lines.next().unwrap_or_default().split(|b| *b == b' ').map(text);
        asked.method = words.next().unwrap_or_default();
        asked.path = words.next().unwrap_or_default();
        for line in lines {
            let Some(colon) = line.iter().position(|b| *b == b':') else { continue };
            let place = match &line[..colon] {
                n if n.eq_ignore_ascii_case(b"host") => &mut asked.host,
                n if n.eq_ignore_ascii_case(b"x-request-id") => &mut asked.request_id,
                n if n.eq_ignore_ascii_case(b"traceparent") => &mut asked.traceparent,
                _ => continue,
            };
            *place = text(line[colon + 1..].trim_ascii());
        }
        asked
    }

    /// With what the client asked for in place of what the backend was asked for.
    pub(crate) fn by_client(self, (host, target): (String, String)) -> Asked {
        Asked { host, path: target, ..self }
    }
}

/// As much of it as a log shows.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT)]).into_owned()
}

/// Entries on their way from the workers to the log.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    waiting: Mutex<Vec<Entry>>,
    lost: AtomicU64,
}

impl AccessLog {
    /// Hands an entry over.
    pub(crate) fn push(&self, entry: Entry) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < WAITING {
            waiting.push(entry);
        } else {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Writes what waits.
    fn write(&self) {
        let entries = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        for e in entries {
            let backend = e.backend.map(|b| b.to_string()).unwrap_or_default();
            let pool = e.pool.map(|p| p.to_string()).unwrap_or_default();
            match e.of {
                Of::Request { asked, status } => tracing::info!(
                    target: TARGET,
                    listener = %e.listener,
                    client = %e.client,
                    method = asked.method,
                    host = asked.host,
                    path = asked.path,
                    status,
                    pool,
                    backend,
                    bytes_in = e.bytes.0,
                    bytes_out = e.bytes.1,
                    took_us = e.took_us,
                    request_id = asked.request_id,
                    traceparent = asked.traceparent,
                    "request"
                ),
                Of::Connection { end } => tracing::info!(
                    target: TARGET,
                    listener = %e.listener,
                    client = %e.client,
                    end,
                    pool,
                    backend,
                    bytes_in = e.bytes.0,
                    bytes_out = e.bytes.1,
                    took_us = e.took_us,
                    "connection"
                ),
            }
        }
        match self.lost.swap(0, Relaxed) {
            0 => {}
            lost => tracing::warn!(lost, "the access log cannot keep up; raise the listener's access_log"),
        }
    }
}

/// The thread that writes; dropped, it writes the rest and ends.
#[derive(Debug)]
pub(crate) struct Writer {
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(crate) fn spawn(log: Arc<AccessLog>) -> io::Result<Writer> {
        let (stop, stopped) = mpsc::channel();
        let thread = std::thread::Builder::new().name("proxy-access".into()).spawn(move || {
            while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                log.write();
            }
            log.write();
        })?;
        Ok(Writer { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            listener: "front".parse().unwrap(),
            client: IpAddr::from([192, 0, 2, 1]),
            of: Of::Connection { end: "closed" },
            pool: "web".parse().ok(),
            backend: None,
            bytes: (0, 2),
            took_us: 9,
        }
    }

    #[test]
    fn a_head_is_taken_apart() {
        let asked = Asked::of(b"GET /a?b HTTP/1.1\r\nHost: w:80\r\nx-request-ID: 7\r\nA: b\r\n\r\n");
        let want = ("GET", "/a?b", "w:80", "7");
        assert_eq!((&*asked.method, &*asked.path, &*asked.host, &*asked.request_id), want);
        assert_eq!(Asked::of(b""), Asked::default());
    }

    #[test]
    fn what_waits_is_bounded_and_what_is_lost_is_counted() {
        let log = AccessLog::default();
        (0..WAITING + 3).for_each(|_| log.push(entry()));
        assert_eq!((log.waiting.lock().unwrap().len(), log.lost.load(Relaxed)), (WAITING, 3));
        log.write();
        assert_eq!((log.waiting.lock().unwrap().len(), log.lost.load(Relaxed)), (0, 0));
    }
}
