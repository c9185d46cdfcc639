//! TLS: which certificate whom, clients with certificates, sessions that go on, backends over TLS, and names without
//! decryption.

mod backend;
mod passthrough;
pub mod support;

use crate::{http2::Client2, support::*};
use rcgen::{PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};
use support::*;
use tokio_rustls::rustls::{self, CipherSuite, HandshakeKind};
use zonekeeper_core::{
    entry::Secret,
    model::{Protocol, Tls, TlsFiles},
};

/// A listener with these certificates.
fn with(backend: &Server, change: impl FnOnce(&mut Tls), certificates: &[&Pair]) -> World {
    let mut state = state(Protocol::Http, &[backend.addr]);
    let mut tls = Tls {
        certificates: certificates.iter().map(|p| p.files.clone().into()).collect(),
        client_ca: None,
        client_optional: false,
        only_13: false,
    };
    change(&mut tls);
    edit_listener(&mut state, |l| l.tls = Some(tls));
    World::start(state)
}

#[tokio::test]
async fn a_client_gets_the_certificate_of_the_name_that_it_asks_for() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let (first, exact, wild) =
        (ca.issue(&["first.example"]), ca.issue(&["w.example"]), ca.issue(&["*.w.example"]));
    let world = with(&a, |_| {}, &[&first, &exact, &wild]);
    for (name, expected) in [
        ("first.example", &first),
        ("w.example", &exact),
        ("W.EXAMPLE", &exact),
        ("a.w.example", &wild),
        ("b.a.w.example", &first),
        ("elsewhere.example", &first),
    ] {
        let shown = anyone().connect(world.addr("web"), name).await.unwrap().certificate();
        assert_eq!(shown, expected.der, "{name}");
    }
    let verified = ca.client().connect(world.addr("web"), "a.w.example").await.unwrap();
    assert_eq!(verified.get("/").await.0, "200");
}

#[tokio::test]
async fn ecdsa_is_served_to_those_who_can_and_rsa_to_the_others() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let rsa = ca.issue_with(&["w.example"], &PKCS_RSA_SHA256);
    let ecdsa = ca.issue_with(&["w.example"], &PKCS_ECDSA_P256_SHA256);
    let world = with(&a, |_| {}, &[&rsa, &ecdsa]);
    let shown = anyone().connect(world.addr("web"), "w.example").await.unwrap().certificate();
    assert_eq!(shown, ecdsa.der);
    let schemes = vec![rustls::SignatureScheme::RSA_PSS_SHA256, rustls::SignatureScheme::RSA_PKCS1_SHA256];
    for name in ["w.example", "other.example"] {
        let client = anyone().with_schemes(schemes.clone());
        let shown = client.connect(world.addr("web"), name).await.unwrap().certificate();
        assert_eq!(shown, rsa.der, "{name}");
    }
}

#[tokio::test]
async fn the_cheapest_cipher_suite_is_agreed_on() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let world = with(&a, |_| {}, &[&ca.issue(&["w.example"])]);
    for (version, suite) in [
        (&rustls::version::TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
        (&rustls::version::TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ] {
        // the client would rather have AES-256
        let client = ca.client().with_versions(&[version]);
        assert_eq!(client.connect(world.addr("web"), "w.example").await.unwrap().suite(), Some(suite));
    }
}

#[tokio::test]
async fn versions_are_those_that_the_listener_allows() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let pair = ca.issue(&["w.example"]);
    for (only_13, old_works) in [(false, true), (true, false)] {
        let world = with(&a, |t| t.only_13 = only_13, &[&pair]);
        let old = ca.client().with_versions(&[&rustls::version::TLS12]);
        assert_eq!(old.connect(world.addr("web"), "w.example").await.is_ok(), old_works);
        let new = ca.client().with_versions(&[&rustls::version::TLS13]);
        assert!(new.connect(world.addr("web"), "w.example").await.is_ok());
    }
}

