//! DNS and proxy of a node: apart from the control plane in threads, runtime and priority.

use super::{
    NodeError,
    reload::{self, Certificate},
};
use crate::{
    control::{Opener, Vitals},
    handover::Sockets,
    priority,
};
use arc_swap::ArcSwap;
use std::{
    io,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::runtime::Handle;
use zonekeeper_config::{EncryptedDns, NodeConfig};
use zonekeeper_core::{Published, entry::Duty};
use zonekeeper_dns::{
    DnsConfig, DnsFlags, DnsServer, EncryptedConfig, Geo, RateConfig, TapConfig, TapTarget,
};
use zonekeeper_proxy::{LocalHealth, Proxy, ProxyConfig};

/// The DNS server as the node file wants it.
fn dns(config: &NodeConfig, certificate: Option<Arc<Certificate>>) -> DnsConfig {
    let dns = &config.dns;
    let tap = dns.query_log.as_ref().map(|log| TapConfig {
        target: match log.socket {
            true => TapTarget::Socket(log.path.clone()),
            false => TapTarget::File(log.path.clone()),
        },
        sample: log.sample,
        identity: dns.nsid.clone().unwrap_or_else(|| format!("node {} of {}", config.id, config.site)),
    });
    let encrypted = dns.encrypted.as_ref().zip(certificate);
    DnsConfig {
        addrs: dns.listen.clone(),
        workers: dns.workers,
        nsid: dns.nsid.clone().unwrap_or_default().into_bytes(),
        version: dns.version.clone().unwrap_or_default(),
        rate: dns.rate_limit.map(|r| RateConfig { rate: r.rate, slip: r.slip, ..RateConfig::default() }),
        udp_payload: dns.udp_payload,
        tap,
        tcp_connections: dns.tcp_connections,
        tcp_connections_per_network: dns.tcp_connections_per_network,
        tcp_idle: dns.tcp_idle,
        encrypted: encrypted.map(|(config, certificate)| encrypted_dns(config, certificate)),
    }
}

fn encrypted_dns(config: &EncryptedDns, certificate: Arc<Certificate>) -> EncryptedConfig {
    EncryptedConfig {
        tls: config.tls.clone(),
        https: config.https.clone(),
        quic: config.quic.clone(),
        path: config.path.clone(),
        certificate,
    }
}

/// What a node answers clients with. A witness has neither server.
pub(crate) struct DataPlane {
    dns: Option<Arc<DnsServer>>,
    proxy: Option<Arc<Proxy>>,
    pub(crate) flags: Arc<DnsFlags>,
    pub(crate) health: Arc<LocalHealth>,
    pub(crate) vitals: Arc<Vitals>,
    certificate: Option<Arc<Certificate>>,
}

/// Sources of counters, for the metrics. Weak, so that whoever still reads them at a stop (an open request of the admin
/// API) does not keep the servers from ending in order.
#[derive(Clone)]
pub(crate) struct Counters {
    pub(crate) dns: Option<Weak<DnsServer>>,
    pub(crate) proxy: Option<Weak<Proxy>>,
}

impl DataPlane {
    /// Starts both from threads without the control plane's priority.
    pub(crate) async fn start(
        config: &NodeConfig,
        published: &Arc<ArcSwap<Published>>,
        opener: &Opener,
        data: &Handle,
        mut inherited: Sockets,
    ) -> Result<DataPlane, NodeError> {
        let flags = Arc::new(DnsFlags::default());
        let health = LocalHealth::new();
        let vitals = Arc::new(Vitals::default());
        if config.duty == Duty::Witness {
            return Ok(DataPlane { dns: None, proxy: None, flags, health, vitals, certificate: None });
        }
        let load = |e: &EncryptedDns| Certificate::load(&e.certificate, opener, &published.load().state);
        let certificate = config.dns.encrypted.as_ref().map(load).transpose()?.map(Arc::new);
        if !config.dns.geo.is_empty() {
            flags.geo.store(Arc::new(Some(Geo::open(&config.dns.geo)?)));
        }
        let server = dns(config, certificate.clone());
        let (config, published) = (config.clone(), published.clone());
        let (flags_, health_) = (flags.clone(), health.clone());
        let started = data.spawn(async move {
            priority::data();
            let proxy = ProxyConfig { site: config.site.clone(), workers: config.proxy.workers };
            let proxy = Proxy::take_over(proxy, published.clone(), health_, &mut inherited)?;
            let dns = match server.addrs.is_empty() {
                true => None,
                false => Some(Arc::new(DnsServer::take_over(server, published, flags_, &mut inherited)?)),
            };
            Ok::<_, NodeError>((dns, Some(Arc::new(proxy))))
        });
        let (dns, proxy) = started.await.map_err(NodeError::Task)??;
        Ok(DataPlane { dns, proxy, flags, health, vitals, certificate })
    }

    /// Follows the files that may change while the node runs.
    pub(crate) fn reload(&self, config: &NodeConfig) -> impl Future<Output = ()> + Send + 'static {
        reload::run(config.dns.geo.clone(), self.flags.clone(), self.certificate.clone())
    }

    /// The certificate of encrypted DNS, where there is one.
    pub(super) fn certificate(&self) -> Option<Arc<Certificate>> {
        self.certificate.clone()
    }

    /// The proxy, where there is one.
    pub(crate) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_deref()
    }

    /// Tells the proxy that there is a new publication.
    pub(crate) fn refresher(&self) -> impl Fn() + Send + 'static {
        let proxy = self.counters().proxy;
        move || {
            if let Some(proxy) = proxy.as_ref().and_then(Weak::upgrade) {
                proxy.refresh();
            }
        }
    }

    /// Where totals are read.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            dns: self.dns.as_ref().map(Arc::downgrade),
            proxy: self.proxy.as_ref().map(Arc::downgrade),
        }
    }

    /// The listening sockets of both, by name.
    pub(crate) async fn sockets(&self) -> io::Result<Sockets> {
        let mut all = match &self.proxy {
            Some(proxy) => proxy.sockets().await,
            None => Vec::new(),
        };
        if let Some(dns) = &self.dns {
            all.extend(dns.sockets()?);
        }
        Ok(all)
    }

    /// Leaves the sockets to a process that has taken them over; what runs gets so long to end.
    pub(crate) async fn leave(self, linger: Duration) {
        let (proxy, dns) = (self.proxy.and_then(Arc::into_inner), self.dns.and_then(Arc::into_inner));
        let proxy = async {
            let Some(proxy) = proxy else { return };
            let cut = proxy.leave(linger).await;
            if cut > 0 {
                tracing::warn!(cut, "connections were still open");
            }
        };
        let dns = async {
            if let Some(dns) = dns {
                dns.leave(linger).await;
            }
        };
        tokio::join!(proxy, dns);
    }

    /// Stops both; open proxy connections get so long to end.
    pub(crate) async fn stop(self, linger: Duration) {
        if let Some(proxy) = self.proxy {
            proxy.drain();
            if let Some(proxy) = Arc::into_inner(proxy) {
                let cut = proxy.shutdown(linger).await;
                if cut > 0 {
                    tracing::warn!(cut, "connections were still open");
                }
            }
        }
        if let Some(dns) = self.dns.and_then(Arc::into_inner) {
            dns.shutdown().await;
        }
    }
}
