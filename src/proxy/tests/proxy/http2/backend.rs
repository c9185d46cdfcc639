//! Backends that speak HTTP/2.

use super::*;
use h2::{Reason, RecvStream, server::SendResponse};
use http::{HeaderMap, Response};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

type Asked = (Request<RecvStream>, SendResponse<Bytes>);

/// A backend whose streams are served like this. It counts the connections in the hundreds, the requests in ones.
fn backend<F: Future<Output = ()> + Send + 'static>(
    serve: impl Fn(u64, Asked) -> F + Clone + Send + Sync + 'static,
) -> Server {
    Server::with(any(), move |stream, n| {
        let serve = serve.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok(asked)) = connection.accept().await {
                tokio::spawn(serve(n.fetch_add(1, Relaxed), asked));
            }
        }
    })
}

/// Answers with its name, the head that it got and the body.
async fn echo(name: &'static str, (request, mut respond): Asked) {
    let (head, mut body) = request.into_parts();
    let mut data = format!("{name}\n{} {} {:?}\n", head.method, head.uri, head.headers).into_bytes();
    while let Some(Ok(piece)) = body.data().await {
        data.extend_from_slice(&piece);
        let _ = body.flow_control().release_capacity(piece.len());
    }
    let Ok(mut send) = respond.send_response(Response::new(()), false) else { return };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    for piece in data.chunks(10_000) {
        let _ = send.send_data(Bytes::copy_from_slice(piece), false);
    }
    let _ = send.send_trailers(trailers);
}

fn over(backends: &[SocketAddr]) -> World {
    let mut state = clear(backends);
    edit_pool(&mut state, |p| p.http2 = true);
    edit_listener(&mut state, |l| l.max_body = 0);
    World::try_start(state, 1).unwrap()
}

