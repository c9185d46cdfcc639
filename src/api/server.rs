//! Connections, limits, shutdown.

use crate::{events, handles::Handles, routes, webhook};
use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Connections at once: requests, event streams and what idles between them.
const MAX_CONNECTIONS: usize = 256;
/// Longest wait for a whole request head; also the life of an idle connection.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
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
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            permit = permits.clone().acquire_owned() => permit,
            () = shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, from)) => {
                let (router, shutdown) = (router.clone(), shutdown.clone());
                connections.spawn(async move {
                    connection(stream, from, router, shutdown).await;
                    drop(permit);
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
