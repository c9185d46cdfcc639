//! Backends over TLS.

use super::*;
use bytes::Bytes;
use std::sync::{Arc, atomic::Ordering::Relaxed};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        RootCertStore, ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
        server::WebPkiClientVerifier,
    },
};
use zonekeeper_core::model::BackendTls;

/// A backend with this certificate; with `clients` it asks for theirs. It answers in the version that is agreed on.
fn server(pair: &Pair, clients: Option<&Ca>) -> Server {
    speaking(&["h2", "http/1.1"], pair, clients)
}

/// The same, of these versions, as it says in the handshake.
fn speaking(versions: &[&str], pair: &Pair, clients: Option<&Ca>) -> Server {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(ca.file()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let chain = CertificateDer::pem_file_iter(&pair.files.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.files.key).unwrap();
    let mut config = builder.with_single_cert(chain, key).unwrap();
    config.alpn_protocols = versions.iter().map(|v| v.as_bytes().to_vec()).collect();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::with(any(), move |stream, n| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            n.fetch_add(100, Relaxed); // connections in hundreds, requests in ones
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    n.fetch_add(1, Relaxed);
                    let mut send = respond.send_response(http::Response::new(()), false).unwrap();
                    let _ = send.send_data(Bytes::from_static(b"two"), true);
                }
                return;
            }
            let mut pending = Vec::new();
            while matches!(stream.read_buf(&mut pending).await, Ok(read) if read > 0) {
                if pending.ends_with(b"\r\n\r\n") {
                    pending.clear();
                    n.fetch_add(1, Relaxed);
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none").await;
                    let _ = stream.flush().await;
                }
            }
        }
    })
}

