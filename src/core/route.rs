//! The proxy table: listeners, routes and pools as one site's node sees them.

use crate::{id::SiteId, state::State};

/// Everything that a node's proxy routes by, immutable.
#[derive(Debug, Clone, Default)]
pub struct ProxyTable {}

impl ProxyTable {
    /// Builds the table of a state for the proxies of one site.
    pub fn build(_state: &State, _site: &SiteId) -> ProxyTable {
        ProxyTable {}
    }
}
