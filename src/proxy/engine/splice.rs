//! Pipes for splice(2): bulk data goes from socket to socket without a visit to our memory. A pipe is held only while it
//! has bytes in it or is about to; the thread keeps some.

use super::{
    buffer::SIZE,
    stream::Stream,
    timer::{Side, Timer},
    wire::Wire,
};
use rustix::pipe::{PipeFlags, pipe_with};
use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    os::fd::{AsFd, OwnedFd},
    task::{Poll, ready},
};

/// What a pipe of the default size holds; larger ones gained nothing.
pub(crate) const CAPACITY: usize = 64 * 1024;
/// Free pipes kept per thread.
const KEEP: usize = 64;
/// Reads in a row that filled the whole buffer, after which splicing pays.
const FULL_READS: u8 = 2;
/// A splice that moves less than this between two waits does not pay: back to copying, which needs fewer calls.
const SMALL: usize = 16 * 1024;

thread_local! {
    static FREE: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// A pipe and how many bytes it holds.
pub(crate) struct Pipe {
    ends: Option<(OwnedFd, OwnedFd)>,
    held: usize,
}

impl Pipe {
    /// A pipe; none when the system has no more.
    pub(crate) fn take() -> Option<Pipe> {
        let flags = PipeFlags::NONBLOCK | PipeFlags::CLOEXEC;
        let ends = FREE.with_borrow_mut(Vec::pop).or_else(|| pipe_with(flags).ok())?;
        Some(Pipe { ends: Some(ends), held: 0 })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Takes up to `max` bytes out of a connection; 0 at its end. Only for an empty pipe.
    pub(crate) fn poll_fill(&mut self, from: &Stream, max: usize) -> Poll<io::Result<usize>> {
        let Some((_, into)) = &self.ends else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        let n = ready!(from.poll_splice_to(into.as_fd(), max.min(CAPACITY)))?;
        self.held += n;
        Poll::Ready(Ok(n))
    }

    /// Gives bytes to a connection and returns how many.
    pub(crate) fn poll_drain(&mut self, to: &Stream) -> Poll<io::Result<usize>> {
        let Some((out, _)) = &self.ends else { return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())) };
        let n = ready!(to.poll_splice_from(out.as_fd(), self.held))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.held -= n;
        Poll::Ready(Ok(n))
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.held > 0 {
            return; // another connection must not get these bytes
        }
        if let Some(ends) = self.ends.take() {
            FREE.with_borrow_mut(|free| {
                if free.len() < KEEP {
                    free.push(ends);
                }
            });
        }
    }
}

/// Which end broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broke {
    Source,
    Sink,
}

/// Decides when to splice one direction, and does it.
#[derive(Default)]
pub(crate) struct Splice {
    full_reads: u8,
    on: bool,
    pipe: Option<Pipe>,
    /// Moved since the source was dry.
    moved: usize,
}

impl Splice {
    /// So much came with one read.
    pub(crate) fn observe(&mut self, n: usize, from: &Wire, to: &Wire) {
        self.full_reads = if n == SIZE { self.full_reads + 1 } else { 0 };
        if self.full_reads >= FULL_READS && from.stream().is_some() && to.stream().is_some() {
            (self.on, self.full_reads, self.moved) = (true, 0, 0);
        }
    }

    /// Whether the next piece shall be spliced.
    pub(crate) fn on(&mut self) -> bool {
        if self.on && self.pipe.is_none() {
            self.pipe = Pipe::take();
            self.on = self.pipe.is_some(); // without a pipe it is copied
        }
        self.on
    }

    /// It waits for the sink, not for the source.
    pub(crate) fn full(&self) -> bool {
        self.pipe.as_ref().is_some_and(|p| !p.is_empty())
    }

    /// Moves a piece of at most `max` bytes and returns its size, 0 at the source's end; none when it does not pay any
    /// more. The deadlines are those of the wires' sides; after an error they tell whether one was over.
    pub(crate) async fn run(
        &mut self,
        timer: &Timer,
        from: (&Wire, Side, u32),
        to: (&Wire, Side, u32),
        max: u64,
    ) -> Result<Option<usize>, Broke> {
        let mut waits_for = None;
        let moved = poll_fn(|_| {
            if !self.on() {
                return Poll::Ready(Ok(None));
            }
            if let Poll::Ready(moved) = self.poll(from.0, to.0, max) {
                return Poll::Ready(moved.map(Some));
            }
            let (broke, slow, other) =
                if self.full() { (Broke::Sink, &to, &from) } else { (Broke::Source, &from, &to) };
            if waits_for != Some(broke) {
                waits_for = Some(broke);
                timer.disarm(other.1);
                timer.arm(slow.1, slow.2);
            }
            if timer.expired(slow.1) { Poll::Ready(Err(broke)) } else { Poll::Pending }
        })
        .await;
        if waits_for.is_some() && moved.is_ok() {
            timer.disarm(from.1);
            timer.disarm(to.1);
        }
        moved
    }

    /// Moves a piece of at most `max` bytes and returns its size; 0 at the source's end.
    pub(crate) fn poll(&mut self, from: &Wire, to: &Wire, max: u64) -> Poll<Result<usize, Broke>> {
        let (Some(source), Some(sink)) = (from.stream(), to.stream()) else {
            return Poll::Ready(Err(Broke::Source));
        };
        let Some(pipe) = &mut self.pipe else { return Poll::Ready(Err(Broke::Source)) };
        if pipe.is_empty() {
            let max = usize::try_from(max).unwrap_or(usize::MAX);
            let filled = pipe.poll_fill(source, max);
            match filled {
                Poll::Ready(Ok(0)) => {
                    self.pipe = None;
                    return Poll::Ready(Ok(0));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Broke::Source)),
                Poll::Pending => {
                    self.on = self.moved >= SMALL;
                    (self.pipe, self.moved) = (None, 0);
                    return Poll::Pending;
                }
            }
        }
        let n = ready!(pipe.poll_drain(sink)).map_err(|_| Broke::Sink)?;
        self.moved += n;
        from.count_spliced(to, n);
        Poll::Ready(Ok(n))
    }
}
