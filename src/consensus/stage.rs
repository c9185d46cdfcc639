//! Staging: changes that take many entries, of which several are under way at once.

use crate::{Consensus, PROPOSE_WITHIN, ProposeError, Role};
use futures_util::{StreamExt, stream};
use std::{collections::VecDeque, sync::Arc, time::Duration};
use zonekeeper_core::{Command, Outcome, Proposal, model::Change};

/// Parts under way at once, each of up to 64 KiB: while one is made durable, the one before it is applied. More would
/// hold up a decision that comes behind them.
const WINDOW: usize = 4;
/// The same on a node that is alone: there is no other site that a decision could be about. Fewer than the newest entries
/// that the store keeps in memory, so that none is read back from disk to be applied.
const WINDOW_ALONE: usize = 12;

/// How long to ask what the state waits for.
const LOOK_WITHIN: Duration = Duration::from_secs(5);

impl Consensus {
    /// Stages all parts of a change under `id`, in order; `told` hears how many are there. Nothing is visible before
    /// [`Command::Commit`].
    ///
    /// The state takes part after part and refuses one that comes out of turn. So where leadership moves and a part is
    /// lost, or its fate unknown, sending goes on with the part that the state waits for (go-back-N). It ends with an
    /// error when the same part fails twice, when the stage is gone, when nobody says what the state waits for, and at
    /// once when a stage with this id is open already; the author should abort the stage.
    pub async fn stage(
        &self,
        author: &str,
        id: u64,
        parts: Vec<Vec<Change>>,
        mut told: impl FnMut(u32),
    ) -> Result<(), ProposeError> {
        let part =
            |(part, changes)| (part, Arc::new(Proposal::by(author, Command::Stage { id, part, changes })));
        let mut left: VecDeque<(u32, Arc<Proposal>)> = (0..).zip(parts).map(part).collect();
        if self.state().stages.contains_key(&id) {
            // its parts would be taken for ours
            return Err(ProposeError::Refused(format!("stage {id} is open already; abort it first")));
        }
        let mut failed_at = None;
        loop {
            let sending = left.clone().into_iter().map(|(_, part)| self.staged(part));
            let mut under_way = stream::iter(sending).buffered(self.window());
            let error = loop {
                match under_way.next().await {
                    None => return Ok(()),
                    Some(Err(error)) => break error,
                    Some(Ok(())) => told(left.pop_front().map_or(0, |(part, _)| part + 1)),
                }
            };
            drop(under_way);
            if self.read_index(LOOK_WITHIN).await.is_err() {
                return Err(error);
            }
            let waits_for = self.state().stages.get(&id).map_or(0, |stage| stage.parts);
            if failed_at == Some(waits_for) || left.front().is_none_or(|(part, _)| waits_for < *part) {
                return Err(error);
            }
            failed_at = Some(waits_for);
            if left.front().is_some_and(|(part, _)| *part < waits_for) {
                left.retain(|(part, _)| *part >= waits_for);
                told(waits_for);
            }
        }
    }

    async fn staged(&self, part: Arc<Proposal>) -> Result<(), ProposeError> {
        match self.propose_within(part, PROPOSE_WITHIN).await? {
            (_, Outcome::Applied(_)) => Ok(()),
            (_, Outcome::Refused(why)) => Err(ProposeError::Refused(why)),
            (_, Outcome::Stale(_)) => unreachable!("a part has read nothing"),
        }
    }

    /// Order is kept where the leader takes the parts from one caller; what is forwarded may overtake.
    fn window(&self) -> usize {
        match self.status().role {
            Role::Leader if self.state().voters.len() == 1 => WINDOW_ALONE,
            Role::Leader => WINDOW,
            _ => 1,
        }
    }
}
