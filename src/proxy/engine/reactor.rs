//! The event loop of one worker: epoll, the readiness of sockets, and the tasks that wait for it.
//!
//! A task is one future per client connection; it drives both of its sockets. There are no queues between threads: a
//! socket remembers the task that waited for it last, an event marks the socket and polls that task, once per round
//! whatever happened to it. Readiness is cached (edge-triggered epoll), so that nothing is asked twice. Only tasks that
//! wait for one another, the streams of HTTP/2 and their connection, have wakers ([`Reactor::waker`]).

use super::{
    bell::{Bell, Rung},
    summons::Summons,
    timer::{Deadlines, TICK_MS, Timer},
};
use crate::health::now_ms;
use rustix::{
    event::{
        Timespec,
        epoll::{self, CreateFlags, EventData, EventFlags},
    },
    io::Errno,
    thread::{nanosleep, set_current_timer_slack},
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime},
};
use std::{
    cell::{Cell, RefCell},
    future::Future,
    io,
    num::NonZeroU64,
    ops::RangeInclusive,
    os::fd::{AsFd, OwnedFd},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
};

/// There may be something to read.
pub(crate) const READABLE: u8 = 1;
/// There may be room to write.
pub(crate) const WRITABLE: u8 = 2;
/// The other end sends no more, or the connection broke: a short read does not mean that all was read.
pub(crate) const ENDING: u8 = 4;
/// The connection broke.
pub(crate) const BROKEN: u8 = 8;
/// epoll knows the socket.
const REGISTERED: u8 = 16;
/// Our end follows what is written.
pub(crate) const LAST: u8 = 32;

/// Events taken at once; the rest follows in the next round.
const EVENTS: usize = 256;
/// After a round of so many events the loop rests before it waits for the next one, as network cards do with interrupts:
/// what comes meanwhile wakes nobody. A worker that is half busy slept and was woken for each few events, at the price of
/// some system calls each time, for itself and for whoever woke it. Fewer events, and their clients would wait for nothing;
/// more, and the next ones are there already.
const BUSY: RangeInclusive<usize> = 6..=40;
/// And only where so many times as many connections are at work: their events come meanwhile. Of 16 connections that ask
/// again as soon as they have an answer soon all would wait for the rest to end, and a fifth of their requests a second was
/// lost. Over 64 connections, against none: 0.88 of the CPU per request over HTTP, 0.93 in a TCP relay, and 14 and 22 %
/// more requests a second.
const OTHERS: usize = 3;
/// The rest, in nanoseconds.
const REST_NS: i64 = 100_000;
/// How late it may end, in nanoseconds; Linux has 50,000 without being asked.
const REST_SLACK_NS: u64 = 1000;
/// Rounds without a task still look around this often, in milliseconds.
const IDLE_MS: u64 = 1000;
/// Event data with this bit are not a connection's.
const SPECIAL: u64 = 1 << 63;
/// The clock's event data, with [`SPECIAL`].
const CLOCK: u64 = 1 << 32;
/// How often the tasks of a round may wake one another before the sockets are looked at again.
const ECHOES: usize = 4;
/// No task.
const NOBODY: u32 = u32::MAX;

/// What happened beside the connections' own events.
pub(crate) enum Notice {
    /// The special event source with this number.
    Special(u32),
    /// A tick of the timers passed.
    Tick,
}

type Work = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Default)]
struct Slot {
    work: Option<Work>,
    queued: bool,
    /// The tick when it ran last.
    ran: u32,
    bell: Option<Arc<Bell>>,
}

