//! One lane to one peer: connected when needed (the Heartbeat lane always), again after a loss, replaced before a
//! certificate ends.

use crate::{
    Lane, LinkChange, LinkEvent, NodeId, PeerError,
    conn::{Conn, Driver},
    dial::dial,
    error::Loss,
    hello::Failed,
    rtt::Rtt,
    shared::{Shared, lock},
    tls::Tls,
};
use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

/// First pause after a failed attempt; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// Longest pause: a peer or a path that is back is found within half a second.
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// Pause after a refusal, which an operator has to mend: a handshake costs both sides a millisecond of CPU.
const PAUSE_REFUSED: Duration = Duration::from_secs(2);
/// A connection that lived for less is a failed attempt.
const YOUNG: Duration = Duration::from_secs(1);

/// What is known of a peer.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) rtt: Mutex<Rtt>,
    pub(crate) settings: Mutex<Option<u64>>,
    pub(crate) up: AtomicBool,
}

impl Stats {
    pub(crate) fn saw_settings(&self, settings: u64) {
        *lock(&self.settings) = Some(settings);
    }
}

/// A peer: its address, its lanes, what is known of it. Dropping it closes its links.
pub(crate) struct Remote {
    pub(crate) addr: SocketAddr,
    pub(crate) stats: Arc<Stats>,
    links: [Link; Lane::ALL.len()],
}

impl Remote {
    pub(crate) fn new(shared: &Arc<Shared>, node: NodeId, addr: SocketAddr) -> Remote {
        let stats = Arc::new(Stats::default());
        let links = Lane::ALL.map(|lane| Link::new(shared, &stats, (node, lane), addr));
        Remote { addr, stats, links }
    }

    pub(crate) fn link(&self, lane: Lane) -> &Link {
        &self.links[lane as usize]
    }

    /// Closes the links at once, though callers may still hold this.
    pub(crate) fn close(&self) {
        self.links.iter().for_each(|link| link.task.abort());
    }
}

/// Where a link stands.
#[derive(Clone)]
enum State {
    Idle,
    Connecting,
    Up(Arc<Conn>),
    Down(PeerError),
}

/// The caller's handle of a link.
pub(crate) struct Link {
    node: NodeId,
    state: watch::Receiver<State>,
    wake: Arc<Notify>,
    task: AbortOnDropHandle<()>,
}

impl Link {
    fn new(shared: &Arc<Shared>, stats: &Arc<Stats>, (node, lane): (NodeId, Lane), addr: SocketAddr) -> Link {
        let (set, state) = watch::channel(State::Idle);
        let wake = Arc::new(Notify::new());
        let (shared_, stats, woken) = (shared.clone(), stats.clone(), wake.clone());
        let task = Task { shared: shared_, stats, node, lane, addr, state: set, wake: woken, last: None };
        Link { node, state, wake, task: AbortOnDropHandle::new(shared.spawn(task.run())) }
    }

    /// Calls the peer, connecting first if need be.
    pub(crate) async fn call(&self, payload: &[u8]) -> Result<Vec<u8>, PeerError> {
        let mut state = self.state.clone();
        loop {
            let conn = self.settled(&mut state).await?;
            if let Some(answer) = conn.call(payload).await {
                return answer;
            }
            drop(conn);
            state.changed().await.map_err(|_| self.closed())?;
        }
    }

    /// The connection, once the link is up; the reason, once it is down.
    async fn settled(&self, state: &mut watch::Receiver<State>) -> Result<Arc<Conn>, PeerError> {
        if matches!(*state.borrow(), State::Idle) {
            self.wake.notify_one();
        }
        let settled = state.wait_for(|state| matches!(state, State::Up(_) | State::Down(_))).await;
        match settled.as_deref() {
            Ok(State::Up(conn)) => Ok(conn.clone()),
            Ok(State::Down(error)) => Err(error.clone()),
            _ => Err(self.closed()),
        }
    }

    /// The link was closed by `set_peers` or with the transport.
    fn closed(&self) -> PeerError {
        PeerError::Unknown(self.node)
    }
}

/// The task of a link.
struct Task {
    shared: Arc<Shared>,
    stats: Arc<Stats>,
    node: NodeId,
    lane: Lane,
    addr: SocketAddr,
    state: watch::Sender<State>,
    wake: Arc<Notify>,
    last: Option<LinkChange>,
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.lane == Lane::Heartbeat {
            self.stats.up.store(false, Relaxed);
        }
    }
}

