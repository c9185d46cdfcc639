//! Checks in HTTP/2 and of gRPC against real servers: what each answer is taken for.

use super::{
    client::{Refusals, Tries},
    plan::{Key, Plan, Subject},
    stream::Streams,
};
use h2::{Reason, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use std::{
    future::pending,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::Semaphore,
    time::sleep,
};
use tokio_rustls::TlsAcceptor;
use zonekeeper_core::{
    detector::{
        Observation::{self, Answer, Refused, Silence, Wrong},
        Pace,
    },
    model::{BackendTls, Check, CheckKind, GrpcCheck, HttpCheck, TlsFiles},
};
use zonekeeper_proxy::{Checked, LocalHealth};

fn check(kind: CheckKind) -> Check {
    Check { kind, interval_ms: 50, timeout_ms: 300, rise: 1, fall: 1, jitter_percent: 0, patience_ms: 0 }
}

fn get(body: &str) -> CheckKind {
    CheckKind::Http2(HttpCheck {
        tls: false,
        verify: true,
        host: String::new(),
        path: "/ready?deep=1".into(),
        status_min: 200,
        status_max: 299,
        body: body.into(),
    })
}

fn grpc(service: &str) -> CheckKind {
    CheckKind::Grpc(GrpcCheck { tls: false, verify: true, host: String::new(), service: service.into() })
}

fn over_tls(kind: CheckKind, checked: bool) -> CheckKind {
    match kind {
        CheckKind::Http2(c) => CheckKind::Http2(HttpCheck { tls: true, verify: checked, ..c }),
        CheckKind::Grpc(c) => CheckKind::Grpc(GrpcCheck { tls: true, verify: checked, ..c }),
        other => other,
    }
}

fn key(addr: SocketAddr, kind: CheckKind, tls: Option<BackendTls>) -> Arc<Key> {
    Arc::new(Key { addr, check: check(kind), host: addr.ip().to_string(), tls, send_proxy: None })
}

async fn probe(key: &Arc<Key>) -> Observation {
    // Long enough for a busy machine; who waits for silence waits for less.
    Tries::new(Arc::new(Semaphore::new(0)), Arc::default())
        .probe(key, Pace::once(5_000), Refusals::just(1))
        .await
        .unwrap()
        .0
}

/// What a server does with a request.
#[derive(Clone, Default)]
struct Does {
    status: u16,
    fields: Vec<(&'static str, &'static str)>,
    /// The head ends the answer.
    alone: bool,
    parts: Vec<Vec<u8>>,
    trailers: Vec<(&'static str, &'static str)>,
    reset: Option<Reason>,
    hangs: bool,
}

fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    pairs.iter().map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v))).collect()
}

fn says(status: u16, parts: &[&[u8]]) -> Does {
    Does { status, parts: parts.iter().map(|p| p.to_vec()).collect(), ..Does::default() }
}

/// An answer of gRPC that is well, with this message.
fn message(message: &[u8]) -> Does {
    Does {
        fields: vec![("content-type", "application/grpc+proto")],
        trailers: vec![("grpc-status", "0")],
        ..says(200, &[message])
    }
}

const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";
const NOT_SERVING: &[u8] = b"\0\0\0\0\x02\x08\x02";

/// What servers were asked: the head and the body.
type Asked = Arc<Mutex<Vec<(Request<()>, Vec<u8>)>>>;

