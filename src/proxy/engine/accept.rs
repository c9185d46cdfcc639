//! From a listening socket to a served connection.

use super::{
    Worker,
    buffer::Buffer,
    http, http2, passthrough, preamble, relay,
    stream::Stream,
    timer::{Side, Timer},
    tls::Tls,
    udp,
    wire::Wire,
};
use crate::{counters, live::LiveListener, socket};
use rustix::{
    io::Errno,
    net::{SocketFlags, acceptfrom_with},
};
use std::{
    cell::{Cell, RefCell},
    net::{IpAddr, SocketAddr},
    ops::Deref,
    os::fd::OwnedFd,
    rc::Rc,
    sync::{
        Arc,
        atomic::{
            AtomicU8,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
};
use zonekeeper_core::{
    id::ListenerId,
    model::{Protocol, within},
};

/// Connections accepted from one socket before the others have their turn.
const BURST: usize = 64;

/// How a listening socket goes on; shared between the supervisor, which says it, and the workers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fate(Arc<AtomicU8>);

/// What becomes of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listening {
    /// It accepts.
    Open,
    /// It accepts what already waits, and closes.
    Drain,
    /// It closes at once: what waits is reset, what comes is refused.
    Refuse,
}

impl Fate {
    pub(crate) fn set(&self, listening: Listening) {
        self.0.store(listening as u8, Release);
    }

    pub(crate) fn get(&self) -> Listening {
        match self.0.load(Acquire) {
            0 => Listening::Open,
            1 => Listening::Drain,
            _ => Listening::Refuse,
        }
    }
}

/// A listening socket of one worker, as the supervisor gives it.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) socket: OwnedFd,
    pub(crate) id: Arc<ListenerId>,
    pub(crate) fate: Fate,
    /// Datagrams come, and no connections.
    pub(crate) udp: bool,
}

/// A door as its worker has it.
pub(crate) struct Door {
    handed: Handed,
    /// Datagrams come for many addresses, and their answers leave from those.
    pub(crate) wildcard: bool,
    /// Those of its datagrams.
    pub(crate) sessions: udp::Sessions,
}

impl Deref for Door {
    type Target = Handed;
    fn deref(&self) -> &Handed {
        &self.handed
    }
}

/// A door, and whether nothing is accepted until the next tick, because the system had no more descriptors.
pub(crate) type Watched = (Rc<Door>, Cell<bool>);

/// A client's connection on its way through the proxy.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: Arc<ListenerId>,
    pub(crate) peer: SocketAddr,
    /// Where it connected to, when a proxy before us said so.
    pub(crate) destination: Option<Box<SocketAddr>>,
    pub(crate) timer: Timer,
    /// None for a stream of a connection that has it.
    place: Option<Place>,
}

/// A connection's place among the connections of its listener.
pub(crate) struct Place {
    worker: Rc<Worker>,
    cells: Arc<counters::ListenerCells>,
    /// Its place among those of its address, where they are limited.
    address: Option<Box<IpAddr>>,
}

impl Client {
    pub(crate) fn new(
        worker: Rc<Worker>,
        listener: Arc<ListenerId>,
        peer: SocketAddr,
        timer: Timer,
        place: Place,
    ) -> Client {
        Client { worker, listener, peer, destination: None, timer, place: Some(place) }
    }

    /// The same client on a stream of its connection.
    pub(crate) fn of_stream(&self, timer: Timer) -> Client {
        let (worker, listener) = (self.worker.clone(), self.listener.clone());
        Client {
            worker,
            listener,
            peer: self.peer,
            destination: self.destination.clone(),
            timer,
            place: None,
        }
    }

    /// Takes a place among the connections of the listener and of the address; none when there is none.
    pub(crate) fn enter(worker: &Rc<Worker>, listener: &LiveListener, addr: IpAddr) -> Option<Place> {
        let mut place = Place::enter(worker, listener)?;
        place.enter_address(addr, listener.table.max_per_address).then_some(place)
    }
}

impl Place {
    /// Takes a place among the connections of the listener.
    fn enter(worker: &Rc<Worker>, listener: &LiveListener) -> Option<Place> {
        listener.cells.enter(listener.table.max_connections).then(|| {
            worker.shared.connections.fetch_add(1, AcqRel);
            Place { worker: worker.clone(), cells: listener.cells.clone(), address: None }
        })
    }

