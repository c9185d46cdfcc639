//! The one clock of this crate: log time for the entries that this node proposes as the leader.

use std::{
    sync::{Mutex, PoisonError},
    time::{Instant, SystemTime, UNIX_EPOCH},
};
use zonekeeper_core::time::{LogClock, LogTime, Mono};

/// Log time as this node counts it.
pub(crate) struct Clock {
    origin: Instant,
    log: Mutex<LogClock>,
}

impl Clock {
    /// A clock that has seen the time of a state.
    pub(crate) fn new(seen: LogTime) -> Clock {
        let clock = Clock { origin: Instant::now(), log: Mutex::default() };
        clock.applied(seen);
        clock
    }

    /// The last applied entry has this time.
    pub(crate) fn applied(&self, time: LogTime) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.applied(time, self.mono());
    }

    /// The time for an entry proposed now.
    pub(crate) fn stamp(&self) -> LogTime {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        self.log.lock().unwrap_or_else(PoisonError::into_inner).stamp(self.mono(), wall)
    }

    /// Milliseconds since this clock was made.
    pub(crate) fn mono(&self) -> Mono {
        Mono(self.origin.elapsed().as_millis() as u64)
    }
}
