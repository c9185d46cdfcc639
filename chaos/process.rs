//! System calls that std does not wrap: signals to single processes that we started ourselves, namespaces, a clock.
#![allow(
    unsafe_code,
    reason = "kill(2), setns(2), clock_gettime(2) and geteuid(2) have no safe wrapper in std"
)]

use std::{fs::File, io, os::fd::AsRawFd as _, process::Child};

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

/// Moves the calling thread into a network namespace; what it starts from now on is there too.
pub(crate) fn enter(space: &File) -> io::Result<()> {
    // SAFETY: no pointers; the descriptor is open while `space` is borrowed.
    match unsafe { libc::setns(space.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// CLOCK_MONOTONIC in nanoseconds, which `Instant` does not show.
pub(crate) fn monotonic_ns() -> io::Result<i64> {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a value of ours that outlives the call.
    match unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) } {
        0 => Ok(now.tv_sec * 1_000_000_000 + now.tv_nsec),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether we run as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: takes nothing and cannot fail.
    unsafe { libc::geteuid() == 0 }
}
