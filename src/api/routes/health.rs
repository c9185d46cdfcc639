//! Liveness, readiness, metrics.

use super::Routes;
use crate::{api::Api, metrics};
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_healthz, healthz).add(__path_readyz, readyz).add(__path_scrape, scrape)
}

/// Whether the process answers. Needs no token.
#[utoipa::path(get, path = "/healthz", tag = "meta", security(()),
    responses((status = 200, description = "It does", body = String)))]
async fn healthz() -> &'static str {
    "ok"
}

/// Whether the node answers from a state, with DNS and proxy bound. Needs no token.
#[utoipa::path(get, path = "/readyz", tag = "meta", security(()),
    responses((status = 200, description = "It does", body = String), (status = 503, description = "It does not yet")))]
async fn readyz(State(api): State<Api>) -> Response {
    match api.handles.is_ready() {
        true => "ok".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready").into_response(),
    }
}

/// Metrics for Prometheus. Role: read, unless the node opens them on loopback.
#[utoipa::path(get, path = "/metrics", tag = "meta",
    responses((status = 200, description = "Text exposition 0.0.4", body = String)))]
async fn scrape(State(api): State<Api>) -> Response {
    // The gate has seen a valid token, or decided that none is needed; any role may read.
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], metrics::text(&api.handles))
        .into_response()
}