/// Serves a connection.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(stream: S, does: Does, asked: Asked) {
    let Ok(mut connection) = server::handshake(stream).await else { return };
    while let Some(next) = connection.accept().await {
        let Ok((request, mut respond)) = next else { return };
        let (does, asked) = (does.clone(), asked.clone());
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut seen = Vec::new();
            while let Some(Ok(part)) = body.data().await {
                seen.extend_from_slice(&part);
            }
            asked.lock().unwrap().push((Request::from_parts(head, ()), seen));
            if does.hangs {
                pending::<()>().await;
            }
            if let Some(reason) = does.reset {
                return respond.send_reset(reason);
            }
            let mut response = Response::new(());
            *response.status_mut() = does.status.try_into().unwrap();
            *response.headers_mut() = fields(&does.fields);
            let mut send = respond.send_response(response, does.alone).unwrap();
            if !does.alone {
                for part in &does.parts {
                    let _ = send.send_data(Bytes::from(part.clone()), false);
                    sleep(Duration::from_millis(5)).await; // a frame of its own
                }
                let _ = match does.trailers.is_empty() {
                    true => send.send_data(Bytes::new(), true),
                    false => send.send_trailers(fields(&does.trailers)),
                };
            }
        });
    }
}

async fn backend(does: Does) -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, asked) = (listener.local_addr().unwrap(), Asked::default());
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, does.clone(), seen.clone()));
        }
    });
    (addr, asked)
}

async fn taken_for(does: Does, kind: CheckKind) -> Observation {
    let (addr, _) = backend(does).await;
    probe(&key(addr, kind, None)).await
}

/// Writes these bytes to whoever comes, and closes where it shall.
async fn raw(bytes: Vec<u8>, closes: bool) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
            let _ = stream.write_all(&bytes).await;
            if !closes {
                kept.push(stream);
            }
        }
    });
    addr
}

#[tokio::test]
async fn a_request_in_http2_is_judged_by_status_and_text() {
    let (addr, asked) = backend(says(204, &[])).await;
    assert_eq!(probe(&key(addr, get(""), None)).await, Answer);
    let head = asked.lock().unwrap()[0].0.clone();
    assert_eq!((head.method().as_str(), head.version()), ("GET", http::Version::HTTP_2));
    assert_eq!(head.uri().to_string(), format!("http://127.0.0.1/ready?deep=1"));
    assert_eq!(taken_for(says(503, &[]), get("")).await, Wrong);
    assert_eq!(taken_for(says(200, &[b"all is al", b"ive"]), get("alive")).await, Answer, "over two frames");
    assert_eq!(taken_for(says(200, &[b"all is dead"]), get("alive")).await, Wrong);
    let far = |n| says(200, &[&vec![b'.'; n], b"alive"]);
    assert_eq!(taken_for(far(64 << 10), get("alive")).await, Answer, "beyond the first window");
    assert_eq!(taken_for(far(200 << 10), get("alive")).await, Wrong, "only the first 64 KiB are looked at");
    let cut = Does { alone: true, ..says(200, &[]) };
    assert_eq!(taken_for(cut.clone(), get("")).await, Answer);
    assert_eq!(taken_for(cut, get("alive")).await, Wrong);
}

#[tokio::test]
async fn grpc_is_healthy_when_it_says_serving_and_ends_well() {
    let (addr, asked) = backend(message(SERVING)).await;
    assert_eq!(probe(&key(addr, grpc("shop.Cart"), None)).await, Answer);
    let (head, body) = asked.lock().unwrap()[0].clone();
    assert_eq!(head.uri().path(), "/grpc.health.v1.Health/Check");
    assert_eq!(
        (head.method().as_str(), &head.headers()["te"]),
        ("POST", &HeaderValue::from_static("trailers"))
    );
    assert_eq!(head.headers()["content-type"], "application/grpc");
    assert_eq!(body, b"\0\0\0\0\x0b\x0a\x09shop.Cart");
    assert_eq!(probe(&key(addr, grpc(""), None)).await, Answer);
    assert_eq!(asked.lock().unwrap()[1].1, b"\0\0\0\0\0", "the server as a whole");

    let well = message(SERVING);
    let halves = Does { parts: vec![SERVING[..3].to_vec(), SERVING[3..].to_vec()], ..well.clone() };
    assert_eq!(taken_for(halves, grpc("")).await, Answer, "over two frames");
    let wrong: [(&str, Does); 13] = [
        ("NOT_SERVING", message(NOT_SERVING)),
        ("UNKNOWN, as nothing", message(b"\0\0\0\0\0")),
        ("no message", message(b"")),
        ("compressed", message(b"\x01\0\0\0\x02\x08\x01")),
        ("longer than it says", message(b"\0\0\0\0\x02\x08\x01\x08\x01")),
        ("shorter than it says", message(b"\0\0\0\0\x09\x08\x01")),
        ("too long", message(&[SERVING, &[0; 5000]].concat())),
        ("no protobuf", message(b"\0\0\0\0\x02\xff\xff")),
        ("a failure after the message", Does { trailers: vec![("grpc-status", "13")], ..well.clone() }),
        ("no trailers", Does { trailers: vec![], ..well.clone() }),
        ("no gRPC", Does { fields: vec![("content-type", "text/html")], ..well.clone() }),
        (
            "no gRPC, though like it",
            Does { fields: vec![("content-type", "application/grpc-web")], ..well.clone() },
        ),
        ("an error of HTTP", Does { status: 503, ..well.clone() }),
    ];
    for (what, does) in wrong {
        assert_eq!(taken_for(does, grpc("")).await, Wrong, "{what}");
    }
}

