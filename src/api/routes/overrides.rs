//! Overrides: drain, force up, force down, release.

use super::Routes;
use crate::{
    api::Api,
    auth::{Caller, ToOperate},
    error::ApiError,
    extract::{Body, Query, View},
    wire::{self, NewOverride, Override, Scope, Seen, Written, stamp},
};
use axum::{Json, extract::State};
use zonekeeper_core::{
    Command,
    entry::{self},
};

/// Longest reason, in bytes: it stands in every entry and snapshot.
const MAX_REASON: usize = 500;
/// Longest life of an override, in seconds: a year; what is meant for ever has no expiry.
const MAX_LIFE_S: u64 = 366 * 86_400;

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list).add(__path_put, put).add(__path_release, release)
}

/// All overrides in force. Role: read.
#[utoipa::path(get, path = "/v1/overrides", tag = "overrides", responses((status = 200, body = Seen<Vec<Override>>)))]
async fn list(view: View) -> Json<Seen<Vec<Override>>> {
    view.seen(view.published.state.overrides.values().map(|o| show_one(o)).collect())
}

/// An override as it goes over the wire.
pub(super) fn show_one(o: &entry::Override) -> Override {
    Override {
        scope: (&o.scope).into(),
        force: o.force,
        author: o.author.clone(),
        reason: o.reason.clone(),
        expires: o.expires.map(stamp),
    }
}

/// Drains or forces a site, a service at a site, or a backend. Role: operate.
#[utoipa::path(put, path = "/v1/overrides", tag = "overrides", request_body = NewOverride,
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn put(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Body(new): Body<NewOverride>,
) -> Result<Json<Written>, ApiError> {
    let scope = new.scope.try_into().map_err(ApiError::bad_request)?;
    if !(1..=MAX_REASON).contains(&new.reason.trim().len()) {
        return Err(ApiError::refused(
            "a reason of 1 to 500 bytes is needed; say why, for whoever finds it later",
        ));
    }
    if new.expires_in_s.is_some_and(|s| !(1..=MAX_LIFE_S).contains(&s)) {
        return Err(ApiError::refused("an override lives 1 s to 366 days; leave the expiry out for longer"));
    }
    let expires = new.expires_in_s.map(|s| api.handles.log_now().plus(s * 1000));
    let (author, reason) = (caller.name.clone(), new.reason.trim().to_owned());
    let over = entry::Override { scope, force: new.force, author, reason, expires };
    Ok(Json(caller.write(&api, Command::Override(over)).await?))
}

/// Takes an override back. Role: operate.
#[utoipa::path(delete, path = "/v1/overrides", tag = "overrides", params(Scope),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn release(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Query(scope): Query<Scope>,
) -> Result<Json<Written>, ApiError> {
    let scope = scope.try_into().map_err(ApiError::bad_request)?;
    Ok(Json(caller.write(&api, Command::Release(scope)).await?))
}
