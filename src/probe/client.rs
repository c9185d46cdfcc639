//! One probe on the path that a client takes.

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use std::{
    io,
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use zonekeeper_core::{
    detector::Observation,
    model::{Check, CheckKind},
};

/// Bytes of a body that are searched for the expected text.
const BODY_LIMIT: usize = 64 << 10;

/// Probes once; takes at most the check's timeout. `host` stands in where the check names none.
pub(crate) async fn probe(check: &Check, addr: SocketAddr, host: &str) -> Observation {
    let within = Duration::from_millis(u64::from(check.timeout_ms));
    timeout(within, attempt(check, addr, host)).await.unwrap_or(Observation::Silence)
}

async fn attempt(check: &Check, addr: SocketAddr, host: &str) -> Observation {
    let stream = match TcpStream::connect(addr).await {
        Ok(stream) => stream,
        Err(e) => return of_error(&e),
    };
    let CheckKind::Http { tls, verify, host: named, .. } = &check.kind else {
        // An immediate reset tells the listener nothing was wanted, and leaves no TIME_WAIT here.
        let _ = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        return Observation::Answer;
    };
    let _ = stream.set_nodelay(true);
    let host = if named.is_empty() { host } else { named };
    if !tls {
        return http(stream, &check.kind, host).await;
    }
    let Ok(name) = rustls::pki_types::ServerName::try_from(host.to_owned()) else {
        return Observation::Wrong;
    };
    let connector =
        tokio_rustls::TlsConnector::from(if *verify { VERIFYING.clone() } else { TRUSTING.clone() });
    match connector.connect(name, stream).await {
        Ok(stream) => http(stream, &check.kind, host).await,
        Err(e) => of_error(&e),
    }
}

/// A refusal or a reset is the network's own word; a wrong certificate is a wrong answer; anything else is silence.
fn of_error(e: &io::Error) -> Observation {
    use io::ErrorKind as K;
    match e.kind() {
        K::ConnectionRefused | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe => {
            Observation::Refused
        }
        K::InvalidData | K::UnexpectedEof => Observation::Wrong,
        _ => Observation::Silence,
    }
}

async fn http<S>(stream: S, kind: &CheckKind, host: &str) -> Observation
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let CheckKind::Http { path, status_min, status_max, body, .. } = kind else { return Observation::Wrong };
    let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await
    else {
        return Observation::Refused;
    };
    let driver = AbortOnDrop(tokio::spawn(connection));
    let request = hyper::Request::get(path.as_str())
        .header("host", host)
        .header("user-agent", concat!("zonekeeper/", env!("CARGO_PKG_VERSION")))
        .header("connection", "close")
        .body(Empty::<Bytes>::new());
    let Ok(request) = request else { return Observation::Wrong };
    let observed = match sender.send_request(request).await {
        Err(e) if e.is_parse() => Observation::Wrong,
        Err(_) => Observation::Refused, // cut off before an answer
        Ok(response) if !(*status_min..=*status_max).contains(&response.status().as_u16()) => {
            Observation::Wrong
        }
        Ok(_) if body.is_empty() => Observation::Answer,
        Ok(response) => found(response.into_body(), body.as_bytes()).await,
    };
    drop(driver);
    observed
}

async fn found(mut body: hyper::body::Incoming, text: &[u8]) -> Observation {
    let mut seen = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Observation::Wrong };
        // of what was searched already only the end may still begin the text
        let from = seen.len().saturating_sub(text.len());
        seen.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
        if seen[from..].windows(text.len()).any(|w| w == text) {
            return Observation::Answer;
        }
        if seen.len() > BODY_LIMIT {
            break;
        }
    }
    Observation::Wrong
}

/// A probe that ran out of time takes its connection with it.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

static VERIFYING: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let mut roots = rustls::RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        tracing::warn!(
            "this machine trusts no CA, so every check over TLS fails here; install CA certificates or set `verify = false`"
        );
    }
    Arc::new(builder().with_root_certificates(roots).with_no_client_auth())
});

static TRUSTING: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let verifier = Arc::new(unverified::AnyCertificate::default());
    Arc::new(builder().dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
});

fn builder() -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap_or_else(|e| unreachable!("aws-lc-rs has the default TLS versions: {e}"))
}

mod unverified {
    //! For checks with `verify = false`: any certificate will do, the handshake's signature is still checked.

    use rustls::{
        DigitallySignedStruct, Error, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime},
    };

    #[derive(Debug)]
    pub(super) struct AnyCertificate(CryptoProvider);

    impl Default for AnyCertificate {
        fn default() -> Self {
            AnyCertificate(aws_lc_rs::default_provider())
        }
    }

    impl ServerCertVerifier for AnyCertificate {
        fn verify_server_cert(
            &self,
            _: &CertificateDer<'_>,
            _: &[CertificateDer<'_>],
            _: &ServerName<'_>,
            _: &[u8],
            _: UnixTime,
        ) -> Result<ServerCertVerified, Error> {
            Ok(ServerCertVerified::assertion())
        }

        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    fn check(kind: CheckKind) -> Check {
        Check { kind, interval_ms: 1_000, timeout_ms: 300, rise: 1, fall: 1, jitter_percent: 0 }
    }

    fn get(path: &str, body: &str) -> CheckKind {
        let (host, path, body) = (String::new(), path.into(), body.into());
        CheckKind::Http { tls: false, verify: true, host, path, status_min: 200, status_max: 299, body }
    }

    async fn server(answer: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut seen = [0; 1024];
                let _ = stream.read(&mut seen).await;
                let _ = stream.write_all(answer).await;
                if answer.is_empty() {
                    std::future::pending::<()>().await;
                }
            }
        });
        addr
    }

    #[tokio::test]
    async fn a_probe_tells_refused_silent_wrong_and_right_apart() {
        let closed = {
            let l = TcpListener::bind("127.0.0.1:0").await.unwrap();
            l.local_addr().unwrap()
        };
        assert_eq!(probe(&check(CheckKind::Tcp), closed, "h").await, Observation::Refused);
        let ok = server(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nalive 7").await;
        assert_eq!(probe(&check(CheckKind::Tcp), ok, "h").await, Observation::Answer);
        assert_eq!(probe(&check(get("/", "")), ok, "h").await, Observation::Answer);
        assert_eq!(probe(&check(get("/", "alive")), ok, "h").await, Observation::Answer);
        assert_eq!(probe(&check(get("/", "dead")), ok, "h").await, Observation::Wrong);
        let error = server(b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n").await;
        assert_eq!(probe(&check(get("/", "")), error, "h").await, Observation::Wrong);
        let garbage = server(b"SSH-2.0-none\r\n\r\n").await;
        assert_eq!(probe(&check(get("/", "")), garbage, "h").await, Observation::Wrong);
        let silent = server(b"").await;
        assert_eq!(probe(&check(get("/", "")), silent, "h").await, Observation::Silence);
    }
}
