//! The secret of DNS cookies: how far its rollover is, and a new one. The secrets themselves are shown to nobody.

use super::Routes;
use crate::{
    api::Api,
    auth::{Caller, ToAdmin},
    error::ApiError,
    extract::View,
    wire::{self, CookieRollover, Seen, Written, stamp},
};
use axum::{Json, extract::State, http::StatusCode};
use zonekeeper_core::{Command, cookies::CookieSecret};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_show, show).add(__path_roll, roll)
}

/// How far the rollover of the cookie secret is. Role: read.
#[utoipa::path(get, path = "/v1/cookies", tag = "cluster", responses((status = 200, body = Seen<CookieRollover>)))]
async fn show(view: View) -> Json<Seen<CookieRollover>> {
    let cookies = view.published.state.cookies;
    let step = match (cookies.active, cookies.staged, cookies.previous) {
        (None, ..) => "none shared",
        (_, Some(_), _) => "staged",
        (_, None, Some(_)) => "retiring",
        (_, None, None) => "settled",
    };
    let since = cookies.active.map(|_| stamp(cookies.since));
    view.seen(CookieRollover { step: step.into(), since, next: cookies.due().map(stamp) })
}

/// Begins a rollover: the new secret is accepted at once, used a minute later, and the old one ends an hour after that.
/// Role: admin.
#[utoipa::path(post, path = "/v1/cookies/roll", tag = "cluster",
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn roll(caller: Caller<ToAdmin>, State(api): State<Api>) -> Result<Json<Written>, ApiError> {
    let mut secret = [0; 16];
    getrandom::fill(&mut secret).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "random", e.to_string(), "see the node's log")
    })?;
    Ok(Json(caller.write(&api, Command::RollCookies(CookieSecret(secret))).await?))
}