#[tokio::test]
async fn grpc_that_answers_with_trailers_alone_has_failed() {
    for status in ["5", "12", "0", "none"] {
        let fields = vec![("content-type", "application/grpc"), ("grpc-status", status)];
        let does = Does { fields, alone: true, ..says(200, &[]) };
        assert_eq!(taken_for(does, grpc("nobody")).await, Wrong, "grpc-status {status}");
    }
    let fields = vec![("content-type", "application/grpc"), ("grpc-status", "14")];
    let both = Does { fields, ..message(SERVING) };
    assert_eq!(taken_for(both, grpc("")).await, Wrong, "a message after a failure");
}

#[tokio::test]
async fn a_server_that_does_not_answer_has_refused_or_is_silent_or_wrong() {
    for kind in [get(""), grpc("")] {
        let reset = |reason| Does { reset: Some(reason), ..Does::default() };
        assert_eq!(taken_for(reset(Reason::REFUSED_STREAM), kind.clone()).await, Refused);
        assert_eq!(taken_for(reset(Reason::INTERNAL_ERROR), kind.clone()).await, Wrong);
        // settings, then GOAWAY that leaves out every stream
        let mut goaway = b"\0\0\0\x04\0\0\0\0\0".to_vec();
        goaway.extend(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0");
        for closes in [false, true] {
            let addr = raw(goaway.clone(), closes).await;
            assert_eq!(probe(&key(addr, kind.clone(), None)).await, Refused, "GOAWAY, closes: {closes}");
        }
        let addr = raw(Vec::new(), true).await;
        assert_eq!(probe(&key(addr, kind.clone(), None)).await, Refused, "closed at once");
        for garbage in [&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], b"SSH-2.0-none\r\n", &[0xff; 100]] {
            let addr = raw(garbage.to_vec(), false).await;
            assert_eq!(probe(&key(addr, kind.clone(), None)).await, Wrong, "garbage");
        }
        let hangs = backend(Does { hangs: true, ..Does::default() }).await.0;
        let deaf = raw(Vec::new(), false).await;
        for addr in [hangs, deaf] {
            let mut tries = Tries::new(Arc::new(Semaphore::new(0)), Arc::default());
            assert_eq!(
                tries.probe(&key(addr, kind.clone(), None), Pace::once(150), Refusals::just(1)).await,
                Ok((Silence, 1))
            );
        }
    }
}

#[tokio::test]
async fn a_probe_leaves_as_http2_has_it() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        // SETTINGS, and `:status: 200` as the whole answer
        stream.write_all(b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x88").await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    });
    assert_eq!(probe(&key(addr, get(""), None)).await, Answer);
    let all = tokio::time::timeout(Duration::from_secs(5), server).await.unwrap().unwrap();
    let goaway = b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0"; // no stream of its, NO_ERROR
    assert!(all.ends_with(goaway), "{}", all.escape_ascii());
}

