//! Deadlines of connections: one coarse tick per worker looks at all of them, so that arming one costs a store.

use crate::health::now_ms;
use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    task::{Context, Waker},
    time::Duration,
};
use tokio::sync::Notify;

/// How often deadlines are looked at: timeouts are late by up to two of these, never early.
const TICK_MS: u64 = 50;

/// Which of a connection's two sides a deadline concerns.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Client = 0,
    Backend = 1,
}

#[derive(Debug, Default)]
struct Slot {
    deadline: [Cell<u64>; 2],
    waker: RefCell<Option<Waker>>,
}

/// All deadlines of a worker.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    now: Cell<u64>,
    slots: RefCell<Vec<Option<Rc<Slot>>>>,
    free: RefCell<Vec<usize>>,
    first: Notify,
}

/// The deadlines of one connection.
#[derive(Debug)]
pub(crate) struct Timer {
    slot: Rc<Slot>,
    index: usize,
    all: Rc<Timers>,
}

impl Timers {
    /// Deadlines for a new connection.
    pub(crate) fn add(self: &Rc<Self>) -> Timer {
        let slot = Rc::new(Slot::default());
        let mut slots = self.slots.borrow_mut();
        let mut free = self.free.borrow_mut();
        if slots.len() == free.len() {
            self.now.set(now_ms()); // the tick slept
            self.first.notify_one();
        }
        let index = free.pop().unwrap_or_else(|| {
            slots.push(None);
            slots.len() - 1
        });
        slots[index] = Some(slot.clone());
        Timer { slot, index, all: self.clone() }
    }

    /// Looks at the deadlines for ever.
    pub(crate) async fn run(&self) {
        loop {
            if self.slots.borrow().len() == self.free.borrow().len() {
                self.first.notified().await;
            }
            tokio::time::sleep(Duration::from_millis(TICK_MS)).await;
            let now = now_ms();
            self.now.set(now);
            self.wake(|slot| slot.deadline.iter().any(|d| d.get() != 0 && d.get() <= now));
        }
    }

    /// Wakes every connection, to look at what changed.
    pub(crate) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, which: impl Fn(&Slot) -> bool) {
        for slot in self.slots.borrow().iter().flatten().filter(|s| which(s)) {
            if let Some(waker) = slot.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl Timer {
    /// Sets a deadline in so many milliseconds; 0 for none.
    pub(crate) fn arm(&self, side: Side, ms: u32) {
        let at = if ms == 0 { 0 } else { self.all.now.get() + u64::from(ms) + TICK_MS };
        self.slot.deadline[side as usize].set(at);
    }

    /// Takes a deadline back.
    pub(crate) fn disarm(&self, side: Side) {
        self.slot.deadline[side as usize].set(0);
    }

    /// Whether the deadline is over; if not, the task is woken when it is, or when [`Timers::wake_all`] says so.
    pub(crate) fn expired(&self, side: Side, cx: &Context<'_>) -> bool {
        let deadline = self.slot.deadline[side as usize].get();
        if deadline != 0 && deadline <= self.all.now.get() {
            return true;
        }
        let mut waker = self.slot.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.all.slots.borrow_mut()[self.index] = None;
        self.all.free.borrow_mut().push(self.index);
    }
}