#[tokio::test]
async fn both_versions_of_clients_are_served() {
    let a = backend(|_, asked| echo("a", asked));
    let world = over(&[a.addr]);
    let answer =
        world.ask("POST /x?y HTTP/1.1\r\nHost: w.example\r\nContent-Length: 5\r\nA: b\r\n\r\nhello").await;
    assert!(answer.status == 200 && answer.complete && answer.by() == "a", "{answer:?}");
    let text = answer.text();
    assert!(text.contains("POST http://w.example/x?y") && text.ends_with("hello"), "{text}");
    assert!(text.contains("\"a\": \"b\"") && text.contains("\"x-forwarded-for\": \"127.0.0.1\""), "{text}");
    let client = Client2::connect(world.addr("web")).await;
    let large = vec![b'z'; 1_000_000];
    for body in [vec![], vec![b"hello".as_slice()], vec![b"he", &large, b"llo"]] {
        let got = client.ask(post("/").body(()).unwrap(), &body).await;
        assert_eq!((got.status, got.reset), (200, None));
        assert!(got.body.ends_with(&body.concat()), "{} bytes", got.body.len());
    }
    let head = world.ask("HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert_eq!(head.status, 200);
}

#[tokio::test]
async fn trailers_arrive_so_that_grpc_works() {
    let a = backend(|_, asked| echo("a", asked));
    let world = over(&[a.addr]);
    let client = Client2::connect(world.addr("web")).await;
    let asked =
        post("/pkg.Service/Method").header("te", "trailers").header("content-type", "application/grpc");
    let mut sender = client.0.clone().ready().await.unwrap();
    let (response, _) = sender.send_request(asked.body(()).unwrap(), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    let mut text = Vec::new();
    while let Some(data) = body.data().await {
        text.extend_from_slice(&data.unwrap());
    }
    assert!(String::from_utf8_lossy(&text).contains("\"te\": \"trailers\""));
    let trailers = body.trailers().await.unwrap().expect("trailers");
    assert_eq!(trailers["grpc-status"], "0");
}

#[tokio::test]
async fn requests_share_a_connection() {
    let a = backend(|_, asked| echo("a", asked));
    let world = over(&[a.addr]);
    let mut client = world.client().await;
    for _ in 0..20 {
        assert_eq!(client.get("/").await.by(), "a");
    }
    let second = Client2::connect(world.addr("web")).await;
    assert_eq!(second.get("/").await.by(), "a");
    assert_eq!(a.count(), 21);
}

/// A request that a backend did not look at goes to another one, whatever its method.
#[tokio::test]
async fn a_refused_stream_is_retried_elsewhere_with_any_method() {
    let refusing = backend(|_, (_, mut respond)| async move { respond.send_reset(Reason::REFUSED_STREAM) });
    let good = backend(|_, asked| echo("good", asked));
    let world = over(&[refusing.addr, good.addr]);
    let client = Client2::connect(world.addr("web")).await;
    for _ in 0..10 {
        let got = client.ask(post("/").body(()).unwrap(), &[b"hello"]).await;
        assert_eq!((got.status, got.by().as_str()), (200, "good"));
        assert!(got.body.ends_with(b"hello"));
    }
    assert!(refusing.count() >= 3, "it is asked again, for it is not broken: {}", refusing.count());
    let counted = world.proxy.counters().backends;
    assert_eq!(counted.iter().map(|b| b.2.ejections).sum::<u64>(), 0);
}

/// A backend that says goodbye after its second request, as a server that restarts does.
#[tokio::test]
async fn goaway_is_invisible() {
    let leaving = Server::with(any(), |stream, n| async move {
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        for turn in 0.. {
            let Some(Ok(asked)) = connection.accept().await else { return };
            n.fetch_add(1, Relaxed);
            tokio::spawn(echo("a", asked));
            if turn == 1 {
                connection.graceful_shutdown();
            }
        }
    });
    let world = over(&[leaving.addr]);
    let client = Client2::connect(world.addr("web")).await;
    for i in 0..30 {
        let got = client.ask(post("/").body(()).unwrap(), &[b"hello"]).await;
        assert_eq!((got.status, got.reset), (200, None), "{i}");
    }
    assert_eq!(leaving.count(), 30, "each was executed exactly once");
}

/// A backend whose first connections end with GOAWAY before it looks at a request.
#[tokio::test]
async fn goaway_on_a_new_connection_is_no_failure() {
    use super::abuse::{GOAWAY, HEADERS, SETTINGS, frame, next};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let starting = Server::with(any(), |mut stream, n| async move {
        if n.fetch_add(1, Relaxed) < 2 {
            stream.read_exact(&mut [0; 24]).await.unwrap(); // the preface
            stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
            let mut got = Vec::new();
            while let Some((kind, ..)) = next(&mut stream, &mut got).await {
                if kind == HEADERS {
                    stream.write_all(&frame(GOAWAY, 0, 0, &[0; 8])).await.unwrap();
                }
            }
            return;
        }
        let Ok(mut connection) = h2::server::handshake(stream).await else { return };
        while let Some(Ok(asked)) = connection.accept().await {
            tokio::spawn(echo("a", asked));
        }
    });
    let world = over(&[starting.addr]);
    let answer = world.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await;
    assert_eq!((answer.status, starting.count()), (200, 3));
    let of_a = world.proxy.counters().backends[0].2;
    assert_eq!((of_a.errors, of_a.ejections), (0, 0));
}

#[tokio::test]
async fn a_stream_that_breaks_is_retried_when_it_may_be_and_cut_when_it_began() {
    let breaking = backend(|_, (request, mut respond)| async move {
        if request.uri().path() == "/half" {
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            let _ = send.send_data(Bytes::from_static(b"half"), false);
            tokio::time::sleep(Duration::from_millis(50)).await;
            send.send_reset(Reason::INTERNAL_ERROR);
        } else {
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    });
    let good = backend(|_, asked| echo("good", asked));
    let world = over(&[breaking.addr, good.addr]);
    let answer = world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status, answer.by().as_str()), (200, "good"));
    let world = over(&[breaking.addr]);
    assert_eq!(world.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.status, 502);
    let world = over(&[breaking.addr]);
    let answer = world.ask("GET /half HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status, answer.complete), (200, false), "{answer:?}");
}

#[tokio::test]
async fn a_backend_that_is_killed_is_invisible_to_what_may_be_repeated() {
    let addr;
    let good = backend(|_, asked| echo("good", asked));
    let world = {
        let doomed = backend(|_, asked| echo("doomed", asked));
        addr = doomed.addr;
        let world = over(&[addr, good.addr]);
        let mut client = world.client().await;
        for _ in 0..4 {
            assert_eq!(client.get("/").await.status, 200);
        }
        assert!(doomed.count() > 0);
        world
    };
    let mut client = world.client().await;
    for _ in 0..10 {
        let answer = client.get("/").await;
        assert_eq!((answer.status, answer.by().as_str()), (200, "good"));
    }
}

/// Messages of a few bytes that wait for a client that takes none do not end the connection that others share.
#[tokio::test]
async fn small_frames_that_wait_for_a_slow_client_harm_no_other() {
    const FRAMES: u64 = 40_000; // more than the window of a stream holds
    let sent = Arc::new(AtomicU64::new(0));
    let told = sent.clone();
    let a = backend(move |_, (request, mut respond): Asked| {
        let sent = told.clone();
        async move {
            if request.uri().path() != "/small" {
                return echo("a", (request, respond)).await;
            }
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            while sent.fetch_add(1, Relaxed) < FRAMES {
                send.reserve_capacity(8);
                let Some(Ok(_)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else { return };
                send.send_data(Bytes::from_static(b"message."), false).unwrap();
            }
            let _ = send.send_data(Bytes::new(), true);
        }
    });
    let world = over(&[a.addr]);
    let client = Client2::connect(world.addr("web")).await;
    let asked = Request::get("http://w.example/small").body(()).unwrap();
    let mut sender = client.0.clone().ready().await.unwrap();
    let (response, _) = sender.send_request(asked, true).unwrap();
    let mut body = response.await.unwrap().into_body();
    eventually("the window is full", async || sent.load(Relaxed) >= 32_000).await;
    assert_eq!(world.client().await.get("/").await.by(), "a");
    let mut got = 0;
    while let Some(data) = timeout(PATIENCE, body.data()).await.expect("the proxy is silent") {
        let data = data.unwrap();
        got += data.len() as u64;
        let _ = body.flow_control().release_capacity(data.len());
    }
    assert_eq!(got, 8 * FRAMES);
}

/// A backend that accepts streams and stays silent: its connection gets no more requests.
#[tokio::test]
async fn a_silent_connection_is_left() {
    let silent = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let connections = Arc::new(AtomicU64::new(0));
    let (told, counted) = (silent.clone(), connections.clone());
    let a = Server::with(any(), move |stream, _| {
        counted.fetch_add(1, Relaxed);
        let told = told.clone();
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok(asked)) = connection.accept().await {
                if told.load(Relaxed) {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                        drop(asked);
                    });
                } else {
                    tokio::spawn(echo("a", asked));
                }
            }
        }
    });
    for (response_ms, request_ms) in [(200, 0), (60_000, 200)] {
        silent.store(true, Relaxed);
        let mut state = clear(&[a.addr]);
        edit_pool(&mut state, |p| (p.http2, p.response_timeout_ms, p.eject_ms) = (true, response_ms, 0));
        edit_listener(&mut state, |l| l.request_timeout_ms = request_ms);
        let world = World::try_start(state, 1).unwrap();
        let before = connections.load(Relaxed);
        assert_eq!(world.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").await.status, 504);
        silent.store(false, Relaxed);
        assert_eq!(world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.by(), "a");
        assert_eq!(connections.load(Relaxed) - before, 2);
    }
}

