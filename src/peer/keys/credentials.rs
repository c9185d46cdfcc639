//! What one node shows to its peers and what it trusts: certificate, private key, CA bundle.

use super::{
    ca::{BACKDATE, certificates},
    error::KeyError,
    file,
    identity::{Identity, ca_cluster},
};
use crate::NodeId;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PublicKeyData};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use sha2::{Digest, Sha256};
use std::{path::Path, time::SystemTime};

/// CA certificates in a bundle at most: two during a replacement, some to spare.
const BUNDLE: usize = 8;

/// A node's certificate, its private key, and the CAs whose nodes it accepts.
#[derive(Clone)]
pub struct Credentials {
    identity: Identity,
    cert_pem: String,
    key_pem: String,
    ca_pem: String,
}

/// A new key with the request to sign it.
pub struct Request {
    key: KeyPair,
    csr_pem: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({:?})", self.identity) // the key stays out of logs
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Request")
    }
}

impl Request {
    /// The certificate signing request, for [`super::Ca::sign`].
    pub fn csr_pem(&self) -> &str {
        &self.csr_pem
    }

    /// The credentials, once the certificate is there. `ca_pem` is the trust bundle.
    pub fn finish(self, cert_pem: &str, ca_pem: &str) -> Result<Credentials, KeyError> {
        Credentials::new(cert_pem, &self.key.serialize_pem(), ca_pem)
    }
}

impl Credentials {
    /// Puts the parts (PEM) together; refused when they do not belong together. An expired certificate is taken, so
    /// that a node can start and say so.
    pub fn new(cert_pem: &str, key_pem: &str, ca_pem: &str) -> Result<Credentials, KeyError> {
        Credentials::check(cert_pem, key_pem, ca_pem, "node.pem", "node.key", "ca.pem")
    }

    fn check(
        cert: &str,
        key: &str,
        ca: &str,
        at: &str,
        key_at: &str,
        ca_at: &str,
    ) -> Result<Credentials, KeyError> {
        let (_, der) = certificates(cert).next().ok_or_else(|| KeyError::bad(at, "holds no certificate"))?;
        let identity = Identity::of(&der)
            .ok_or_else(|| KeyError::bad(at, "is not a node's certificate of zonekeeper; issue a new one"))?;
        let pair =
            KeyPair::from_pem(key).map_err(|e| KeyError::bad(key_at, format!("not a private key ({e})")))?;
        if super::ca::public_key(&der).as_deref() != Some(pair.der_bytes()) {
            return Err(KeyError::bad(
                key_at,
                format!("does not belong to the certificate in {at}; restore both together"),
            ));
        }
        let bundle: Vec<_> = certificates(ca).map(|(_, der)| der).collect();
        if bundle.is_empty() || bundle.len() > BUNDLE {
            let why = format!("holds {} CA certificates; 1 to {BUNDLE} are allowed", bundle.len());
            return Err(KeyError::bad(ca_at, why));
        }
        if let Some(other) = bundle.iter().find(|der| ca_cluster(der) != Some(identity.cluster)) {
            let why = match ca_cluster(other) {
                Some(id) => {
                    format!("holds a CA of cluster {id:032x}, but {at} is of {:032x}", identity.cluster)
                }
                None => "holds a certificate that is not a CA of a zonekeeper cluster; take it out".into(),
            };
            return Err(KeyError::bad(ca_at, why));
        }
        let credentials =
            Credentials { identity, cert_pem: cert.into(), key_pem: key.into(), ca_pem: ca.into() };
        if !bundle.iter().any(|issuer| crate::tls::signed_by(&der, issuer, identity.not_before)) {
            let why = format!(
                "was not issued by a CA in {ca_at}; put its CA's certificate there or issue a new one"
            );
            return Err(KeyError::bad(at, why));
        }
        Ok(credentials)
    }

    /// Makes a new key and the request to sign it, for a join or a renewal.
    pub fn request() -> Result<Request, KeyError> {
        let err = KeyError::crypto("make a certificate request");
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(&err)?;
        let csr_pem =
            CertificateParams::default().serialize_request(&key).and_then(|csr| csr.pem()).map_err(&err)?;
        Ok(Request { key, csr_pem })
    }

