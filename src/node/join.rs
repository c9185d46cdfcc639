//! Joining: the joiner's command, and the member's answer.

use super::{NodeError, boot, renew};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use zonekeeper_config::NodeConfig;
use zonekeeper_consensus::Consensus;
use zonekeeper_core::{Command, Outcome, Proposal, codec, entry::Member, id::NodeId};
use zonekeeper_peer::{BoxFuture, JoinGrant, JoinHandler, JoinRequest, JoinToken};

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
/// `zonekeeper run` afterwards; the cluster waits for it.
pub(crate) async fn join(
    config: &NodeConfig,
    via: SocketAddr,
    token: &str,
    votes: bool,
) -> Result<(), NodeError> {
    let failed = |e: &dyn std::fmt::Display| NodeError::Join(e.to_string());
    let token: JoinToken = token.parse().map_err(|e| failed(&e))?;
    let body = codec::bytes(&Body { node: config.id, member: boot::member(config), votes });
    let joined =
        zonekeeper_peer::join(via, &token, body, Duration::from_secs(20)).await.map_err(|e| failed(&e))?;
    joined.credentials.save(&config.keys_dir)?;
    boot::open(config, &joined.credentials, super::Start::New).await.map(drop)
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
            let issued = renew::issue(&self.keys, node, &body.member.site, &request.csr_pem)
                .map_err(|why| format!("{why}; join through a member that holds it"))?;
            self.propose(Command::UseJoin { hash: request.hash, node }).await?;
            self.propose(Command::PutMember(node, body.member.clone())).await?;
            tracing::info!(node, %from, "node joins");
            tokio::spawn(take_in(self.consensus.clone(), body));
            Ok(JoinGrant { cert_pem: issued.cert_pem, ca_pem: issued.ca_pem, body: Vec::new() })
        })
    }
}

impl Joins {
    async fn propose(&self, command: Command) -> Result<(), String> {
        match self.consensus.propose(Proposal::by("join", command)).await {
            Ok((_, Outcome::Applied(_))) => Ok(()),
            Ok((_, Outcome::Refused(why))) => Err(why),
            Ok((_, Outcome::Stale(_))) => Err("the cluster has changed meanwhile; try again".into()),
            Err(error) => Err(error.to_string()),
        }
    }
}

async fn take_in(consensus: Consensus, body: Body) {
    let added = consensus.add_learner(body.node, body.member.peer, CATCH_UP).await;
    let done = match added {
        Ok(_) if body.votes => consensus.promote(body.node, CATCH_UP).await,
        other => other,
    };
    if let Err(error) = done {
        tracing::warn!(node = body.node, %error, "the joined node was not taken in; see `zonekeeper member`");
    }
}
