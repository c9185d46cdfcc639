//! The cluster's certificate authority.

use super::{
    credentials::Credentials,
    error::KeyError,
    file,
    identity::{ca_cluster, ca_name, name},
};
use crate::{NodeId, SiteId};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Certificates begin this much before they are made, for clocks that are behind: one that jumps back an hour, or has the
/// wrong date by a zone, must not keep a node out of its own cluster.
pub(super) const BACKDATE: Duration = Duration::from_secs(25 * 3600);
/// A CA lives for 20 years; it is replaced by a procedure and not by a clock.
const CA_LIFETIME: Duration = Duration::from_secs(20 * 365 * 86400);

/// A cluster's certificate authority: certificate and private key.
pub struct Ca {
    cluster: u128,
    cert: CertificateDer<'static>,
    cert_pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that was signed for someone else's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The node's certificate.
    pub cert_pem: String,
    /// The trust bundle to go with it: the signing CA's certificate.
    pub ca_pem: String,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Ca({:032x})", self.cluster) // the key stays out of logs
    }
}

/// Sets when a certificate is valid: from a minute ago, for `lifetime` from now.
fn validity(params: &mut CertificateParams, lifetime: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // At most 100 years ahead: far inside what a certificate's date can say (RFC 5280 §4.1.2.5: year 9999).
    let lifetime = lifetime.min(Duration::from_secs(100 * 365 * 86400));
    params.not_before = epoch + now.saturating_sub(BACKDATE);
    params.not_after = epoch + now + lifetime;
}

impl Ca {
    /// Makes a CA with a new P-256 key.
    pub fn create(cluster: u128) -> Result<Ca, KeyError> {
        let err = KeyError::crypto("make the CA");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&err)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, ca_name(cluster));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        validity(&mut params, CA_LIFETIME);
        let cert = params.self_signed(&key).map_err(&err)?;
        Ok(Ca { cluster, cert: cert.der().clone(), cert_pem: cert.pem(), issuer: Issuer::new(params, key) })
    }

    /// Reads `ca.pem` and `ca.key`. Of a bundle, the certificate that belongs to the key is taken.
    pub fn load(dir: &Path) -> Result<Ca, KeyError> {
        let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        let key = file::read_private(&key_path)?;
        let bad_key = |e: rcgen::Error| {
            KeyError::bad(key_path.display().to_string(), format!("not a private key ({e})"))
        };
        let key = KeyPair::from_pem(&key).map_err(bad_key)?;
        let bundle = file::read(&cert_path)?;
        let at = || cert_path.display().to_string();
        let (cert_pem, cert) = certificates(&bundle)
            .find(|(_, der)| public_key(der).as_deref() == Some(key.der_bytes()))
            .ok_or_else(|| {
                KeyError::bad(at(), "holds no certificate for the key in ca.key; restore both from a backup")
            })?;
        let cluster =
            ca_cluster(&cert).ok_or_else(|| KeyError::bad(at(), "is not a CA of a zonekeeper cluster"))?;
        let issuer =
            Issuer::from_ca_cert_der(&cert, key).map_err(KeyError::crypto("read the CA's certificate"))?;
        Ok(Ca { cluster, cert, cert_pem: cert_pem.into(), issuer })
    }

    /// Writes `ca.pem` and `ca.key` (mode 0600) atomically and durably; the folder is made if missing.
    pub fn save(&self, dir: &Path) -> Result<(), KeyError> {
        file::folder(dir)?;
        file::write(&dir.join("ca.key"), &self.issuer.key().serialize_pem(), 0o600)?;
        file::write(&dir.join("ca.pem"), &self.cert_pem, 0o644)
    }

    /// The cluster's id.
    pub fn cluster(&self) -> u128 {
        self.cluster
    }

    /// The CA's certificate.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// SHA-256 of the CA's certificate in DER form; a join token carries it.
    pub fn fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.cert).into()
    }

    /// Makes a key and a certificate for a node. `lifetime` counts from now and ends in a whole second.
    pub fn issue(&self, node: NodeId, site: &SiteId, lifetime: Duration) -> Result<Credentials, KeyError> {
        let err = KeyError::crypto("issue a certificate");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&err)?;
        let cert = self.params(node, site, lifetime)?.signed_by(&key, &self.issuer).map_err(&err)?;
        Credentials::new(&cert.pem(), &key.serialize_pem(), &self.cert_pem)
    }

    /// Signs a node's request ([`Credentials::request`]). Of the request only the public key is taken: name, usage and
    /// lifetime are the CA's.
    pub fn sign(
        &self,
        csr_pem: &str,
        node: NodeId,
        site: &SiteId,
        lifetime: Duration,
    ) -> Result<Issued, KeyError> {
        let bad = |e| {
            KeyError::bad(
                "certificate request",
                format!("cannot be used ({e}); send one made by this program"),
            )
        };
        let mut csr = CertificateSigningRequestParams::from_pem(csr_pem).map_err(bad)?;
        csr.params = self.params(node, site, lifetime)?;
        let cert = csr.signed_by(&self.issuer).map_err(KeyError::crypto("sign a certificate"))?;
        Ok(Issued { cert_pem: cert.pem(), ca_pem: self.cert_pem.clone() })
    }

    /// What a node's certificate says.
    fn params(&self, node: NodeId, site: &SiteId, lifetime: Duration) -> Result<CertificateParams, KeyError> {
        let mut params = CertificateParams::default();
        let dns = name(self.cluster, node).try_into().map_err(KeyError::crypto("name a node"))?;
        params.subject_alt_names = vec![SanType::DnsName(dns)];
        params.distinguished_name.push(DnType::CommonName, format!("zonekeeper node {node}"));
        params.distinguished_name.push(DnType::OrganizationalUnitName, site.as_str());
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        validity(&mut params, lifetime);
        Ok(params)
    }
}

/// The raw public key of a certificate.
pub(super) fn public_key(der: &[u8]) -> Option<Vec<u8>> {
    use x509_parser::prelude::{FromDer, X509Certificate};
    let (_, cert) = X509Certificate::from_der(der).ok()?;
    Some(cert.public_key().subject_public_key.data.to_vec())
}

/// The certificates of a bundle, each with its own piece of PEM text.
pub(super) fn certificates(bundle: &str) -> impl Iterator<Item = (&str, CertificateDer<'static>)> {
    const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
    const END: &str = "-----END CERTIFICATE-----\n";
    bundle.split_inclusive(END).filter_map(|piece| {
        let piece = &piece[piece.find(BEGIN)?..];
        Some((piece, CertificateDer::from_pem_slice(piece.as_bytes()).ok()?))
    })
}
