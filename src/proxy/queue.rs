//! Requests and connections that wait for a place in a pool whose backends are all at their limit: bounded, in order of
//! arrival over all threads.
//!
//! A place that becomes free wakes the first one, which chooses again; whoever leaves the queue, with a place or without,
//! wakes the next. Who comes while others wait, waits behind them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU32, AtomicU64,
            Ordering::{Acquire, Relaxed, SeqCst},
            fence,
        },
    },
};

/// Wakes a task of a worker from any thread.
pub(crate) trait Summon: Send + Sync + std::fmt::Debug {
    /// The task looks again.
    fn summon(&self, task: u32);
}

#[derive(Debug)]
struct Ticket {
    number: u64,
    line: Arc<dyn Summon>,
    task: u32,
}

/// Those who wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    len: AtomicU32,
    next: AtomicU64,
    tickets: Mutex<VecDeque<Ticket>>,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, VecDeque<Ticket>> {
        self.tickets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> u32 {
        self.len.load(Acquire)
    }

    /// Joins at the end; none when `max` wait already.
    pub(crate) fn join(&self, max: u32, line: Arc<dyn Summon>, task: u32) -> Option<Turn<'_>> {
        let mut tickets = self.lock();
        if tickets.len() >= max as usize {
            return None;
        }
        let number = self.next.fetch_add(1, Relaxed);
        tickets.push_back(Ticket { number, line, task });
        self.len.store(tickets.len() as u32, SeqCst);
        drop(tickets);
        fence(SeqCst); // whoever gives a place back from now on sees that somebody waits
        Some(Turn { queue: self, number })
    }

    /// A place was given back.
    pub(crate) fn wake(&self) {
        fence(SeqCst);
        if self.len.load(SeqCst) > 0 {
            Queue::call_first(&self.lock());
        }
    }

    fn call_first(tickets: &VecDeque<Ticket>) {
        if let Some(first) = tickets.front() {
            first.line.summon(first.task);
        }
    }
}

/// A place in the queue, until it is dropped.
pub(crate) struct Turn<'q> {
    queue: &'q Queue,
    number: u64,
}

impl Turn<'_> {
    /// Nobody waits before this one.
    pub(crate) fn first(&self) -> bool {
        self.queue.lock().front().is_some_and(|t| t.number == self.number)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut tickets = self.queue.lock();
        let Some(at) = tickets.iter().position(|t| t.number == self.number) else { return };
        tickets.remove(at);
        self.queue.len.store(tickets.len() as u32, SeqCst);
        if at == 0 {
            Queue::call_first(&tickets);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Heard(Mutex<Vec<u32>>);

    impl Summon for Heard {
        fn summon(&self, task: u32) {
            self.0.lock().unwrap().push(task);
        }
    }

    #[test]
    fn the_first_is_woken_and_whoever_leaves_wakes_the_next() {
        let (queue, heard) = (Queue::default(), Arc::new(Heard::default()));
        let rung = || std::mem::take(&mut *heard.0.lock().unwrap());
        queue.wake();
        let join = |task| queue.join(3, heard.clone(), task);
        let (first, second, third) = (join(1).unwrap(), join(2).unwrap(), join(3).unwrap());
        assert!(join(4).is_none(), "no more than three wait");
        assert_eq!((rung(), queue.len(), first.first(), second.first()), (vec![], 3, true, false));
        queue.wake();
        assert_eq!(rung(), [1]);
        drop(second);
        assert_eq!((rung(), queue.len()), (vec![], 2), "the first waits on");
        drop(first);
        assert_eq!((rung(), third.first()), (vec![3], true));
        drop(third);
        assert_eq!((rung(), queue.len()), (vec![], 0));
    }
}
