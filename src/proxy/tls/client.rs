//! TLS to the backends of a pool.

use super::{Written, provider, read_chain, read_key, roots, written};
use rustls::{
    ClientConfig, RootCertStore,
    sign::{CertifiedKey, SingleCertAndKey},
    version::{TLS12, TLS13},
};
use rustls_pki_types::ServerName;
use std::{collections::BTreeMap, net::IpAddr, sync::Arc};
use zonekeeper_core::{
    id::{ListenerId, PoolId},
    model::BackendTls,
    route::{PoolTable, ProxyTable},
};

/// How the backends of a pool are spoken to.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    config: Arc<ClientConfig>,
    /// The same, and says nothing of a protocol.
    of_bytes: Arc<ClientConfig>,
    name: Option<ServerName<'static>>,
}

impl Client {
    pub(crate) fn config(&self) -> &Arc<ClientConfig> {
        &self.config
    }

    /// For bytes of L4, whose protocol is theirs.
    pub(crate) fn of_bytes(&self) -> &Arc<ClientConfig> {
        &self.of_bytes
    }

    /// What the certificate of a backend at this address must name.
    pub(crate) fn name(&self, addr: IpAddr) -> ServerName<'static> {
        self.name.clone().unwrap_or_else(|| ServerName::IpAddress(addr.into()))
    }
}

#[derive(Debug)]
struct Loaded {
    spec: BackendTls,
    http2: bool,
    written: Written,
    client: Arc<Client>,
}

fn files(spec: &BackendTls) -> impl Iterator<Item = &String> {
    spec.ca.iter().chain(spec.client.iter().flat_map(|c| [&c.cert, &c.key]))
}

impl Loaded {
    fn current(&self, spec: &BackendTls, http2: bool) -> bool {
        self.spec == *spec && self.http2 == http2 && self.written == written(files(spec))
    }

    /// Reads the files. The errors name all that is wrong, each with its file and the remedy.
    fn read(spec: &BackendTls, http2: bool) -> Result<Loaded, Vec<String>> {
        let (written, provider, mut wrong) = (written(files(spec)), provider(), Vec::new());
        let trusted = noted(&mut wrong, spec.ca.as_ref().map_or_else(system, |file| roots(file)));
        let ours = spec.client.as_ref().and_then(|files| {
            let chain = noted(&mut wrong, read_chain(&files.cert));
            let key = noted(&mut wrong, read_key(&files.key));
            let pair = CertifiedKey::from_der(chain?, key?, &provider).map_err(|e| {
                let (cert, key) = (&files.cert, &files.key);
                format!("{cert} and {key} do not fit together: {e}; give the key of this certificate")
            });
            noted(&mut wrong, pair)
        });
        let name = spec.name.as_ref().and_then(|name| {
            let name =
                ServerName::try_from(name.clone()).map_err(|e| format!("{name}: {e}; give another name"));
            noted(&mut wrong, name)
        });
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|e| format!("TLS 1.2 and 1.3 are not available: {e}"));
        let builder = noted(&mut wrong, builder);
        let (Some(builder), Some(trusted), true) = (builder, trusted, wrong.is_empty()) else {
            return Err(wrong);
        };
        let builder = builder.with_root_certificates(trusted);
        let mut config = match ours {
            None => builder.with_no_client_auth(),
            Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair))),
        };
        let of_bytes = Arc::new(config.clone());
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let client = Arc::new(Client { config: Arc::new(config), of_bytes, name });
        Ok(Loaded { spec: spec.clone(), http2, written, client })
    }
}

fn noted<T>(wrong: &mut Vec<String>, read: Result<T, String>) -> Option<T> {
    read.map_err(|e| wrong.push(e)).ok()
}

/// TLS of a pool for those who check its backends: read when it is new and when its files were written again.
#[derive(Debug, Default)]
pub struct CheckTls(Option<Loaded>);

impl CheckTls {
    /// What a check shakes hands with. Files that cannot be read now leave the last ones; none: they never could.
    pub fn config(&mut self, spec: &BackendTls, http2: bool) -> Option<Arc<ClientConfig>> {
        let current = self.0.as_ref().is_some_and(|l| l.current(spec, http2));
        if !current && let Ok(loaded) = Loaded::read(spec, http2) {
            self.0 = Some(loaded);
        }
        self.0.as_ref().map(|l| l.client.config.clone())
    }
}

fn system() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(
            "the system trusts no certificates; install ca-certificates, or give the pool's tls a ca".into(),
        );
    }
    Ok(roots)
}

/// The clients of all pools.
#[derive(Debug, Default)]
pub(crate) struct Backends {
    loaded: BTreeMap<PoolId, Loaded>,
    pub(crate) problems: BTreeMap<PoolId, Vec<String>>,
}

impl Backends {
    /// Reads what is new or was written again; what cannot be read leaves the last good one where the pool asks for the same
    /// as then, and else none. Whether something changed.
    pub(crate) fn load(&mut self, table: &ProxyTable) -> bool {
        let wanted = |id: &PoolId| table.pools.get(id).and_then(|p| p.tls.as_ref());
        self.loaded.retain(|id, loaded| wanted(id) == Some(&loaded.spec));
        self.problems.retain(|id, _| wanted(id).is_some());
        let mut changed = false;
        for (id, pool) in &table.pools {
            let Some(spec) = &pool.tls else { continue };
            if self.loaded.get(id).is_some_and(|l| l.current(spec, pool.http2)) {
                self.problems.remove(id);
                continue;
            }
            match Loaded::read(spec, pool.http2) {
                Ok(loaded) => {
                    self.loaded.insert(id.clone(), loaded);
                    self.problems.remove(id);
                    changed = true;
                }
                Err(e) => drop(self.problems.insert(id.clone(), e)),
            }
        }
        changed
    }

    /// The client of a pool; none when it has no TLS, or its files could not be read.
    pub(crate) fn of(&self, pool: &PoolTable) -> Option<Arc<Client>> {
        self.loaded.get(&pool.id).map(|l| l.client.clone())
    }

    /// What could not be read, and the listeners that lead there.
    pub(crate) fn concerned<'t>(
        &'t self,
        table: &'t ProxyTable,
    ) -> impl Iterator<Item = (ListenerId, String)> + 't {
        let each = |(pool, messages): (&'t PoolId, &'t Vec<String>)| messages.iter().map(move |m| (pool, m));
        self.problems.iter().flat_map(each).flat_map(move |(pool, message)| {
            let leads = move |l: &&Arc<zonekeeper_core::route::ListenerTable>| {
                l.routes.iter().flat_map(|r| &r.pools).any(|(p, _)| p.id == *pool)
            };
            let listeners = table.listeners.values().filter(leads);
            listeners.map(move |l| (l.id.clone(), format!("pool {pool}: {message}")))
        })
    }
}
