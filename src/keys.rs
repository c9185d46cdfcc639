//! `zonekeeper keys`: the CA and the first node certificates of a cluster.

use clap::Subcommand;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use zonekeeper_core::id::{NodeId, SiteId};
use zonekeeper_peer::keys::{Ca, Credentials, KeyError};

/// Key commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make the CA of a new cluster and the keys of its first nodes
    #[command(after_help = "Example:
  zonekeeper keys new keys --nodes 1=fra,2=ams,3=iad

Makes keys/ca (keep it offline: it is needed when a CA key holder is replaced) and keys/node-1 … node-3, each to be
moved to its node as `keys_dir`. The first two nodes also get ca.key: they sign joins and renewals.")]
    New {
        /// A new folder
        dir: PathBuf,
        /// Node ids with their sites
        #[arg(long, value_delimiter = ',', required = true, value_name = "ID=SITE")]
        nodes: Vec<NodeAt>,
        /// Nodes that hold the CA key; default: the first two
        #[arg(long, value_delimiter = ',', value_name = "ID")]
        signers: Vec<NodeId>,
        /// Life of these first certificates in days; they renew themselves at two thirds of it
        #[arg(long, value_name = "DAYS", default_value_t = 90.0)]
        days: f64,
    },
    /// Show whose keys a folder holds and how long they live
    Show {
        /// A node's key folder
        dir: PathBuf,
    },
}

/// `1=fra`.
#[derive(Debug, Clone)]
pub(crate) struct NodeAt {
    node: NodeId,
    site: SiteId,
}

impl FromStr for NodeAt {
    type Err = String;
    fn from_str(s: &str) -> Result<NodeAt, String> {
        let (node, site) = s.split_once('=').ok_or("expected ID=SITE, as 1=fra")?;
        let node = node
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| format!("{node:?} is no id; use 1 or more"))?;
        let site = site.parse().map_err(|e| format!("site {site:?} {e}"))?;
        Ok(NodeAt { node, site })
    }
}

/// Why keys were not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeysError {
    #[error("{0} exists already; keys are never overwritten, give a new folder")]
    Exists(PathBuf),
    #[error("--nodes names node {0} twice; ids are unique")]
    Twice(NodeId),
    #[error("--signers names node {0}, which --nodes does not; give it there too")]
    Signer(NodeId),
    #[error("--days {0} is out of range; use up to 3650")]
    Days(f64),
    #[error("no random numbers: {0}")]
    Random(String),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot write to the terminal: {0}")]
    Out(#[from] std::io::Error),
}

impl Keys {
    /// Runs the command.
    pub(crate) fn run(self) -> Result<(), KeysError> {
        match self {
            Keys::New { dir, nodes, signers, days } => new(&dir, &nodes, &signers, lifetime(days)?),
            Keys::Show { dir } => show(&dir),
        }
    }
}

/// A random cluster id; 0 means "no cluster".
pub(crate) fn cluster_id() -> Result<u128, KeysError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|e| KeysError::Random(e.to_string()))?;
    Ok(u128::from_le_bytes(bytes).max(1))
}

/// At least a second, at most ten years.
fn lifetime(days: f64) -> Result<Duration, KeysError> {
    let range = 1.0..=3650.0 * 86_400.0;
    let seconds = Some(days * 86_400.0).filter(|s| range.contains(s)).ok_or(KeysError::Days(days))?;
    Ok(Duration::from_secs_f64(seconds))
}

fn new(dir: &Path, nodes: &[NodeAt], signers: &[NodeId], lifetime: Duration) -> Result<(), KeysError> {
    if dir.exists() {
        return Err(KeysError::Exists(dir.to_owned()));
    }
    let twice = nodes.iter().enumerate().find(|(i, at)| nodes[..*i].iter().any(|n| n.node == at.node));
    if let Some((_, at)) = twice {
        return Err(KeysError::Twice(at.node));
    }
    if let Some(stranger) = signers.iter().find(|s| nodes.iter().all(|at| at.node != **s)) {
        return Err(KeysError::Signer(*stranger));
    }
    let ca = Ca::create(cluster_id()?)?;
    ca.save(&dir.join("ca"))?;
    let mut out = std::io::stdout();
    writeln!(out, "cluster {:032x}", ca.cluster())?;
    for (place, at) in nodes.iter().enumerate() {
        let folder = dir.join(format!("node-{}", at.node));
        ca.issue(at.node, &at.site, lifetime)?.save(&folder)?;
        let signs = if signers.is_empty() { place < 2 } else { signers.contains(&at.node) };
        if signs {
            ca.save(&folder)?;
        }
        let role = if signs { ", signs joins and renewals" } else { "" };
        writeln!(out, "{}: node {} at {}{role}", folder.display(), at.node, at.site)?;
    }
    Ok(())
}

fn show(dir: &Path) -> Result<(), KeysError> {
    let keys = Credentials::load(dir)?;
    let when = |t: std::time::SystemTime| {
        jiff::Timestamp::try_from(t).map(|t| format!("{t:.0}")).unwrap_or_default()
    };
    let mut out = std::io::stdout();
    writeln!(out, "node {} of cluster {:032x}", keys.node(), keys.cluster())?;
    writeln!(out, "expires {}, renews itself from {}", when(keys.expires()), when(keys.renew_at()))?;
    let signs = if Ca::load(dir).is_ok() { "yes" } else { "no" };
    writeln!(out, "holds the CA key: {signs}")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_the_nodes_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("keys");
        let at = |text: &[&str]| text.iter().map(|t| t.parse().unwrap()).collect::<Vec<NodeAt>>();
        let day = Duration::from_secs(86_400);
        let twice = new(&dir, &at(&["1=fra", "2=ams", "1=iad"]), &[], day);
        assert!(matches!(twice, Err(KeysError::Twice(1))), "{twice:?}");
        let nobody = new(&dir, &at(&["1=fra", "2=ams"]), &[1, 3], day);
        assert!(matches!(nobody, Err(KeysError::Signer(3))), "{nobody:?}");
        assert!(!dir.exists());
        new(&dir, &at(&["1=fra", "2=ams"]), &[2], day).unwrap();
        assert!(Ca::load(&dir.join("node-1")).is_err() && Ca::load(&dir.join("node-2")).is_ok());
    }
}
