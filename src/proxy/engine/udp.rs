//! UDP: datagrams of one client belong to a session, which has a backend and a socket of its own to it. A session ends
//! when nothing came for the listener's idle time, or when its backend refuses, is down, ejected, or gone from the
//! configuration: the client's next datagram begins another one.
//!
//! A client's datagram costs a lookup and two system calls; one that its backend's socket does not take is lost, as on a
//! full network. Sessions are bounded as connections are, by listener and by address. At a wildcard, one client has one for
//! each address that it sends to: clients take answers from there only.

use super::{
    View, Worker,
    accept::{Client, Door, Listening},
    relay,
    stream::Stream,
    timer::{BURST, Side},
    upstream::Lease,
};
use crate::{
    counters,
    health::{BackendHealth, Fault},
    live::Split,
    outlier, socket,
};
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags, recvfrom, sendto},
};
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    future::poll_fn,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::Poll,
};
use zonekeeper_core::route::BackendTable;

/// Largest datagram (RFC 768 and RFC 8200), in bytes.
const LARGEST: usize = 65_535;
/// A backend on trial that refused nothing for so long has its share again.
const TRIAL_MS: u32 = 1000;
/// Datagrams taken from one socket before the others have their turn.
const BATCH: usize = 64;

thread_local! {
    static ROOM: RefCell<Box<[u8]>> = RefCell::new(vec![0; LARGEST].into());
}

/// A client, and the address of ours that it sends to, where there are many.
type Asker = (SocketAddr, Option<IpAddr>);
/// The sessions at one socket.
pub(crate) type Sessions = RefCell<HashMap<Asker, Rc<Session>>>;

/// One client's datagrams.
pub(crate) struct Session {
    lease: Lease,
    /// What its answers leave from; none: the socket has one address.
    local: Option<IpAddr>,
    backend: Stream,
    /// When a datagram went either way, in milliseconds of the loop's clock.
    last: Cell<u64>,
    /// Bytes from the client that its listener's totals lack.
    received: Cell<u64>,
    /// The task that it is served by.
    task: Cell<u32>,
    /// A datagram to the backend met a closed port (RFC 1122 §4.1.3.3).
    refused: Cell<bool>,
    /// Another session has taken its place.
    left: Cell<bool>,
    /// The version of the view that was looked at last.
    version: Cell<u64>,
    /// What that says of the backend; none: the listener does not lead there any more.
    table: Cell<Option<BackendTable>>,
}

impl Session {
    /// Whether the backend may have the next datagram. Some loads, as long as the configuration stays.
    fn stays(&self, worker: &Worker, door: &Door) -> bool {
        let (view, health) = (worker.view(), self.lease.health());
        if self.version.replace(view.version) != view.version {
            self.table.set(declared(&view, door, health));
        }
        self.table.get().is_some_and(|table| health.keeps(&table, worker.reactor.deadlines.now()))
    }
}

/// What a view says of a backend of a listener.
fn declared(view: &View, door: &Door, backend: &Arc<BackendHealth>) -> Option<BackendTable> {
    let listener = view.listener(view.live.find(&door.id)?);
    let named = listener.table.routes.first()?.pools.iter().map(|(pool, _)| &pool.id);
    let pools = named.filter_map(|id| view.live.pools.iter().find(|p| p.table.id == *id));
    let mut backends = pools.flat_map(|p| p.backends.iter().zip(&p.table.backends));
    backends.find(|(health, _)| Arc::ptr_eq(health, backend)).map(|(_, table)| *table)
}

/// Takes what came from clients.
pub(crate) fn receive(worker: &Rc<Worker>, door: &Rc<Door>) {
    ROOM.with_borrow_mut(|room| {
        for _ in 0..BATCH {
            let received = match door.wildcard {
                true => socket::receive_told(&door.socket, room),
                false => recvfrom(&door.socket, &mut room[..], RecvFlags::empty())
                    .map(|(_, len, from)| (len, from.and_then(|a| SocketAddr::try_from(a).ok()), None)),
            };
            let (len, from, local) = match received {
                Ok(datagram) => datagram,
                Err(Errno::AGAIN) => return,
                Err(_) => continue, // of an answer that did not reach its client
            };
            if let Some(from) = from {
                forward(worker, door, (from, local), &room[..len]);
            }
        }
    });
}

fn forward(worker: &Rc<Worker>, door: &Rc<Door>, from: Asker, data: &[u8]) {
    let mut known = door.sessions.borrow().get(&from).cloned();
    if let Some(session) = known.take_if(|s| !s.stays(worker, door)) {
        door.sessions.borrow_mut().remove(&from);
        session.left.set(true);
        worker.reactor.wake(session.task.get());
    }
    let Some(session) = known.or_else(|| begin(worker, door, from)) else { return };
    session.last.set(worker.reactor.deadlines.now());
    session.received.set(session.received.get() + data.len() as u64);
    session.lease.health().totals.bytes_in.fetch_add(data.len() as u64, Relaxed);
    if !session.backend.send_datagram(data) {
        session.refused.set(true);
        worker.reactor.wake(session.task.get());
    }
}

