//! The server's shared part: handles and limits.

use crate::handles::Handles;
use std::{ops::Deref, sync::Arc};
use tokio::sync::Semaphore;

/// Requests at once. The API is for people and their tools; a few dozen at once is a flood.
const MAX_REQUESTS: usize = 64;
/// Event streams at once: each holds a connection and a place in the ring of events.
const MAX_STREAMS: usize = 32;

/// What every handler has. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Api(Arc<Inner>);

/// See [`Api`].
pub(crate) struct Inner {
    pub(crate) handles: Handles,
    pub(crate) requests: Semaphore,
    pub(crate) streams: Arc<Semaphore>,
    /// One body of hundreds of megabytes at a time.
    pub(crate) bulk: Arc<Semaphore>,
    /// The OpenAPI document, made once.
    pub(crate) document: String,
}

impl Deref for Api {
    type Target = Inner;
    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Api {
    pub(crate) fn new(handles: Handles, document: String) -> Api {
        Api(Arc::new(Inner {
            handles,
            requests: Semaphore::new(MAX_REQUESTS),
            streams: Arc::new(Semaphore::new(MAX_STREAMS)),
            bulk: Arc::new(Semaphore::new(1)),
            document,
        }))
    }
}
