//! UDP workers: one thread and one socket each, blocking, in batches.

use crate::{
    counters::Counters,
    responder::{DnsFlags, Responder, Transport},
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
    time::Duration,
};
use zonekeeper_core::Published;

/// After an error of the socket itself, so that it does not spin.
const PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Worker {
    /// Waits without a limit, for a limit would cost a timer per batch; shutting the socket down wakes it.
    pub(crate) socket: Arc<Socket>,
    /// Answer from the address that was asked.
    pub(crate) wildcard: bool,
    pub(crate) nsid: Vec<u8>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) flags: Arc<DnsFlags>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Worker {
    /// Answers until it is told to stop.
    pub(crate) fn run(self) {
        let mut batch = Batch::new(self.wildcard);
        let mut responder = Responder::new(&self.nsid, self.counters.clone());
        let mut published = Cache::new(self.published.clone());
        let mut generation = None;
        while !self.stop.load(Relaxed) {
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
            let now = published.load();
            if generation != Some(now.generation) {
                generation = Some(now.generation);
                responder.prepare(&now.dns);
            }
            // A bug in one answer costs its batch, not the worker; the voter beside it lives on.
            let answered = catch_unwind(AssertUnwindSafe(|| self.answer(&mut responder, now, &mut batch, n)));
            if answered.is_err() {
                self.counters.panicked();
                responder = Responder::new(&self.nsid, self.counters.clone());
                generation = None;
                continue;
            }
            let lost = batch.send(&*self.socket, n);
            if lost > 0 {
                self.counters.unsent(lost as u64);
            }
        }
    }

    fn answer(&self, responder: &mut Responder, now: &Published, batch: &mut Batch, n: usize) {
        responder.answer_batch(&now.dns, self.flags.condition(), Transport::Udp, batch, n);
    }
}
