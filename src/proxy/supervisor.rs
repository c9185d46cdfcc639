//! The supervisor: makes what is open match what is published and what is healthy. A thread of its own, off the
//! request path.
//!
//! Every address has a *reservation*, a socket that is bound and does not listen, for as long as the address is
//! configured; next to it, each worker has a listening socket. An L4 listener whose pool has no healthy backend closes
//! the listening sockets: connects are refused, as a client of the service would see it, and nobody else can take the
//! port meanwhile.

use crate::{
    Problem, access,
    counters::ListenerCells,
    engine::{Fate, Handed, Line, Listening, Shared},
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
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::AcqRel},
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};
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
#[derive(Debug)]
pub(crate) enum Command {
    /// The publication was swapped.
    Refresh,
    /// Stop accepting, for good.
    Drain,
    /// The same, and another process goes on with the sockets.
    Leave,
    /// Give each socket once more, by its name.
    Sockets(oneshot::Sender<Vec<(String, OwnedFd)>>),
}

/// What the handle shows.
#[derive(Debug, Default)]
pub(crate) struct Status {
    pub(crate) addrs: Vec<(ListenerId, SocketAddr)>,
    pub(crate) problems: Vec<Problem>,
}

/// A bind of a listener. TCP and UDP have ports of their own. Without a fixed port the listener is part of its identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    addr: SocketAddr,
    udp: bool,
    unfixed: Option<ListenerId>,
}

/// An address that is ours.
struct Open {
    /// None for UDP, where a socket that nobody reads from would swallow its share.
    reservation: Option<Socket>,
    local: SocketAddr,
    listening: Option<Heard>,
}

/// What listens on an address.
struct Heard {
    id: Arc<ListenerId>,
    fate: Fate,
    /// Its connections come with their first bytes, which is a matter of its sockets.
    spoken: bool,
    /// The workers' sockets once more.
    sockets: Vec<OwnedFd>,
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
    /// The count of changes of what names stand for that is published.
    resolutions: u64,
    status: Arc<Mutex<Status>>,
    /// Sockets of the process before this one, by name, until they have found their places.
    inherited: Vec<(String, OwnedFd)>,
}

