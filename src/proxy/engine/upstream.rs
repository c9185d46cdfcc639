//! Connections to backends: opened, kept, and checked before they are used again.

use super::{
    View,
    http2::Connections,
    stream::Stream,
    timer::{Side, Timer},
    tls::Tls,
    wire::Wire,
};
use crate::{
    balance::{self, Choice},
    health::BackendHealth,
    live::LivePool,
    tls::Client,
};
use std::{cell::RefCell, future::poll_fn, rc::Rc, sync::Arc, task::Poll};

/// Quiet connections kept per backend and worker: as many as a busy worker has requests in flight.
const KEEP: usize = 256;
/// A connection that is quiet for longer is closed; most servers close it after 60 s themselves.
const KEEP_MS: u64 = 30_000;

/// The quiet connections of one worker to one backend.
pub(crate) struct Kept {
    health: Arc<BackendHealth>,
    idle: RefCell<Vec<(Wire, u64)>>,
    http2: Connections,
    /// What they were opened with.
    tls: Option<Arc<Client>>,
}

impl Kept {
    /// The kept connections of a backend, from an earlier view if it had some.
    pub(crate) fn take_over(health: &Arc<BackendHealth>, pool: &LivePool, before: Option<&View>) -> Rc<Kept> {
        let same = |k: &&Rc<Kept>| {
            let tls = match (&k.tls, &pool.tls) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            };
            tls && Arc::ptr_eq(&k.health, health)
        };
        let found = before.and_then(|v| v.kept.iter().flatten().find(same).cloned());
        found.unwrap_or_else(|| {
            Rc::new(Kept {
                health: health.clone(),
                idle: RefCell::default(),
                http2: Connections::default(),
                tls: pool.tls.clone(),
            })
        })
    }

    /// The one that was used last, if it is still open and quiet.
    fn take(&self) -> Option<Wire> {
        let mut idle = self.idle.borrow_mut();
        std::iter::from_fn(|| idle.pop()).map(|(wire, _)| wire).find(Wire::quiet)
    }

    /// Keeps a connection for the next request.
    pub(crate) fn give(&self, wire: Wire, now_ms: u64) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < KEEP && wire.upstream2().is_none() {
            idle.push((wire, now_ms));
        }
    }

    fn sweep(&self, now: u64) {
        self.idle.borrow_mut().retain(|(wire, since)| now.saturating_sub(*since) < KEEP_MS && wire.quiet());
        self.http2.sweep(now, KEEP_MS);
    }
}

/// Closes what the backends closed and what was quiet for too long; once a second.
pub(crate) fn sweep(view: &View, now_ms: u64) {
    view.kept.iter().flatten().for_each(|k| k.sweep(now_ms));
}

/// A place on a backend; given back when dropped.
pub(crate) struct Lease {
    view: Rc<View>,
    pool: usize,
    backend: usize,
}

impl Lease {
    /// Chooses a backend of the pool at `now_ms`; `key` is what a hash chooses by.
    pub(crate) fn take(
        view: &Rc<View>,
        pool: usize,
        key: u64,
        exclude: &[usize],
        now_ms: u64,
    ) -> Option<Lease> {
        match balance::choose(view.pool(pool), key, exclude, now_ms) {
            Choice::Backend(backend) => Some(Lease { view: view.clone(), pool, backend }),
            Choice::Full | Choice::Nothing => None,
        }
    }

    pub(crate) fn index(&self) -> usize {
        self.backend
    }

    pub(crate) fn pool(&self) -> &LivePool {
        self.view.pool(self.pool)
    }

    pub(crate) fn health(&self) -> &Arc<BackendHealth> {
        &self.pool().backends[self.backend]
    }

    pub(crate) fn kept(&self) -> &Kept {
        &self.view.kept[self.pool][self.backend]
    }

    /// A place on a connection that stands.
    pub(crate) fn take_kept(&self, timer: &Timer) -> Option<Wire> {
        match self.pool().table.http2 {
            true => self.kept().http2.take(timer).map(Wire::upstream),
            false => self.kept().take(),
        }
    }

    /// A place on a connection that is opened for it.
    pub(crate) async fn open(&self, timer: &Timer) -> Option<Wire> {
        let wire = self.connect(timer).await?;
        let table = &self.pool().table;
        if !table.http2 {
            return Some(wire);
        }
        self.kept().http2.add(wire, timer, table.connect_timeout_ms).await.map(Wire::upstream)
    }

    /// Shakes hands where the pool has TLS; none when the backend is not who it shall be.
    async fn encrypt(&self, stream: Stream, timer: &Timer) -> Option<Wire> {
        let table = &self.pool().table;
        if table.tls.is_none() {
            return Some(Wire::plain(stream));
        }
        let client = self.pool().tls.as_ref()?;
        let tls = Tls::to(stream, client.config().clone(), client.name(self.health().addr.ip())).ok()?;
        let wire = Wire::tls(tls);
        let shaken = wire.handshake(timer, Side::Backend).await;
        (shaken.is_ok() && (!table.http2 || wire.speaks_http2())).then_some(wire)
    }

    /// Opens a connection; none when it is refused or takes too long.
    pub(crate) async fn connect(&self, timer: &Timer) -> Option<Wire> {
        let stream = Stream::connect(self.health().addr, timer.reactor()).ok()?;
        timer.arm(Side::Backend, self.pool().table.connect_timeout_ms);
        let connected = poll_fn(|_| match stream.poll_connected() {
            Poll::Ready(r) => Poll::Ready(r.is_ok()),
            Poll::Pending if timer.expired(Side::Backend) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        })
        .await;
        let wire = match connected {
            true => self.encrypt(stream, timer).await,
            false => None,
        };
        timer.disarm(Side::Backend);
        wire
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        balance::release(self.pool(), self.backend);
    }
}
