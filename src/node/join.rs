//! Joining: the joiner's command, and the member's answer.

use super::{NodeError, boot, renew};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use zonekeeper_config::NodeConfig;
use zonekeeper_consensus::Consensus;
use zonekeeper_core::{
    Command, codec,
    entry::{Member, Object, Read},
    id::NodeId,
};
use zonekeeper_peer::{BoxFuture, JoinGrant, JoinHandler, JoinRequest, JoinToken, keys::Credentials};

/// How long the cluster waits for a joined node to start and catch up.
const CATCH_UP: Duration = Duration::from_secs(120);

/// What a joiner says of itself. On the wire: append only.
#[derive(Debug, Serialize, Deserialize)]
struct Body {
    node: NodeId,
    member: Member,
    votes: bool,
}

/// `zonekeeper join`: gets this node's keys from a member and claims the data directory. The node is started with
/// `zonekeeper run` afterwards; the cluster waits for it. What can be refused here is refused before the token is used.
pub(crate) async fn join(
    config: &NodeConfig,
    via: SocketAddr,
    token: &str,
    votes: bool,
) -> Result<(), NodeError> {
    let failed = |e: &dyn std::fmt::Display| NodeError::Join(e.to_string());
    let token: JoinToken = token.parse().map_err(|e| failed(&e))?;
    let opened = boot::open_empty(config).await?;
    if let Ok(keys) = Credentials::load(&config.keys_dir) {
        let (dir, node) = (config.keys_dir.display(), keys.node());
        return Err(failed(&format!(
            "{dir} holds the keys of node {node} already; give a folder without keys"
        )));
    }
    let body = codec::bytes(&Body { node: config.id, member: boot::member(config), votes });
    let joined =
        zonekeeper_peer::join(via, &token, body, Duration::from_secs(20)).await.map_err(|e| failed(&e))?;
    joined.credentials.save(&config.keys_dir)?;
    boot::claim(&opened, config, &joined.credentials).await
}

/// The member's side.
pub(crate) struct Joins {
    pub(crate) consensus: Consensus,
    pub(crate) keys: PathBuf,
}

impl JoinHandler for Joins {
    fn join(&self, from: SocketAddr, request: JoinRequest) -> BoxFuture<'_, Result<JoinGrant, String>> {
        Box::pin(async move {
            let body: Body = codec::from_bytes(&request.body).map_err(|e| e.to_string())?;
            let node = body.node;
            if node == 0 {
                return Err("node ids count from 1; take another one".into());
            }
            let (keys, site, csr) = (self.keys.clone(), body.member.site.clone(), request.csr_pem);
            let issued = tokio::task::spawn_blocking(move || renew::issue(&keys, node, &site, &csr)).await;
            let issued = issued
                .map_err(|e| e.to_string())?
                .map_err(|why| format!("{why}; join through a member that holds it"))?;
            self.admit(request.hash, &body).await?;
            tracing::info!(node, %from, "node joins");
            tokio::spawn(take_in(self.consensus.clone(), body));
            Ok(JoinGrant { cert_pem: issued.cert_pem, ca_pem: issued.ca_pem, body: Vec::new() })
        })
    }
}

impl Joins {
    /// Uses the token up and writes the member down. Both stand on the same members: of two joiners that take the same id
    /// at once, each with a token of its own, one is refused.
    async fn admit(&self, hash: [u8; 32], body: &Body) -> Result<(), String> {
        let state = self.consensus.state();
        let same = state.members.iter().find(|(_, m)| m.peer == body.member.peer);
        if let Some((other, _)) = same {
            return Err(format!(
                "node {other} has the peer address {} already; change `peer.advertise`",
                body.member.peer
            ));
        }
        let reads = vec![Read { object: Object::Voters, version: state.version(&Object::Voters) }];
        let changed = "the members have changed meanwhile";
        if !self.propose(reads.clone(), Command::UseJoin { hash, node: body.node }).await? {
            return Err(format!("{changed}; try again"));
        }
        match self.propose(reads, Command::PutMember(body.node, body.member.clone())).await? {
            true => Ok(()),
            false => Err(format!("{changed}, and the token is used up; try again with a new one")),
        }
    }

    /// False: what was read has changed.
    async fn propose(&self, reads: Vec<Read>, command: Command) -> Result<bool, String> {
        super::propose(&self.consensus, "join", reads, command).await.map(|index| index.is_some())
    }
}

async fn take_in(consensus: Consensus, body: Body) {
    let added = consensus.add_learner(body.node, body.member.peer, CATCH_UP).await;
    let done = match added {
        Ok(_) if body.votes => consensus.promote(body.node, CATCH_UP).await,
        other => other,
    };
    if let Err(error) = done {
        tracing::warn!(node = body.node, %error, "the joined node was not taken in; once it runs, use `zonekeeper member promote`");
    }
}
