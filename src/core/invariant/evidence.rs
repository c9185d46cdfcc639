//! Invariant 5: every automatic move carries evidence that was valid at apply.
//!
//! Source: design §5.5 and §3 ("Red from a majority of the voting sites moves; the suspect does not vote on itself").
//! In two halves: what the state holds of a site's health changes only by a [`Command::Judge`] whose row supports it,
//! counted here again from the votes; and what automation takes out of an answer is down by such evidence, closed by an
//! operator's override, or makes room for a site that comes back.

use super::{Step, Violation, answers::force, lanes};
use crate::{
    entry::{Cause, Command, Entry, Force},
    evidence::{Row, Standing, Vote},
    id::{ServiceId, SiteId},
    model::{Family, Policy, Quorum},
    state::{ServiceState, State},
};
use alloc::{collections::BTreeSet, format, string::String};

/// Both halves.
pub fn check(step: Step<'_>) -> Result<(), Violation> {
    for (id, service, family) in lanes(step.after) {
        let Some(before) = step.before.services.get(id) else { continue };
        for site in service.spec.sites(family) {
            health(step, id, before, service, site, family).map_err(|text| Violation::of(5, text))?;
        }
        let automatic = matches!(step.entry, Some(e) if e.proposal.cause == Cause::Automation);
        if automatic {
            moved(step.after, id, before, service, family).map_err(|text| Violation::of(5, text))?;
        }
    }
    Ok(())
}

/// What is held of a site: one that was never judged counts as up.
pub(super) fn standing(service: &ServiceState, site: &SiteId, family: Family) -> Standing {
    service.health.get(&(site.clone(), family)).map_or(Standing::Up, |h| h.standing)
}

fn health(
    step: Step<'_>,
    id: &ServiceId,
    before: &ServiceState,
    after: &ServiceState,
    site: &SiteId,
    family: Family,
) -> Result<(), String> {
    let (was, is) = (standing(before, site, family), standing(after, site, family));
    if was == is {
        return Ok(());
    }
    let what = format!("{id} at {site} {family:?} went from {was} to {is}");
    match step.entry.map(|e| &e.proposal.command) {
        Some(Command::Judge(rows)) => {
            let about =
                |r: &&Row| r.target.service == *id && r.target.site == *site && r.target.family == family;
            let row = rows.iter().rfind(about).ok_or_else(|| format!("{what} without a row"))?;
            supported(step.before, before, row, is).map_err(|why| format!("{what}: {why}"))
        }
        // another address is another endpoint, of which nothing is known
        Some(Command::Configure(_) | Command::Commit { .. })
            if before.spec.endpoint(site, family) != after.spec.endpoint(site, family) =>
        {
            Ok(())
        }
        _ => Err(format!("{what} without evidence")),
    }
}

/// Counts the votes of a row, from the voting sites of the state that it was applied to.
fn supported(state: &State, service: &ServiceState, row: &Row, is: Standing) -> Result<(), String> {
    let voting: BTreeSet<&SiteId> =
        state.voters.iter().filter_map(|n| state.members.get(n)).map(|m| &m.site).collect();
    let (mut red, mut green, mut seen) = (0, 0, BTreeSet::new());
    for (site, vote) in &row.votes {
        if !voting.contains(site) || *site == row.target.site || !seen.insert(site) {
            return Err(format!("the vote of {site} does not count"));
        }
        red += usize::from(matches!(vote, Vote::Red(_)));
        green += usize::from(*vote == Vote::Green);
    }
    let others = voting.iter().filter(|s| ***s != row.target.site).count();
    let majority = voting.len() / 2 + 1;
    let down = match service.spec.quorum {
        Quorum::Majority => red >= majority,
        Quorum::Unanimous => red >= others && red > 0,
    };
    let follows = match is {
        Standing::Down => down || row.own.is_some(),
        Standing::Degraded => red > 0 && !down && row.own.is_none(),
        Standing::Up if others == 0 || service.spec.check.is_none() => red == 0 && row.own.is_none(),
        Standing::Up => red == 0 && green > 0 && row.own.is_none() && seen.len() == others,
    };
    if follows && row.verdict == is {
        return Ok(());
    }
    Err(format!("{red} red and {green} green of {} voting sites, own word {:?}", voting.len(), row.own))
}