    /// Takes one of `max` (0: no limit) places of an address; false when there is none.
    fn enter_address(&mut self, addr: IpAddr, max: u32) -> bool {
        if max == 0 {
            return true;
        }
        self.address = self.cells.enter_address(addr, max).map(Box::new);
        self.address.is_some()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cells.leave();
        if let Some(address) = &self.address {
            self.cells.leave_address(**address);
        }
        self.worker.shared.connections.fetch_sub(1, AcqRel);
    }
}

/// Whether accepting can go on now.
enum Accepted {
    /// All that waited was accepted, or enough for now.
    Done,
    /// The system has no descriptors or memory left.
    Exhausted,
}

/// Begins to accept.
pub(crate) fn open(worker: &Rc<Worker>, handed: Handed) {
    let wildcard = handed.udp && socket::is_wildcard(&handed.socket);
    let door = Door { handed, wildcard, sessions: RefCell::default() };
    let mut doors = worker.doors.borrow_mut();
    let number = doors.iter().position(Option::is_none).unwrap_or_else(|| {
        doors.push(None);
        doors.len() - 1
    });
    match worker.reactor.watch(&door.socket, number as u32) {
        Ok(()) => doors[number] = Some((Rc::new(door), Cell::new(false))),
        Err(e) => {
            tracing::error!(listener = %door.id, error = %e, "a listening socket was lost");
            worker.shared.accepting.fetch_sub(1, AcqRel);
        }
    }
}

/// Connections wait at a door.
pub(crate) fn ready(worker: &Rc<Worker>, number: u32) {
    let door = worker.doors.borrow().get(number as usize).and_then(|d| Some(d.as_ref()?.0.clone()));
    let Some(door) = door.filter(|d| d.fate.get() == Listening::Open) else { return };
    if door.udp {
        return udp::receive(worker, &door);
    }
    if let Accepted::Exhausted = accept(worker, &door, BURST) {
        worker.reactor.unwatch(&door.socket); // those that run may free some
        if let Some((_, paused)) = &worker.doors.borrow()[number as usize] {
            paused.set(true);
        }
    }
}

/// Goes on where accepting had to pause.
pub(crate) fn resume(worker: &Worker) {
    for (number, door) in worker.doors.borrow().iter().enumerate() {
        if let Some((door, paused)) = door
            && paused.replace(false)
            && worker.reactor.watch(&door.socket, number as u32).is_err()
        {
            paused.set(true);
        }
    }
}

/// Closes the doors that shall be closed.
pub(crate) fn close(worker: &Rc<Worker>) {
    let closing: Vec<Watched> = {
        let mut doors = worker.doors.borrow_mut();
        let shall = |d: &mut Watched| d.0.fate.get() != Listening::Open;
        doors.iter_mut().filter_map(|d| d.take_if(shall)).collect()
    };
    for (door, _) in closing {
        if door.udp {
            worker.reactor.unwatch(&door.socket); // its sessions have it a little longer
        } else if door.fate.get() == Listening::Drain {
            accept(worker, &door, usize::MAX);
        }
        drop(door);
        worker.shared.accepting.fetch_sub(1, AcqRel);
    }
}

fn accept(worker: &Rc<Worker>, door: &Rc<Door>, most: usize) -> Accepted {
    for _ in 0..most {
        match acceptfrom_with(&door.socket, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok((fd, peer)) => {
                if let Some(peer) = peer.and_then(|p| SocketAddr::try_from(p).ok()) {
                    begin(worker, door, fd, peer);
                }
            }
            Err(Errno::AGAIN) => return Accepted::Done,
            // The connection was gone before it was accepted.
            Err(Errno::CONNABORTED | Errno::CONNRESET | Errno::INTR | Errno::PROTO) => {}
            Err(_) => return Accepted::Exhausted,
        }
    }
    Accepted::Done
}

