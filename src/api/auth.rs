//! Who asks: bearer tokens (RFC 6750 §2.1), their roles, and new secrets.

use crate::{api::Api, error::ApiError, wire::hex};
use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use std::{io, marker::PhantomData, net::SocketAddr, sync::Arc};
use zonekeeper_core::{
    State as Replicated,
    entry::{Role, Token},
    time::LogTime,
};

/// First part of a token's text, so that a leaked one is recognised.
const PREFIX: &str = "zk_";
/// Longest secret that is looked at, in bytes.
const MAX_SECRET: usize = 256;
/// Paths that answer without a token, with one word.
pub(crate) const OPEN: [&str; 2] = ["/healthz", "/readyz"];

/// A new bearer secret of 256 random bits. The cluster keeps its hash only.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A new one.
    pub fn generate() -> io::Result<Secret> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes).map_err(|e| io::Error::other(e.to_string()))?;
        Ok(Secret(format!("{PREFIX}{}", hex(&bytes))))
    }

    /// The text that goes to its owner.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// What the replicated state holds.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.0)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret") // stays out of logs
    }
}

/// SHA-256 of a bearer secret, as [`Token::hash`] holds it.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Equal, in a time that does not depend on where they differ.
fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0u8, |d, (x, y)| d | (x ^ y))) == 0
}

/// The token that a secret belongs to. Looks at every token, whichever fits.
fn find(state: &Replicated, secret: &str, now: LogTime) -> Option<Arc<Token>> {
    let hash = hash(secret);
    let mut found = None;
    for token in state.tokens.values() {
        if same(&token.hash, &hash) && token.expires.is_none_or(|e| e > now) {
            found = Some(token.clone());
        }
    }
    found
}

/// Whether a token that was good is so still: neither removed nor expired, nor another one under its name.
pub(crate) fn still_good(api: &Api, token: &Token) -> bool {
    let published = api.handles.published.load();
    let held = published.state.tokens.get(&token.name);
    held.is_some_and(|t| **t == *token) && token.expires.is_none_or(|e| e > api.handles.log_now())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, secret) = value.split_once(' ')?;
    let secret = secret.trim();
    (scheme.eq_ignore_ascii_case("bearer") && (1..=MAX_SECRET).contains(&secret.len())).then_some(secret)
}

/// In front of everything, unknown paths included: no valid token, no information.
pub(crate) async fn gate(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let open = OPEN.contains(&path) || path == "/metrics" && metrics_open(&api, &request);
    if !open {
        let state = api.handles.published.load().state.clone();
        let token = bearer(request.headers()).and_then(|s| find(&state, s, api.handles.log_now()));
        let Some(token) = token else { return ApiError::unauthorized().into_response() };
        request.extensions_mut().insert(token);
    }
    next.run(request).await
}

fn metrics_open(api: &Api, request: &Request) -> bool {
    let from = request.extensions().get::<crate::server::From>();
    api.handles.open_metrics && from.is_some_and(|f: &crate::server::From| is_loopback(f.0))
}

fn is_loopback(addr: SocketAddr) -> bool {
    addr.ip().to_canonical().is_loopback()
}

/// A role that a handler asks for.
pub(crate) trait Needs: Send {
    const ROLE: Role;
}

/// Sees everything but secrets.
pub(crate) struct ToRead;
/// Drains, forces, moves, edits records of API zones.
pub(crate) struct ToOperate;
/// Changes configuration, members and tokens.
pub(crate) struct ToAdmin;

impl Needs for ToRead {
    const ROLE: Role = Role::Read;
}
impl Needs for ToOperate {
    const ROLE: Role = Role::Operate;
}
impl Needs for ToAdmin {
    const ROLE: Role = Role::Admin;
}

/// A caller whose token has at least the needed role. A handler that has no such argument is refused by a test.
pub(crate) struct Caller<N> {
    /// The token's name: the author of what is done.
    pub(crate) name: String,
    /// What it allows.
    pub(crate) role: Role,
    needs: PhantomData<N>,
}

pub(crate) fn role_name(role: Role) -> &'static str {
    match role {
        Role::Read => "read",
        Role::Operate => "operate",
        Role::Admin => "admin",
    }
}

impl<N: Needs> Caller<N> {
    /// Some requests need more than their path does.
    pub(crate) fn require(&self, role: Role) -> Result<(), ApiError> {
        if self.role >= role {
            Ok(())
        } else {
            Err(ApiError::forbidden(role_name(role), role_name(self.role)))
        }
    }
}

impl<N: Needs, S: Sync> FromRequestParts<S> for Caller<N> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let token = parts.extensions.get::<Arc<Token>>().ok_or_else(ApiError::unauthorized)?;
        let caller = Caller { name: token.name.clone(), role: token.role, needs: PhantomData };
        caller.require(N::ROLE)?;
        Ok(caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(secret: &Secret, expires: Option<LogTime>) -> Replicated {
        let mut state = Replicated::default();
        let token = Token { name: "t".into(), hash: secret.hash(), role: Role::Read, expires };
        state.tokens.insert("t".into(), Arc::new(token));
        state
    }

    #[test]
    fn a_secret_finds_its_token_until_it_expires() {
        let secret = Secret::generate().unwrap();
        let state = token(&secret, Some(LogTime(100)));
        assert!(find(&state, secret.text(), LogTime(99)).is_some());
        assert!(find(&state, secret.text(), LogTime(100)).is_none());
        assert!(find(&state, &secret.text()[1..], LogTime(0)).is_none());
        assert!(find(&state, "", LogTime(0)).is_none());
    }

    #[test]
    fn only_a_bearer_header_of_bounded_length_is_looked_at() {
        let of = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, text.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(of("Bearer zk_1"), Some("zk_1".into()));
        assert_eq!(of("bearer zk_1"), Some("zk_1".into()));
        assert_eq!(of("Basic zk_1"), None);
        assert_eq!(of("Bearer"), None);
        assert_eq!(of(&format!("Bearer {}", "x".repeat(MAX_SECRET + 1))), None);
    }

    #[test]
    fn secrets_do_not_show_in_logs() {
        assert_eq!(format!("{:?}", Secret::generate().unwrap()), "Secret");
    }
}