    /// Reads `node.pem`, `node.key` and `ca.pem`.
    pub fn load(dir: &Path) -> Result<Credentials, KeyError> {
        let paths = ["node.pem", "node.key", "ca.pem"].map(|name| dir.join(name));
        let [at, key_at, ca_at] = &paths;
        let (cert, ca) = (file::read(at)?, file::read(ca_at)?);
        let names = paths.each_ref().map(|path| path.display().to_string());
        let check = |key: &str| Credentials::check(&cert, key, &ca, &names[0], &names[1], &names[2]);
        // A crash between the two renames of `save` leaves the new key beside the old one.
        let next = dir.join("node.key.next");
        if next.exists()
            && let Ok(credentials) = check(&file::read_private(&next)?)
        {
            file::rename(&next, key_at).map_err(|source| KeyError::Write { path: key_at.clone(), source })?;
            return Ok(credentials);
        }
        check(&file::read_private(key_at)?)
    }

    /// Writes `node.pem`, `node.key` (mode 0600) and `ca.pem` durably. At every moment of it the folder loads, as the
    /// old or the new credentials.
    pub fn save(&self, dir: &Path) -> Result<(), KeyError> {
        file::folder(dir)?;
        let (key_at, next) = (dir.join("node.key"), dir.join("node.key.next"));
        file::write(&next, &self.key_pem, 0o600)?;
        file::write(&dir.join("ca.pem"), &self.ca_pem, 0o644)?;
        file::write(&dir.join("node.pem"), &self.cert_pem, 0o644)?;
        file::rename(&next, &key_at).map_err(|source| KeyError::Write { path: key_at, source })
    }

    /// The same credentials with another trust bundle (PEM), for the replacement of a CA.
    pub fn trust(&self, ca_pem: &str) -> Result<Credentials, KeyError> {
        Credentials::new(&self.cert_pem, &self.key_pem, ca_pem)
    }

    /// Who the certificate says this node is.
    pub fn identity(&self) -> Identity {
        self.identity
    }

    /// The node's id.
    pub fn node(&self) -> NodeId {
        self.identity.node
    }

    /// The cluster's id.
    pub fn cluster(&self) -> u128 {
        self.identity.cluster
    }

    /// The node's certificate, PEM.
    pub fn cert_pem(&self) -> &str {
        &self.cert_pem
    }

    /// The trust bundle, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// SHA-256 of the CA certificate that signed this node's certificate: what a join token pins.
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        Sha256::digest(self.issuer()).into()
    }

    /// When the certificate ends.
    pub fn expires(&self) -> SystemTime {
        self.identity.not_after
    }

    /// When to renew: at two thirds of the lifetime, earlier by up to a twelfth of it depending on the node's id, so
    /// that the nodes of a cluster that was made in one minute do not renew in one minute.
    pub fn renew_at(&self) -> SystemTime {
        let issued = self.identity.not_before + BACKDATE;
        let lifetime = self.identity.not_after.duration_since(issued).unwrap_or_default();
        let stagger = lifetime / 12 * (self.identity.node % 8) as u32 / 8;
        issued + lifetime * 2 / 3 - stagger
    }

    /// Certificate chain for the handshake: the node's, then its CA's, so that a joiner can check its pin.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        let leaf = certificates(&self.cert_pem).next().map(|(_, der)| der);
        leaf.into_iter().chain([self.issuer()]).collect()
    }

    fn issuer(&self) -> CertificateDer<'static> {
        let leaf = certificates(&self.cert_pem).next().map(|(_, der)| der);
        let signed = |ca: &CertificateDer<'_>| {
            leaf.as_ref().is_some_and(|leaf| crate::tls::signed_by(leaf, ca, self.identity.not_before))
        };
        // `check` has seen that there is one.
        certificates(&self.ca_pem)
            .map(|(_, der)| der)
            .find(signed)
            .unwrap_or_else(|| CertificateDer::from(Vec::new()))
    }

    /// The trust bundle.
    pub(crate) fn bundle(&self) -> Vec<CertificateDer<'static>> {
        certificates(&self.ca_pem).map(|(_, der)| der).collect()
    }

    /// The private key.
    pub(crate) fn key(&self) -> Result<PrivateKeyDer<'static>, KeyError> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|e| KeyError::bad("node.key", format!("not a private key ({e})")))
    }
}