fn over(backend: &Server, tls: BackendTls, http2: bool) -> World {
    let mut state = state(Protocol::Http, &[backend.addr]);
    edit_pool(&mut state, |p| (p.tls, p.http2, p.eject_ms) = (Some(tls), http2, 0));
    World::try_start(state, 1).unwrap()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn both_versions_go_over_tls_on_connections_that_are_kept() {
    let ca = Ca::new();
    let backend = server(&ca.issue(&["inside.example"]), None);
    for (http2, expected) in [(false, "one"), (true, "two")] {
        backend.requests.store(0, Relaxed);
        let tls = BackendTls { ca: Some(ca.file()), name: Some("inside.example".into()), client: None };
        let world = over(&backend, tls, http2);
        let mut client = world.client().await;
        for _ in 0..10 {
            let answer = client.get("/").await;
            assert_eq!((answer.status, answer.text().as_str()), (200, expected));
        }
        assert_eq!(backend.count(), 110, "one connection for ten requests");
    }
}

#[tokio::test]
async fn a_backend_that_is_not_who_it_shall_be_gets_no_request() {
    let (ca, others) = (Ca::new(), Ca::new());
    let by_address = server(&ca.issue(&["127.0.0.1"]), None);
    let named = server(&ca.issue(&["inside.example"]), None);
    for (backend, of, name, status) in [
        (&by_address, &ca, None, 200),
        (&named, &ca, Some("inside.example"), 200),
        (&named, &ca, None, 502),
        (&named, &ca, Some("other.example"), 502),
        (&named, &others, Some("inside.example"), 502),
    ] {
        for http2 in [false, true] {
            let tls = BackendTls { ca: Some(of.file()), name: name.map(Into::into), client: None };
            let before = backend.count() % 100;
            assert_eq!(over(backend, tls, http2).ask(GET).await.status, status, "{name:?}");
            assert_eq!(backend.count() % 100 - before, u64::from(status == 200));
        }
    }
}

#[tokio::test]
async fn our_certificate_is_shown_where_a_backend_asks_for_it() {
    let ca = Ca::new();
    let backend = server(&ca.issue(&["inside.example"]), Some(&ca));
    let (ours, strange) = (ca.issue(&["proxy.example"]), Ca::new().issue(&["proxy.example"]));
    for (client, status) in [(Some(&ours), 200), (None, 502), (Some(&strange), 502)] {
        let client = client.map(|p| p.files.clone());
        let tls = BackendTls { ca: Some(ca.file()), name: Some("inside.example".into()), client };
        assert_eq!(over(&backend, tls, false).ask(GET).await.status, status);
    }
}

#[tokio::test]
async fn a_ca_that_cannot_be_read_is_a_problem_and_nothing_goes_in_clear() {
    let ca = Ca::new();
    let backend = server(&ca.issue(&["127.0.0.1"]), None);
    let file = ca.file() + ".missing";
    let world = over(&backend, BackendTls { ca: Some(file.clone()), ..BackendTls::default() }, false);
    let problems = world.proxy.problems();
    assert!(problems.len() == 1 && problems[0].message.contains("ca.pem.missing"), "{problems:?}");
    assert_eq!((world.ask(GET).await.status, backend.count()), (502, 0));
    std::fs::copy(ca.file(), file).unwrap();
    eventually("it is read again", async || world.proxy.problems().is_empty()).await;
    assert_eq!(world.ask(GET).await.status, 200);
}

#[tokio::test]
async fn no_backend_is_trusted_by_what_a_pool_asked_for_before() {
    let (ca, stricter) = (Ca::new(), Ca::new());
    let backend = server(&ca.issue(&["127.0.0.1"]), None);
    let trust = |ca: &str| BackendTls { ca: Some(ca.into()), ..BackendTls::default() };
    let mut world = over(&backend, trust(&ca.file()), false);
    let mut client = world.client().await;
    assert_eq!(client.get("/").await.status, 200);
    let file = stricter.file() + ".missing";
    world.change(|s| edit_pool(s, |p| p.tls = Some(trust(&file))));
    eventually("the file is missed", async || !world.proxy.problems().is_empty()).await;
    eventually("nothing goes there", async || client.get("/").await.status == 502).await;
    assert_eq!(world.ask(GET).await.status, 502);
    world.change(|s| edit_pool(s, |p| p.tls = Some(trust(&ca.file()))));
    eventually("it is trusted again", async || world.ask(GET).await.status == 200).await;
}

#[tokio::test]
async fn all_that_is_wrong_with_a_pools_files_is_told_at_once() {
    let ca = Ca::new();
    let backend = server(&ca.issue(&["127.0.0.1"]), None);
    let (ours, other) = (ca.issue(&["proxy.example"]), ca.issue(&["other.example"]));
    let missing = |what: &str| format!("{}.{what}", ca.file());
    let told = async |ca: String, cert: String, key: String, wanted: &[&str]| {
        let client = Some(zonekeeper_core::model::TlsFiles { cert, key });
        let world = over(&backend, BackendTls { ca: Some(ca), name: None, client }, false);
        let problems: Vec<String> = world.proxy.problems().into_iter().map(|p| p.message).collect();
        let fits = problems.iter().zip(wanted).all(|(p, w)| p.starts_with("pool web: ") && p.contains(w));
        assert!(problems.len() == wanted.len() && fits, "{problems:?} and not {wanted:?}");
        assert_eq!(world.ask(GET).await.status, if wanted.is_empty() { 200 } else { 502 });
    };
    let wanted = ["ca.pem.none", "ca.pem.no-cert", "ca.pem.no-key"];
    told(missing("none"), missing("no-cert"), missing("no-key"), &wanted).await;
    let unfit = ["ca.pem.none", "do not fit together"];
    told(missing("none"), ours.files.cert.clone(), other.files.key.clone(), &unfit).await;
    told(ca.file(), ours.files.cert.clone(), ours.files.key.clone(), &[]).await;
    assert_eq!(backend.count() % 100, 1, "nothing goes out before all is well");
}

#[tokio::test]
async fn bytes_of_l4_go_over_tls_too() {
    let ca = Ca::new();
    // whatever they are: nothing is said of HTTP, which this one would refuse (RFC 7301 §3.2)
    let backend = speaking(&["mqtt"], &ca.issue(&["127.0.0.1"]), None);
    let mut state = state(Protocol::Tcp, &[backend.addr]);
    edit_pool(&mut state, |p| p.tls = Some(BackendTls { ca: Some(ca.file()), ..BackendTls::default() }));
    let world = World::start(state);
    assert_eq!(world.ask(GET).await.text(), "one");
}

/// A backend that closes without saying so in TLS, as many do, just as the next request comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_ended_without_close_notify_is_invisible_to_any_method() {
    let ca = Ca::new();
    let pair = ca.issue(&["inside.example"]);
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    let chain = CertificateDer::pem_file_iter(&pair.files.cert).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.files.key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let ending = Arc::new(crate::exchange::Ending::default());
    let its = ending.clone();
    let closing = Server::with(any(), move |stream, _| {
        let (acceptor, ending) = (acceptor.clone(), its.clone());
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            ending.serve(stream, |s| s.get_ref().0).await;
        }
    });
    let tls = BackendTls { ca: Some(ca.file()), name: Some("inside.example".into()), client: None };
    let world = over(&closing, tls, false);
    crate::exchange::posts_come_through(&world, &ending).await;
}