fn moved(
    after: &State,
    id: &ServiceId,
    before: &ServiceState,
    service: &ServiceState,
    family: Family,
) -> Result<(), String> {
    let (Some(old), Some(new)) = (before.assignment.get(&family), service.assignment.get(&family)) else {
        return Ok(());
    };
    for gone in old.sites.iter().filter(|s| !new.sites.contains(s)) {
        let down = standing(service, gone, family) == Standing::Down;
        let closed = matches!(force(after, id, gone), Some(Force::Drain | Force::Down));
        if !down && !closed && !makes_room(service, gone, &new.sites) {
            return Err(format!(
                "automation moved {id} {family:?} away from {gone}, which nothing speaks against"
            ));
        }
    }
    Ok(())
}

/// Failback: a site earlier in the order takes over again.
fn makes_room(service: &ServiceState, gone: &SiteId, now: &[SiteId]) -> bool {
    let Policy::Failover(order) = &service.spec.policy else { return false };
    let place = |s: &SiteId| order.iter().position(|o| o == s);
    now.iter().any(|s| place(s) < place(gone))
}

/// Whether an entry is automation's.
pub(super) fn automatic(entry: Option<&Entry>) -> bool {
    matches!(entry, Some(e) if e.proposal.cause == Cause::Automation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evidence::Kind;
    use crate::invariant::samples::{self, site};

    const RED: Vote = Vote::Red(Kind::Refused);

    fn judged(votes: &[(&str, Vote)], own: Option<Kind>, verdict: Standing) -> Result<(), u8> {
        let before = samples::state();
        let mut after = before.clone();
        samples::judge(&mut after, "a", verdict);
        let row = samples::row("a", votes, own, verdict);
        let entry = samples::automatic(Command::Judge([row].into()));
        check(Step { before: &before, entry: Some(&entry), after: &after }).map_err(|v| v.invariant)
    }

    #[test]
    fn a_majority_or_the_sites_own_word_is_needed() {
        assert_eq!(judged(&[("b", RED), ("c", RED)], None, Standing::Down), Ok(()));
        assert_eq!(judged(&[("b", RED), ("c", Vote::Abstain)], None, Standing::Down), Err(5), "too few");
        assert_eq!(judged(&[("b", RED), ("b", RED)], None, Standing::Down), Err(5), "voted twice");
        assert_eq!(judged(&[("b", RED), ("a", RED)], None, Standing::Down), Err(5), "the suspect");
        assert_eq!(judged(&[("b", RED), ("x", RED)], None, Standing::Down), Err(5), "a stranger");
        assert_eq!(judged(&[], Some(Kind::Unhealthy), Standing::Down), Ok(()));
        assert_eq!(judged(&[("b", RED), ("c", RED)], None, Standing::Degraded), Err(5), "more than degraded");
    }

    #[test]
    fn nothing_but_evidence_changes_what_is_held_of_a_site() {
        let before = samples::state();
        let mut after = before.clone();
        samples::judge(&mut after, "a", Standing::Down);
        for entry in [None, Some(samples::automatic(Command::Tick))] {
            let step = Step { before: &before, entry: entry.as_ref(), after: &after };
            assert_eq!(check(step).map_err(|v| v.invariant), Err(5));
        }
    }

    #[test]
    fn automation_leaves_no_site_that_nothing_speaks_against() {
        let before = samples::state();
        let mut after = before.clone();
        samples::assign(&mut after, &["b"]);
        let tick = samples::automatic(Command::Tick);
        let moved = |before: &State, after: &State| {
            check(Step { before, entry: Some(&tick), after }).map_err(|v| v.invariant)
        };
        assert_eq!(moved(&before, &after), Err(5));
        samples::force(&mut after, "a", Force::Drain);
        assert_eq!(moved(&before, &after), Ok(()), "drained");
        assert_eq!(moved(&after, &before), Ok(()), "failback");
        assert_eq!(site("a"), before.services[&samples::id()].assignment[&Family::V4].sites[0]);
    }
}
