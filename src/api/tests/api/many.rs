//! A node with many services.

use crate::harness::Node;
use std::net::IpAddr;
use zonekeeper_config::{ClusterConfig, plan, stages};
use zonekeeper_core::{
    Command, Proposal,
    entry::{Object, Read},
    id::SiteId,
    model::{Change, Endpoint, Policy, Service, Site},
};

/// A node with `n` services of two families, each at site `a` and, when that fails, at `b`.
pub(crate) async fn node(n: u16) -> Node {
    let node = Node::empty().await;
    let reference = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-config");
    let reference = ClusterConfig::load(&reference).unwrap_or_else(|p| panic!("{p}"));
    let spec = reference.services[&"web".parse().unwrap()].clone();
    let mut changes = plan(&ClusterConfig::current(&node.state()), reference).changes;
    let sites: [SiteId; 2] = ["a", "b"].map(|s| s.parse().unwrap());
    changes.extend(sites.clone().map(|s| Change::PutSite(s, Site::default())));
    let endpoint = |s: u8| {
        let addrs: [IpAddr; 2] = [[192, 0, 2, s].into(), format!("2001:db8::{s}").parse().unwrap()];
        addrs.map(|addr| Endpoint { addr, port: 80 }).to_vec()
    };
    for i in 0..n {
        let spec = Service {
            names: vec![format!("many-{i}.example.com.").parse().unwrap()],
            policy: Policy::Failover(sites.to_vec()),
            endpoints: sites.iter().cloned().zip([endpoint(1), endpoint(2)]).collect(),
            check: None,
            pool: None,
            ..spec.clone()
        };
        changes.push(Change::PutService(format!("many-{i}").parse().unwrap(), Box::new(spec)));
    }
    let reads = vec![Read { object: Object::Config, version: node.state().revision }];
    let parts = stages(changes).unwrap();
    let count = parts.len() as u32;
    for (part, changes) in (0..).zip(parts) {
        node.propose(Proposal::by("test", Command::Stage { id: 1, part, changes })).await;
    }
    node.propose(Proposal { reads, ..Proposal::by("test", Command::Commit { id: 1, parts: count }) }).await;
    node
}
