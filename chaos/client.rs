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
        let (mut server, name) = (0, name.to_owned());
        Client::over_and_over(every, move || once(&servers, &mut server, &name, port))
    }

    /// A user whose resolver never asks again: requests `/` at one address every `every`.
    pub fn frozen(addr: SocketAddr, every: Duration) -> Client {
        Client::over_and_over(every, move || get(addr))
    }

    fn over_and_over(
        every: Duration,
        mut request: impl FnMut() -> Option<String> + Send + 'static,
    ) -> Client {
        let (requests, stop) = <(Arc<Mutex<Vec<Request>>>, Arc<AtomicBool>)>::default();
        let (requests_, stop_) = (requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while !stop_.load(Relaxed) {
                let at = Instant::now();
                let body = request();
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

fn get(addr: SocketAddr) -> Option<String> {
    let answer = http::get(addr, "/", Duration::from_millis(500)).ok()?;
    (answer.status == 200).then(|| String::from_utf8_lossy(&answer.body).trim().to_owned())
}

fn once(servers: &[SocketAddr], server: &mut usize, name: &str, port: u16) -> Option<String> {
    for _ in 0..servers.len() {
        let from = servers[*server % servers.len()];
        match asker::ask(from, name, asker::A, Duration::from_millis(100)) {
            Ok(answer) => {
                return get(SocketAddr::new(*answer.addrs.first()?, port));
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
