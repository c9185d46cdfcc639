//! Garbage, oversized and truncated frames, false hellos: refused without a panic, and the node goes on.

#![allow(clippy::unwrap_used)] // tests, with their helpers

mod support;

use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::{net::SocketAddr, sync::Arc};
use support::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use zonekeeper_core::codec::{self, Kind};
use zonekeeper_peer::{
    Lane, Peers, Refusal,
    keys::{Ca, Credentials},
};

/// A TLS connection to node 2 as node 1 might make it, with a real certificate but in our hands.
async fn tls(ca: &Ca, to: SocketAddr, own: Option<Credentials>) -> TlsStream<TcpStream> {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.cert_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = if let Some(own) = own {
        own.save(dir.path()).unwrap();
        let chain = vec![CertificateDer::from_pem_file(file("node.pem")).unwrap()];
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(file("node.key")).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"zonekeeper-peer/1".to_vec()];
    let name = ServerName::try_from(format!("node-2.{CLUSTER:032x}.zonekeeper")).unwrap();
    let tcp = TcpStream::connect(to).await.unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
}

async fn member_link(ca: &Ca, to: &Peers) -> TlsStream<TcpStream> {
    tls(ca, addr(to), Some(credentials(ca, 1))).await
}

fn frame(kind: u8, id: u64, body: &[u8]) -> Vec<u8> {
    codec::seal(Kind::Frame, &[&[kind], &id.to_le_bytes()[..], body].concat())
}

fn hello(versions: (u16, u16), cluster: u128, node: u64) -> Vec<u8> {
    frame(1, 0, &codec::bytes(&(versions.0, versions.1, cluster, node, Lane::Heartbeat, 0u64)))
}

/// Sends bytes and reads the connection to its end; the reason in the goodbye, if that came last.
async fn goodbye(mut stream: TlsStream<TcpStream>, bytes: &[u8]) -> Option<Refusal> {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let _ = soon("the end", stream.read_to_end(&mut answer)).await;
    let last = frame(3, 0, &[0]).len(); // a goodbye has one byte of body
    let goodbye = codec::open(Kind::Frame, answer.get(answer.len().checked_sub(last)?..)?, 64).ok()?;
    (goodbye[0] == 3).then(|| codec::from_bytes(&goodbye[9..]).unwrap())
}

/// The member still serves honest peers.
async fn still_serves(ca: &Ca, member: &Peers) {
    let honest = node(ca, 5);
    honest.set_peers([(2, addr(member))].into());
    assert!(honest.call(2, Lane::Control, vec![], PATIENCE).await.is_ok());
}

#[tokio::test]
async fn a_false_hello_is_refused_with_its_reason() {
    let ca = ca();
    let b = node(&ca, 2);
    let other_kind = frame(4, 1, b"no hello");
    for (bytes, why) in [
        (hello((1, 1), CLUSTER, 3), Refusal::Identity),
        (hello((1, 1), CLUSTER + 1, 1), Refusal::WrongCluster),
        (hello((7, 9), CLUSTER, 1), Refusal::Version),
        (frame(1, 0, &[0xff; 40]), Refusal::Garbage),
        (frame(1, 0, &[0; 2000]), Refusal::Garbage),
        (other_kind, Refusal::Garbage),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Refusal::Garbage),
    ] {
        let before = refused(&b, why);
        assert_eq!(goodbye(member_link(&ca, &b).await, &bytes).await, Some(why));
        assert_eq!(refused(&b, why), before + 1);
    }
    still_serves(&ca, &b).await;
}

#[tokio::test]
async fn a_bad_frame_after_the_hello_is_refused() {
    let ca = ca();
    let b = node(&ca, 2);
    let good = frame(4, 1, b"hi");
    let mut damaged = good.clone();
    damaged[12] ^= 1;
    let oversized = frame(4, 1, &vec![0; Lane::Heartbeat.limit() + 1])[..8].to_vec();
    for bad in [damaged, oversized, frame(99, 1, b""), frame(1, 0, b""), vec![0; 4096]] {
        let bytes = [hello((1, 1), CLUSTER, 1), good.clone(), bad].concat();
        assert_eq!(goodbye(member_link(&ca, &b).await, &bytes).await, Some(Refusal::Garbage));
    }
    assert_eq!(refused(&b, Refusal::Garbage), 5);
    still_serves(&ca, &b).await;
}

#[tokio::test]
async fn a_frame_that_is_cut_short_by_the_end_of_the_connection_is_only_the_end() {
    let ca = ca();
    let b = node(&ca, 2);
    let bytes = [hello((1, 1), CLUSTER, 1), frame(4, 1, b"hi")].concat();
    for cut in [1, 7, 8, 20, bytes.len() - 1] {
        let mut stream = member_link(&ca, &b).await;
        stream.write_all(&bytes[..cut]).await.unwrap();
        stream.shutdown().await.unwrap();
        let _ = soon("the end", stream.read_to_end(&mut Vec::new())).await;
    }
    assert_eq!(refused_at_all(&b), 0);
    still_serves(&ca, &b).await;
}

#[tokio::test]
async fn no_certificate_is_a_stranger() {
    let ca = ca();
    let b = node(&ca, 2);
    let mut stream = tls(&ca, addr(&b), None).await;
    let alert = soon("the alert", stream.read_u8()).await.unwrap_err();
    assert!(alert.to_string().contains("CertificateRequired"), "{alert}");
    until("it is counted", || refused(&b, Refusal::Stranger) == 1).await;
}

#[tokio::test]
async fn a_caller_of_another_cluster_is_told_apart_from_a_stranger() {
    let ca = ca();
    let b = node(&ca, 2);
    let own = Ca::create(CLUSTER + 1).unwrap().issue(1, &site(), DAY).unwrap();
    let mut stream = tls(&ca, addr(&b), Some(own)).await;
    let alert = soon("the alert", stream.read_u8()).await.unwrap_err();
    assert!(alert.to_string().contains("AccessDenied"), "{alert}");
    until("it is counted", || refused(&b, Refusal::WrongCluster) == 1).await;
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_counted_as_garbage() {
    let ca = ca();
    let b = node(&ca, 2);
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 600], &[0x16, 3, 1, 0xff, 0xff, 1]] {
        let mut tcp = TcpStream::connect(addr(&b)).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        tcp.shutdown().await.unwrap();
        let _ = soon("the end", tcp.read_to_end(&mut Vec::new())).await;
    }
    until("they are counted", || refused(&b, Refusal::Garbage) >= 2).await;
    still_serves(&ca, &b).await;
}
