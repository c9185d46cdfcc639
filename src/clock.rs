//! The one place that asks what time it is; everything else receives it.

use std::{
    sync::LazyLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use zonekeeper_core::time::Mono;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// This node's monotonic clock.
pub(crate) fn mono() -> Mono {
    Mono(ORIGIN.elapsed().as_millis() as u64)
}

/// The wall clock in milliseconds since the Unix epoch: an annotation, and the target of the log clock's slew.
pub(crate) fn wall_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)
}
