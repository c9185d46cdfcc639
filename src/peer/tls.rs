//! TLS: who is who.
use rustls::{
    RootCertStore, client::verify_server_cert_signed_by_trust_anchor, crypto::CryptoProvider,
    server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use std::{
    sync::{Arc, OnceLock},
    time::{SystemTime, UNIX_EPOCH},
};

/// The one crypto provider: aws-lc-rs, explicit, so that no other crate's choice of a process default matters.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(rustls::crypto::aws_lc_rs::default_provider())).clone()
}

/// Whether a certificate was signed by this CA and both were valid at `at`.
pub(crate) fn signed_by(leaf: &CertificateDer<'_>, ca: &CertificateDer<'_>, at: SystemTime) -> bool {
    let mut roots = RootCertStore::empty();
    let now = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap_or_default());
    let algorithms = provider().signature_verification_algorithms.all;
    roots.add(ca.clone().into_owned()).is_ok()
        && ParsedCertificate::try_from(leaf).is_ok_and(|leaf| {
            verify_server_cert_signed_by_trust_anchor(&leaf, &roots, &[], now, algorithms).is_ok()
        })
}