#[derive(Default)]
struct Tasks {
    tick: u32,
    /// Those that ran since the last tick, and in the one before.
    active: (usize, usize),
    slots: Vec<Slot>,
    free: Vec<u32>,
    run: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Ready {
    generation: u32,
    task: u32,
    flags: u8,
}

#[derive(Default)]
struct Sockets {
    ready: Vec<Ready>,
    free: Vec<u32>,
}

/// One worker's event loop.
pub(crate) struct Reactor {
    epoll: OwnedFd,
    /// Ticks while there are tasks. One timer that runs costs less than a timeout that every sleep sets and takes back.
    clock: OwnedFd,
    ticking: Cell<bool>,
    /// The events of the last round.
    events: Cell<usize>,
    sockets: RefCell<Sockets>,
    tasks: RefCell<Tasks>,
    current: Cell<u32>,
    rung: Arc<Rung>,
    /// How other threads wake its tasks.
    pub(crate) summons: Arc<Summons>,
    pub(crate) deadlines: Deadlines,
}

impl Tasks {
    fn queue(&mut self, id: u32) {
        if let Some(slot) = self.slots.get_mut(id as usize)
            && !slot.queued
        {
            slot.queued = true;
            self.run.push(id);
        }
    }

    fn live(&self) -> bool {
        self.slots.len() > self.free.len()
    }

    /// Takes a queued task out of its slot to run it.
    fn take(&mut self, id: u32) -> Option<Work> {
        let slot = &mut self.slots[id as usize];
        slot.queued = false;
        if std::mem::replace(&mut slot.ran, self.tick) != self.tick {
            self.active.0 += 1;
        }
        slot.work.take()
    }

    fn ticked(&mut self) {
        self.tick = self.tick.wrapping_add(1);
        self.active = (0, self.active.0);
    }
}

impl Reactor {
    /// The loop of this thread.
    pub(crate) fn new(summons: Arc<Summons>) -> io::Result<Reactor> {
        set_current_timer_slack(NonZeroU64::new(REST_SLACK_NS))?;
        let clock =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &clock, EventData::new_u64(SPECIAL | CLOCK), EventFlags::IN)?;
        let reactor = Reactor {
            epoll,
            clock,
            ticking: Cell::new(false),
            events: Cell::new(0),
            sockets: RefCell::default(),
            tasks: RefCell::default(),
            current: Cell::new(NOBODY),
            rung: Arc::default(),
            summons,
            deadlines: Deadlines::default(),
        };
        reactor.tick_every(IDLE_MS)?; // a door that could not even accept its first connection looks again
        Ok(reactor)
    }

    /// Watches a listening socket or an eventfd, level-triggered.
    pub(crate) fn watch(&self, source: impl AsFd, number: u32) -> io::Result<()> {
        let data = EventData::new_u64(SPECIAL | u64::from(number));
        Ok(epoll::add(&self.epoll, source, data, EventFlags::IN)?)
    }

    /// Watches it no longer.
    pub(crate) fn unwatch(&self, source: impl AsFd) {
        let _ = epoll::delete(&self.epoll, source);
    }

    /// A place for the readiness of a socket.
    pub(crate) fn enter(&self, flags: u8) -> u32 {
        let mut sockets = self.sockets.borrow_mut();
        match sockets.free.pop() {
            Some(slot) => {
                let ready = &mut sockets.ready[slot as usize];
                (ready.task, ready.flags) = (NOBODY, flags);
                slot
            }
            None => {
                sockets.ready.push(Ready { generation: 0, task: NOBODY, flags });
                (sockets.ready.len() - 1) as u32
            }
        }
    }

    /// The socket is closed; events that are on their way are nobody's.
    pub(crate) fn leave(&self, slot: u32) {
        let mut sockets = self.sockets.borrow_mut();
        let ready = &mut sockets.ready[slot as usize];
        ready.generation = ready.generation.wrapping_add(1) & 0x7fff_ffff;
        sockets.free.push(slot);
    }

    pub(crate) fn flags(&self, slot: u32) -> u8 {
        self.sockets.borrow().ready[slot as usize].flags
    }

    pub(crate) fn set(&self, slot: u32, flag: u8) {
        self.sockets.borrow_mut().ready[slot as usize].flags |= flag;
    }

