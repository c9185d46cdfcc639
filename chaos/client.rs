//! A user: resolves the service's name, requests through that site's proxy, and counts what fails.

use crate::{asker, http};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

/// One request.
#[derive(Debug, Clone)]
pub struct Request {
    /// When it began.
    pub at: Instant,
    /// When it ended.
    pub done: Instant,
    /// What the backend said; none: the request failed.
    pub body: Option<String>,
}

/// Requests for ever, on a thread of its own, with honest DNS: each request asks anew, the next server when one is
/// silent.
pub struct Client {
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A client remembers so many requests: an hour at one every 4 ms.
const REMEMBERED: usize = 1_000_000;

impl Client {
    /// Requests `/` of `name` at `port` every `every`.
    pub fn start(servers: Vec<SocketAddr>, name: &str, port: u16, every: Duration) -> Client {
        let (requests, stop) = <(Arc<Mutex<Vec<Request>>>, Arc<AtomicBool>)>::default();
        let (requests_, stop_, name) = (requests.clone(), stop.clone(), name.to_owned());
        let thread = std::thread::spawn(move || {
            let mut server = 0;
            while !stop_.load(Relaxed) {
                let at = Instant::now();
                let body = once(&servers, &mut server, &name, port);
                let mut requests = requests_.lock().unwrap_or_else(PoisonError::into_inner);
                if requests.len() < REMEMBERED {
                    requests.push(Request { at, done: Instant::now(), body });
                }
                drop(requests);
                std::thread::sleep(every);
            }
        });
        Client { requests, stop, thread: Some(thread) }
    }

    /// Requests that began at or after `from`.
    pub fn since(&self, from: Instant) -> Vec<Request> {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        requests.iter().filter(|r| r.at >= from).cloned().collect()
    }
}

fn once(servers: &[SocketAddr], server: &mut usize, name: &str, port: u16) -> Option<String> {
    for _ in 0..servers.len() {
        let from = servers[*server % servers.len()];
        match asker::ask(from, name, asker::A, Duration::from_millis(100)) {
            Ok(answer) => {
                let addr = SocketAddr::new(*answer.addrs.first()?, port);
                let answer = http::get(addr, "/", Duration::from_millis(500)).ok()?;
                return (answer.status == 200)
                    .then(|| String::from_utf8_lossy(&answer.body).trim().to_owned());
            }
            Err(_) => *server += 1, // as a resolver does: the next server
        }
    }
    None
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