/// What the text of HTTP/1.1 may say and HTTP/2 may not is the client's fault, and no backend's.
#[tokio::test]
async fn what_http2_cannot_carry_is_refused_and_no_backend_suffers() {
    let a = backend(|_, asked| echo("a", asked));
    let world = over(&[a.addr]);
    assert_eq!(world.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.status, 200);
    for bad in ["/<x HTTP/1.1\r\nHost: a", "/? HTTP/1.1\r\nHost: a%41", "/?\"a\"=` HTTP/1.1\r\nHost: a"] {
        assert_eq!(world.ask(&format!("GET {bad}\r\n\r\n")).await.status, 400, "{bad}");
    }
    let many: String = (0..99).map(|i| format!("X-{i}: y\r\n")).collect();
    let answer = world.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{many}\r\n")).await;
    assert_eq!(answer.status, 200, "as many fields as a client may send, and ours");
    let answer = world.ask("GET /old HTTP/1.0\r\n\r\n").await;
    let uri = format!("GET http://{}/old ", a.addr);
    assert!(answer.status == 200 && answer.text().contains(&uri), "{answer:?}");
    let of_a = world.proxy.counters().backends[0].2;
    assert_eq!((of_a.errors, of_a.ejections, of_a.requests), (0, 0, 3));
}

/// HTTP/2 has no upgrade: who asks for a WebSocket is told so, and what else is offered is not taken up.
#[tokio::test]
async fn an_upgrade_to_websocket_is_refused_and_any_other_one_ignored() {
    let a = backend(|_, asked| echo("a", asked));
    let world = over(&[a.addr]);
    let ask = |to| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: {to}\r\n\r\n");
    assert_eq!((world.ask(&ask("WebSocket")).await.status, a.count()), (501, 0));
    for other in ["h2c", "other"] {
        assert_eq!(world.ask(&ask(other)).await.by(), "a", "{other}");
    }
}

