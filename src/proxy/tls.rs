//! Certificates of listeners: PEM files on this node's disk, read when a listener appears or its files change.

use rustls::{ServerConfig, crypto::aws_lc_rs};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{fs, sync::Arc, time::SystemTime};
use zonekeeper_core::model::TlsFiles;

/// What was read, and when its files were written.
#[derive(Debug)]
pub(crate) struct Loaded {
    files: TlsFiles,
    http2: bool,
    written: [Option<SystemTime>; 2],
    pub(crate) config: Arc<ServerConfig>,
}

fn written(files: &TlsFiles) -> [Option<SystemTime>; 2] {
    [&files.cert, &files.key].map(|f| fs::metadata(f).and_then(|m| m.modified()).ok())
}

impl Loaded {
    /// The files are the same and were not written since.
    pub(crate) fn current(&self, files: &TlsFiles, http2: bool) -> bool {
        self.files == *files && self.http2 == http2 && self.written == written(files)
    }

    /// Reads certificate chain and key. The error names the file and the remedy.
    pub(crate) fn read(files: &TlsFiles, http2: bool) -> Result<Loaded, String> {
        let written = written(files);
        let chain = read_chain(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|e| {
            format!(
                "{}: no private key could be read ({e}); give a PEM file with a PKCS#8, SEC1 or PKCS#1 key",
                files.key
            )
        })?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(|e| format!("TLS 1.2 and 1.3 are not available: {e}"))?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|e| {
                format!(
                    "{} and {} do not fit together: {e}; give the key of this certificate",
                    files.cert, files.key
                )
            })?;
        config.alpn_protocols = if http2 { vec![b"h2".to_vec()] } else { Vec::new() };
        config.alpn_protocols.push(b"http/1.1".to_vec());
        Ok(Loaded { files: files.clone(), http2, written, config: Arc::new(config) })
    }
}

fn read_chain(file: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let remedy = "give a PEM file with the certificate first and its intermediates after it";
    let certs: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(file).map_err(|e| format!("{file}: {e}; {remedy}"))?.collect();
    match certs {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(format!("{file}: it has no certificate; {remedy}")),
        Err(e) => Err(format!("{file}: {e}; {remedy}")),
    }
}
