//! How other threads wake a worker: an eventfd, and the tasks that shall look again.

use crate::queue::Summon;
use rustix::event::{EventfdFlags, eventfd};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{Mutex, PoisonError},
};

/// A worker's line for others.
#[derive(Debug)]
pub(crate) struct Summons {
    fd: OwnedFd,
    /// At most one entry for each place that was given back since the worker looked.
    tasks: Mutex<Vec<u32>>,
}

impl AsFd for Summons {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Summons {
    pub(crate) fn new() -> io::Result<Summons> {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Summons { fd, tasks: Mutex::default() })
    }

    /// Wakes the worker itself.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Returns the tasks that shall look.
    pub(crate) fn take(&self) -> Vec<u32> {
        let _ = rustix::io::read(&self.fd, &mut [0; 8]);
        std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Summon for Summons {
    fn summon(&self, task: u32) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let first = tasks.is_empty();
        if !tasks.contains(&task) {
            tasks.push(task);
        }
        drop(tasks);
        if first {
            self.wake();
        }
    }
}
