//! Members: who takes part, who votes, who leads, who may join.

use super::Routes;
use crate::{
    api::Api,
    auth::{Caller, ToAdmin},
    error::ApiError,
    extract::{Body, Path, View, linearize, written},
    handles::Handles,
    wire::{self, JoinSecret, Member, NewJoin, NewMember, Seen, Written},
};
use axum::{Json, extract::State, http::StatusCode};
use std::time::Duration;
use zonekeeper_consensus::Status;
use zonekeeper_core::{
    Command, Published,
    entry::{self, Join},
    id::NodeId,
};
use zonekeeper_peer::JoinToken;

/// How long a change of members may take: a new node loads a snapshot first.
const CHANGE_WITHIN: Duration = Duration::from_secs(90);
/// Longest life of a join token, in seconds.
const MAX_JOIN_S: u64 = 86_400;

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list)
        .add(__path_add, add)
        .add(__path_remove, remove)
        .add(__path_promote, promote)
        .add(__path_demote, demote)
        .add(__path_transfer, transfer)
        .add(__path_create_join, create_join)
}

/// All members. Role: read.
#[utoipa::path(get, path = "/v1/members", tag = "members", responses((status = 200, body = Seen<Vec<Member>>)))]
async fn list(view: View) -> Json<Seen<Vec<Member>>> {
    let data = members(&view.api.handles, &view.published);
    view.seen(data)
}

fn members(handles: &Handles, published: &Published) -> Vec<Member> {
    let (status, local) = (handles.consensus.status(), handles.local.load());
    let one = |(id, member): (&NodeId, &std::sync::Arc<entry::Member>)| {
        let peer = status.voters.get(id).or_else(|| status.learners.get(id));
        let report = local.reports.iter().find(|(r, _)| r.node == *id);
        Member {
            id: *id,
            site: member.site.clone(),
            duty: member.duty,
            peer: member.peer,
            admin: member.admin,
            version: member.version,
            role: raft_role(&status, *id).into(),
            leader: status.leader == Some(*id),
            lag: peer.and_then(|p| p.matched).map(|m| status.last_log.saturating_sub(m)),
            acked_ms: peer.and_then(|p| p.acked_ms),
            report_age_ms: report.map(|(_, age)| age + local.elapsed_ms()),
            abstains: report.and_then(|(r, _)| r.abstains.clone()),
            link: local.links.iter().find(|(n, _)| n == id).map(|(_, l)| *l),
        }
    };
    published.state.members.iter().map(one).collect()
}

fn raft_role(status: &Status, id: NodeId) -> &'static str {
    match (status.voters.contains_key(&id), status.learners.contains_key(&id)) {
        (true, _) => "voter",
        (false, true) => "learner",
        (false, false) => "outside",
    }
}

/// Adds a node as a learner and waits until it has caught up. Role: admin.
#[utoipa::path(post, path = "/v1/members", tag = "members", request_body = NewMember,
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn add(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Body(new): Body<NewMember>,
) -> Result<Json<Written>, ApiError> {
    if new.id == 0 {
        return Err(ApiError::refused("node ids count from 1; take another one"));
    }
    let member =
        entry::Member { site: new.site, duty: new.duty, peer: new.peer, admin: new.admin, version: 0 };
    caller.write(&api, Command::PutMember(new.id, member)).await?;
    let index = api.handles.consensus.add_learner(new.id, new.peer, CHANGE_WITHIN).await?;
    Ok(Json(written(&api, index).await))
}

/// Removes a node, dead or alive. Its id is never used again. Role: admin.
#[utoipa::path(delete, path = "/v1/members/{id}", tag = "members", params(("id" = u64, Path)),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn remove(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(id): Path<NodeId>,
) -> Result<Json<Written>, ApiError> {
    known(&api, id).await?;
    let status = api.handles.consensus.status();
    if status.voters.contains_key(&id) || status.learners.contains_key(&id) {
        api.handles.consensus.remove(id, CHANGE_WITHIN).await?;
    }
    Ok(Json(caller.write(&api, Command::RemoveMember(id)).await?))
}

async fn known(api: &Api, id: NodeId) -> Result<(), ApiError> {
    linearize(api).await?;
    match api.handles.published.load().state.members.contains_key(&id) {
        true => Ok(()),
        false => Err(ApiError::not_found(format!("member {id}"))),
    }
}

/// Makes a learner a voter. Role: admin.
#[utoipa::path(post, path = "/v1/members/{id}/promote", tag = "members", params(("id" = u64, Path)),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn promote(
    _: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(id): Path<NodeId>,
) -> Result<Json<Written>, ApiError> {
    known(&api, id).await?;
    let index = api.handles.consensus.promote(id, CHANGE_WITHIN).await?;
    Ok(Json(written(&api, index).await))
}

/// Makes a voter a learner. Role: admin.
#[utoipa::path(post, path = "/v1/members/{id}/demote", tag = "members", params(("id" = u64, Path)),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn demote(
    _: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(id): Path<NodeId>,
) -> Result<Json<Written>, ApiError> {
    known(&api, id).await?;
    let index = api.handles.consensus.demote(id, CHANGE_WITHIN).await?;
    Ok(Json(written(&api, index).await))
}

/// Hands leadership to a voter and waits until it leads. Role: admin.
#[utoipa::path(post, path = "/v1/members/{id}/lead", tag = "members", params(("id" = u64, Path)),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn transfer(
    _: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(id): Path<NodeId>,
) -> Result<Json<Written>, ApiError> {
    known(&api, id).await?;
    api.handles.consensus.transfer_leader(id, CHANGE_WITHIN).await?;
    let index = api.handles.published.load().generation.index;
    Ok(Json(written(&api, index).await))
}

/// Makes a join token: one node may join with it, once. Role: admin.
#[utoipa::path(post, path = "/v1/members/joins", tag = "members", request_body = NewJoin,
    responses((status = 200, body = JoinSecret), (status = 422, body = wire::ErrorBody)))]
async fn create_join(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Body(new): Body<NewJoin>,
) -> Result<Json<JoinSecret>, ApiError> {
    if !(1..=MAX_JOIN_S).contains(&new.expires_in_s) {
        return Err(ApiError::refused("a join token lives 1 to 86400 seconds; choose a time in between"));
    }
    let Some(fingerprint) = api.handles.ca_fingerprint else {
        return Err(ApiError::refused(
            "this cluster has no keys, so nobody can join; make them with `zonekeeper keys`",
        ));
    };
    let token = JoinToken::generate(fingerprint).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "random", e.to_string(), "see the node's log")
    })?;
    let expires = api.handles.log_now().plus(new.expires_in_s * 1000);
    caller.write(&api, Command::PutJoin(Join { hash: token.hash(), expires })).await?;
    Ok(Json(JoinSecret { token: token.to_string(), expires: wire::stamp(expires) }))
}
