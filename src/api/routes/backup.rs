//! A consistent backup of the whole replicated state.

use super::Routes;
use crate::{
    auth::{Caller, ToAdmin},
    error::ApiError,
    extract::{View, blocking},
    wire::{self, GENERATION_HEADER, Generation},
};
use axum::{
    http::StatusCode,
    response::{IntoResponse, Response},
};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_backup, backup)
}

/// The state of this node at one log index, for `zonekeeper restore`. The common secrets in it are
/// sealed (from cluster version 2 on): keep it apart from the key folders. The header `x-zonekeeper-generation` names its
/// generation. One at a time. Role: admin.
#[utoipa::path(get, path = "/v1/backup", tag = "cluster",
    responses((status = 200, description = "A backup file", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 503, body = wire::ErrorBody)))]
async fn backup(_: Caller<ToAdmin>, view: View) -> Result<Response, ApiError> {
    let api = &view.api;
    let _permit = api.bulk.clone().try_acquire_owned().map_err(|_| ApiError::busy("large bodies at once"))?;
    let consensus = api.handles.consensus.clone();
    let (generation, file) = blocking(move || consensus.backup()).await?.map_err(|e| {
        let (code, remedy) = (StatusCode::INTERNAL_SERVER_ERROR, "see the node's log");
        ApiError::new(code, "internal", format!("the state was not encoded: {e}"), remedy)
    })?;
    let generation = Generation::from(generation).to_string();
    let head = [("content-type", "application/octet-stream".to_owned()), (GENERATION_HEADER, generation)];
    Ok((head, file).into_response())
}