/// A session of a new client; none at a limit or without a backend.
fn begin(worker: &Rc<Worker>, door: &Rc<Door>, (peer, local): Asker) -> Option<Rc<Session>> {
    let view = worker.view();
    let index = view.live.find(&door.id)?;
    let listener = view.listener(index);
    let cell = listener.cells.of(worker.index);
    if relay::limited(worker, listener, peer.ip()) {
        counters::add(&cell.limited, 1);
        return None;
    }
    let Some(place) = Client::enter(worker, listener, peer.ip()) else {
        counters::add(&cell.rejected, 1);
        return None;
    };
    counters::add(&cell.connections, 1);
    let now = worker.reactor.deadlines.now();
    let pool = listener.routes.first().and_then(Split::next)?;
    let Some((lease, backend)) = connect(worker, Lease::now(&view, pool, peer.ip(), now)) else {
        counters::add(&cell.failed, 1);
        return None;
    };
    let idle_ms = listener.table.idle_timeout_ms;
    let table = Cell::new(declared(&view, door, lease.health()));
    let session = Rc::new(Session {
        lease,
        local,
        backend,
        last: Cell::new(now),
        received: Cell::new(0),
        task: Cell::new(0),
        refused: Cell::new(false),
        left: Cell::new(false),
        version: Cell::new(view.version),
        table,
    });
    door.sessions.borrow_mut().insert((peer, local), session.clone());
    let (door, worker_, served) = (door.clone(), worker.clone(), session.clone());
    worker.reactor.spawn(|timer| {
        served.task.set(timer.task());
        serve(Client::new(worker_, door.id.clone(), peer, timer, place), door, served, view, idle_ms)
    });
    Some(session)
}

async fn serve(client: Client, door: Rc<Door>, session: Rc<Session>, view: Rc<View>, idle_ms: u32) {
    let sent = answer(&client, &door, &session, idle_ms).await;
    let own = |known: &Rc<Session>| Rc::ptr_eq(known, &session);
    let asker = (client.peer, session.local);
    if door.sessions.borrow().get(&asker).is_some_and(own) {
        door.sessions.borrow_mut().remove(&asker);
    }
    if let Some(index) = view.live.find(&client.listener) {
        let cell = view.listener(index).cells.of(client.worker.index);
        counters::add(&cell.bytes_in, session.received.get());
        counters::add(&cell.bytes_out, sent);
    }
}

fn connect(worker: &Rc<Worker>, lease: Option<Lease>) -> Option<(Lease, Stream)> {
    let lease = lease?;
    lease.health().totals.requests.fetch_add(1, Relaxed);
    match Stream::datagrams(lease.health().addr, &worker.reactor) {
        Ok(backend) => Some((lease, backend)),
        Err(_) => {
            lease.health().totals.errors.fetch_add(1, Relaxed);
            None
        }
    }
}

/// Sends the backend's datagrams to the client until the session is over; how many bytes that were.
async fn answer(client: &Client, door: &Door, session: &Session, idle_ms: u32) -> u64 {
    let (health, timer) = (session.lease.health(), &client.timer);
    let mut sent = 0;
    timer.arm(Side::Client, idle_ms);
    if health.on_trial() {
        timer.arm(Side::Backend, TRIAL_MS);
    }
    poll_fn(|_| {
        for _ in 0..BURST {
            let polled = ROOM.with_borrow_mut(|room| match session.backend.poll_datagram(room) {
                Poll::Ready(Ok(len)) => {
                    sent += len as u64;
                    reply(door, &room[..len], (client.peer, session.local));
                    Poll::Ready(Ok(len as u64))
                }
                Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
                Poll::Pending => Poll::Pending,
            });
            match polled {
                Poll::Ready(Ok(len)) => {
                    session.last.set(timer.now());
                    health.totals.bytes_out.fetch_add(len, Relaxed);
                    health.answered(200);
                }
                Poll::Ready(Err(_)) => return refuse(session),
                Poll::Pending if session.refused.get() => return refuse(session),
                Poll::Pending if session.left.get() => return Poll::Ready(()),
                Poll::Pending => {
                    if timer.expired(Side::Backend) {
                        timer.disarm(Side::Backend);
                        health.answered(200); // some protocols have no answers
                    }
                    let quiet = timer.now().saturating_sub(session.last.get());
                    if door.fate.get() != Listening::Open || quiet >= u64::from(idle_ms) {
                        return Poll::Ready(());
                    }
                    if timer.expired(Side::Client) {
                        timer.arm(Side::Client, (u64::from(idle_ms) - quiet) as u32);
                    }
                    return Poll::Pending;
                }
            }
        }
        timer.reactor().again();
        Poll::Pending
    })
    .await;
    sent
}

/// Sends a datagram to a client.
fn reply(door: &Door, data: &[u8], (peer, local): Asker) {
    // One that finds no room is lost.
    let _ = match local {
        Some(local) => socket::send_from(&door.socket, data, local, peer),
        None => sendto(&door.socket, data, SendFlags::DONTWAIT, &peer).map_err(Into::into),
    };
}

/// The backend takes no datagrams: the next one of the client goes to another one.
fn refuse(session: &Session) -> Poll<()> {
    let health = session.lease.health();
    health.totals.errors.fetch_add(1, Relaxed);
    outlier::failed(session.lease.pool(), session.lease.index(), Fault::Connect);
    Poll::Ready(())
}
