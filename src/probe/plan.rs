//! Which streams a node watches: a pure function of the state.

use std::{collections::BTreeMap, net::SocketAddr};
use zonekeeper_core::{
    State,
    evidence::Target,
    id::{NodeId, PoolId, SiteId},
    model::{BackendTls, Check, CheckKind, Family, GrpcCheck, HttpCheck, ProxyHeader},
};

/// One thing to probe, shared by everything that wants it probed in the same way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Where.
    pub addr: SocketAddr,
    /// How.
    pub check: Check,
    /// The `Host` header where the check names none.
    pub host: String,
    /// How the backends of the pool that is checked are spoken to over TLS.
    pub tls: Option<BackendTls>,
    /// How each connection to them begins.
    pub send_proxy: Option<ProxyHeader>,
}

/// Who wants to know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// An endpoint of another site.
    Endpoint(Target),
    /// A backend behind the local proxy.
    Backend(PoolId, SocketAddr),
}

/// The streams of one node.
pub(crate) type Plan = BTreeMap<Key, Vec<Subject>>;

/// The plan of a node. Learners and nodes without a vote probe no endpoints; every full node checks its own backends.
pub(crate) fn plan(
    state: &State,
    node: NodeId,
    site: &SiteId,
    proxies: bool,
    resolved: impl Fn(&PoolId) -> Vec<SocketAddr>,
) -> Plan {
    let mut plan = Plan::new();
    if state.voters.contains(&node) {
        endpoints(state, site, &mut plan);
    }
    if proxies {
        backends(state, site, resolved, &mut plan);
    }
    plan
}

fn endpoints(state: &State, own: &SiteId, plan: &mut Plan) {
    for (id, service) in &state.services {
        let Some(check) = &service.spec.check else { continue };
        let host = service.spec.names.first().map(|n| n.to_string()).unwrap_or_default();
        let host = host.trim_end_matches('.').to_owned();
        for (site, endpoints) in service.spec.endpoints.iter().filter(|(s, _)| *s != own) {
            for endpoint in endpoints {
                let key = Key {
                    addr: SocketAddr::new(endpoint.addr, endpoint.port),
                    check: check.clone(),
                    host: host.clone(),
                    tls: None,
                    send_proxy: None,
                };
                let family = Family::of(endpoint.addr);
                let target = Target { service: id.clone(), site: site.clone(), family };
                plan.entry(key).or_default().push(Subject::Endpoint(target));
            }
        }
    }
}

/// `resolved`: what a pool's names stand for here.
fn backends(state: &State, own: &SiteId, resolved: impl Fn(&PoolId) -> Vec<SocketAddr>, plan: &mut Plan) {
    for (id, pool) in &state.pools {
        let Some(check) = &pool.check else { continue };
        let ours = pool.backends.iter().filter(|b| b.site.as_ref().is_none_or(|s| s == own));
        let named = if pool.names.is_empty() { Vec::new() } else { resolved(id) };
        for addr in ours.map(|b| b.addr).chain(named) {
            let tls = pool.tls.clone().filter(|_| over_tls(&check.kind));
            let (check, host, send_proxy) = (check.clone(), addr.ip().to_string(), pool.send_proxy);
            let key = Key { addr, check, host, tls, send_proxy };
            plan.entry(key).or_default().push(Subject::Backend(id.clone(), addr));
        }
    }
}

fn over_tls(kind: &CheckKind) -> bool {
    match kind {
        CheckKind::Tcp => false,
        CheckKind::Http(HttpCheck { tls, .. })
        | CheckKind::Http2(HttpCheck { tls, .. })
        | CheckKind::Grpc(GrpcCheck { tls, .. }) => *tls,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonekeeper_core::model::{Backend, Pool};

    #[test]
    fn a_check_over_tls_speaks_as_the_pool_does() {
        let grpc = |tls| {
            CheckKind::Grpc(GrpcCheck { tls, verify: true, host: String::new(), service: String::new() })
        };
        let check = |kind| Check {
            kind,
            interval_ms: 500,
            timeout_ms: 500,
            rise: 1,
            fall: 1,
            jitter_percent: 0,
            patience_ms: 0,
        };
        let addr = SocketAddr::from(([192, 0, 2, 1], 443));
        for (kind, asked) in [(CheckKind::Tcp, false), (grpc(false), false), (grpc(true), true)] {
            let tls = BackendTls { name: Some("inside.example".into()), ..BackendTls::default() };
            let pool = Pool {
                backends: vec![Backend { site: None, addr, weight: 1 }],
                check: Some(check(kind.clone())),
                tls: Some(tls.clone()),
                ..Pool::default()
            };
            let mut state = State::default();
            state.pools.insert("web".parse().unwrap(), pool.into());
            let plan = plan(&state, 1, &"a".parse().unwrap(), true, |_| Vec::new());
            let keys: Vec<_> = plan.keys().map(|k| k.tls.clone()).collect();
            assert_eq!(keys, [asked.then_some(tls)], "{kind:?}");
        }
    }
}
