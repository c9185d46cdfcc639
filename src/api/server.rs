//! Connections, limits, shutdown.
//!
//! A connection is taken before its token is seen, so its place is bounded by where it comes from: no address keeps the
//! others out, and nobody keeps out this host, where the operator and the supervisor's health check are.

use crate::{events, handles::Handles, routes, webhook};
use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Connections from this host at once: requests, event streams and what idles between them.
const MAX_LOCAL: usize = 256;
/// Connections from all other hosts at once.
const MAX_REMOTE: usize = 256;
/// Of these, from one address; an IPv6 network of 64 bits counts as one.
const MAX_EACH: usize = 32;
/// Longest wait for a whole request head; also the life of an idle connection.
const HEAD_WITHIN: Duration = Duration::from_secs(10);
/// A client that takes nothing for so long is cut off, event streams included.
const STUCK_AFTER: Duration = Duration::from_secs(30);
/// Time for open requests to end at shutdown.
const DRAIN: Duration = Duration::from_secs(3);
/// After a failed accept (too many open files): the next try.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From(pub(crate) SocketAddr);

/// Serves the admin API on a bound listener until `shutdown` is cancelled; also feeds [`Handles::events`] and sends
/// webhooks while this node leads.
pub async fn serve(listener: TcpListener, handles: Handles, shutdown: CancellationToken) -> io::Result<()> {
    let mut helpers = JoinSet::new(); // dropped, and with it aborted, at the end
    helpers.spawn(webhook::run(handles.clone()));
    helpers.spawn(events::watch(handles.clone()));
    let (_, router) = routes::service(handles);
    let places = Arc::new(Places::default());
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, from)) => {
                let Some(place) = places.clone().take(from.ip()) else { continue }; // closed at once
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, from, router, shutdown).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin API: a connection could not be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
    drop(listener);
    let drain = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, drain).await; // what is left is aborted with the set
    Ok(())
}

/// Connections by where they come from.
#[derive(Default)]
struct Places(Mutex<BTreeMap<IpAddr, usize>>);

/// One connection's place, until it is dropped.
struct Place(Arc<Places>, IpAddr);

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

impl Places {
    /// None: all are taken.
    fn take(self: Arc<Self>, from: IpAddr) -> Option<Place> {
        let from = network(from);
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let remote: usize = taken.iter().filter(|(ip, _)| **ip != LOCAL).map(|(_, n)| n).sum();
        let held = taken.get(&from).copied().unwrap_or(0);
        let full = match from == LOCAL {
            true => held >= MAX_LOCAL,
            false => held >= MAX_EACH || remote >= MAX_REMOTE,
        };
        if full {
            return None;
        }
        taken.insert(from, held + 1);
        drop(taken);
        Some(Place(self, from))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        match taken.get_mut(&self.1) {
            Some(n) if *n > 1 => *n -= 1,
            _ => drop(taken.remove(&self.1)),
        }
    }
}

/// What counts as one address.
fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        ip if ip.is_loopback() => LOCAL,
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64)),
        ip => ip,
    }
}

async fn connection(stream: TcpStream, from: SocketAddr, router: Router, shutdown: CancellationToken) {
    let _ = stream.set_nodelay(true); // answers are small; a failure only costs latency
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(&stream).set_tcp_user_timeout(Some(STUCK_AFTER)); // kernels without it wait longer
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request: Request = request.map(axum::body::Body::new);
            request.extensions_mut().insert(From(from));
            let mut router = router;
            tower_service::Service::call(&mut router, request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return, // a client's mistake is the client's
        () = shutdown.cancelled() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(net: u8, host: u8) -> IpAddr {
        IpAddr::V4([192, 0, net, host].into())
    }

    #[test]
    fn one_address_keeps_nobody_else_out() {
        let places = Arc::new(Places::default());
        let take = |ip| places.clone().take(ip);
        let held: Vec<_> = std::iter::from_fn(|| take(from(2, 1))).collect();
        assert_eq!(held.len(), MAX_EACH);
        let other = take(from(2, 2)).expect("another address");
        drop((held, other));
        assert!(take(from(2, 1)).is_some(), "a place that is given back");
        assert!(places.0.lock().unwrap().is_empty(), "nothing is remembered of who has gone");
    }

    #[test]
    fn the_whole_world_keeps_this_host_not_out() {
        let places = Arc::new(Places::default());
        let take = |ip| places.clone().take(ip);
        let held: Vec<_> = (0..=255).filter_map(|n| take(from(n, n))).collect();
        assert_eq!(held.len(), MAX_REMOTE);
        assert!(take(from(3, 77)).is_none(), "full");
        for local in ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
            assert!(take(local.parse().unwrap()).is_some(), "{local}");
        }
        let local: Vec<_> = std::iter::from_fn(|| take("::1".parse().unwrap())).collect();
        assert_eq!(local.len(), MAX_LOCAL);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let network = |text: &str| network(text.parse().unwrap()).to_string();
        assert_eq!(network("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(network("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
