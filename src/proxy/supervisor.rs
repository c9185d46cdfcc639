//! The supervisor: makes what is open match what is published and what is healthy. A thread of its own, off the
//! request path.
//!
//! Every address has a *reservation*, a socket that is bound and does not listen, for as long as the address is
//! configured; next to it, each worker has a listening socket. An L4 listener whose pool has no healthy backend closes
//! the listening sockets: connects are refused, as a client of the service would see it, and nobody else can take the
//! port meanwhile.

use crate::{
    Problem,
    counters::ListenerCells,
    engine::{Door, Fate, Line, Listening, Shared},
    health::now_ms,
    live::Live,
    socket,
    tls::{Backends, Loaded, Secrets},
};
use arc_swap::ArcSwap;
use socket2::Socket;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::AcqRel},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::mpsc;
use zonekeeper_core::{
    Published,
    id::ListenerId,
    model::Protocol,
    route::{ListenerTable, ProxyTable},
};

/// How often the publication is looked at when nobody calls.
const POLL_MS: u64 = 250;
/// How often what failed is tried again, and certificate files are looked at.
const RETRY_MS: u64 = 1000;

/// What the handle tells the supervisor.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Command {
    /// The publication was swapped.
    Refresh,
    /// Stop accepting, for good.
    Drain,
}

/// What the handle shows.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) addrs: Vec<(ListenerId, SocketAddr)>,
    pub(crate) problems: Vec<Problem>,
}

/// A bind of a listener. Without a fixed port the listener is part of its identity.
type Key = (SocketAddr, Option<ListenerId>);

/// An address that is ours.
struct Open {
    _reservation: Socket,
    local: SocketAddr,
    listening: Option<(Arc<ListenerId>, Fate)>,
}

/// The listener, the address and the error of a bind that failed.
pub(crate) type BindFailure = (ListenerId, SocketAddr, io::Error);

pub(crate) struct Supervisor {
    published: Arc<ArcSwap<Published>>,
    shared: Arc<Shared>,
    workers: Vec<Line>,
    table: Arc<ProxyTable>,
    open: BTreeMap<Key, Open>,
    cells: BTreeMap<ListenerId, Arc<ListenerCells>>,
    certificates: BTreeMap<ListenerId, Loaded>,
    /// TLS to backends.
    backends: Backends,
    /// What session tickets are made from where the cluster has no secret.
    own: Secrets,
    problems: BTreeMap<Key, Problem>,
    tls_problems: BTreeMap<ListenerId, Problem>,
    retried: u64,
    status: Arc<Mutex<Status>>,
}

impl Supervisor {
    pub(crate) fn new(
        published: Arc<ArcSwap<Published>>,
        shared: Arc<Shared>,
        workers: Vec<Line>,
    ) -> Supervisor {
        Supervisor {
            published,
            shared,
            workers,
            table: Arc::default(),
            open: BTreeMap::new(),
            cells: BTreeMap::new(),
            certificates: BTreeMap::new(),
            backends: Backends::default(),
            own: Secrets::own(),
            problems: BTreeMap::new(),
            tls_problems: BTreeMap::new(),
            retried: 0,
            status: Arc::default(),
        }
    }

    pub(crate) fn status(&self) -> Arc<Mutex<Status>> {
        self.status.clone()
    }

