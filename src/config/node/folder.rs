//! The node files that lie beside the cluster's: do they fit the cluster, and each other?

use super::{NodeConfig, read};
use crate::{
    cluster::{ClusterConfig, files},
    log::Log,
    problem::Problems,
};
use std::path::Path;

impl ClusterConfig {
    /// What is wrong with the node files in `nodes/` below the folder of the cluster files, as the reference
    /// configuration lays them out; nothing where there is no such folder.
    pub fn check_nodes(&self, dir: &Path) -> Problems {
        let nodes = dir.join("nodes");
        let mut problems = Problems::default();
        let mut seen: Vec<NodeConfig> = Vec::new();
        for path in files(&nodes).unwrap_or_default() {
            let log = Log::default();
            if let Some(node) = read::file(&path, &log) {
                node.fits(self, &log);
                seen.iter().for_each(|other| node.beside(other, &log));
                seen.push(node);
            }
            problems.0.extend(log.into_problems().0);
        }
        problems.sorted()
    }
}

impl NodeConfig {
    /// Two nodes of one cluster.
    fn beside(&self, other: &NodeConfig, log: &Log) {
        if self.id == other.id {
            log.error_at(
                "id",
                format!("{} is the id of another node file too; each node has its own", self.id),
            );
        }
        if self.peer.advertise == other.peer.advertise {
            let field = if log.place_of("peer.advertise") == log.place_of("peer") {
                "peer.listen"
            } else {
                "peer.advertise"
            };
            let message = format!(
                "{} is the address of node {} too; each node has its own",
                self.peer.advertise, other.id
            );
            log.error_at(field, message);
        }
    }
}