#[tokio::test]
async fn clients_show_certificates_where_the_listener_asks() {
    let (ca, others, a) = (Ca::new(), Ca::new(), Server::start("a"));
    let (pair, known, unknown) =
        (ca.issue(&["w.example"]), ca.issue(&["me.example"]), others.issue(&["me.example"]));
    for optional in [false, true] {
        let change = |t: &mut Tls| (t.client_ca, t.client_optional) = (Some(ca.file()), optional);
        let world = with(&a, change, &[&pair]);
        for (shown, works) in [(Some(&known), true), (None, optional), (Some(&unknown), false)] {
            for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
                let mut client = ca.client().with_versions(&[version]);
                if let Some(shown) = shown {
                    client = client.with_certificate(shown);
                }
                assert_eq!(
                    client.ask(world.addr("web"), "w.example").await.is_some_and(|s| s == "200"),
                    works,
                    "optional {optional}, {:?}",
                    shown.map(|s| &s.files)
                );
            }
        }
    }
}

#[tokio::test]
async fn nobody_is_served_by_what_a_listener_asked_for_before() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let (pair, known) = (ca.issue(&["w.example"]), ca.issue(&["me.example"]));
    let mut world = with(&a, |_| {}, &[&pair]);
    let addr = world.addr("web");
    let status = async |client: Tool| client.ask(addr, "w.example").await;
    assert_eq!(status(ca.client()).await.as_deref(), Some("200"));
    let file = ca.file() + ".missing";
    world.change(|s| edit_listener(s, |l| l.tls.as_mut().unwrap().client_ca = Some(file.clone())));
    eventually("the file is missed", async || {
        world.proxy.problems().iter().any(|p| p.message.contains("ca.pem.missing"))
    })
    .await;
    assert_eq!(status(ca.client()).await, None, "without the certificates that are asked for now");
    std::fs::copy(ca.file(), &file).unwrap();
    eventually("it is read", async || status(ca.client().with_certificate(&known)).await.is_some()).await;
    assert_eq!(status(ca.client()).await, None);
    std::fs::remove_file(file).unwrap();
    eventually("it is missed again", async || !world.proxy.problems().is_empty()).await;
    let served = async || status(ca.client().with_certificate(&known)).await;
    assert!(served().await.is_some(), "the same as it was read");
    assert_eq!(status(ca.client()).await, None);
    let other = TlsFiles { cert: "/missing/cert.pem".into(), key: "/missing/key.pem".into() };
    world.change(|s| {
        edit_listener(s, |l| l.tls.as_mut().unwrap().certificates.insert(0, other.clone().into()));
    });
    eventually("the certificate is missed", async || {
        world.proxy.problems().iter().any(|p| p.message.contains("/missing/"))
    })
    .await;
    assert!(served().await.is_some(), "another certificate asks nothing more of clients");
}

#[tokio::test]
async fn a_session_goes_on_after_a_certificate_changed_and_not_at_another_listener() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let pair = ca.issue(&["w.example"]);
    let mut state = state(Protocol::Http, &[a.addr]);
    edit_listener(&mut state, |l| l.tls = Some(pair.files.clone().into()));
    let mut strict = listener(Protocol::Http);
    strict.tls = Some(Tls { client_ca: Some(ca.file()), ..pair.files.clone().into() });
    state.listeners.insert(listener_id("strict"), std::sync::Arc::new(strict));
    let world = World::start(state);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = ca.client().with_versions(&[version]);
        let kind = async || {
            let connection = client.connect(world.addr("web"), "w.example").await.unwrap();
            let kind = connection.kind().unwrap();
            assert_eq!(connection.get("/").await.0, "200");
            kind
        };
        assert_eq!(kind().await, HandshakeKind::Full);
        assert_eq!(kind().await, HandshakeKind::Resumed);
        let before = anyone().connect(world.addr("web"), "w.example").await.unwrap().certificate();
        ca.issue_again(&pair);
        eventually("the new certificate is served", async || {
            anyone().connect(world.addr("web"), "w.example").await.unwrap().certificate() != before
        })
        .await;
        assert_eq!(kind().await, HandshakeKind::Resumed, "tickets outlive the certificate");
        // A session without a client's certificate opens no door that asks for one.
        assert_eq!(client.ask(world.addr("strict"), "w.example").await, None);
    }
}

