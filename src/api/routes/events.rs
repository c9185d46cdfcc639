//! The live event stream: Server-Sent Events (WHATWG HTML §9.2).

use super::Routes;
use crate::{
    api::Api,
    auth,
    error::ApiError,
    events,
    extract::View,
    wire::{self, Event},
};
use axum::{
    Extension,
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
};
use futures_util::stream;
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio::sync::{OwnedSemaphorePermit, broadcast::Receiver};
use zonekeeper_core::entry::Token;

/// A comment is sent after so much silence, so that a dead connection is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How often a silent stream's token is looked at.
const TOKEN_LOOK: Duration = Duration::from_secs(1);

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_stream_events, stream_events)
}

/// Events as they happen (`text/event-stream`). The id is the log index; with `Last-Event-ID` the decisions at that index
/// and since come first, so that some come twice (with the same `id` in the data) and none is missed. A reader that falls
/// 1024 events behind is cut off, and so is one whose token is removed or expires. Role: read.
#[utoipa::path(get, path = "/v1/events", tag = "decisions", operation_id = "stream",
    responses((status = 200, description = "A stream of events", body = Event, content_type = "text/event-stream"),
        (status = 503, body = wire::ErrorBody)))]
async fn stream_events(
    view: View,
    Extension(token): Extension<Arc<Token>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let api = &view.api;
    let permit = api.streams.clone().try_acquire_owned().map_err(|_| ApiError::busy("event streams"))?;
    let news = api.handles.events.subscribe(); // before looking back, so that nothing falls in between
    let last = headers.get("last-event-id").and_then(|v| v.to_str().ok()?.parse().ok());
    let missed = last.map_or_else(VecDeque::new, |index| decisions_since(api, index));
    let reader = Reader { api: api.clone(), token, missed, news, _permit: permit };
    let events = stream::unfold(reader, |mut reader| async move {
        let event = reader.next().await?;
        Some((Ok::<_, Infallible>(encode(&event)), reader))
    });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

/// One reader of the stream.
struct Reader {
    api: Api,
    token: Arc<Token>,
    missed: VecDeque<Arc<Event>>,
    news: Receiver<Arc<Event>>,
    _permit: OwnedSemaphorePermit,
}

impl Reader {
    /// None: too slow, the token is no longer good, or the node stops.
    async fn next(&mut self) -> Option<Arc<Event>> {
        loop {
            let news = match self.missed.pop_front() {
                Some(event) => Ok(Some(event)),
                None => tokio::time::timeout(TOKEN_LOOK, self.news.recv()).await.map(Result::ok),
            };
            if !auth::still_good(&self.api, &self.token) {
                return None;
            }
            if let Ok(event) = news {
                return event;
            }
        }
    }
}

fn decisions_since(api: &Api, index: u64) -> VecDeque<Arc<Event>> {
    let state = api.handles.published.load().state.clone();
    let newer = state.history.iter().filter(|d| d.epoch.index >= index);
    newer.map(|d| Arc::new(events::decision(api.handles.node, d))).collect()
}

fn encode(event: &Event) -> sse::Event {
    let data = serde_json::to_string(event).unwrap_or_default();
    sse::Event::default().id(event.generation.index.to_string()).event(event.kind.name()).data(data)
}
