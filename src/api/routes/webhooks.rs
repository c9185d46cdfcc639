//! Webhooks: where decisions are announced.

use super::{Routes, secrets};
use crate::{
    api::Api,
    auth::{Caller, Secret, ToAdmin},
    error::ApiError,
    extract::{Body, Query, View},
    wire::{self, NewWebhook, Seen, Webhook, WebhookSecret, Written},
};
use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;
use zonekeeper_core::{
    Command, entry,
    secrets::{SINCE, SecretId},
};

/// Webhooks of a cluster: each is called for every announcement.
const MAX_WEBHOOKS: usize = 16;
/// Longest URL, in bytes.
const MAX_URL: usize = 2000;

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list).add(__path_put, put).add(__path_remove, remove)
}

/// All webhooks, without their keys. Role: admin.
#[utoipa::path(get, path = "/v1/webhooks", tag = "access", responses((status = 200, body = Seen<Vec<Webhook>>)))]
async fn list(_: Caller<ToAdmin>, view: View) -> Json<Seen<Vec<Webhook>>> {
    view.seen(view.published.state.webhooks.keys().map(|url| Webhook { url: url.clone() }).collect())
}

/// Makes or replaces a webhook. The answer holds its key, once. Role: admin.
#[utoipa::path(put, path = "/v1/webhooks", tag = "access", request_body = NewWebhook,
    responses((status = 200, body = WebhookSecret), (status = 422, body = wire::ErrorBody)))]
async fn put(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Body(new): Body<NewWebhook>,
) -> Result<Json<WebhookSecret>, ApiError> {
    check(&new)?;
    let hooks = &api.handles.published.load().state.webhooks;
    if hooks.len() >= MAX_WEBHOOKS && !hooks.contains_key(&new.url) {
        return Err(ApiError::refused("there are 16 webhooks already; remove one first"));
    }
    let secret = match new.secret {
        Some(secret) => secret,
        None => Secret::generate().map(|s| s.text().to_owned()).map_err(|e| {
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "random", e.to_string(), "see the node's log")
        })?,
    };
    let command = match api.handles.published.load().state.cluster_version < SINCE {
        true => Command::PutWebhook(entry::Webhook { url: new.url.clone(), secret: secret.clone() }),
        false => secrets::put(&api, SecretId::Webhook(new.url.clone()), secret.as_bytes())?,
    };
    caller.write(&api, command).await?;
    Ok(Json(WebhookSecret { url: new.url, secret }))
}

fn check(new: &NewWebhook) -> Result<(), ApiError> {
    let rest = new.url.strip_prefix("http://").or_else(|| new.url.strip_prefix("https://"));
    let named = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    if !named || reqwest::Url::parse(&new.url).is_err() {
        return Err(ApiError::refused(&format!(
            "{:?} is not a URL that can be called; it begins with https:// or http:// and names a host",
            new.url.chars().take(100).collect::<String>()
        )));
    }
    if new.url.len() > MAX_URL {
        return Err(ApiError::refused("the URL has more than 2000 bytes; choose a shorter one"));
    }
    if new.secret.as_ref().is_some_and(|s| !(16..=256).contains(&s.len())) {
        return Err(ApiError::refused("a key has 16 to 256 bytes; leave it out and one is made"));
    }
    Ok(())
}

#[derive(Deserialize, IntoParams)]
struct ByUrl {
    /// The webhook's URL.
    url: String,
}

/// Removes a webhook. Role: admin.
#[utoipa::path(delete, path = "/v1/webhooks", tag = "access", params(ByUrl),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn remove(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Query(which): Query<ByUrl>,
) -> Result<Json<Written>, ApiError> {
    Ok(Json(caller.write(&api, Command::RemoveWebhook(which.url)).await?))
}
