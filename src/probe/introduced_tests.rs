//! Checks of a pool whose connections begin with a PROXY protocol header, against servers that want one.

use super::{
    client::{Refusals, Tries},
    plan::plan,
};
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{
        Semaphore,
        mpsc::{UnboundedReceiver, unbounded_channel},
    },
    time::timeout,
};
use zonekeeper_core::{
    State,
    detector::{
        Observation::{self, Answer, Refused},
        Pace,
    },
    model::{Backend, Check, CheckKind, HttpCheck, Pool, ProxyHeader},
};
use zonekeeper_proxy::preamble::{self, Ends, Preamble};

/// A server that closes what does not begin with a header, and says what it was told.
async fn server(http2: bool) -> (SocketAddr, UnboundedReceiver<Option<Ends>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, (told, tells)) = (listener.local_addr().unwrap(), unbounded_channel());
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let told = told.clone();
            tokio::spawn(async move {
                let (stream, ends) = header(stream).await?;
                assert!(ends.is_none_or(|e| e == Ends { source: peer, destination: addr }), "{ends:?}");
                let _ = told.send(ends);
                answer(stream, http2).await
            });
        }
    });
    (addr, tells)
}

async fn header(mut stream: TcpStream) -> Option<(TcpStream, Option<Ends>)> {
    let mut got = Vec::new();
    loop {
        got.push(stream.read_u8().await.ok()?);
        match preamble::parse(&got) {
            Preamble::More => {}
            Preamble::Header(len, ends) if len == got.len() => return Some((stream, ends)),
            _ => return None,
        }
    }
}

async fn answer(mut stream: TcpStream, http2: bool) -> Option<()> {
    if !http2 {
        let _ = stream.read(&mut [0; 1024]).await;
        return stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.ok();
    }
    let mut connection = h2::server::handshake(stream).await.ok()?;
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        respond.send_response(http::Response::new(()), true).ok()?;
    }
    Some(())
}

/// What a check of this kind sees, where the pool sends these headers.
async fn probe(addr: SocketAddr, kind: CheckKind, send_proxy: Option<ProxyHeader>) -> Observation {
    let (interval_ms, timeout_ms, rise, fall) = (1_000, 5_000, 1, 1);
    let check = Check { kind, interval_ms, timeout_ms, rise, fall, jitter_percent: 0, patience_ms: 0 };
    let backends = vec![Backend { site: None, addr, weight: 1 }];
    let pool = Pool { backends, check: Some(check), send_proxy, ..Pool::default() };
    let mut state = State::default();
    state.pools.insert("web".parse().unwrap(), pool.into());
    let plan = plan(&state, 1, &"a".parse().unwrap(), true, |_| Vec::new());
    let key = Arc::new(plan.into_keys().next().unwrap());
    Tries::new(Arc::new(Semaphore::new(0)), Arc::default())
        .probe(&key, Pace::once(5_000), Refusals::just(1))
        .await
        .unwrap()
        .0
}

#[tokio::test]
async fn a_check_begins_as_the_pools_connections_do() {
    let http = HttpCheck {
        tls: false,
        verify: true,
        host: String::new(),
        path: "/".into(),
        status_min: 200,
        status_max: 299,
        body: String::new(),
    };
    for kind in [CheckKind::Tcp, CheckKind::Http(http.clone()), CheckKind::Http2(http)] {
        let (addr, mut tells) = server(matches!(kind, CheckKind::Http2(_))).await;
        for version in [ProxyHeader::V1, ProxyHeader::V2] {
            assert_eq!(probe(addr, kind.clone(), Some(version)).await, Answer, "{kind:?} {version:?}");
            let ends = timeout(Duration::from_secs(10), tells.recv()).await.expect("no header came").unwrap();
            assert_eq!(ends.is_some(), version == ProxyHeader::V1, "version 2 says that it is our own");
        }
        if kind != CheckKind::Tcp {
            assert_eq!(probe(addr, kind.clone(), None).await, Refused, "{kind:?} without one");
        }
    }
}
