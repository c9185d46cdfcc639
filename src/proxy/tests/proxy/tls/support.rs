//! Authorities, certificates and clients.

use crate::support::PATIENCE;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, SignatureAlgorithm,
};
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::{
    TlsConnector,
    client::TlsStream,
    rustls::{
        self, CipherSuite, ClientConfig, DigitallySignedStruct, HandshakeKind, RootCertStore,
        SignatureScheme, SupportedProtocolVersion,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    },
};
use zonekeeper_core::model::TlsFiles;

/// Who signs certificates.
pub struct Ca {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

/// A certificate and its key, on disk.
pub struct Pair {
    pub files: TlsFiles,
    pub der: Vec<u8>,
    names: Vec<String>,
}

impl Ca {
    pub fn new() -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), &pem).unwrap();
        Ca { folder, issuer: Issuer::new(params, key), pem, der }
    }

    pub fn file(&self) -> String {
        self.path("ca.pem")
    }

    fn path(&self, name: &str) -> String {
        let path: PathBuf = self.folder.path().join(name);
        path.to_string_lossy().into_owned()
    }

    pub fn issue(&self, names: &[&str]) -> Pair {
        self.issue_with(names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    pub fn issue_with(&self, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Pair {
        let n = std::fs::read_dir(self.folder.path()).unwrap().count();
        let files = TlsFiles { cert: self.path(&format!("{n}.pem")), key: self.path(&format!("{n}.key")) };
        let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
        let der = self.write(&files, &names, algorithm);
        Pair { files, der, names }
    }

    /// Another certificate and key in the place of these.
    pub fn issue_again(&self, pair: &Pair) {
        self.write(&pair.files, &pair.names, &rcgen::PKCS_ECDSA_P256_SHA256);
    }

    /// Another certificate and key in the place of these, good until then, in seconds of Unix time.
    pub fn issue_until(&self, pair: &Pair, ends: u64) {
        let mut params = CertificateParams::new(pair.names.clone()).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(ends);
        self.sign(params, &pair.files, &rcgen::PKCS_ECDSA_P256_SHA256);
    }

    fn write(&self, files: &TlsFiles, names: &[String], algorithm: &'static SignatureAlgorithm) -> Vec<u8> {
        self.sign(CertificateParams::new(names.to_vec()).unwrap(), files, algorithm)
    }

    fn sign(
        &self,
        params: CertificateParams,
        files: &TlsFiles,
        algorithm: &'static SignatureAlgorithm,
    ) -> Vec<u8> {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        std::fs::write(&files.cert, signed.pem() + &self.pem).unwrap();
        signed.der().to_vec()
    }

    pub fn client(&self) -> Tool {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        Tool { roots: Some(roots), ..anyone() }
    }
}

/// A client of TLS.
#[derive(Clone)]
pub struct Tool {
    roots: Option<RootCertStore>,
    versions: Vec<&'static SupportedProtocolVersion>,
    schemes: Option<Vec<SignatureScheme>>,
    certificate: Option<TlsFiles>,
    alpn: Vec<Vec<u8>>,
    /// Sessions go on with the same configuration only.
    built: Arc<OnceLock<Arc<ClientConfig>>>,
}

/// One that trusts everybody.
pub fn anyone() -> Tool {
    Tool {
        roots: None,
        versions: rustls::ALL_VERSIONS.to_vec(),
        schemes: None,
        certificate: None,
        alpn: Vec::new(),
        built: Arc::default(),
    }
}

#[derive(Debug)]
struct Trusting(Vec<SignatureScheme>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

impl Tool {
    pub fn with_versions(mut self, versions: &[&'static SupportedProtocolVersion]) -> Tool {
        self.versions = versions.to_vec();
        self
    }

    pub fn with_schemes(mut self, schemes: Vec<SignatureScheme>) -> Tool {
        self.schemes = Some(schemes);
        self
    }

    pub fn with_certificate(mut self, pair: &Pair) -> Tool {
        self.certificate = Some(pair.files.clone());
        self
    }

    pub fn with_alpn(mut self, names: &[&str]) -> Tool {
        self.alpn = names.iter().map(|n| n.as_bytes().to_vec()).collect();
        self
    }

    fn config(&self) -> Arc<ClientConfig> {
        self.built.get_or_init(|| self.build()).clone()
    }

    fn build(&self) -> Arc<ClientConfig> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let all = provider.signature_verification_algorithms.supported_schemes();
        let builder =
            ClientConfig::builder_with_provider(provider).with_protocol_versions(&self.versions).unwrap();
        let trusting = Trusting(self.schemes.clone().unwrap_or(all));
        let builder = match &self.roots {
            Some(roots) => builder.with_root_certificates(roots.clone()),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(trusting)),
        };
        let mut config = match &self.certificate {
            None => builder.with_no_client_auth(),
            Some(files) => {
                let chain = CertificateDer::pem_file_iter(&files.cert).unwrap().map(Result::unwrap).collect();
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(&files.key).unwrap())
                    .unwrap()
            }
        };
        config.alpn_protocols = self.alpn.clone();
        Arc::new(config)
    }

    pub async fn connect(&self, addr: SocketAddr, name: &str) -> std::io::Result<Connection> {
        let stream = TcpStream::connect(addr).await?;
        let name = ServerName::try_from(name.to_string()).unwrap();
        let connecting = TlsConnector::from(self.config()).connect(name, stream);
        timeout(PATIENCE, connecting).await.expect("the proxy is silent").map(Connection)
    }

    /// The text of an answer over bytes that are carried somehow.
    pub async fn get_over(&self, io: tokio::io::DuplexStream, name: &str) -> String {
        let name = ServerName::try_from(name.to_string()).unwrap();
        let connecting = TlsConnector::from(self.config()).connect(name, io);
        let mut stream = timeout(PATIENCE, connecting).await.expect("the proxy is silent").unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: w.example\r\nConnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut got = Vec::new();
        let _ = timeout(PATIENCE, stream.read_to_end(&mut got)).await.expect("the proxy is silent");
        String::from_utf8_lossy(&got).into_owned()
    }

    /// The status of a request on a connection of its own; none when it does not come to one.
    pub async fn ask(&self, addr: SocketAddr, name: &str) -> Option<String> {
        let connection = self.connect(addr, name).await.ok()?;
        Some(connection.get("/").await.0).filter(|s| !s.is_empty())
    }
}

/// A connection over TLS.
pub struct Connection(TlsStream<TcpStream>);

impl Connection {
    pub fn certificate(&self) -> Vec<u8> {
        self.0.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    }

    pub fn kind(&self) -> Option<HandshakeKind> {
        self.0.get_ref().1.handshake_kind()
    }

    pub fn suite(&self) -> Option<CipherSuite> {
        self.0.get_ref().1.negotiated_cipher_suite().map(|s| s.suite())
    }

    pub fn into_stream(self) -> TlsStream<TcpStream> {
        self.0
    }

    /// Status and text of a last request; empty when there is no answer.
    pub async fn get(mut self, path: &str) -> (String, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: w.example\r\nConnection: close\r\n\r\n");
        let _ = self.0.write_all(request.as_bytes()).await;
        let _ = self.0.flush().await;
        let mut got = Vec::new();
        let _ = timeout(PATIENCE, self.0.read_to_end(&mut got)).await.expect("the proxy is silent");
        let text = String::from_utf8_lossy(&got).into_owned();
        (text.split(' ').nth(1).unwrap_or_default().to_string(), text)
    }
}
