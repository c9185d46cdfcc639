//! What every reader on a node sees: one generation, one swap.

use crate::{
    answer::DnsTable,
    route::ProxyTable,
    state::{Generation, State},
};
use alloc::sync::Arc;

/// The one publication of a node. `control` is its only writer; DNS, proxy and API read it.
#[derive(Debug, Clone)]
pub struct Published {
    /// Version of everything below.
    pub generation: Generation,
    /// The replicated state.
    pub state: Arc<State>,
    /// What DNS answers from.
    pub dns: Arc<DnsTable>,
    /// What the proxy routes by.
    pub proxy: Arc<ProxyTable>,
}