#[tokio::test]
async fn an_empty_body_in_chunks_ends_the_request() {
    let a = backend(|_, asked| echo("a", asked));
    let mut state = clear(&[a.addr]);
    edit_pool(&mut state, |p| (p.http2, p.response_timeout_ms) = (true, 1500));
    let world = World::try_start(state, 1).unwrap();
    let answer = world.ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n").await;
    assert_eq!((answer.status, answer.by().as_str()), (200, "a"));
}

/// A backend that counts its connections and answers each request when its body has come.
fn counting() -> (Server, Arc<std::sync::atomic::AtomicU64>) {
    let connections = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = connections.clone();
    let server = Server::with(any(), move |stream, n| {
        counted.fetch_add(1, Relaxed);
        async move {
            let Ok(mut connection) = h2::server::handshake(stream).await else { return };
            while let Some(Ok(asked)) = connection.accept().await {
                n.fetch_add(1, Relaxed);
                tokio::spawn(echo("a", asked));
            }
        }
    });
    (server, connections)
}

#[tokio::test]
async fn large_bodies_and_bursts_share_connections() {
    let (a, connections) = counting();
    let world = over(&[a.addr]);
    let large = vec![b'z'; 200_000];
    let asked: Vec<_> = (0..50)
        .map(|_| {
            let (addr, large) = (world.addr("web"), large.clone());
            tokio::spawn(async move {
                let asked = post("/").header("content-length", large.len()).body(()).unwrap();
                Client2::connect(addr).await.ask(asked, &[&large]).await
            })
        })
        .collect();
    for asked in asked {
        let got = asked.await.unwrap();
        assert!(got.status == 200 && got.body.ends_with(&large), "{} {:?}", got.status, got.reset);
    }
    assert_eq!((a.count(), connections.load(Relaxed)), (50, 1));
}

/// A backend that takes one stream at a time has as many connections as are allowed, and the rest waits.
#[tokio::test]
async fn connections_to_a_backend_are_bounded() {
    let connections = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = connections.clone();
    let a = Server::with(any(), move |stream, n| {
        counted.fetch_add(1, Relaxed);
        async move {
            let mut builder = h2::server::Builder::new();
            let shaken = builder.max_concurrent_streams(1).handshake::<_, Bytes>(stream).await;
            let Ok(mut connection) = shaken else { return };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                n.fetch_add(1, Relaxed);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    let _ = respond.send_response(Response::new(()), true);
                });
            }
        }
    });
    let world = over(&[a.addr]);
    let client = Client2::connect(world.addr("web")).await;
    let mut asked = Vec::new();
    for _ in 0..60 {
        let client = client.clone();
        asked.push(tokio::spawn(async move { client.get("/").await.status }));
        tokio::time::sleep(Duration::from_millis(5)).await; // what the last connection allows is known
    }
    for asked in asked {
        assert_eq!(asked.await.unwrap(), 200);
    }
    let connections = connections.load(Relaxed);
    assert!((20..=32).contains(&connections), "{connections} connections");
}

/// A backend that ends its connection without GOAWAY after each request, just as the next one comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ended_without_goaway_is_invisible_to_any_method() {
    use super::abuse::{DATA, END_HEADERS, END_STREAM, HEADERS, SETTINGS, frame};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ending = Arc::new(crate::exchange::Ending::default());
    let its = ending.clone();
    let answer = async move |mut stream: TcpStream, ending: Arc<crate::exchange::Ending>| {
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        let mut got = Vec::new();
        let mut at = 24; // behind the preface
        let mut body = Vec::new();
        loop {
            while let Some([a, b, c, kind, flags, id @ ..]) = got.get(at..).and_then(|g| g.first_chunk::<9>())
            {
                let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                let (kind, flags, id) = (*kind, *flags, u32::from_be_bytes(*id));
                if got.len() < at + 9 + len {
                    break;
                }
                let payload = &got[at + 9..at + 9 + len];
                at += 9 + len;
                if kind == DATA && len > 0 {
                    body = payload.to_vec();
                }
                if kind == SETTINGS && flags == 0 {
                    stream.write_all(&frame(SETTINGS, 1, 0, &[])).await.unwrap();
                }
                if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
                    let ok = frame(HEADERS, END_HEADERS | END_STREAM, id, &[0x88]);
                    stream.write_all(&ok).await.unwrap();
                    if ending.end_after(&body, &stream) {
                        return;
                    }
                }
            }
            if stream.read_buf(&mut got).await.unwrap_or_default() == 0 {
                return;
            }
        }
    };
    let backend = Server::with(any(), move |stream, _| answer(stream, its.clone()));
    let world = over(&[backend.addr]);
    crate::exchange::posts_come_through(&world, &ending).await;
}
