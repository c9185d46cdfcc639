//! System calls that std does not wrap: signals to single processes that we started ourselves, namespaces, a clock.
#![allow(
    unsafe_code,
    reason = "kill(2), sigaction(2), prlimit(2), setns(2), clock_gettime(2) and geteuid(2) have no safe wrapper in std"
)]

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    process::Child,
    ptr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

/// A signal to a child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGSTOP.
    Stop,
    /// SIGCONT.
    Continue,
}

/// Sends a signal to a child that was not reaped yet, so that its id is still its own.
pub fn send(child: &Child, signal: Signal) {
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    };
    // SAFETY: no pointers; the id is that of our own child, which is not reaped while we hold `child`.
    unsafe { libc::kill(child.id() as libc::pid_t, number) };
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    if INTERRUPTED.swap(true, Relaxed) {
        // SAFETY: _exit(2) is async-signal-safe, and nothing of this process is used after it.
        unsafe { libc::_exit(130) };
    }
}

/// From now on Ctrl-C and SIGTERM end every wait of a laboratory with an error, so that whoever holds it drops it and
/// nothing is left behind. A second one ends the program at once.
pub fn mind_signals() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: all zero is a valid sigaction: no flags, an empty mask, the default action.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = note as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        // SAFETY: the action outlives the call; its handler does nothing but swap an atomic and exit,
        // which is async-signal-safe.
        if unsafe { libc::sigaction(signal, &action, ptr::null_mut()) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Whether such a signal has come.
pub fn interrupted() -> bool {
    INTERRUPTED.load(Relaxed)
}

/// Lets a child open nothing beyond what is open, or as much as it may.
pub(crate) fn starve(child: &Child, starve: bool) -> io::Result<()> {
    let (id, which) = (child.id() as libc::pid_t, libc::RLIMIT_NOFILE);
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointers are null or to a value of ours that outlives the call; the id is that of our own child.
    if unsafe { libc::prlimit(id, which, ptr::null(), &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // a limit below what is open closes nothing, but nothing more is opened
    limit.rlim_cur = if starve { 3 } else { limit.rlim_max };
    // SAFETY: as above.
    match unsafe { libc::prlimit(id, which, &limit, ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// SIGKILL to a process that a dead laboratory left in a namespace of its own.
pub(crate) fn kill(pid: i32) {
    if pid > 1 {
        // SAFETY: no pointers. Such an id names one process.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
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
