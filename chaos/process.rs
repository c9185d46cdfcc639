//! Signals to single processes that we started ourselves.
#![allow(unsafe_code, reason = "kill(2) has no safe wrapper in std")]

use std::process::Child;

/// A signal to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// Sends a signal to a child that was not reaped yet, so that its id is still its own.
pub(crate) fn send(child: &Child, signal: Signal) {
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    };
    // SAFETY: no pointers; the id is that of our own child, which is not reaped while we hold `child`.
    unsafe { libc::kill(child.id() as libc::pid_t, number) };
}
