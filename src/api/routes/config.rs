//! The declared configuration: read it, try changes, apply them at one index.

use super::Routes;
use crate::{
    api::Api,
    auth::{Caller, Needs, ToAdmin},
    error::ApiError,
    extract::{Bulk, View, blocking},
    wire::{self, Config, ConfigChanges, DryRun, Seen, Written},
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use std::sync::Arc;
use zonekeeper_config::{ClusterConfig, stages};
use zonekeeper_core::{
    Command, Entry, Outcome, Proposal, State as Replicated,
    entry::{Cause, Object, Read},
    model::Change,
};

/// Largest body of a change, in bytes: about a million records as JSON.
const MAX_CHANGES: usize = 256 << 20;

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_show, show).add_sized(__path_plan, plan, MAX_CHANGES).add_sized(
        __path_apply,
        apply,
        MAX_CHANGES,
    )
}

/// What runs, as it would be declared, with its revision. Role: read.
#[utoipa::path(get, path = "/v1/config", tag = "config", responses((status = 200, body = Seen<Config>)))]
async fn show(view: View) -> Result<Response, ApiError> {
    let answer = blocking(move || {
        let state = &view.published.state;
        view.seen(Config::new(state.revision, ClusterConfig::current(state))).into_response()
    });
    answer.await
}

/// Tries changes without applying them. Role: admin.
#[utoipa::path(post, path = "/v1/config/plan", tag = "config", request_body = ConfigChanges,
    responses((status = 200, body = DryRun), (status = 409, body = wire::ErrorBody), (status = 422, body = wire::ErrorBody)))]
async fn plan(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Bulk(body, _permit): Bulk<ConfigChanges>,
) -> Result<Json<DryRun>, ApiError> {
    let state = api.handles.published.load().state.clone();
    let author = caller.name;
    let tried = blocking(move || {
        let next = try_out(&state, &author, &body)?;
        let entries = split(body.changes)?.len();
        Ok::<_, ApiError>(DryRun { entries, moves: moves(&state, &next) })
    });
    Ok(Json(tried.await??))
}

/// Applies changes, all or none, at one log index. Role: admin.
#[utoipa::path(post, path = "/v1/config/apply", tag = "config", request_body = ConfigChanges,
    responses((status = 200, body = Written), (status = 409, body = wire::ErrorBody), (status = 422, body = wire::ErrorBody)))]
async fn apply(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Bulk(body, _permit): Bulk<ConfigChanges>,
) -> Result<Json<Written>, ApiError> {
    if body.changes.is_empty() {
        return Err(ApiError::refused("there is nothing to change; what runs is what is declared"));
    }
    let (state, author) = (api.handles.published.load().state.clone(), caller.name.clone());
    let tried = blocking(move || try_out(&state, &author, &body).map(|_| body));
    let body = tried.await??;
    let reads = vec![Read { object: Object::Config, version: body.revision }];
    Ok(Json(write_changes(&caller, &api, reads, body.changes).await?))
}

/// Applies changes to a copy of the state, and validates what comes out: what a file could not say, the API cannot
/// say either.
fn try_out(state: &Replicated, author: &str, body: &ConfigChanges) -> Result<Arc<Replicated>, ApiError> {
    let read = Read { object: Object::Config, version: state.revision };
    if body.revision != state.revision {
        return Err(ApiError::stale(&read));
    }
    let mut next = state.clone();
    let command = Command::Configure(body.changes.clone());
    let proposal = Proposal { reads: vec![read], cause: Cause::Operator(author.into()), command };
    match next.apply(state.generation.index + 1, &Entry { time: state.time, proposal: proposal.into() }) {
        Outcome::Applied(_) => {}
        Outcome::Stale(read) => return Err(ApiError::stale(&read)),
        Outcome::Refused(text) => return Err(ApiError::refused(&text)),
    }
    let problems = ClusterConfig::current(&next).validate();
    match problems.has_errors() {
        true => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "invalid",
            problems.to_string(),
            "correct the fields that are named; `zonekeeper check` shows the lines",
        )),
        false => Ok(Arc::new(next)),
    }
}

fn split(changes: Vec<Change>) -> Result<Vec<Vec<Change>>, ApiError> {
    stages(changes).map_err(|e| ApiError::refused(&e.to_string()))
}

/// Writes changes in one entry, or staged when they are larger than one, visible at one index either way.
pub(super) async fn write_changes<N: Needs>(
    caller: &Caller<N>,
    api: &Api,
    reads: Vec<Read>,
    changes: Vec<Change>,
) -> Result<Written, ApiError> {
    let mut parts = split(changes)?;
    if parts.len() <= 1 {
        let changes = parts.pop().unwrap_or_default();
        return caller.write_on(api, reads, Command::Configure(changes)).await;
    }
    let id = stage_id()?;
    let count = parts.len() as u32;
    if let Err(error) = api.handles.consensus.stage(&caller.name, id, parts, |_| ()).await {
        // The stage would expire by itself; this only frees its place earlier.
        let _ = caller.write_quick(api, Command::Abort { id }).await;
        return Err(error.into());
    }
    match caller.write_on(api, reads, Command::Commit { id, parts: count }).await {
        Err(error) if error.status != StatusCode::GATEWAY_TIMEOUT => {
            let _ = caller.write_quick(api, Command::Abort { id }).await;
            Err(error)
        }
        answer => answer,
    }
}

/// Random, so that two authors never share a stage.
fn stage_id() -> Result<u64, ApiError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "random", e.to_string(), "see the node's log")
    })?;
    Ok(u64::from_le_bytes(bytes))
}

/// Services that are answered from other sites afterwards.
fn moves(before: &Replicated, after: &Replicated) -> Vec<String> {
    let mut out = Vec::new();
    for (id, service) in &after.services {
        for (family, held) in &service.assignment {
            let old = before.services.get(id).and_then(|s| s.assignment.get(family)).map(|a| &a.sites[..]);
            if old != Some(&held.sites[..]) {
                let list = |s: &[zonekeeper_core::id::SiteId]| {
                    if s.is_empty() {
                        "nothing".into()
                    } else {
                        s.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", ")
                    }
                };
                let family = if *family == zonekeeper_core::model::Family::V4 { "IPv4" } else { "IPv6" };
                out.push(format!(
                    "service {id} ({family}): {} -> {}",
                    list(old.unwrap_or_default()),
                    list(&held.sites)
                ));
            }
        }
    }
    out
}
