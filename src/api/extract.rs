//! What handlers take: bodies, paths and queries with our error shape; a consistent view; a way to write.

use crate::{
    api::Api,
    auth::{Caller, Needs, ToRead},
    error::ApiError,
    wire::{self, Seen, Written},
};
use axum::{
    Json,
    body::Bytes,
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, request::Parts},
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};
use tokio::sync::OwnedSemaphorePermit;
use zonekeeper_core::{Command, Outcome, Proposal, Published, entry::Cause, entry::Read};

/// How long a read waits for a quorum to confirm it, or for this node to catch up.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// How long a write is answered later, so that its author reads it back from the same node.
const PUBLISH_WITHIN: Duration = Duration::from_secs(1);
/// From one look at the publication to the next while waiting for it.
const PUBLISH_LOOK: Duration = Duration::from_millis(2);

/// A JSON body.
#[derive(FromRequest)]
#[from_request(via(Json), rejection(ApiError))]
pub(crate) struct Body<T>(pub(crate) T);

/// A large JSON body: one at a time, and read off the runtime, which has heartbeats to send.
pub(crate) struct Bulk<T>(pub(crate) T, pub(crate) OwnedSemaphorePermit);

impl<T: DeserializeOwned + Send + 'static> FromRequest<Api> for Bulk<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, api: &Api) -> Result<Self, ApiError> {
        let permit =
            api.bulk.clone().try_acquire_owned().map_err(|_| ApiError::busy("large bodies at once"))?;
        let bytes = Bytes::from_request(request, api).await?;
        let value = blocking(move || serde_json::from_slice(&bytes)).await?;
        Ok(Bulk(value.map_err(|e| ApiError::bad_request(e.to_string()))?, permit))
    }
}

/// Runs what takes long on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|e| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            format!("a task failed: {e}"),
            "see the node's log",
        )
    })
}

/// Path parameters.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Path), rejection(ApiError))]
pub(crate) struct Path<T>(pub(crate) T);

/// The query string.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(ApiError))]
pub(crate) struct Query<T>(pub(crate) T);

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Consistency {
    /// What this node has published, with its age.
    #[default]
    Local,
    /// Everything that was committed anywhere when the request came in.
    Linearizable,
}

#[derive(Deserialize, Default)]
struct ConsistencyQuery {
    #[serde(default)]
    consistency: Consistency,
}

/// A caller who may read, with the publication to read from.
pub(crate) struct View {
    /// What to read from.
    pub(crate) published: Arc<Published>,
    /// The node.
    pub(crate) api: Api,
    age_ms: Option<u64>,
}

impl View {
    /// The answer, with generation and age.
    pub(crate) fn seen<T>(&self, data: T) -> Json<Seen<T>> {
        Json(Seen { generation: self.published.generation.into(), age_ms: self.age_ms, data })
    }
}

impl FromRequestParts<Api> for View {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<View, ApiError> {
        Caller::<ToRead>::from_request_parts(parts, api).await?;
        let query = Query::<ConsistencyQuery>::from_request_parts(parts, api).await?.0;
        let age_ms = match query.consistency {
            Consistency::Local => api.handles.consensus.status().quorum_age_ms,
            Consistency::Linearizable => {
                linearize(api).await?;
                Some(0)
            }
        };
        Ok(View { published: api.handles.published.load_full(), api: api.clone(), age_ms })
    }
}

/// Waits until this node has published everything that was committed anywhere when this was called.
pub(crate) async fn linearize(api: &Api) -> Result<(), ApiError> {
    let index = api.handles.consensus.read_index(READ_WITHIN).await?;
    if wait_published(api, index, READ_WITHIN).await {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "behind",
        format!("this node has not published index {index} in time"),
        "try again, or read without consistency=linearizable",
    ))
}

async fn wait_published(api: &Api, index: u64, within: Duration) -> bool {
    let wait = async {
        while api.handles.published.load().generation.index < index {
            tokio::time::sleep(PUBLISH_LOOK).await;
        }
    };
    tokio::time::timeout(within, wait).await.is_ok()
}

impl<N: Needs> Caller<N> {
    /// Writes a command in the caller's name.
    pub(crate) async fn write(&self, api: &Api, command: Command) -> Result<Written, ApiError> {
        self.write_on(api, Vec::new(), command).await
    }

    /// Writes a command that depends on what was read.
    pub(crate) async fn write_on(
        &self,
        api: &Api,
        reads: Vec<Read>,
        command: Command,
    ) -> Result<Written, ApiError> {
        let index = self.propose(api, reads, command).await?;
        Ok(written(api, index).await)
    }

    /// Writes a command of which nothing will be read: one part of several.
    pub(crate) async fn write_quick(&self, api: &Api, command: Command) -> Result<u64, ApiError> {
        self.propose(api, Vec::new(), command).await
    }

    async fn propose(&self, api: &Api, reads: Vec<Read>, command: Command) -> Result<u64, ApiError> {
        let proposal = Proposal { reads, cause: Cause::Operator(self.name.clone()), command };
        let (index, outcome) = api.handles.consensus.propose(proposal).await?;
        match outcome {
            Outcome::Applied(_) => Ok(index),
            Outcome::Stale(read) => Err(ApiError::stale(&read)),
            Outcome::Refused(text) => Err(ApiError::refused(&text)),
        }
    }
}

/// The answer to a write at this index, given once this node has published it or after a second.
pub(crate) async fn written(api: &Api, index: u64) -> Written {
    let published = wait_published(api, index, PUBLISH_WITHIN).await;
    let incarnation = api.handles.published.load().generation.incarnation;
    Written { index, generation: wire::Generation { incarnation, index }, published }
}
