//! From a listening socket to a served connection.

use super::{
    Listening, View, Worker, http, relay,
    timer::{Side, Timer},
    wire::Wire,
};
use crate::{counters, live::LiveListener, socket};
use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    rc::Rc,
    sync::{Arc, atomic::Ordering::AcqRel},
    task::Poll,
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use zonekeeper_core::{id::ListenerId, model::Protocol};

/// A client's connection on its way through the proxy.
pub(crate) struct Client {
    pub(crate) worker: Rc<Worker>,
    pub(crate) listener: ListenerId,
    pub(crate) peer: SocketAddr,
    pub(crate) timer: Timer,
    _place: Place,
}

/// A connection's place among the connections of its listener.
struct Place {
    worker: Rc<Worker>,
    cells: Arc<counters::ListenerCells>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.cells.leave();
        self.worker.shared.connections.fetch_sub(1, AcqRel);
    }
}

/// Accepts until told otherwise.
pub(crate) async fn run(
    worker: Rc<Worker>,
    socket: std::net::TcpListener,
    id: ListenerId,
    state: watch::Receiver<Listening>,
) {
    match TcpListener::from_std(socket) {
        Ok(socket) => accept(&worker, socket, id, state).await,
        Err(e) => tracing::error!(listener = %id, error = %e, "a listening socket was lost"),
    }
    worker.shared.accepting.fetch_sub(1, AcqRel);
}

async fn accept(
    worker: &Rc<Worker>,
    socket: TcpListener,
    id: ListenerId,
    mut state: watch::Receiver<Listening>,
) {
    loop {
        let accepted = tokio::select! {
            biased;
            _ = state.wait_for(|s| *s != Listening::Open) => break,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => begin(worker, &id, stream, peer),
            // Out of descriptors or memory: those that run may free some.
            Err(e) if !transient(&e) => tokio::time::sleep(Duration::from_millis(10)).await,
            Err(_) => {}
        }
    }
    if *state.borrow() == Listening::Refuse {
        return;
    }
    loop {
        let mut accept = pin!(socket.accept());
        let now = poll_fn(|cx| Poll::Ready(accept.as_mut().poll(cx))).await;
        let Poll::Ready(Ok((stream, peer))) = now else { break };
        begin(worker, &id, stream, peer);
    }
}

/// The connection was gone before it was accepted.
fn transient(e: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(e.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

fn begin(worker: &Rc<Worker>, id: &ListenerId, stream: TcpStream, peer: SocketAddr) {
    let view = worker.view();
    let Some(index) = view.live.find(id) else { return };
    let listener = view.listener(index);
    let cell = listener.cells.of(worker.index);
    if !listener.cells.enter(listener.table.max_connections) {
        counters::add(&cell.rejected, 1);
        return socket::reset_on_close(&stream);
    }
    counters::add(&cell.connections, 1);
    worker.shared.connections.fetch_add(1, AcqRel);
    let client = Client {
        worker: worker.clone(),
        listener: id.clone(),
        peer,
        timer: worker.timers.add(),
        _place: Place { worker: worker.clone(), cells: listener.cells.clone() },
    };
    match (&listener.table.tls, &listener.tls) {
        (None, _) => start(client, Wire::plain(stream), view, index),
        (Some(_), Some(config)) => {
            let acceptor = tokio_rustls::TlsAcceptor::from(config.clone());
            tokio::task::spawn_local(handshake(client, acceptor, stream));
        }
        (Some(_), None) => socket::reset_on_close(&stream),
    }
}

fn start(client: Client, wire: Wire, view: Rc<View>, index: usize) {
    match view.listener(index).table.protocol {
        Protocol::Http => drop(tokio::task::spawn_local(http::serve(client, wire))),
        Protocol::Tcp => drop(tokio::task::spawn_local(relay::serve(client, wire, view, index))),
    }
}

async fn handshake(client: Client, acceptor: tokio_rustls::TlsAcceptor, stream: TcpStream) {
    let view = client.worker.view();
    let Some(index) = view.live.find(&client.listener) else { return };
    let listener: &LiveListener = view.listener(index);
    client.timer.arm(Side::Client, listener.table.header_timeout_ms);
    let mut accept = pin!(acceptor.accept(stream));
    let done = poll_fn(|cx| match accept.as_mut().poll(cx) {
        Poll::Ready(r) => Poll::Ready(r.ok()),
        Poll::Pending if client.timer.expired(Side::Client, cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    client.timer.disarm(Side::Client);
    match done {
        Some(stream) => start(client, Wire::tls(stream), view, index),
        None => counters::add(&listener.cells.of(client.worker.index).refused, 1),
    }
}
