//! Tokens: who may do what.

use super::Routes;
use crate::{
    api::Api,
    auth::{Caller, Secret, ToAdmin},
    error::ApiError,
    extract::{Body, Path, View, linearize},
    wire::{self, NewToken, Seen, Token, TokenSecret, Written, stamp},
};
use axum::{Json, extract::State, http::StatusCode};
use zonekeeper_core::{
    Command, State as Replicated,
    entry::{self, Role},
    time::LogTime,
};

/// Longest life of a token with an end, in seconds: ten years.
const MAX_LIFE_S: u64 = 10 * 366 * 86_400;

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list).add(__path_create, create).add(__path_remove, remove)
}

/// All tokens, without their secrets. Role: admin.
#[utoipa::path(get, path = "/v1/tokens", tag = "access", responses((status = 200, body = Seen<Vec<Token>>)))]
async fn list(_: Caller<ToAdmin>, view: View) -> Json<Seen<Vec<Token>>> {
    let one = |t: &std::sync::Arc<entry::Token>| Token {
        name: t.name.clone(),
        role: t.role,
        expires: t.expires.map(stamp),
    };
    view.seen(view.published.state.tokens.values().map(one).collect())
}

/// Makes a token. The answer holds its secret, once. Role: admin.
#[utoipa::path(post, path = "/v1/tokens", tag = "access", request_body = NewToken,
    responses((status = 200, body = TokenSecret), (status = 422, body = wire::ErrorBody)))]
async fn create(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Body(new): Body<NewToken>,
) -> Result<Json<TokenSecret>, ApiError> {
    if !(1..=63).contains(&new.name.len()) || new.name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(ApiError::refused("a token's name has 1 to 63 bytes without spaces; choose another one"));
    }
    if new.expires_in_s.is_some_and(|s| !(1..=MAX_LIFE_S).contains(&s)) {
        return Err(ApiError::refused("a token lives 1 s to ten years; leave the expiry out for longer"));
    }
    linearize(&api).await?;
    if api.handles.published.load().state.tokens.contains_key(&new.name) {
        let text = format!("there is a token {} already; remove it first, or choose another name", new.name);
        return Err(ApiError::refused(&text));
    }
    let secret = Secret::generate().map_err(|e| {
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "random", e.to_string(), "see the node's log")
    })?;
    let expires = new.expires_in_s.map(|s| api.handles.log_now().plus(s * 1000));
    let token = entry::Token { name: new.name.clone(), hash: secret.hash(), role: new.role, expires };
    caller.write(&api, Command::PutToken(token)).await?;
    let (name, role, secret) = (new.name, new.role, secret.text().into());
    Ok(Json(TokenSecret { name, role, secret, expires: expires.map(stamp) }))
}

/// Removes a token. The last admin token stays. Role: admin.
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "access", params(("name" = String, Path)),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn remove(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<Written>, ApiError> {
    linearize(&api).await?;
    let state = api.handles.published.load().state.clone();
    if !state.tokens.contains_key(&name) {
        return Err(ApiError::not_found(format!("token {name}")));
    }
    if is_last_admin(&state, &name, api.handles.log_now()) {
        return Err(ApiError::refused(
            "this is the last admin token that does not expire; make another one first",
        ));
    }
    Ok(Json(caller.write(&api, Command::RemoveToken(name)).await?))
}

/// Whether nobody could administer the cluster any more, now or once what expires has expired.
fn is_last_admin(state: &Replicated, name: &str, now: LogTime) -> bool {
    let admin = |t: &entry::Token| t.role == Role::Admin && t.expires.is_none_or(|e| e > now);
    let lasts = |t: &entry::Token| admin(t) && t.expires.is_none();
    let others = || state.tokens.values().filter(|t| t.name != name);
    match state.tokens.get(name) {
        Some(t) if lasts(t) => !others().any(|t| lasts(t)),
        Some(t) if admin(t) => !others().any(|t| admin(t)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn state(tokens: &[(&str, Role, Option<u64>)]) -> Replicated {
        let mut state = Replicated::default();
        for (name, role, expires) in tokens {
            let expires = expires.map(LogTime);
            let token = entry::Token { name: (*name).into(), hash: [0; 32], role: *role, expires };
            state.tokens.insert((*name).into(), Arc::new(token));
        }
        state
    }

    #[test]
    fn the_last_admin_token_that_lasts_is_kept() {
        let now = LogTime(100);
        let one = state(&[("a", Role::Admin, None), ("r", Role::Read, None), ("t", Role::Admin, Some(500))]);
        assert!(is_last_admin(&one, "a", now));
        assert!(!is_last_admin(&one, "r", now));
        assert!(!is_last_admin(&one, "t", now));
        let two = state(&[("a", Role::Admin, None), ("b", Role::Admin, None)]);
        assert!(!is_last_admin(&two, "a", now));
        let expired = state(&[("a", Role::Admin, Some(50)), ("t", Role::Admin, Some(500))]);
        assert!(is_last_admin(&expired, "t", now));
    }
}
