//! `zonekeeper keys`: the CA and the first node certificates of a cluster.

use clap::Subcommand;
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};
use zonekeeper_core::id::{NodeId, SiteId};
use zonekeeper_peer::keys::{Ca, ClusterKey, Credentials, KeyError, Keyring, save_cluster_key};

/// Key commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Make the CA of a new cluster and the keys of its first nodes
    #[command(after_help = "Example:
  zonekeeper keys new keys --nodes 1=fra,2=ams,3=iad

Makes keys/ca (keep it offline: it is needed when a CA key holder is replaced) and keys/node-1 … node-3, each to be
moved to its node as `keys_dir`. The first two nodes also get ca.key: they sign joins and renewals. All get cluster.key,
which the common secrets of the cluster are sealed under; nodes that join later get it from the others.")]
    New {
        /// A new folder
        dir: PathBuf,
        /// Node ids with their sites
        #[arg(long, value_delimiter = ',', required = true, value_name = "ID=SITE")]
        nodes: Vec<NodeAt>,
        /// Nodes that hold the CA key; default: the first two
        #[arg(long, value_delimiter = ',', value_name = "ID")]
        signers: Vec<NodeId>,
        /// Life of these first certificates; nodes renew them from two thirds of it, for 90 days each time
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = lifetime)]
        lifetime: Duration,
    },
    /// Make new keys of one node, as when its certificate expired while it was down
    #[command(after_help = "Example, on a node that holds the CA key:
  zonekeeper keys issue new-keys --ca /var/lib/zonekeeper/keys --node 3=iad

Put the files of new-keys into the key folder of node 3 and restart it. Its data stays as it is.")]
    Issue {
        /// A new folder
        dir: PathBuf,
        /// A folder with ca.pem and ca.key: a signer's key folder, or what `keys new` called ca
        #[arg(long, value_name = "FOLDER")]
        ca: PathBuf,
        /// The node's id with its site
        #[arg(long, value_name = "ID=SITE")]
        node: NodeAt,
        /// Life of the certificate; the node renews it from two thirds of it, for 90 days each time
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = lifetime)]
        lifetime: Duration,
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
            Keys::New { dir, nodes, signers, lifetime } => new(&dir, &nodes, &signers, lifetime),
            Keys::Issue { dir, ca, node, lifetime } => issue(&dir, &ca, &node, lifetime),
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

/// At most ten years, as the CA lives for twenty.
fn lifetime(text: &str) -> Result<Duration, String> {
    let longest = Duration::from_secs(3650 * 86_400);
    let life = zonekeeper_cli::duration(text)?;
    if life <= longest { Ok(life) } else { Err("use up to 3650d".into()) }
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
    let cluster_key = ClusterKey::generate(ca.cluster())?;
    ca.save(&dir.join("ca"))?;
    let mut out = std::io::stdout();
    writeln!(out, "cluster {:032x}", ca.cluster())?;
    for (place, at) in nodes.iter().enumerate() {
        let folder = dir.join(format!("node-{}", at.node));
        ca.issue(at.node, &at.site, lifetime)?.save(&folder)?;
        save_cluster_key(&folder, &cluster_key)?;
        let signs = if signers.is_empty() { place < 2 } else { signers.contains(&at.node) };
        if signs {
            ca.save(&folder)?;
        }
        let role = if signs { ", signs joins and renewals" } else { "" };
        writeln!(out, "{}: node {} at {}{role}", folder.display(), at.node, at.site)?;
    }
    Ok(())
}

fn issue(dir: &Path, ca: &Path, at: &NodeAt, lifetime: Duration) -> Result<(), KeysError> {
    if dir.exists() {
        return Err(KeysError::Exists(dir.to_owned()));
    }
    let ca = Ca::load(ca)?;
    ca.issue(at.node, &at.site, lifetime)?.save(dir)?;
    writeln!(std::io::stdout(), "{}: node {} at {}", dir.display(), at.node, at.site)?;
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
    let ring = Keyring::load(dir);
    let newest = ring.newest(keys.cluster()).map(|key| key.id().to_string());
    let none = || ring.problem().unwrap_or_else(|| "none; a member gives it when the node runs".into());
    writeln!(out, "newest cluster key: {}", newest.unwrap_or_else(none))?;
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
        let [one, two] = [1, 2].map(|n| Keyring::load(&dir.join(format!("node-{n}"))));
        let cluster = Credentials::load(&dir.join("node-1")).unwrap().cluster();
        assert!(one.newest(cluster).is_some() && one.newest(cluster) == two.newest(cluster));
        assert!(Ca::load(&dir.join("node-1")).is_err() && Ca::load(&dir.join("node-2")).is_ok());

        let again = parent.path().join("again");
        let signer = |node: u8| dir.join(format!("node-{node}"));
        assert!(matches!(issue(&again, &signer(1), &at(&["1=fra"])[0], day), Err(KeysError::Key(_))));
        issue(&again, &signer(2), &at(&["1=fra"])[0], day).unwrap();
        let (fresh, old) = (Credentials::load(&again).unwrap(), Credentials::load(&signer(1)).unwrap());
        assert_eq!(fresh.identity().node, old.identity().node);
        assert_eq!(fresh.cluster(), old.cluster());
        assert!(matches!(issue(&again, &signer(2), &at(&["1=fra"])[0], day), Err(KeysError::Exists(_))));
    }

    #[test]
    fn a_lifetime_has_a_unit_and_an_end() {
        assert_eq!(lifetime("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(lifetime("3650d"), Ok(Duration::from_secs(3650 * 86_400)));
        for bad in ["90", "0s", "3651d", ""] {
            assert!(lifetime(bad).is_err(), "{bad:?}");
        }
    }
}
