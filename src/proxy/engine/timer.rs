//! Deadlines of connections: one coarse tick per worker looks at all of them, so that arming one costs a store.
//! They stand side by side in memory: ten thousand connections are looked at in some microseconds.

use super::reactor::Reactor;
use crate::health::now_us;
use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    rc::Rc,
    task::Poll,
};

/// How often deadlines are looked at: timeouts are late by up to two of these, never early.
pub(crate) const TICK_MS: u64 = 50;

/// Pieces of data that a connection moves before the others have their turn.
pub(crate) const BURST: u32 = 16;

/// Which side of a connection a deadline concerns.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Side {
    Client = 0,
    Backend = 1,
    /// Neither: the request as a whole.
    Total = 2,
    /// A request's body, which moves beside its response.
    Upload = 3,
}

/// All deadlines of a worker, one per side and task; 0: none.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    now: Cell<u64>,
    /// Microseconds when the running task first asked in this turn of it; 0: it did not.
    now_us: Cell<u64>,
    of: RefCell<Vec<[u64; 4]>>,
}

impl Deadlines {
    /// Milliseconds of the monotonic clock at the start of this round.
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    pub(crate) fn set_now(&self, now: u64) {
        self.now.set(now);
    }

    /// A task has its turn.
    pub(crate) fn turn(&self) {
        self.now_us.set(0);
    }

    /// The task begins or ends.
    pub(crate) fn reset(&self, task: u32) {
        let mut of = self.of.borrow_mut();
        if of.len() <= task as usize {
            of.resize(task as usize + 1, [0; 4]);
        }
        of[task as usize] = [0; 4];
    }

    /// The tasks with a deadline that is over.
    pub(crate) fn due(&self, mut wake: impl FnMut(u32)) {
        let now = self.now.get();
        let over = |d: &u64| d.wrapping_sub(1) < now; // 0 wraps: never
        for (task, deadlines) in self.of.borrow().iter().enumerate() {
            if deadlines.iter().any(over) {
                wake(task as u32);
            }
        }
    }
}

/// The deadlines of one task.
pub(crate) struct Timer {
    reactor: Rc<Reactor>,
    task: u32,
}

impl Timer {
    pub(crate) fn new(reactor: Rc<Reactor>, task: u32) -> Timer {
        Timer { reactor, task }
    }

    /// Once more, for another part of the same task.
    pub(crate) fn again(&self) -> Timer {
        Timer { reactor: self.reactor.clone(), task: self.task }
    }

    fn set(&self, side: Side, at: u64) {
        self.reactor.deadlines.of.borrow_mut()[self.task as usize][side as usize] = at;
    }

    /// Milliseconds of the monotonic clock at the start of this round.
    pub(crate) fn now(&self) -> u64 {
        self.reactor.deadlines.now()
    }

    /// Microseconds of the same clock, read once in each turn of the task.
    pub(crate) fn now_us(&self) -> u64 {
        let now = &self.reactor.deadlines.now_us;
        if now.get() == 0 {
            now.set(now_us());
        }
        now.get()
    }

    /// Sets a deadline in so many milliseconds; 0 for none.
    pub(crate) fn arm(&self, side: Side, ms: u32) {
        let at = if ms == 0 { 0 } else { self.reactor.deadlines.now() + u64::from(ms) + TICK_MS };
        self.set(side, at);
    }

    /// Lets a deadline be over now.
    pub(crate) fn expire(&self, side: Side) {
        self.set(side, 1);
    }

    /// Takes a deadline back.
    pub(crate) fn disarm(&self, side: Side) {
        self.set(side, 0);
    }

    /// Whether the deadline is over; if not, the task is polled when it is, or when [`Reactor::wake_all`] says so.
    pub(crate) fn expired(&self, side: Side) -> bool {
        let deadlines = &self.reactor.deadlines;
        let at = deadlines.of.borrow()[self.task as usize][side as usize];
        at != 0 && at <= deadlines.now()
    }

    /// Another piece was moved: lets the other connections have their turn after some.
    pub(crate) async fn piece(&self, pieces: &mut u32) {
        *pieces += 1;
        let mut paused = !pieces.is_multiple_of(BURST);
        poll_fn(|_| {
            if std::mem::replace(&mut paused, true) {
                return Poll::Ready(());
            }
            self.reactor.again();
            Poll::Pending
        })
        .await
    }

    /// The task that the deadlines are of.
    pub(crate) fn task(&self) -> u32 {
        self.task
    }

    /// The loop that runs the task.
    pub(crate) fn reactor(&self) -> &Rc<Reactor> {
        &self.reactor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_deadlines_that_are_over_are_due() {
        let deadlines = Deadlines::default();
        (0..3).for_each(|task| deadlines.reset(task));
        deadlines.of.borrow_mut()[1] = [0, 100, 0, 0];
        let due = |now| {
            let mut due = Vec::new();
            deadlines.set_now(now);
            deadlines.due(|task| due.push(task));
            due
        };
        assert_eq!((due(99), due(100)), (vec![], vec![1]));
    }
}
