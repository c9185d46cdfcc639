//! Lets writes through while Raft runs, and holds them back while it is replaced.

use crate::error::ProposeError;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// What writes pass on their way to Raft.
pub(crate) struct Gate(watch::Sender<Traffic>);

#[derive(Default)]
struct Traffic {
    phase: Phase,
    /// Writes that are under way in Raft.
    inside: usize,
}

#[derive(Default, PartialEq)]
enum Phase {
    #[default]
    Open,
    /// Raft is being replaced.
    Held,
    /// Raft runs no more, for this reason.
    Closed(String),
}

/// A write under way; it has left when this is dropped.
pub(crate) struct Pass(Arc<Gate>);

impl Gate {
    /// An open gate.
    pub(crate) fn new() -> Arc<Gate> {
        Arc::new(Gate(watch::Sender::default()))
    }

    /// Lets a write in, now or when Raft has been replaced. An error says that nothing was written.
    pub(crate) async fn enter(self: &Arc<Gate>, until: Instant) -> Result<Pass, ProposeError> {
        let mut traffic = self.0.subscribe();
        loop {
            let mut entered = false;
            self.0.send_if_modified(|t| {
                entered = t.phase == Phase::Open;
                t.inside += usize::from(entered);
                false // nobody waits for this
            });
            if entered {
                return Ok(Pass(self.clone()));
            }
            let moved = traffic.wait_for(|t| t.phase != Phase::Held);
            match tokio::time::timeout_at(until.into(), moved).await {
                Ok(Ok(t)) => {
                    if let Phase::Closed(why) = &t.phase {
                        return Err(ProposeError::Stopped(why.clone()));
                    }
                }
                Ok(Err(_)) | Err(_) => return Err(ProposeError::NoLeader),
            }
        }
    }

    /// Holds new writes back and waits for those inside, if they end in time.
    pub(crate) async fn hold(&self, patience: Duration) {
        self.0.send_modify(|t| t.phase = Phase::Held);
        let empty = async { self.0.subscribe().wait_for(|t| t.inside == 0).await.map(drop) };
        // Those that stay inside will not know their outcome, as when a leader dies.
        let _ = tokio::time::timeout(patience, empty).await;
    }

    /// Raft runs, as far as anybody planned.
    pub(crate) fn is_open(&self) -> bool {
        self.0.borrow().phase == Phase::Open
    }

    /// Raft is being replaced.
    pub(crate) fn is_held(&self) -> bool {
        self.0.borrow().phase == Phase::Held
    }

    /// Lets writes in again, unless the gate was closed meanwhile.
    pub(crate) fn open(&self) {
        self.0.send_if_modified(|t| {
            let held = t.phase == Phase::Held;
            if held {
                t.phase = Phase::Open;
            }
            held
        });
    }

    /// Lets nothing in any more.
    pub(crate) fn close(&self, why: String) {
        self.0.send_modify(|t| t.phase = Phase::Closed(why));
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.0.send_if_modified(|t| {
            t.inside -= 1;
            t.inside == 0 && t.phase == Phase::Held
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    #[test]
    fn a_write_waits_while_the_gate_is_held_and_goes_on_when_it_opens() {
        run(async {
            let gate = Gate::new();
            gate.hold(LONG).await;
            let late = gate.enter(Instant::now() + Duration::from_millis(10)).await;
            assert!(matches!(late, Err(ProposeError::NoLeader)));
            let waiting = gate.enter(Instant::now() + LONG);
            let opening = async {
                tokio::task::yield_now().await;
                gate.open();
            };
            assert!(tokio::join!(waiting, opening).0.is_ok());
        });
    }

    #[test]
    fn holding_waits_for_the_writes_inside_but_not_for_ever() {
        run(async {
            let gate = Gate::new();
            let pass = gate.enter(Instant::now()).await.ok();
            gate.hold(Duration::from_millis(10)).await;
            assert_eq!(gate.0.borrow().inside, 1);
            let leaving = async {
                tokio::task::yield_now().await;
                drop(pass);
            };
            tokio::join!(gate.hold(LONG), leaving);
            assert_eq!(gate.0.borrow().inside, 0);
        });
    }

    #[test]
    fn a_closed_gate_says_why() {
        run(async {
            let gate = Gate::new();
            gate.close("it is shutting down".into());
            let refused = gate.enter(Instant::now() + LONG).await;
            assert!(matches!(refused, Err(ProposeError::Stopped(why)) if why.contains("shutting down")));
        });
    }
}