    pub(crate) fn clear(&self, slot: u32, flag: u8) {
        self.sockets.borrow_mut().ready[slot as usize].flags &= !flag;
    }

    /// The running task waits for this socket.
    pub(crate) fn wait_for(&self, slot: u32, source: impl AsFd) -> io::Result<()> {
        let data = {
            let mut sockets = self.sockets.borrow_mut();
            let ready = &mut sockets.ready[slot as usize];
            ready.task = self.current.get();
            if ready.flags & REGISTERED != 0 {
                return Ok(());
            }
            ready.flags |= REGISTERED;
            u64::from(ready.generation) << 32 | u64::from(slot)
        };
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, source, EventData::new_u64(data), interest)?)
    }

    /// Starts a task; `make` gets its deadlines.
    pub(crate) fn spawn<F: Future<Output = ()> + 'static>(self: &Rc<Self>, make: impl FnOnce(Timer) -> F) {
        let id = {
            let mut tasks = self.tasks.borrow_mut();
            tasks.free.pop().unwrap_or_else(|| {
                tasks.slots.push(Slot::default());
                (tasks.slots.len() - 1) as u32
            })
        };
        self.deadlines.reset(id);
        let work = Box::pin(make(Timer::new(self.clone(), id)));
        let mut tasks = self.tasks.borrow_mut();
        tasks.slots[id as usize].work = Some(work);
        tasks.queue(id);
    }

    /// The running task has more to do, after the others had their turn.
    pub(crate) fn again(&self) {
        self.tasks.borrow_mut().queue(self.current.get());
    }

    /// What polls the running task again when another task of this loop has something for it.
    pub(crate) fn waker(&self) -> Waker {
        let id = self.current.get();
        let mut tasks = self.tasks.borrow_mut();
        match tasks.slots.get_mut(id as usize) {
            Some(slot) => slot.bell.get_or_insert_with(|| Bell::new(id, &self.rung)).clone().into(),
            None => Waker::noop().clone(),
        }
    }

    /// Queues the tasks that were woken.
    fn answer_bells(&self) {
        if self.rung.silent() {
            return;
        }
        let mut tasks = self.tasks.borrow_mut();
        self.rung.take(|id| tasks.queue(id));
    }

    /// A task of this loop looks again.
    pub(crate) fn wake(&self, task: u32) {
        self.tasks.borrow_mut().queue(task);
    }

    /// The tasks that other threads woke have their turn.
    pub(crate) fn answer_summons(&self) {
        let woken = self.summons.take();
        let mut tasks = self.tasks.borrow_mut();
        woken.into_iter().for_each(|id| tasks.queue(id));
    }

    /// Polls every task, to look at what changed.
    pub(crate) fn wake_all(&self) {
        let mut tasks = self.tasks.borrow_mut();
        (0..tasks.slots.len() as u32).for_each(|id| tasks.queue(id));
    }

    /// One round: waits for events, tells the notices, polls the tasks that they concern.
    pub(crate) fn turn(&self, notice: &mut dyn FnMut(Notice)) -> io::Result<()> {
        self.keep_time(false)?;
        self.answer_bells();
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let timeout = if self.tasks.borrow().run.is_empty() { None } else { Some(&now) };
        if timeout.is_none() && self.half_busy() {
            let _ = nanosleep(&Timespec { tv_sec: 0, tv_nsec: REST_NS });
        }
        let mut events = [const { std::mem::MaybeUninit::uninit() }; EVENTS];
        let events = match epoll::wait(&self.epoll, &mut events, timeout) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(()),
            Err(e) => return Err(e.into()),
        };
        self.events.set(events.len());
        self.deadlines.set_now(now_ms());
        for event in events.iter() {
            match event.data.u64() {
                data if data & SPECIAL == 0 => self.mark(data, event.flags),
                data if data & !SPECIAL == CLOCK => {
                    let _ = rustix::io::read(&self.clock, &mut [0; 8]);
                    let mut tasks = self.tasks.borrow_mut();
                    tasks.ticked();
                    self.deadlines.due(|id| tasks.queue(id));
                    drop(tasks);
                    self.keep_time(true)?;
                    notice(Notice::Tick);
                }
                data => notice(Notice::Special(data as u32)),
            }
        }
        self.run();
        Ok(())
    }

    /// The last round had some events, and many connections are at work that had none.
    fn half_busy(&self) -> bool {
        let events = self.events.get();
        BUSY.contains(&events) && self.tasks.borrow().active.1 >= OTHERS * events
    }

    /// Runs the clock while there are tasks and slows it down at the first tick without any.
    fn keep_time(&self, tick: bool) -> io::Result<()> {
        let live = self.tasks.borrow().live();
        if live == self.ticking.get() || (!live && !tick) {
            return Ok(());
        }
        self.ticking.set(live);
        self.tick_every(if live { TICK_MS } else { IDLE_MS })
    }

    fn tick_every(&self, ms: u64) -> io::Result<()> {
        let every = Timespec { tv_sec: (ms / 1000) as i64, tv_nsec: (ms % 1000 * 1_000_000) as i64 };
        let spec = Itimerspec { it_interval: every, it_value: every };
        timerfd_settime(&self.clock, TimerfdTimerFlags::empty(), &spec)?;
        Ok(())
    }

    fn mark(&self, data: u64, event: EventFlags) {
        let (generation, slot) = ((data >> 32) as u32, data as u32);
        let mut sockets = self.sockets.borrow_mut();
        let Some(ready) = sockets.ready.get_mut(slot as usize) else { return };
        if ready.generation != generation {
            return;
        }
        let broken = event.intersects(EventFlags::ERR | EventFlags::HUP);
        if broken {
            ready.flags |= BROKEN | ENDING | READABLE | WRITABLE;
        }
        if event.intersects(EventFlags::IN) {
            ready.flags |= READABLE;
        }
        if event.intersects(EventFlags::RDHUP) {
            ready.flags |= ENDING | READABLE;
        }
        if event.intersects(EventFlags::OUT) {
            ready.flags |= WRITABLE;
        }
        if ready.task != NOBODY {
            self.tasks.borrow_mut().queue(ready.task);
        }
    }

    fn run(&self) {
        for _ in 0..ECHOES {
            self.answer_bells();
            let mut batch = std::mem::take(&mut self.tasks.borrow_mut().run);
            if batch.is_empty() {
                return;
            }
            for id in batch.drain(..) {
                self.poll(id);
            }
            let mut tasks = self.tasks.borrow_mut();
            if tasks.run.is_empty() {
                tasks.run = batch; // its memory
            }
            if self.rung.silent() {
                return;
            }
        }
    }

    fn poll(&self, id: u32) {
        let work = self.tasks.borrow_mut().take(id);
        let Some(mut work) = work else { return };
        self.current.set(id);
        self.deadlines.turn();
        let mut context = Context::from_waker(Waker::noop());
        // A connection that hits a defect ends; the others go on.
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(&mut context)));
        if polled.is_err() {
            tracing::error!("a connection was given up after a panic");
        }
        match polled {
            Ok(Poll::Pending) => self.tasks.borrow_mut().slots[id as usize].work = Some(work),
            Ok(Poll::Ready(())) | Err(_) => {
                drop(work);
                self.deadlines.reset(id);
                let mut tasks = self.tasks.borrow_mut();
                tasks.slots[id as usize].bell = None;
                tasks.free.push(id);
            }
        }
        self.current.set(NOBODY);
    }

    /// Ends all tasks: their connections are closed.
    pub(crate) fn end(&self) {
        let slots = std::mem::take(&mut self.tasks.borrow_mut().slots);
        drop(slots);
    }
}

#[cfg(test)]
#[path = "reactor_tests.rs"]
mod tests;
