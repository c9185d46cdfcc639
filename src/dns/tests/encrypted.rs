//! DNS over TLS, HTTPS and QUIC by real clients: kdig, curl, and quinn for QUIC.

#![allow(clippy::unwrap_used)] // a test ends at the first surprise

mod common;

use arc_swap::ArcSwap;
use common::{Answer, published, query, read, state, with_edns};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::{
    env,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    sync::Arc,
    time::Duration,
};
use zonekeeper_dns::{DnsConfig, DnsFlags, DnsServer, EncryptedConfig, Transport};

const ZONE: &str = "$TTL 300\n@ SOA ns host 7 3600 600 86400 30\n@ NS ns\nns A 192.0.2.1\nwww A 192.0.2.80\n";
/// What not every library of types can hold.
const ODD: &str = "empty TYPE65280 \\# 0\nlong CAA 0 abcdefghijklmnopq \"x\"\n";
const PATH: &str = "/dns-query";

/// The certificate of a server that is called localhost.
#[derive(Debug)]
struct Certificate(Arc<CertifiedKey>);

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.clone())
    }
}

struct Running {
    server: DnsServer,
    /// The certificate, for clients that check it.
    pem: tempfile::NamedTempFile,
    certificate: CertificateDer<'static>,
}

fn start() -> Running {
    start_with(DnsConfig::default())
}