fn begin(worker: &Rc<Worker>, door: &Rc<Door>, fd: OwnedFd, peer: SocketAddr) {
    let view = worker.view();
    let Some(index) = view.live.find(&door.id) else { return };
    let listener = view.listener(index);
    let cell = listener.cells.of(worker.index);
    let told = within(&listener.table.proxy_from, peer.ip());
    let place = match told {
        true => Place::enter(worker, listener),
        false => Client::enter(worker, listener, peer.ip()),
    };
    let Some(place) = place else {
        counters::add(&cell.rejected, 1);
        return socket::reset_on_close(&fd);
    };
    counters::add(&cell.connections, 1);
    let stream = Stream::accepted(fd, &worker.reactor);
    let (worker, id) = (worker.clone(), door.id.clone());
    let client = move |timer| Client::new(worker, id, peer, timer, place);
    let reactor = &stream.reactor().clone();
    if told {
        reactor.spawn(|timer| introduced(client(timer), stream));
        return;
    }
    match (&listener.table.tls, listener.table.protocol) {
        (None, Protocol::Http) => reactor.spawn(|timer| http::serve(client(timer), Wire::plain(stream))),
        (None, Protocol::Tcp | Protocol::Udp) => {
            reactor.spawn(|timer| relay::serve(client(timer), Wire::plain(stream), view, index));
        }
        (None, Protocol::Tls) => {
            reactor.spawn(|timer| passthrough::serve(client(timer), Wire::plain(stream), view, index));
        }
        (Some(_), _) => reactor.spawn(|timer| secured(client(timer), stream)),
    }
}

/// A connection that begins with the word of a proxy on who it is.
async fn introduced(mut client: Client, stream: Stream) {
    let view = client.worker.view();
    let Some(index) = view.live.find(&client.listener) else { return };
    let listener = view.listener(index);
    client.timer.arm(Side::Client, listener.table.header_timeout_ms);
    let Ok(ends) = preamble::read(&stream, &client.timer).await else {
        counters::add(&listener.cells.of(client.worker.index).refused, 1);
        return socket::reset_on_close(&stream);
    };
    client.timer.disarm(Side::Client);
    let (addr, max) = (ends.map_or(client.peer, |e| e.source).ip(), listener.table.max_per_address);
    if !client.place.as_mut().is_none_or(|p| p.enter_address(addr, max)) {
        counters::add(&listener.cells.of(client.worker.index).rejected, 1);
        return socket::reset_on_close(&stream);
    }
    if let Some(ends) = ends {
        (client.peer, client.destination) = (ends.source, Some(Box::new(ends.destination)));
    }
    match (&listener.table.tls, listener.table.protocol) {
        (Some(_), _) => {
            drop(view); // what waits for requests holds no configuration
            Box::pin(secured(client, stream)).await;
        }
        (None, Protocol::Http) => {
            drop(view);
            Box::pin(http::serve(client, Wire::plain(stream))).await;
        }
        (None, Protocol::Tls) => {
            Box::pin(passthrough::serve(client, Wire::plain(stream), view, index)).await;
        }
        (None, Protocol::Tcp | Protocol::Udp) => {
            Box::pin(relay::serve(client, Wire::plain(stream), view, index)).await
        }
    }
}

/// A connection that begins with a TLS handshake.
async fn secured(client: Client, stream: Stream) {
    let view = client.worker.view();
    let Some(index) = view.live.find(&client.listener) else { return };
    let listener: &LiveListener = view.listener(index);
    let Some(config) = listener.tls.clone() else { return socket::reset_on_close(&stream) };
    let wire = match Tls::new(stream, config) {
        Ok(tls) => Wire::tls(tls),
        Err(e) => {
            return tracing::error!(listener = %client.listener, error = %e, "a TLS connection cannot begin");
        }
    };
    client.timer.arm(Side::Client, listener.table.header_timeout_ms);
    if wire.handshake(&client.timer, Side::Client).await.is_err() {
        return counters::add(&listener.cells.of(client.worker.index).refused, 1);
    }
    client.timer.disarm(Side::Client);
    match listener.table.protocol {
        Protocol::Http if wire.speaks_http2() => {
            drop(view);
            Box::pin(http2::serve(client, wire, Buffer::default())).await;
        }
        Protocol::Http => {
            drop(view);
            Box::pin(http::serve(client, wire)).await;
        }
        Protocol::Tcp | Protocol::Tls | Protocol::Udp => {
            Box::pin(relay::serve(client, wire, view, index)).await;
        }
    }
}
