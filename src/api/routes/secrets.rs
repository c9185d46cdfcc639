//! The common secrets: how far their rollovers are, new ones, another cluster key. The secrets are shown to nobody.

use super::Routes;
use crate::{
    api::Api,
    auth::{Caller, ToAdmin},
    error::ApiError,
    extract::{Path, View, linearize},
    handles::Handles,
    wire::{self, CommonSecret, CommonSecrets, Seen, Written, stamp},
};
use axum::{Json, extract::State, http::StatusCode};
use zonekeeper_core::{
    Command,
    cookies::CookieSecret,
    entry::Secret,
    secrets::{Ring, SINCE, SecretId},
};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_show, show).add(__path_roll, roll).add(__path_rekey, rekey)
}

/// The common secrets and how far their rollovers are; certificates have a list of their own. Role: read.
#[utoipa::path(get, path = "/v1/secrets", tag = "cluster", responses((status = 200, body = Seen<CommonSecrets>)))]
async fn show(view: View) -> Json<Seen<CommonSecrets>> {
    let state = view.published.state.clone();
    let vault = &state.secrets.vault;
    let plain = SecretId::SHARED.into_iter().filter(|id| state.unsealed(id).is_some());
    let mut secrets: Vec<CommonSecret> = plain.map(|id| unsealed(&state, &id)).collect();
    let rings = vault.rings.iter().filter(|(id, _)| !matches!(id, SecretId::Certificate(_)));
    secrets.extend(rings.map(|(id, ring)| sealed(&view.api.handles, id, ring)));
    let data = CommonSecrets {
        key: vault.key.map(|key| key.to_string()),
        held: vault.key.is_none_or(|key| view.api.handles.keyring.has(key)),
        replacing: vault.exposed,
        secrets,
    };
    view.seen(data)
}

fn unsealed(state: &zonekeeper_core::State, id: &SecretId) -> CommonSecret {
    let cookies = state.secrets.cookies;
    let step = match (id, cookies.staged, cookies.previous) {
        (SecretId::DnsCookie, Some(_), _) => "staged",
        (SecretId::DnsCookie, None, Some(_)) => "retiring",
        _ => "settled",
    };
    let (since, next) = match id {
        SecretId::DnsCookie => (Some(stamp(cookies.since)), cookies.due().map(stamp)),
        _ => (None, None),
    };
    let (name, url) = (id.to_string(), None);
    CommonSecret { name, url, step: step.into(), since, next, key: None, opens: true, known: true }
}

fn sealed(handles: &Handles, id: &SecretId, ring: &Ring) -> CommonSecret {
    let step = match (&ring.staged, &ring.previous) {
        (Some(_), _) => "staged",
        (None, Some(_)) => "retiring",
        (None, None) => "settled",
    };
    let url = match id {
        SecretId::Webhook(url) => Some(crate::webhook::origin(url)),
        _ => None,
    };
    CommonSecret {
        name: id.to_string(),
        url,
        step: step.into(),
        since: Some(stamp(ring.since)),
        next: ring.due(id).map(stamp),
        key: Some(ring.active.key.to_string()),
        opens: ring.all().all(|s| handles.keyring.open(s.key, &id.context(), &s.bytes).is_some()),
        known: ring.known,
    }
}

/// Begins a rollover of `dns-cookie` or `session`: the new secret is accepted at once, used a minute later, and the old
/// one ends when nothing that was made with it is good any more (an hour; a day). Role: admin.
#[utoipa::path(post, path = "/v1/secrets/{name}/roll", tag = "cluster",
    params(("name" = String, Path, description = "`dns-cookie` or `session`")),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn roll(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Written>, ApiError> {
    linearize(&api).await?;
    let id = SecretId::SHARED.into_iter().find(|id| id.to_string() == name);
    let id = id.ok_or_else(|| {
        ApiError::refused(&format!("{name:?} is no secret that is rolled; give dns-cookie or session"))
    })?;
    let command = match (&id, api.handles.published.load().state.cluster_version < SINCE) {
        (SecretId::DnsCookie, true) => Command::RollCookies(CookieSecret(random()?)),
        (_, true) => Command::PutSecret(Secret(random()?)),
        (SecretId::DnsCookie, false) => put(&api, id, &random::<16>()?)?,
        (_, false) => put(&api, id, &random::<32>()?)?,
    };
    Ok(Json(caller.write(&api, command).await?))
}

/// Replaces the cluster key: the members get another one, and every secret is sealed anew and rolled. The keys of
/// webhooks and certificates stay, marked. Happens by itself when a member was removed. Role: admin.
#[utoipa::path(post, path = "/v1/cluster/rekey", tag = "cluster",
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn rekey(caller: Caller<ToAdmin>, State(api): State<Api>) -> Result<Json<Written>, ApiError> {
    Ok(Json(caller.write(&api, Command::Rekey).await?))
}

fn random<const N: usize>() -> Result<[u8; N], ApiError> {
    let mut secret = [0; N];
    getrandom::fill(&mut secret).map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "random", e.to_string(), "see the node's log")
    })?;
    Ok(secret)
}

/// The command that puts a secret, sealed on this node.
pub(super) fn put(api: &Api, id: SecretId, plain: &[u8]) -> Result<Command, ApiError> {
    let state = api.handles.published.load().state.clone();
    let vault = &state.secrets.vault;
    let sealed = vault.key.and_then(|key| Some((key, api.handles.keyring.seal(key, &id.context(), plain)?)));
    let (key, bytes) = sealed.ok_or_else(|| {
        ApiError::refused(
            "this node lacks the cluster key, so it cannot seal a secret; ask another node, or try again",
        )
    })?;
    let after = vault.rings.get(&id).map(Ring::newest);
    Ok(Command::PutSealed { id, after, key, bytes })
}