/// Files of a CA, of a server at 127.0.0.1 and of a client.
fn certificates(dir: &Path) -> (BackendTls, ServerConfig) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let cert = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        (cert, key)
    };
    let ((server, server_key), (client, client_key)) = (issue("backend.example"), issue("proxy.example"));
    let write = |file: &str, text: String| {
        let path = dir.join(file);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let files = TlsFiles {
        cert: write("client.pem", client.pem()),
        key: write("client.key", client_key.serialize_pem()),
    };
    let tls = BackendTls {
        ca: Some(write("ca.pem", ca.pem())),
        name: Some("backend.example".into()),
        client: Some(files),
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build().unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![server.der().clone()], server_key.serialize_der().try_into().unwrap())
        .unwrap();
    (tls, config)
}

async fn secure(config: ServerConfig, does: Does) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, acceptor) = (listener.local_addr().unwrap(), TlsAcceptor::from(Arc::new(config)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, does) = (acceptor.clone(), does.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream, does, Asked::default()).await;
                }
            });
        }
    });
    addr
}

#[tokio::test]
async fn a_backend_over_tls_is_checked_as_the_proxy_speaks_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let (tls, mut config) = certificates(dir.path());
    let without = secure(config.clone(), message(SERVING)).await;
    config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
    let addr = secure(config.clone(), message(SERVING)).await;
    for kind in [get(""), grpc("")] {
        let check = |addr, tls: Option<BackendTls>| key(addr, over_tls(kind.clone(), true), tls);
        assert_eq!(probe(&check(addr, Some(tls.clone()))).await, Answer, "{kind:?}");
        assert_eq!(probe(&check(without, Some(tls.clone()))).await, Wrong, "h2 is not agreed on");
        assert_eq!(probe(&check(addr, None)).await, Wrong, "the system trusts no such certificate");
        let other = BackendTls { name: Some("other.example".into()), ..tls.clone() };
        assert_eq!(probe(&check(addr, Some(other))).await, Wrong, "another name");
        let nobody = BackendTls { client: None, ..tls.clone() };
        assert_ne!(probe(&check(addr, Some(nobody))).await, Answer, "without a certificate of ours");
        let lost = BackendTls { ca: Some("/nonexistent/ca.pem".into()), ..tls.clone() };
        assert_eq!(probe(&check(addr, Some(lost))).await, Wrong, "no file");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut open = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(config.cert_resolver.clone());
    open.alpn_protocols = vec![b"h2".to_vec()];
    let addr = secure(open, message(SERVING)).await;
    assert_eq!(probe(&key(addr, over_tls(grpc(""), false), None)).await, Answer, "any certificate");
    assert_eq!(probe(&key(addr, over_tls(grpc(""), true), None)).await, Wrong);
}

#[tokio::test]
async fn a_pools_backend_goes_down_and_comes_back_with_what_grpc_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, said) = (listener.local_addr().unwrap(), Arc::new(AtomicU32::new(1)));
    let now = said.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let status = now.load(Relaxed) as u8;
            tokio::spawn(serve(stream, message(&[0, 0, 0, 0, 2, 8, status]), Asked::default()));
        }
    });
    let (health, pool) = (LocalHealth::new(), "web".parse::<zonekeeper_core::id::PoolId>().unwrap());
    let mut streams = Streams::new(1, Arc::default(), health.clone());
    let key = Key::clone(&key(addr, grpc("shop"), None));
    streams.follow(Plan::from([(key, vec![Subject::Backend(pool.clone(), addr)])]));
    for (status, wanted) in [(1, Checked::Up), (2, Checked::Down), (0, Checked::Down), (1, Checked::Up)] {
        said.store(status, Relaxed);
        let seen = || health.get(&pool, addr).map(|b| b.checked());
        for _ in 0..500 {
            if seen() == Some(wanted) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(seen(), Some(wanted), "after status {status}");
    }
}
