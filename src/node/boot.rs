//! First starts: whose data a directory holds, and the first entries of a new cluster.

use super::{NodeError, secrets::Keeper};
use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};
use zonekeeper_config::NodeConfig;
use zonekeeper_consensus::{Consensus, Opened};
use zonekeeper_core::{
    Command, State, VERSION,
    entry::{Init, Member, Role, Timing, Token},
    model::{Change, Site},
};
use zonekeeper_peer::keys::Credentials;

/// Name of the file in the data directory that holds the first admin token.
pub(crate) const TOKEN_FILE: &str = "admin.token";

/// How long each step of a founding may take.
const WITHIN: Duration = Duration::from_secs(20);

/// What the operator says about this start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// A node that ran before.
    Again,
    /// The first start of a node that the cluster is about to add.
    New,
    /// The first node of a new cluster.
    Bootstrap(Timing),
    /// Whatever the directory says: founds a cluster in an empty one. For `serve`, which is alone.
    Alone,
}

impl Start {
    /// Whether this start may found a cluster, and under which timing.
    pub(super) fn founds(self) -> Option<Timing> {
        match self {
            Start::Bootstrap(timing) => Some(timing),
            Start::Alone => Some(Timing::Lan),
            Start::Again | Start::New => None,
        }
    }
}

/// Opens the data directory and replays it up to what was published.
pub(crate) async fn open(config: &NodeConfig, keys: &Credentials, start: Start) -> Result<Opened, NodeError> {
    if keys.node() != config.id {
        let (dir, found, id) = (config.keys_dir.clone(), keys.node(), config.id);
        return Err(NodeError::Foreign { dir, found, id });
    }
    let opened = replay(config, Some(keys.cluster()), start).await?;
    if opened.identity().is_none() {
        claim(&opened, config, keys).await?;
    }
    Ok(opened)
}

/// Opens the empty data directory of a node that has no keys yet.
pub(crate) async fn open_empty(config: &NodeConfig) -> Result<Opened, NodeError> {
    replay(config, None, Start::New).await
}

/// Writes down whose data this is.
pub(crate) async fn claim(opened: &Opened, config: &NodeConfig, keys: &Credentials) -> Result<(), NodeError> {
    let claimed = opened.claim(keys.cluster()).await;
    claimed.map(drop).map_err(|e| NodeError::File(config.data_dir.clone(), e))
}

async fn replay(config: &NodeConfig, cluster: Option<u128>, start: Start) -> Result<Opened, NodeError> {
    let config = config.clone();
    let opened = tokio::task::spawn_blocking(move || replay_blocking(&config, cluster, start));
    opened.await.map_err(NodeError::Task)?
}

fn replay_blocking(config: &NodeConfig, cluster: Option<u128>, start: Start) -> Result<Opened, NodeError> {
    let (dir, id) = (&config.data_dir, config.id);
    let opened = Consensus::open(dir, id, cluster)?;
    let fresh = opened.identity().is_none();
    match start {
        Start::Again if fresh => return Err(NodeError::Empty { dir: dir.clone(), id }),
        Start::New if !fresh => return Err(NodeError::NotEmpty(dir.clone())),
        // a founding that was cut short may go on
        Start::Bootstrap(_) if !opened.state().tokens.is_empty() => {
            return Err(NodeError::NotEmpty(dir.clone()));
        }
        _ => {}
    }
    Ok(opened)
}

/// Writes the first entries of a new cluster: its name, its first member and site, its common secrets,
/// and an admin token. A founding that
/// was cut short (`begun`: the log is not empty) is taken up again.
pub(crate) async fn found(
    consensus: &Consensus,
    keeper: &mut Keeper,
    config: &NodeConfig,
    keys: &Credentials,
    start: Start,
    begun: bool,
) -> Result<(), NodeError> {
    let Some(timing) = start.founds() else { return Ok(()) };
    let founded = |s: &State| s.cluster != 0 && s.members.contains_key(&config.id) && !s.tokens.is_empty();
    if founded(&consensus.state()) {
        return Ok(());
    }
    let member = member(config);
    let refused = |e: zonekeeper_consensus::ProposeError| NodeError::Found(e.to_string());
    if !begun {
        consensus.bootstrap(&member, WITHIN).await.map_err(refused)?;
    }
    lead(consensus).await?;
    // what was committed before a crash may be later than what was published before it
    consensus.read_index(WITHIN).await.map_err(refused)?;
    let state = consensus.state();
    if founded(&state) {
        return Ok(());
    }
    if state.cluster == 0 {
        let init = Init { cluster: keys.cluster(), version: VERSION, timing };
        propose(consensus, Command::Init(init)).await?;
    }
    propose(consensus, Command::PutMember(config.id, member)).await?;
    let site = Site::default();
    propose(consensus, Command::Configure(vec![Change::PutSite(config.site.clone(), site)])).await?;
    while keeper.tend().await.map_err(NodeError::Found)? {}
    let secret = zonekeeper_api::Secret::generate().map_err(|e| NodeError::Found(e.to_string()))?;
    write_token(&config.data_dir, secret.text())?;
    let token = Token { name: "admin".into(), hash: secret.hash(), role: Role::Admin, expires: None };
    propose(consensus, Command::PutToken(token)).await
}

async fn lead(consensus: &Consensus) -> Result<(), NodeError> {
    let mut status = consensus.watch_status();
    let leads = status.wait_for(|s| s.role == zonekeeper_consensus::Role::Leader);
    match tokio::time::timeout(WITHIN, leads).await {
        Ok(Ok(_)) => Ok(()),
        _ => Err(NodeError::Found(format!(
            "this node did not become the leader within {WITHIN:?}; see its log"
        ))),
    }
}

async fn propose(consensus: &Consensus, command: Command) -> Result<(), NodeError> {
    // it read nothing, so nothing can have changed
    super::propose(consensus, "bootstrap", Vec::new(), command).await.map(drop).map_err(NodeError::Found)
}

/// This node as a member.
pub(crate) fn member(config: &NodeConfig) -> Member {
    Member {
        site: config.site.clone(),
        duty: config.duty,
        peer: config.peer.advertise,
        admin: config.admin.advertise,
        version: VERSION,
    }
}

/// Readable by the owner only.
pub(crate) fn write_token(dir: &Path, secret: &str) -> Result<(), NodeError> {
    let path = dir.join(TOKEN_FILE);
    let file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path);
    let written = file.and_then(|mut f| writeln!(f, "{secret}").and_then(|()| f.sync_all()));
    written.map_err(|e| NodeError::File(path, e))
}