fn start_with(config: DnsConfig) -> Running {
    let made = rcgen::generate_simple_self_signed(["localhost".to_string()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let certificate = made.cert.der().clone();
    let certified = Arc::new(CertifiedKey::new(vec![certificate.clone()], key));
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let encrypted = EncryptedConfig {
        tls: vec![any],
        https: vec![any],
        quic: vec![any],
        path: PATH.into(),
        certificate: Arc::new(Certificate(certified)),
    };
    let config = DnsConfig { encrypted: Some(encrypted), nsid: b"n1".to_vec(), ..config };
    let big: String = (0..100).map(|i| format!("big A 10.0.0.{i}\n")).collect();
    let zone = format!("{ZONE}{big}moved DNAME else.test.\n@ TYPE65280 \\# 3 010203\n{ODD}");
    let now = Arc::new(ArcSwap::from_pointee(published(state(&[("example.", &zone)]), 1)));
    let server = DnsServer::start(config, now, Arc::new(DnsFlags::default())).unwrap();
    let mut pem = tempfile::NamedTempFile::new().unwrap();
    pem.write_all(made.cert.pem().as_bytes()).unwrap();
    Running { server, pem, certificate }
}

impl Running {
    fn addr(&self, transport: Transport) -> SocketAddr {
        self.server.encrypted_addrs().find(|a| a.0 == transport).unwrap().1
    }

    /// A client's configuration that trusts the server.
    fn client(&self, protocol: &[u8]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![protocol.to_vec()];
        tls
    }

    /// A connection over TLS; its handshake waits for the first byte.
    fn tls(&self) -> Stream {
        self.stream(Transport::Tls, b"dot")
    }

    fn stream(&self, transport: Transport, protocol: &[u8]) -> Stream {
        let tcp = TcpStream::connect(self.addr(transport)).unwrap();
        tcp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let name = "localhost".try_into().unwrap();
        rustls::StreamOwned::new(
            rustls::ClientConnection::new(Arc::new(self.client(protocol)), name).unwrap(),
            tcp,
        )
    }
}

type Stream = rustls::StreamOwned<rustls::ClientConnection, TcpStream>;

/// The answer to a query over TLS.
fn over_tls(s: &mut Stream, q: &[u8]) -> std::io::Result<Answer> {
    s.write_all(&[&(q.len() as u16).to_be_bytes(), q].concat())?;
    let mut len = [0; 2];
    s.read_exact(&mut len)?;
    let mut m = vec![0; usize::from(u16::from_be_bytes(len))];
    s.read_exact(&mut m)?;
    Ok(read(&m))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_over_tls_are_those_of_every_transport() {
    let r = start();
    let mut s = r.tls();
    let answers = tokio::task::spawn_blocking(move || {
        [("empty.example", 65_280), ("long.example", 257), ("www.example", 1)]
            .map(|(name, rtype)| over_tls(&mut s, &query(name, rtype)).unwrap().answer.remove(0).3)
    });
    assert_eq!(answers.await.unwrap(), ["\\# 0", "0 abcdefghijklmnopq \"x\"", "192.0.2.80"]);
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_tls_are_limited_and_end_when_idle() {
    let idle = Duration::from_millis(1500);
    let r = start_with(DnsConfig { tcp_connections_per_network: 2, tcp_idle: idle, ..DnsConfig::default() });
    let (mut a, mut b, mut c, mut d) = (r.tls(), r.tls(), r.tls(), r.tls());
    let asked = tokio::task::spawn_blocking(move || {
        let q = query("www.example", 1);
        let open = [&mut a, &mut b].map(|s| over_tls(s, &q).is_ok());
        let third = over_tls(&mut c, &q).is_ok();
        let fourth = over_tls(&mut d, &q).is_ok();
        // The client waits for much longer: it is the server that ends what is silent.
        let ends = [&mut a, &mut b].map(|s| s.read(&mut [0; 1]).unwrap_err().kind());
        (open, third, fourth, ends)
    });
    let asked = asked.await.unwrap();
    let end = std::io::ErrorKind::UnexpectedEof;
    assert_eq!(asked, ([true; 2], false, false, [end; 2]), "two and no more; then silence ends them");
    assert_eq!(r.server.counters().limited, 2);
    let mut again = r.tls();
    let again = tokio::task::spawn_blocking(move || over_tls(&mut again, &query("www.example", 1)).is_ok());
    assert!(again.await.unwrap(), "there is room again");
    r.server.shutdown().await;
}

/// The output of a program; none when it is not there.
async fn run(program: &str, args: Vec<String>) -> Option<Vec<u8>> {
    let (program, shown) = (program.to_string(), program.to_string());
    let out = tokio::task::spawn_blocking(move || Command::new(program).args(args).output()).await.unwrap();
    match out {
        Ok(out) => Some(out.stdout),
        Err(e) => {
            eprintln!("NOT RUN: {shown}: {e}");
            assert!(env::var_os("CI").is_none(), "{shown} must be installed in CI");
            None
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kdig_asks_over_tls_and_https() {
    let r = start();
    let ca = r.pem.path().display();
    for (transport, flag) in
        [(Transport::Tls, "+tls".to_string()), (Transport::Https, format!("+https={PATH}"))]
    {
        let port = r.addr(transport).port();
        let ask = format!("@127.0.0.1 -p {port} {flag} +tls-ca={ca} +tls-hostname=localhost");
        for (question, says) in [
            (
                "www.example +nsid +cookie",
                vec!["192.0.2.80", "NSID: 6E31", "COOKIE: ", "status: NOERROR", " aa "],
            ),
            ("absent.example", vec!["status: NXDOMAIN", "SOA"]),
            ("big.example", vec!["ANSWER: 100", "10.0.0.99"]),
            ("moved.example DNAME", vec!["else.test."]),
            ("example TYPE65280", vec!["\\# 3 010203"]),
            ("elsewhere.test +padding=100", vec!["status: REFUSED"]),
        ] {
            let args = format!("{ask} {question}").split(' ').map(String::from).collect();
            let Some(out) = run("kdig", args).await else { return };
            let text = String::from_utf8_lossy(&out);
            says.iter()
                .for_each(|s| assert!(text.contains(s), "{flag} {question}: {s:?} is missing in {text}"));
        }
    }
    let totals = r.server.counters();
    assert_eq!((totals.tls, totals.https, totals.udp, totals.tcp), (6, 6, 0, 0));
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_posts_a_query() {
    let r = start();
    let mut body = tempfile::NamedTempFile::new().unwrap();
    body.write_all(&query("www.example", 1)).unwrap();
    let https = r.addr(Transport::Https);
    let args = [
        "-sS",
        "--http2",
        "--cacert",
        r.pem.path().to_str().unwrap(),
        "--resolve",
        &format!("localhost:{}:127.0.0.1", https.port()),
        "-H",
        "content-type: application/dns-message",
        "-H",
        "accept: application/dns-message",
        "--data-binary",
        &format!("@{}", body.path().display()),
        &format!("https://localhost:{}{PATH}", https.port()),
    ];
    if let Some(out) = run("curl", args.map(String::from).to_vec()).await {
        let a = read(&out);
        assert_eq!((a.rcode, a.aa, a.answer[0].3.as_str()), (0, true, "192.0.2.80"));
    }
    r.server.shutdown().await;
}

/// What curl prints of a request: the status, the freshness and the answer.
async fn curl(r: &Running, more: &[&str], url: &str) -> Option<(String, Vec<u8>)> {
    let https = r.addr(Transport::Https);
    let mut args: Vec<String> = ["-sS", "--cacert", r.pem.path().to_str().unwrap(), "--resolve"]
        .map(String::from)
        .into_iter()
        .chain([format!("localhost:{}:127.0.0.1", https.port())])
        .collect();
    let body = tempfile::NamedTempFile::new().unwrap();
    let shown = "%{http_version} %{http_code} %header{cache-control}";
    args.extend(["-o", body.path().to_str().unwrap(), "-w", shown].map(String::from));
    args.extend(more.iter().map(|a| a.to_string()));
    args.push(format!("https://localhost:{}{url}", https.port()));
    let said = run("curl", args).await?;
    Some((String::from_utf8(said).unwrap().trim().into(), std::fs::read(body.path()).unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn curl_gets_answers_and_refusals() {
    let r = start();
    let get = |name: &str| format!("{PATH}?dns={}", data_encoding::BASE64URL_NOPAD.encode(&query(name, 1)));
    let Some((said, body)) = curl(&r, &["--http2"], &get("www.example")).await else { return };
    assert_eq!(said, "2 200 max-age=300");
    assert_eq!(read(&body).answer[0].3, "192.0.2.80");
    let (said, body) = curl(&r, &["--http1.1"], &get("absent.example")).await.unwrap();
    assert_eq!((said.as_str(), read(&body).rcode), ("1.1 200 max-age=30", 3), "as long as the denial lives");
    let (said, body) = curl(&r, &[], &get("big.example")).await.unwrap();
    assert_eq!((said.as_str(), read(&body).answer.len()), ("2 200 max-age=300", 100));
    let (said, body) = curl(&r, &[], &get("elsewhere.test")).await.unwrap();
    assert_eq!((said.as_str(), read(&body).rcode), ("2 200 max-age=0", 5));
    let long = format!("{PATH}?dns={}", "A".repeat(6000));
    let text = ["--data-binary", "x", "-H", "content-type: text/plain"];
    let huge = ["-H", "content-type: application/dns-message", "--data-binary", &"x".repeat(5000)];
    for (more, url, status) in [
        (&[][..], "/elsewhere?dns=AAAA", "404"),
        (&[], PATH, "400"),
        (&[], &format!("{PATH}?dns=*"), "400"),
        (&[], &format!("{PATH}?dns=AAAA"), "400"),
        (&[], &long, "414"),
        (&["-X", "PUT"], PATH, "405"),
        (&text, PATH, "415"),
        (&huge, PATH, "413"),
    ] {
        let (said, _) = curl(&r, more, url).await.unwrap();
        assert_eq!(said.split(' ').nth(1), Some(status), "{more:?} {url}");
    }
    assert_eq!(r.server.counters().https, 4);
    r.server.shutdown().await;
}

async fn over_quic(connection: &quinn::Connection, q: &[u8]) -> Answer {
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    send.write_all(&[&(q.len() as u16).to_be_bytes(), q].concat()).await.unwrap();
    send.finish().unwrap();
    let m = receive.read_to_end(70_000).await.unwrap();
    assert_eq!(usize::from(u16::from_be_bytes([m[0], m[1]])), m.len() - 2, "RFC 9250 §4.2");
    assert_eq!(m[2..4], [0, 0], "the ID is 0, RFC 9250 §4.2.1");
    if q.len() > 60 {
        assert_eq!((m.len() - 2) % 468, 0, "padded");
    }
    read(&m[2..])
}

/// A client's endpoint and how it connects.
fn quic_client(r: &Running) -> (quinn::Endpoint, quinn::ClientConfig) {
    let quic = quinn::crypto::rustls::QuicClientConfig::try_from(r.client(b"doq")).unwrap();
    let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    (endpoint, quinn::ClientConfig::new(Arc::new(quic)))
}

/// A query for an address, with the ID of QUIC.
fn quic_query(name: &str) -> Vec<u8> {
    let mut q = query(name, 1);
    q[..2].fill(0);
    q
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quinn_asks_over_quic() {
    let r = start();
    let (endpoint, config) = quic_client(&r);
    let to = r.addr(Transport::Quic);
    let connection = endpoint.connect_with(config, to, "localhost").unwrap().await.unwrap();
    let ask = quic_query;
    let a = over_quic(&connection, &ask("www.example")).await;
    assert_eq!((a.rcode, a.answer[0].3.as_str()), (0, "192.0.2.80"));
    assert_eq!(over_quic(&connection, &ask("absent.example")).await.rcode, 3);
    assert_eq!(over_quic(&connection, &ask("big.example")).await.answer.len(), 100);
    let padded = with_edns(ask("www.example"), 1232, 0, &[&[0, 12, 0, 30][..], &[0; 30]].concat());
    assert_eq!(over_quic(&connection, &padded).await.answer.len(), 1);
    let mut odd = query("empty.example", 65_280);
    odd[..2].fill(0);
    assert_eq!(over_quic(&connection, &odd).await.answer[0].3, "\\# 0", "the bytes of every transport");
    assert_eq!(r.server.counters().quic, 5);
    r.server.shutdown().await;
}

/// Sends the first packet of a handshake and no more, as who spoofs an address does.
async fn begin_and_go(r: &Running, config: quinn::ClientConfig) {
    let relay = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (endpoint, _) = quic_client(r);
    let connecting = endpoint.connect_with(config, relay.local_addr().unwrap(), "localhost").unwrap();
    let mut packet = [0; 2048];
    let (len, _) = relay.recv_from(&mut packet).await.unwrap();
    drop(connecting);
    relay.send_to(&packet[..len], r.addr(Transport::Quic)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_that_nobody_finishes_keep_no_one_out() {
    let r = start_with(DnsConfig { tcp_connections_per_network: 200, ..DnsConfig::default() });
    let (endpoint, config) = quic_client(&r);
    for _ in 0..80 {
        begin_and_go(&r, config.clone()).await;
    }
    let asked = async {
        let connecting = endpoint.connect_with(config, r.addr(Transport::Quic), "localhost").unwrap();
        let connection = connecting.await.unwrap();
        over_quic(&connection, &quic_query("www.example")).await
    };
    let answer = tokio::time::timeout(Duration::from_secs(4), asked).await;
    assert_eq!(answer.expect("no answer in 4 s").answer[0].3, "192.0.2.80");
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_over_quic_are_limited_and_end_when_no_query_comes() {
    let idle = Duration::from_millis(1500);
    let r = start_with(DnsConfig { tcp_connections_per_network: 2, tcp_idle: idle, ..DnsConfig::default() });
    let (endpoint, mut config) = quic_client(&r);
    let mut transport = quinn::TransportConfig::default();
    transport.keep_alive_interval(Some(Duration::from_millis(200))); // pings are no queries
    config.transport_config(Arc::new(transport));
    let connect = || endpoint.connect_with(config.clone(), r.addr(Transport::Quic), "localhost").unwrap();
    let (a, b) = (connect().await.unwrap(), connect().await.unwrap());
    let refused = connect().await.unwrap_err();
    assert!(matches!(refused, quinn::ConnectionError::ConnectionClosed(_)), "{refused:?}");
    assert_eq!(over_quic(&a, &quic_query("www.example")).await.answer.len(), 1);
    for connection in [a, b] {
        let why = tokio::time::timeout(Duration::from_secs(10), connection.closed()).await.unwrap();
        assert!(
            matches!(&why, quinn::ConnectionError::ApplicationClosed(c) if c.error_code == 0u32.into()),
            "{why:?}"
        );
    }
    assert!(connect().await.is_ok(), "there is room again");
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_longest_makes_room_whatever_it_speaks() {
    let r = start_with(DnsConfig { tcp_connections: 2, ..DnsConfig::default() });
    let (endpoint, config) = quic_client(&r);
    let connecting = endpoint.connect_with(config, r.addr(Transport::Quic), "localhost").unwrap();
    let quic = connecting.await.unwrap();
    assert_eq!(over_quic(&quic, &quic_query("www.example")).await.answer.len(), 1);
    tokio::time::sleep(Duration::from_millis(100)).await; // the server sees that the answer has arrived
    let q = query("www.example", 1);
    tokio::task::block_in_place(|| {
        let mut https = r.stream(Transport::Https, b"http/1.1");
        let q64 = data_encoding::BASE64URL_NOPAD.encode(&q);
        https
            .write_all(format!("GET {PATH}?dns={q64} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes())
            .unwrap();
        let mut answer = [0; 4096];
        let n = https.read(&mut answer).unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&answer[..n]));
        let (mut tls, ask) = (r.tls(), |s: &mut Stream| over_tls(s, &q).unwrap().answer.len());
        assert_eq!(ask(&mut tls), 1, "in the place of QUIC");
        let mut new = r.tls();
        assert_eq!(ask(&mut new), 1, "in the place of HTTPS");
        https.sock.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        while https.read(&mut answer).unwrap() > 0 {}
        assert_eq!([&mut tls, &mut new].map(ask), [1, 1]);
    });
    let why = tokio::time::timeout(Duration::from_secs(10), quic.closed()).await.unwrap();
    assert!(
        matches!(&why, quinn::ConnectionError::ApplicationClosed(c) if c.error_code == 0u32.into()),
        "{why:?}"
    );
    assert_eq!((r.server.counters().limited, r.server.counters().replaced), (0, 2));
    r.server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_query_over_quic_ends_the_connection() {
    let r = start();
    let good = quic_query("www.example");
    let framed = |q: &[u8]| [&(q.len() as u16).to_be_bytes(), q].concat();
    let id = query("www.example", 1);
    let keepalive = with_edns(good.clone(), 1232, 0, &[0, 11, 0, 0]);
    let (endpoint, config) = quic_client(&r);
    for (what, bytes) in [
        ("an ID", framed(&id)),
        ("cut off", framed(&good)[..20].to_vec()),
        ("too long", 5000u16.to_be_bytes().to_vec()),
        ("nothing", Vec::new()),
        ("keepalive, which is TCP's", framed(&keepalive)),
        ("a response", framed(&[&[0, 0, 0x80][..], &good[3..]].concat())),
    ] {
        let connecting = endpoint.connect_with(config.clone(), r.addr(Transport::Quic), "localhost").unwrap();
        let connection = connecting.await.unwrap();
        let (mut send, _receive) = connection.open_bi().await.unwrap();
        send.write_all(&bytes).await.unwrap();
        send.finish().unwrap();
        let why = tokio::time::timeout(Duration::from_secs(5), connection.closed()).await.expect(what);
        let protocol_error = 2u32.into(); // RFC 9250 §4.3
        assert!(
            matches!(&why, quinn::ConnectionError::ApplicationClosed(c) if c.error_code == protocol_error),
            "{what}: {why:?}"
        );
    }
    r.server.shutdown().await;
}
