//! UDP workers: one thread and one socket each, blocking, in batches.

use crate::{
    counters::Counters,
    responder::{DnsFlags, Setup, Transport, View},
    udp_sys::Batch,
};
use arc_swap::{ArcSwap, Cache};
use socket2::Socket;
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};
use zonekeeper_core::Published;

/// After an error of the socket itself, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(10);

/// One batch of so many is timed.
const MEASURED: u32 = 16;

pub(crate) struct Worker {
    /// Waits without a limit, for a limit would cost a timer per batch; shutting the socket down wakes it.
    pub(crate) socket: Arc<Socket>,
    /// Answer from the address that was asked.
    pub(crate) wildcard: bool,
    pub(crate) setup: Arc<Setup>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) flags: Arc<DnsFlags>,
    pub(crate) stop: Arc<AtomicBool>,
    /// Another process reads from the same socket: what comes once more is answered, and then no more is read.
    pub(crate) leave: Arc<AtomicBool>,
}

impl Worker {
    /// Answers until it is told to stop.
    pub(crate) fn run(self) {
        let mut batch = Batch::new(self.wildcard);
        let mut responder = self.setup.responder(self.counters.clone());
        let mut published = Cache::new(&*self.published);
        let mut secrets = Cache::new(&self.flags.secrets.0);
        let mut geo = Cache::new(&self.flags.geo);
        let mut generation = None;
        let mut turn = 0u32;
        while !self.stop.load(Relaxed) && !self.leave.load(Relaxed) {
            let n = match batch.receive(&*self.socket) {
                Ok(n) => n,
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    continue;
                }
                Err(_) => {
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            if self.stop.load(Relaxed) {
                return; // what was received is the end of the socket
            }
            turn = turn.wrapping_add(1);
            let started = turn.is_multiple_of(MEASURED).then(Instant::now);
            let now = published.load();
            if generation != Some(now.generation) {
                generation = Some(now.generation);
                responder.prepare(&now.dns);
            }
            // A bug in one answer costs its batch, not the worker; the voter beside it lives on.
            let view = View {
                table: &now.dns,
                condition: self.flags.condition(),
                secrets: (**secrets.load()).as_ref(),
                geo: (**geo.load()).as_ref(),
                transport: Transport::Udp,
            };
            let answer = || responder.answer_batch(&view, &mut batch, n);
            let answered = catch_unwind(AssertUnwindSafe(answer));
            if answered.is_err() {
                self.counters.panicked();
                responder = self.setup.responder(self.counters.clone());
                generation = None;
                continue;
            }
            let lost = batch.send(&*self.socket, n);
            if let Some(started) = started {
                self.counters.took(started.elapsed(), n as u64);
            }
            if lost > 0 {
                self.counters.unsent(lost as u64);
            }
        }
    }
}
