//! Which certificate a client gets: by the name that it asks for (SNI, RFC 6066 §3) and by what it can verify.

use super::{Bundles, Dated, chain_of, key_of, read_chain, read_key};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    crypto::aws_lc_rs,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use std::{collections::BTreeMap, sync::Arc, time::SystemTime};
use x509_parser::{
    prelude::{FromDer, X509Certificate},
    time::ASN1Time,
};
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
    /// Reads them all; also from when to when each is good.
    pub(super) fn read(all: &[Certificate], bundles: &Bundles) -> Result<(Resolver, Dated), String> {
        let (mut resolver, mut dated) = (Resolver::default(), Vec::new());
        for (i, certificate) in all.iter().enumerate() {
            let (from, Read { key, names, validity }) = match certificate {
                Certificate::Files(TlsFiles { cert, key }) => (cert.as_str(), read_files(cert, key)?),
                Certificate::Held(id) => match bundles.get(id) {
                    Some(bundle) => (id.as_str(), read_bundle(&bundle.0, id.as_str())?),
                    None => {
                        return Err(format!(
                            "this node cannot open the certificate {id} that the cluster holds; see what its status says of \
                             the cluster key"
                        ));
                    }
                },
            };
            dated.push((from.to_string(), validity));
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
        Ok((resolver, dated))
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
    /// From when to when it is good.
    pub validity: Validity,
}

/// From when to when a certificate is good (RFC 5280 §4.1.2.5), in seconds of Unix time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub begins: i64,
    /// Its last second.
    pub ends: i64,
}

/// A certificate is worth a word when no more than this of its time is left, in seconds; one that lives shortly when this
/// part of it is.
const ENDING: (i64, i64) = (7 * 24 * 3600, 10);

impl Validity {
    /// What there is to say about its end, if that has come near; `from` is its file or its name in the cluster.
    pub fn ending(self, from: &str) -> Option<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.ending_at(from, now.as_secs() as i64)
    }

    fn ending_at(self, from: &str, now_s: i64) -> Option<String> {
        let Validity { begins, ends } = self;
        let soon = ENDING.0.min((ends - begins) / ENDING.1);
        let at = || ASN1Time::from_timestamp(ends).map_or(ends.to_string(), |t| t.to_string());
        match ends - now_s {
            ..0 => Some(format!(
                "the certificate of {from} ended at {} and clients refuse it; put a new one there",
                at()
            )),
            left if left < soon => {
                Some(format!("the certificate of {from} ends at {}; put the next one there before", at()))
            }
            _ => None,
        }
    }
}

impl Read {
    /// Of chain and key with the names of where they come from.
    fn of(
        (cert, chain): (&str, Vec<CertificateDer<'static>>),
        (of_key, key): (&str, PrivateKeyDer<'static>),
    ) -> Result<Read, String> {
        let (names, validity) = (names(cert, &chain[0])?, validity(cert, &chain[0])?);
        let key = CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).map_err(|e| {
            format!("{cert} and {of_key} do not fit together: {e}; give the key of this certificate")
        })?;
        Ok(Read { key: Arc::new(key), names, validity })
    }
}

/// Reads a chain and its key, each a PEM file. The error names the file and the remedy.
pub fn read_files(cert: &str, key: &str) -> Result<Read, String> {
    Read::of((cert, read_chain(cert)?), (key, read_key(key)?))
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

fn validity(file: &str, certificate: &[u8]) -> Result<Validity, String> {
    let (_, parsed) = X509Certificate::from_der(certificate)
        .map_err(|e| format!("{file}: {e}; give the server's own certificate first"))?;
    let validity = parsed.validity();
    Ok(Validity { begins: validity.not_before.timestamp(), ends: validity.not_after.timestamp() })
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.of(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_certificate_is_told_when_it_has_come_near() {
        const DAY: i64 = 24 * 3600;
        let told = |days, left| {
            let validity = Validity { begins: 0, ends: days * DAY };
            validity.ending_at("w.pem", days * DAY - left)
        };
        assert_eq!((told(90, 8 * DAY), told(90, 6 * DAY).is_some()), (None, true));
        assert_eq!((told(6, DAY), told(6, DAY / 2).is_some()), (None, true), "one that lives for six days");
        let last = told(90, 0).unwrap();
        assert!(last.contains("w.pem ends at") && told(90, -1).unwrap().contains("ended at"), "{last}");
    }
}