    /// Goes on in a thread until the commands end; the workers end with it.
    pub(crate) fn spawn(self, inbox: mpsc::UnboundedReceiver<Command>) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        std::thread::Builder::new()
            .name("proxy-control".into())
            .spawn(move || runtime.block_on(self.run(inbox)))
    }

    async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        let mut health = self.shared.health.subscribe();
        loop {
            let now = now_ms();
            let ejected = self.shared.health.settle(now).map_or(POLL_MS, |t| t - now);
            let wait = tokio::time::sleep(Duration::from_millis(ejected.min(POLL_MS)));
            tokio::select! {
                command = inbox.recv() => match command {
                    None => return,
                    Some(Command::Drain) => return self.drained(inbox).await,
                    Some(Command::Refresh) => {}
                },
                _ = health.changed() => {}
                () = wait => {}
            }
            let _ = self.reconcile(); // what fails is a problem already
            self.shared.access.write();
        }
    }

    /// Nothing is accepted any more; what runs goes on until the commands end.
    async fn drained(mut self, mut inbox: mpsc::UnboundedReceiver<Command>) {
        self.open.values_mut().for_each(|o| close(o, Listening::Drain, &self.workers));
        self.wake();
        while inbox.recv().await.is_some() {}
        self.shared.access.write();
    }

    fn wake(&self) {
        self.workers.iter().for_each(Line::look);
    }

    /// Makes what is open match what is wanted. Returns the first bind that failed; all of them become problems.
    pub(crate) fn reconcile(&mut self) -> Result<(), BindFailure> {
        let table = self.published.load().proxy.clone();
        let now = now_ms();
        let retry = now.saturating_sub(self.retried) >= RETRY_MS;
        let changed = !Arc::ptr_eq(&table, &self.table);
        if changed || retry {
            self.retried = now;
            let reloaded = self.backends.load(&table) | self.load_certificates(&table);
            if changed || reloaded {
                self.publish(&table);
            }
        }
        self.table = table.clone();
        let result = self.bind(&table, changed || retry);
        self.remove(&table);
        self.show(&table);
        result
    }

    fn publish(&mut self, table: &ProxyTable) {
        let workers = self.workers.len();
        let (cells, certificates) = (&mut self.cells, &self.certificates);
        cells.retain(|id, _| table.listeners.contains_key(id));
        let live = Live::build(table, &self.shared.health, &self.backends, |l| {
            let cells = cells.entry(l.id.clone()).or_insert_with(|| Arc::new(ListenerCells::new(workers)));
            (cells.clone(), certificates.get(&l.id).map(|c| c.config.clone()))
        });
        self.shared.publish(live);
        self.shared.health.retain(table);
    }

    /// Reads certificates that are new or were written again. One that cannot be read leaves the last good one.
    fn load_certificates(&mut self, table: &ProxyTable) -> bool {
        let (mut reloaded, secrets) = (false, self.own.clone());
        self.tls_problems.retain(|id, _| table.listeners.get(id).is_some_and(|l| l.tls.is_some()));
        self.certificates.retain(|id, _| table.listeners.get(id).is_some_and(|l| l.tls.is_some()));
        for (id, listener) in &table.listeners {
            let Some(spec) = &listener.tls else { continue };
            if self.certificates.get(id).is_some_and(|c| c.current(listener, spec, &secrets)) {
                self.tls_problems.remove(id);
                continue;
            }
            match Loaded::read(listener, spec, &secrets) {
                Ok(loaded) => {
                    self.certificates.insert(id.clone(), loaded);
                    self.tls_problems.remove(id);
                    reloaded = true;
                }
                Err(message) => {
                    let problem = Problem { listener: id.clone(), addr: None, message };
                    note(&mut self.tls_problems, id.clone(), problem);
                }
            }
        }
        reloaded
    }

    fn bind(&mut self, table: &ProxyTable, retry: bool) -> Result<(), BindFailure> {
        let mut first = Ok(());
        for listener in table.listeners.values() {
            for addr in &listener.binds {
                let key = key(*addr, &listener.id);
                if self.problems.contains_key(&key) && !retry {
                    continue;
                }
                match self.bind_one(&key, listener) {
                    Ok(()) => drop(self.problems.remove(&key)),
                    Err(e) => {
                        let message = format!(
                            "cannot listen on {addr}: {e}; free the port or change the listener's bind"
                        );
                        let problem = Problem { listener: listener.id.clone(), addr: Some(*addr), message };
                        note(&mut self.problems, key, problem);
                        first = first.and(Err((listener.id.clone(), *addr, e)));
                    }
                }
            }
        }
        first
    }

    fn bind_one(&mut self, key: &Key, listener: &ListenerTable) -> io::Result<()> {
        let wanted = self.wanted(listener);
        let spoken = listener.client_first;
        let open = match self.open.entry(key.clone()) {
            std::collections::btree_map::Entry::Occupied(o) => o.into_mut(),
            std::collections::btree_map::Entry::Vacant(v) => {
                let reservation = socket::reserve(key.0)?;
                let local = socket::local_addr(&reservation)?;
                v.insert(Open { _reservation: reservation, local, listening: None })
            }
        };
        let same = open.listening.as_ref().is_some_and(|(id, _)| **id == listener.id);
        match (wanted, same) {
            (true, false) => {
                let sockets: io::Result<Vec<_>> =
                    self.workers.iter().map(|_| socket::listen(open.local, spoken)).collect();
                let (id, fate) = (Arc::new(listener.id.clone()), Fate::default());
                for (worker, socket) in self.workers.iter().zip(sockets?) {
                    self.shared.accepting.fetch_add(1, AcqRel);
                    worker.open(Door { socket, id: id.clone(), fate: fate.clone(), spoken });
                }
                close(open, Listening::Drain, &self.workers); // a listener of another name had the address
                open.listening = Some((id, fate));
            }
            (false, _) => close(open, Listening::Refuse, &self.workers),
            (true, true) => {}
        }
        Ok(())
    }

    /// Whether clients shall be able to connect.
    fn wanted(&self, listener: &ListenerTable) -> bool {
        let readable = listener.tls.is_none() || self.certificates.contains_key(&listener.id);
        let served = || {
            let healthy = |r: &zonekeeper_core::route::RouteTable| {
                r.pools.iter().any(|(pool, _)| self.shared.health.healthy_count(pool).0 > 0)
            };
            listener.protocol == Protocol::Http || listener.routes.iter().any(healthy)
        };
        readable && served()
    }

    /// Closes what is no longer configured; connections end after the request that they serve.
    fn remove(&mut self, table: &ProxyTable) {
        let keys = |l: &Arc<ListenerTable>| l.binds.iter().map(|a| key(*a, &l.id)).collect::<Vec<_>>();
        let wanted: BTreeSet<Key> = table.listeners.values().flat_map(keys).collect();
        let before = self.open.len();
        self.problems.retain(|k, _| wanted.contains(k));
        self.open.retain(|k, open| {
            let keep = wanted.contains(k);
            if !keep {
                close(open, Listening::Drain, &self.workers);
            }
            keep
        });
        if self.open.len() != before {
            self.wake();
        }
    }

    fn show(&self, table: &ProxyTable) {
        let local = |l: &Arc<ListenerTable>| {
            let of = |a: &SocketAddr| Some((l.id.clone(), self.open.get(&key(*a, &l.id))?.local));
            l.binds.iter().filter_map(of).collect::<Vec<_>>()
        };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.addrs = table.listeners.values().flat_map(local).collect();
        let of_pools = self.backends.concerned(table);
        let of_pools = of_pools.map(|(listener, message)| Problem { listener, addr: None, message });
        status.problems =
            self.problems.values().chain(self.tls_problems.values()).cloned().chain(of_pools).collect();
    }
}

fn key(addr: SocketAddr, id: &ListenerId) -> Key {
    (addr, (addr.port() == 0).then(|| id.clone()))
}

fn close(open: &mut Open, how: Listening, workers: &[Line]) {
    if let Some((_, fate)) = open.listening.take() {
        fate.set(how);
        workers.iter().for_each(Line::look);
    }
}

/// Logs a problem when it is new.
fn note<K: Ord>(problems: &mut BTreeMap<K, Problem>, key: K, problem: Problem) {
    if problems.get(&key) != Some(&problem) {
        tracing::warn!(listener = %problem.listener, "{}", problem.message);
        problems.insert(key, problem);
    }
}