impl Task {
    async fn run(mut self) {
        let mut pause = PAUSE_MIN;
        loop {
            if self.lane != Lane::Heartbeat {
                self.state.send_replace(State::Idle);
                self.wake.notified().await;
            }
            self.state.send_replace(State::Connecting);
            let (began, ours) = (Instant::now(), self.shared.tls());
            let failure = match self.dial().await {
                Ok(driver) => {
                    self.announce(LinkChange::Up);
                    Failed::Loss(self.serve(driver).await)
                }
                Err(failure) => failure,
            };
            self.lost(failure);
            if began.elapsed() >= YOUNG && matches!(*self.state.borrow(), State::Up(_)) {
                pause = PAUSE_MIN;
                continue;
            }
            self.state.send_replace(State::Down(self.error(failure)));
            let refused = matches!(loss_of(failure), Loss::Denied(_));
            tokio::select! {
                () = sleep(jitter(if refused { PAUSE_REFUSED } else { pause })) => (),
                () = self.new_credentials(&ours) => (),
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn dial(&self) -> Result<Driver, Failed> {
        dial(&self.shared, &self.stats, (self.node, self.lane), self.addr).await
    }

    /// Drives a connection, and each that replaces it, until one is lost.
    async fn serve(&self, mut driver: Driver) -> Loss {
        loop {
            self.state.send_replace(State::Up(driver.conn.clone()));
            let (ours, ends) = (driver.ours.clone(), driver.ends);
            let new = tokio::select! {
                biased;
                loss = driver.run() => return loss,
                new = self.replacement(&ours, ends) => new,
            };
            self.state.send_replace(State::Up(new.conn.clone()));
            self.shared.spawn(std::mem::replace(&mut driver, new).drain());
        }
    }

    /// A new connection, when our credentials have changed or when nine tenths of the time to the first certificate's
    /// end are over.
    async fn replacement(&self, ours: &Arc<Tls>, ends: SystemTime) -> Driver {
        let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
        tokio::select! {
            () = self.new_credentials(ours) => (),
            _ = sleep((left * 9 / 10).max(YOUNG)) => (),
        }
        sleep(jitter(YOUNG / 2)).await; // not all connections of a node in one moment
        loop {
            match self.dial().await {
                Ok(driver) => return driver,
                Err(_) => sleep(jitter(PAUSE_MAX)).await, // the old one still works, or its driver says why not
            }
        }
    }

    /// Waits until our credentials are others than these.
    async fn new_credentials(&self, ours: &Arc<Tls>) {
        let mut tls = self.shared.tls.subscribe();
        let _ = tls.wait_for(|now| !Arc::ptr_eq(now, ours)).await; // its sender is in what we hold
    }

    fn lost(&mut self, failure: Failed) {
        let loss = loss_of(failure);
        // Only news is logged, so this does not flood the log.
        if self.announce(LinkChange::Lost(loss)) && matches!(loss, Loss::Denied(_)) {
            tracing::warn!("no link to a peer: {}", self.error(failure));
        }
    }

    /// Tells of a change of the Heartbeat lane; whether it was one.
    fn announce(&mut self, what: LinkChange) -> bool {
        let news = self.lane == Lane::Heartbeat && self.last != Some(what);
        if news {
            self.last = Some(what);
            self.stats.up.store(what == LinkChange::Up, Relaxed);
            let _ = self.shared.events.send(LinkEvent { node: self.node, what }); // nobody listens: fine
            tracing::debug!(node = self.node, ?what, "heartbeat lane");
        }
        news
    }

    fn error(&self, failure: Failed) -> PeerError {
        let node = self.node;
        match failure {
            Failed::Refused { why, by_peer } => PeerError::Refused { node, why, by_peer },
            Failed::Loss(Loss::Denied(why)) => PeerError::Refused { node, why, by_peer: true },
            Failed::Loss(why) => PeerError::Unreachable { node, why },
        }
    }
}

fn loss_of(failure: Failed) -> Loss {
    match failure {
        Failed::Loss(loss) => loss,
        Failed::Refused { why, .. } => Loss::Denied(why),
    }
}

/// Half to the whole of a pause, so that nodes that lost the same peer do not come back in one moment.
fn jitter(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or_default();
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_between_its_half_and_its_whole() {
        for _ in 0..100 {
            let pause = jitter(PAUSE_MAX);
            assert!(pause >= PAUSE_MAX / 2 && pause <= PAUSE_MAX, "{pause:?}");
        }
    }
}
