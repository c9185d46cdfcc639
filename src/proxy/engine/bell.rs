//! Wakers: how one task of a loop wakes another one of it.
//!
//! The `h2` crate wants `std`'s wakers. Those that it gets are only rung on the loop's own thread, between two polls;
//! were one rung elsewhere, its task would be polled with the loop's next round.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{
            AtomicBool,
            Ordering::{AcqRel, Acquire, Release},
        },
    },
    task::Wake,
};

/// The bells of one loop that were rung; each stands here once.
#[derive(Debug, Default)]
pub(super) struct Rung {
    any: AtomicBool,
    bells: Mutex<Vec<Arc<Bell>>>,
}

impl Rung {
    /// None was rung.
    pub(super) fn silent(&self) -> bool {
        !self.any.load(Acquire)
    }

    /// Takes them all and tells whom each is for.
    pub(super) fn take(&self, mut tell: impl FnMut(u32)) {
        self.any.store(false, Release);
        let mut bells = self.bells.lock().unwrap_or_else(PoisonError::into_inner);
        for bell in bells.drain(..) {
            bell.rung.store(false, Release);
            tell(bell.task);
        }
    }
}

/// One task's bell. It outlives the task: then another one is polled for nothing, which every task bears.
#[derive(Debug)]
pub(super) struct Bell {
    task: u32,
    rung: AtomicBool,
    all: Arc<Rung>,
}

impl Bell {
    pub(super) fn new(task: u32, all: &Arc<Rung>) -> Arc<Bell> {
        Arc::new(Bell { task, rung: AtomicBool::new(false), all: all.clone() })
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Bell>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Bell>) {
        if !self.rung.swap(true, AcqRel) {
            self.all.bells.lock().unwrap_or_else(PoisonError::into_inner).push(self.clone());
            self.all.any.store(true, Release);
        }
    }
}