/// Two nodes of a cluster share its secrets: a client that comes to the other one after a failover goes on.
#[tokio::test]
async fn a_session_goes_on_at_another_node_of_the_cluster() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let (here, there) = (ca.issue(&["w.example"]), ca.issue(&["w.example"]));
    let node = |pair: &Pair, secrets: &[u8]| {
        let mut state = state(Protocol::Http, &[a.addr]);
        state.secrets.session = secrets.iter().map(|b| Secret([*b; 32])).collect();
        edit_listener(&mut state, |l| l.tls = Some(pair.files.clone().into()));
        World::start(state)
    };
    let (first, same, rotated, stranger) =
        (node(&here, &[1]), node(&there, &[1]), node(&there, &[2, 1]), node(&there, &[3]));
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let client = ca.client().with_versions(&[version]);
        for (world, expected) in [
            (&first, HandshakeKind::Full),
            (&same, HandshakeKind::Resumed),
            (&rotated, HandshakeKind::Resumed),
            (&stranger, HandshakeKind::Full),
        ] {
            let connection = client.connect(world.addr("web"), "w.example").await.unwrap();
            assert_eq!(connection.kind(), Some(expected));
            assert_eq!(connection.get("/").await.0, "200");
        }
    }
}

/// New secrets are used by the listeners that stand.
#[tokio::test]
async fn secrets_that_change_are_taken_up() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let pair = ca.issue(&["w.example"]);
    let mut state = state(Protocol::Http, &[a.addr]);
    state.secrets.session = vec![Secret([1; 32])];
    edit_listener(&mut state, |l| l.tls = Some(pair.files.clone().into()));
    let mut world = World::start(state);
    let client = ca.client();
    assert_eq!(client.ask(world.addr("web"), "w.example").await.as_deref(), Some("200"));
    world.change(|s| s.secrets.session = vec![Secret([2; 32])]);
    eventually("the old tickets open nothing", async || {
        let connection = client.connect(world.addr("web"), "w.example").await.unwrap();
        connection.kind() == Some(HandshakeKind::Full)
    })
    .await;
}

#[tokio::test]
async fn a_connection_outlives_its_certificate() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let pair = ca.issue(&["w.example"]);
    let world = with(&a, |_| {}, &[&pair]);
    let connection = ca.client().with_alpn(&["h2"]).connect(world.addr("web"), "w.example").await.unwrap();
    let client = Client2::over(connection.into_stream()).await;
    assert_eq!(client.get("/").await.status, 200);
    let before = anyone().connect(world.addr("web"), "w.example").await.unwrap().certificate();
    ca.issue_again(&pair);
    eventually("the new certificate is served", async || {
        anyone().connect(world.addr("web"), "w.example").await.unwrap().certificate() != before
    })
    .await;
    assert_eq!(client.get("/").await.status, 200);
}

#[tokio::test]
async fn a_certificate_that_ends_soon_is_told() {
    let (ca, a) = (Ca::new(), Server::start("a"));
    let pair = ca.issue(&["w.example"]);
    let world = with(&a, |_| {}, &[&pair]);
    let ends = || world.proxy.counters().listeners[0].1.certificate_ends.unwrap() as u64;
    assert!(world.proxy.problems().is_empty());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for (end, word) in [(now + 3600, "ends at"), (now - 3600, "ended at")] {
        ca.issue_until(&pair, end);
        eventually("its end is told", async || {
            let problems = world.proxy.problems();
            let told = |m: &str| m.contains(&pair.files.cert) && m.contains(word);
            ends() == end && problems.iter().any(|p| p.listener.as_str() == "web" && told(&p.message))
        })
        .await;
    }
    ca.issue_again(&pair);
    eventually("all is well again", async || world.proxy.problems().is_empty() && ends() > now).await;
}
