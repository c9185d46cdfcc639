//! Raft before the data path: a flood on DNS or proxy must not delay a heartbeat.
#![allow(unsafe_code, reason = "setpriority(2) for a single thread has no safe wrapper in our dependencies")]

use std::sync::Once;

/// How much nicer the control plane's threads are treated than the data path's.
const CONTROL_NICE: libc::c_int = -10;

/// Raises the calling thread above the data path. Needs `CAP_SYS_NICE`; without it all threads stay equal, which is
/// said once.
pub(crate) fn control() {
    // SAFETY: no pointers; `who` 0 is the calling thread (setpriority(2), "C library/kernel differences").
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, CONTROL_NICE) };
    static SAID: Once = Once::new();
    if done != 0 {
        SAID.call_once(|| {
            tracing::info!("no CAP_SYS_NICE: Raft's threads have no priority over the data path's")
        });
    }
}

/// Puts the calling thread back among equals.
pub(crate) fn data() {
    // SAFETY: as above; going back to 0 from a negative value is always allowed.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 0) };
}
