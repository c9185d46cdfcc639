//! Which certificate a client gets: by the name that it asks for (SNI, RFC 6066 §3) and by what it can verify.

use super::{Bundles, chain_of, key_of, read_chain, read_key};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{collections::BTreeMap, sync::Arc};
use zonekeeper_core::model::{Certificate, TlsFiles};

/// Certificates by the names that they have; those of the same name with ECDSA first, which costs us a twentieth of RSA.
#[derive(Debug, Default)]
pub(super) struct Resolver {
    /// In lower case; `*.` stands for one label (RFC 9525 §6.3).
    by_name: BTreeMap<String, Vec<Arc<CertifiedKey>>>,
    /// Those with the names of the first one.
    default: Vec<Arc<CertifiedKey>>,
}

impl Resolver {
    pub(super) fn read(all: &[Certificate], bundles: &Bundles) -> Result<Resolver, String> {
        let mut resolver = Resolver::default();
        for (i, certificate) in all.iter().enumerate() {
            let Read { key, names } = match certificate {
                Certificate::Files(TlsFiles { cert, key }) => {
                    Read::of((cert, read_chain(cert)?), (key, read_key(key)?))?
                }
                Certificate::Held(id) => match bundles.get(id) {
                    Some(bundle) => read_bundle(&bundle.0, id.as_str())?,
                    None => {
                        return Err(format!(
                            "this node cannot open the certificate {id} that the cluster holds; see what its status says of \
                             the cluster key"
                        ));
                    }
                },
            };
            let of_default = i == 0
                || names.iter().any(|n| {
                    resolver.by_name.get(n).is_some_and(|k| Arc::ptr_eq(&k[0], &resolver.default[0]))
                });
            for name in names {
                insert(resolver.by_name.entry(name).or_default(), &key);
            }
            if of_default {
                insert(&mut resolver.default, &key);
            }
        }
        Ok(resolver)
    }

    fn of(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let fits = |keys: &Vec<Arc<CertifiedKey>>| {
            keys.iter().find(|k| k.key.choose_scheme(schemes).is_some()).cloned()
        };
        let name = name.map(str::to_ascii_lowercase);
        let exact = name.as_ref().and_then(|n| self.by_name.get(n));
        let wildcard = || {
            let (_, parent) = name.as_ref()?.split_once('.')?;
            self.by_name.get(&format!("*.{parent}"))
        };
        exact.or_else(wildcard).and_then(fits).or_else(|| fits(&self.default))
    }
}

/// A certificate, ready for handshakes.
#[derive(Debug)]
pub struct Read {
    /// Chain and key.
    pub key: Arc<CertifiedKey>,
    /// Its DNS names in lower case; `*.` stands for one label.
    pub names: Vec<String>,
}

impl Read {
    /// Of chain and key with the names of where they come from.
    fn of(
        (cert, chain): (&str, Vec<CertificateDer<'static>>),
        (of_key, key): (&str, PrivateKeyDer<'static>),
    ) -> Result<Read, String> {
        let names = names(cert, &chain[0])?;
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|e| {
            format!("{cert} and {of_key} do not fit together: {e}; give the key of this certificate")
        })?;
        Ok(Read { key: Arc::new(key), names })
    }
}

/// Reads what the cluster holds as one: the chain and the key, as PEM text. The error begins with `name`.
pub fn read_bundle(pem: &[u8], name: &str) -> Result<Read, String> {
    let chain = chain_of(name, CertificateDer::pem_slice_iter(pem).collect())?;
    let key = key_of(name, PrivateKeyDer::from_pem_slice(pem))?;
    Read::of((name, chain), ("its key", key))
}

fn insert(keys: &mut Vec<Arc<CertifiedKey>>, key: &Arc<CertifiedKey>) {
    let ecdsa = |k: &Arc<CertifiedKey>| k.key.algorithm() != SignatureAlgorithm::RSA;
    let at = if ecdsa(key) { keys.iter().position(|k| !ecdsa(k)) } else { None };
    keys.insert(at.unwrap_or(keys.len()), key.clone());
}

fn names(file: &str, certificate: &[u8]) -> Result<Vec<String>, String> {
    let der = certificate.into();
    let parsed = webpki::EndEntityCert::try_from(&der)
        .map_err(|e| format!("{file}: {e}; give the server's own certificate first"))?;
    Ok(parsed.valid_dns_names().map(str::to_ascii_lowercase).collect())
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(hello.server_name(), hello.signature_schemes())
    }
}