impl Supervisor {
    pub(crate) fn new(
        published: Arc<ArcSwap<Published>>,
        shared: Arc<Shared>,
        workers: Vec<Line>,
        inherited: Vec<(String, OwnedFd)>,
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
            resolutions: 0,
            status: Arc::default(),
            inherited,
        }
    }

    /// Inherited sockets that have no place here; from now on there are none.
    pub(crate) fn not_inherited(&mut self) -> Vec<(String, OwnedFd)> {
        std::mem::take(&mut self.inherited)
    }

    /// A socket of the process before this one. Those of TCP and of UDP at one address have the same name.
    fn inherit(&mut self, key: &Key, listening: bool) -> Option<OwnedFd> {
        let name = name(key, listening);
        let at = self.inherited.iter().position(|(n, s)| *n == name && socket::is_udp(s) == key.udp)?;
        Some(self.inherited.remove(at).1)
    }

    fn sockets(&self) -> Vec<(String, OwnedFd)> {
        let mut all = Vec::new();
        for (key, open) in &self.open {
            let listening = open.listening.iter().flat_map(|l| &l.sockets).map(OwnedFd::try_clone);
            let reserved = open.reservation.as_ref().and_then(|s| s.try_clone().ok());
            all.extend(reserved.map(|s| (name(key, false), s.into())));
            all.extend(listening.filter_map(Result::ok).map(|s| (name(key, true), s)));
        }
        all
    }

    pub(crate) fn status(&self) -> Arc<Mutex<Status>> {
        self.status.clone()
    }

    /// Goes on in a thread until the commands end; the workers end with it.
    pub(crate) fn spawn(self, inbox: mpsc::UnboundedReceiver<Command>) -> io::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let access = access::Writer::spawn(self.shared.access.clone())?;
        std::thread::Builder::new().name("proxy-control".into()).spawn(move || {
            runtime.block_on(self.run(inbox));
            drop(access);
        })
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
                    Some(Command::Drain) => return self.drained(inbox, Listening::Drain).await,
                    Some(Command::Leave) => return self.drained(inbox, Listening::Refuse).await,
                    Some(Command::Sockets(reply)) => drop(reply.send(self.sockets())),
                    Some(Command::Refresh) => {}
                },
                _ = health.changed() => {}
                () = wait => {}
            }
            let _ = self.reconcile(); // what fails is a problem already
        }
    }

    /// Nothing is accepted any more; what runs goes on until the commands end.
    async fn drained(mut self, mut inbox: mpsc::UnboundedReceiver<Command>, how: Listening) {
        self.open.values_mut().for_each(|o| close(o, how, &self.workers));
        self.wake();
        while inbox.recv().await.is_some() {
            self.wake(); // who waits for a request shall go now
        }
    }

    fn wake(&self) {
        self.workers.iter().for_each(Line::look);
    }

    /// Makes what is open match what is wanted. Returns the first bind that failed; all of them become problems.
    pub(crate) fn reconcile(&mut self) -> Result<(), BindFailure> {
        let table = self.published.load().proxy.clone();
        let now = now_ms();
        let retry = now.saturating_sub(self.retried) >= RETRY_MS;
        let resolutions = self.shared.health.resolutions();
        let changed = !Arc::ptr_eq(&table, &self.table) || self.resolutions != resolutions;
        self.resolutions = resolutions;
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
        let before = self.shared.live();
        let live = Live::build(table, &self.shared.health, &self.backends, &before, |l| {
            let cells = cells.entry(l.id.clone()).or_insert_with(|| Arc::new(ListenerCells::new(workers)));
            (cells.clone(), certificates.get(&l.id).map(|c| (c.config.clone(), c.ends())))
        });
        self.shared.publish(live);
        self.shared.health.retain(table);
    }

    /// Reads certificates that are new or were written again. One that cannot be read leaves the last good one, but only
    /// where the listener asks of clients what it asked then: now it may be more.
    fn load_certificates(&mut self, table: &ProxyTable) -> bool {
        let mut reloaded = false;
        let secrets = Secrets::of(&table.secrets).unwrap_or_else(|| self.own.clone());
        let common = (&secrets, &table.certificates);
        self.tls_problems.retain(|id, _| table.listeners.get(id).is_some_and(|l| l.tls.is_some()));
        let asks = |id: &ListenerId| table.listeners.get(id).and_then(|l| l.tls.as_ref());
        self.certificates.retain(|id, c| asks(id).is_some_and(|tls| c.asks_the_same(tls)));
        for (id, listener) in &table.listeners {
            let Some(spec) = &listener.tls else { continue };
            if self.certificates.get(id).is_some_and(|c| c.current(listener, spec, common)) {
                self.tls_problems.remove(id);
                continue;
            }
            match Loaded::read(listener, spec, common) {
                Ok(loaded) => {
                    self.certificates.insert(id.clone(), loaded);
                    self.tls_problems.remove(id);
                    reloaded = true;
                }
                Err(message) => {
                    let problem = Problem { listener: id.clone(), addr: None, message, serves: false };
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
                let key = key(*addr, listener);
                if self.problems.contains_key(&key) && !retry {
                    continue;
                }
                match self.bind_one(&key, listener) {
                    Ok(()) => drop(self.problems.remove(&key)),
                    Err(e) => {
                        let message = format!(
                            "cannot listen on {addr}: {e}; free the port or change the listener's bind"
                        );
                        let problem = Problem {
                            listener: listener.id.clone(),
                            addr: Some(*addr),
                            message,
                            serves: false,
                        };
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
        if !self.open.contains_key(key) {
            let open = self.reserve(key)?;
            self.open.insert(key.clone(), open);
        }
        let heard = self.open.get(key).and_then(|o| o.listening.as_ref());
        let spoken = listener.client_first;
        let same = heard.is_some_and(|h| *h.id == listener.id && h.spoken == spoken);
        if wanted && !same {
            let sockets = self.listen(key, spoken)?;
            let copies = sockets.iter().map(|s| s.as_fd().try_clone_to_owned()).collect::<io::Result<_>>()?;
            let (id, fate) = (Arc::new(listener.id.clone()), Fate::default());
            for (socket, worker) in sockets.into_iter().zip(self.workers.iter().cycle()) {
                self.shared.accepting.fetch_add(1, AcqRel);
                worker.open(Handed { socket, id: id.clone(), fate: fate.clone(), udp: key.udp });
            }
            if let Some(open) = self.open.get_mut(key) {
                close(open, Listening::Drain, &self.workers); // a listener of another name or kind had the address
                open.listening = Some(Heard { id, fate, spoken, sockets: copies });
            }
        } else if !wanted && let Some(open) = self.open.get_mut(key) {
            close(open, Listening::Refuse, &self.workers);
        }
        Ok(())
    }

    /// Takes an address, so that nobody else gets it.
    fn reserve(&mut self, key: &Key) -> io::Result<Open> {
        let goes_on = |(n, s): &(String, OwnedFd)| *n == name(key, true) && socket::is_udp(s);
        let reservation = match self.inherit(key, false) {
            Some(socket) => socket.into(),
            // Another process may go on with the same sockets of UDP, so there is nothing to reserve then.
            None if key.udp && self.inherited.iter().any(goes_on) => {
                return Ok(Open { reservation: None, local: key.addr, listening: None });
            }
            None if key.udp => socket::reserve_udp(key.addr)?,
            None => socket::reserve(key.addr)?,
        };
        let local = socket::local_addr(&reservation)?;
        Ok(Open { reservation: (!key.udp).then_some(reservation), local, listening: None })
    }

    /// One socket for each worker, and each that the process before this one had.
    fn listen(&mut self, key: &Key, spoken: bool) -> io::Result<Vec<OwnedFd>> {
        let Some(local) = self.open.get(key).map(|o| o.local) else { return Ok(Vec::new()) };
        let mut sockets: Vec<OwnedFd> = std::iter::from_fn(|| self.inherit(key, true)).collect();
        for _ in sockets.len()..self.workers.len() {
            sockets.push(match key.udp {
                true => socket::receive(local)?,
                false => socket::listen(local, spoken)?.into(),
            });
        }
        Ok(sockets)
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
        let keys = |l: &Arc<ListenerTable>| l.binds.iter().map(|a| key(*a, l)).collect::<Vec<_>>();
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
            let of = |a: &SocketAddr| Some((l.id.clone(), self.open.get(&key(*a, l))?.local));
            l.binds.iter().filter_map(of).collect::<Vec<_>>()
        };
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.addrs = table.listeners.values().flat_map(local).collect();
        let of_pools = self.backends.concerned(table);
        let of_pools =
            of_pools.map(|(listener, message)| Problem { listener, addr: None, message, serves: false });
        let near_end =
            |id: &ListenerId, message| Problem { listener: id.clone(), addr: None, message, serves: true };
        let ending = self.certificates.iter().flat_map(|(id, c)| c.ending().map(move |m| near_end(id, m)));
        let known = self.problems.values().chain(self.tls_problems.values()).cloned();
        status.problems = known.chain(of_pools).chain(ending).collect();
    }
}

fn key(addr: SocketAddr, listener: &ListenerTable) -> Key {
    let unfixed = (addr.port() == 0).then(|| listener.id.clone());
    Key { addr, udp: listener.protocol == Protocol::Udp, unfixed }
}

/// What a socket is called when it is handed over.
fn name(Key { addr, unfixed, .. }: &Key, listening: bool) -> String {
    let what = if listening { "listen" } else { "reserve" };
    let id = unfixed.as_ref().map_or("", |id| id.as_str());
    format!("proxy {what} {addr} {id}")
}

fn close(open: &mut Open, how: Listening, workers: &[Line]) {
    if let Some(heard) = open.listening.take() {
        heard.fate.set(how);
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
