//! Weighs the evidence; on the leader, proposes.

use crate::clock;
use arc_swap::ArcSwap;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::Notify;
use zonekeeper_consensus::{Consensus, ProposeError, Role};
use zonekeeper_core::{
    Outcome, Proposal, State,
    decide::{Decider, Note},
    evidence::{Evidence, Report},
    id::NodeId,
    placement::Placement,
    time::{LogClock, LogTime, Mono},
};

/// From one look at the evidence to the next without news, on the leader.
const TICK: Duration = Duration::from_millis(100);
/// The same elsewhere, where only people wait for it.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// How long a handover of leadership may take.
const HAND_OVER: Duration = Duration::from_secs(3);
/// A proposal that is not through after this is decided anew from fresh evidence.
const PROPOSE: Duration = Duration::from_secs(3);

/// What this node concludes at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct LocalDecision {
    /// Log time when it concluded.
    pub(crate) at: LogTime,
    /// Why things are as they are.
    pub(crate) notes: Vec<Note>,
}

/// Evidence and conclusions of one node.
pub(crate) struct Lead {
    consensus: Consensus,
    evidence: Mutex<Evidence>,
    news: Notify,
    pub(crate) decision: ArcSwap<LocalDecision>,
}

impl Lead {
    /// Without evidence.
    pub(crate) fn new(consensus: Consensus) -> Lead {
        let (evidence, news, decision) = Default::default();
        Lead { consensus, evidence, news, decision }
    }

    /// A report came in, from a peer or from this node.
    pub(crate) fn receive(&self, report: Report) {
        let mut evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        if evidence.receive(report, clock::mono()) {
            self.news.notify_one();
        }
    }

    /// The reports that count, with their age in milliseconds, for those who look.
    pub(crate) fn reports(&self) -> Vec<(Report, u64)> {
        let evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
        evidence.fresh(clock::mono()).map(|(r, age)| (r.clone(), age)).collect()
    }

    /// Decides for ever.
    pub(crate) async fn run(self: Arc<Self>) {
        let (mut decider, mut placement) = (Decider::default(), Placement::default());
        let mut log_clock = (LogClock::default(), LogTime::default());
        let mut status = self.consensus.watch_status();
        loop {
            let led = status.borrow_and_update().role == Role::Leader;
            tokio::select! {
                () = self.news.notified() => {}
                () = tokio::time::sleep(if led { TICK } else { IDLE_TICK }) => {}
                // a new leader decides at once, from the evidence that it has
                _ = status.wait_for(|s| (s.role == Role::Leader) != led) => {}
            }
            let leads = status.borrow().role == Role::Leader;
            let state = self.consensus.state();
            let at = log_time(&mut log_clock, &state, clock::mono());
            let (decision, next) = {
                let mut evidence = self.evidence.lock().unwrap_or_else(PoisonError::into_inner);
                evidence.retain(|node| state.members.contains_key(&node));
                let me = self.consensus.node();
                let next =
                    leads.then(|| placement.look(me, &state.voters, &evidence, clock::mono())).flatten();
                (decider.decide(&state, &evidence, clock::mono(), at), next)
            };
            match next {
                Some(next) => self.hand_over(next),
                None if !leads => placement = Placement::default(),
                None => {}
            }
            self.decision.store(Arc::new(LocalDecision { at, notes: decision.notes }));
            if let (true, Some(proposal)) = (leads, decision.proposal) {
                self.propose(proposal).await;
            }
        }
    }

    /// Hands over to a voter that hears more of the others, so that none of them stays behind.
    fn hand_over(&self, next: NodeId) {
        tracing::info!(next, "it hears more voters than this node: leadership is handed over");
        let consensus = self.consensus.clone();
        tokio::spawn(async move {
            if let Err(error) = consensus.transfer_leader(next, HAND_OVER).await {
                tracing::warn!(next, %error, "leadership could not be handed over to the best-connected voter");
            }
        });
    }

    async fn propose(&self, proposal: Proposal) {
        match self.consensus.propose_as_leader(proposal, PROPOSE).await {
            Ok((index, Outcome::Applied(_))) => {
                tracing::info!(index, "automation decided");
                self.news.notify_one(); // what is left is decided at once
            }
            Ok((_, Outcome::Stale(read))) => {
                tracing::debug!(?read, "decided on an older version");
                self.news.notify_one();
            }
            // what failed is tried at the next tick, not at once
            Ok((_, Outcome::Refused(why))) => tracing::warn!(%why, "automation was refused"),
            Err(ProposeError::NoLeader | ProposeError::NotLeader { .. }) => {}
            Err(error) => tracing::warn!(%error, "automation could not decide"),
        }
    }
}

/// Log time as the leader's entries will carry it, counted from the last entry applied here.
fn log_time((clock, seen): &mut (LogClock, LogTime), state: &State, now: Mono) -> LogTime {
    if state.time > *seen {
        *seen = state.time;
        clock.applied(state.time, now);
    }
    clock.now(now, clock::wall_ms())
}
