//! Invariant 7: no automatic move back inside a hold-down, none with automation off or against an override, none that
//! leaves fewer usable answers than the safety limit; and never is a service held on a dead site while a healthy one may
//! take it.
//!
//! Source: design §5.7 and §3 ("Hold-down blocks going back, never leaving a dead site for a healthy one").

use super::{
    Step, Violation,
    answers::force,
    evidence::{automatic, standing},
    lanes,
};
use crate::{
    State,
    entry::Force,
    evidence::Standing,
    id::{ServiceId, SiteId},
    model::{Failback, Family, Policy},
    state::{Basis, ServiceState},
};
use alloc::{format, string::String, vec::Vec};

/// All of it, for every lane.
pub fn check(step: Step<'_>) -> Result<(), Violation> {
    for (id, service, family) in lanes(step.after) {
        let lane = Lane { state: step.after, id, service, family };
        lane.not_on_a_dead_site().map_err(|text| Violation::of(7, text))?;
        let Some(before) = step.before.services.get(id).filter(|_| automatic(step.entry)) else { continue };
        let (Some(old), Some(new)) = (before.assignment.get(&family), service.assignment.get(&family)) else {
            continue;
        };
        if old.sites == new.sites {
            continue;
        }
        let expired = step.before.overrides != step.after.overrides;
        lane.moved(&old.sites, &new.sites, new.basis, expired).map_err(|text| Violation::of(7, text))?;
    }
    Ok(())
}

struct Lane<'a> {
    state: &'a State,
    id: &'a ServiceId,
    service: &'a ServiceState,
    family: Family,
}

impl Lane<'_> {
    fn automated(&self) -> bool {
        self.state.automation && self.service.automated()
    }

    fn force(&self, site: &SiteId) -> Option<Force> {
        force(self.state, self.id, site)
    }

    fn closed(&self, site: &SiteId) -> bool {
        matches!(self.force(site), Some(Force::Drain | Force::Down))
    }

    fn dead(&self, site: &SiteId) -> bool {
        standing(self.service, site, self.family) == Standing::Down && self.force(site).is_none()
    }

    /// May be answered: up or degraded, observed or forced.
    fn usable(&self, site: &SiteId) -> bool {
        !self.closed(site) && !self.dead(site)
    }

    fn up(&self, site: &SiteId) -> bool {
        self.usable(site) && standing(self.service, site, self.family) == Standing::Up
    }

    /// Why a site may not come back yet, by its failure alone.
    fn held(&self, site: &SiteId) -> bool {
        let health = self.service.health.get(&(site.clone(), self.family));
        let Some((failed, flaps)) = health.and_then(|h| Some((h.failed?, h.flaps))) else { return false };
        let spec = &self.service.spec;
        let in_hold_down = self.state.time < failed.plus(spec.hold_down(flaps));
        self.force(site) != Some(Force::Up) && (in_hold_down || spec.failback == Failback::Manual)
    }

    fn one(&self) -> bool {
        matches!(self.service.spec.policy, Policy::Failover(_))
    }

    /// How many usable answers automation keeps.
    fn minimum(&self) -> usize {
        if self.one() { 1 } else { (self.service.spec.min_answers as usize).max(1) }
    }

    fn not_on_a_dead_site(&self) -> Result<(), String> {
        let Some(a) = self.service.assignment.get(&self.family).filter(|_| self.automated()) else {
            return Ok(());
        };
        let Some(dead) = a.sites.iter().find(|s| self.dead(s)) else { return Ok(()) };
        let sites = self.service.spec.sites(self.family);
        let free = sites.into_iter().find(|s| !a.sites.contains(s) && self.usable(s));
        let rest = a.sites.iter().filter(|s| self.usable(s)).count();
        let what = format!("{} {:?} is held on {dead}, which is down", self.id, self.family);
        match free {
            Some(free) => Err(format!("{what}, while {free} may take it")),
            None if rest >= self.minimum() => Err(format!("{what}, beside {rest} usable ones")),
            None => Ok(()),
        }
    }

    fn moved(&self, old: &[SiteId], new: &[SiteId], basis: Basis, expired: bool) -> Result<(), String> {
        let what = format!("automation moved {} {:?} from {old:?} to {new:?}", self.id, self.family);
        if !self.automated() && !expired {
            return Err(format!("{what} with automation off"));
        }
        let last_resort = matches!(basis, Basis::Drained | Basis::LastSet);
        for site in new.iter().filter(|s| !old.contains(s)) {
            match self.force(site) {
                Some(Force::Down) => return Err(format!("{what}, but {site} is forced down")),
                Some(Force::Drain) if !last_resort => return Err(format!("{what}, but {site} is drained")),
                _ => {}
            }
            if self.held(site) && !last_resort && !self.needed(old, new) {
                return Err(format!("{what}, but {site} failed lately"));
            }
        }
        for site in old.iter().filter(|s| !new.contains(s)) {
            if self.force(site) == Some(Force::Up) && !self.one() {
                return Err(format!("{what}, but {site} is forced up"));
            }
        }
        let open: Vec<&SiteId> = old.iter().filter(|s| !self.closed(s)).collect();
        if new.len() < self.minimum().min(open.len()) && basis == Basis::Usable {
            return Err(format!("{what}, fewer than {}", self.minimum()));
        }
        Ok(())
    }

    /// A site inside its hold-down is taken only when too few are left that are healthy and not in theirs.
    fn needed(&self, old: &[SiteId], new: &[SiteId]) -> bool {
        if self.one() {
            return old.iter().all(|s| !self.usable(s));
        }
        new.iter().filter(|s| self.up(s) && !self.held(s)).count() < self.minimum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        entry::Command,
        invariant::samples::{self, service_mut, site},
    };

    fn automatic(before: &State, after: &State) -> Result<(), u8> {
        let tick = samples::automatic(Command::Tick);
        check(Step { before, entry: Some(&tick), after }).map_err(|v| v.invariant)
    }

    /// The service stands on `b`, after `a` failed; the second state has it back on `a`.
    fn failback(held_ms: u64) -> (State, State) {
        let mut before = samples::state();
        samples::judge(&mut before, "a", Standing::Down);
        samples::judge(&mut before, "a", Standing::Up);
        samples::assign(&mut before, &["b"]);
        before.time = before.time.plus(held_ms);
        let mut after = before.clone();
        samples::assign(&mut after, &["a"]);
        (before, after)
    }

    #[test]
    fn no_way_back_inside_the_hold_down() {
        let (before, after) = failback(samples::HOLD_DOWN_MS - 1);
        assert_eq!(automatic(&before, &after), Err(7));
        let (before, after) = failback(samples::HOLD_DOWN_MS);
        assert_eq!(automatic(&before, &after), Ok(()));
    }

    #[test]
    fn a_hold_down_never_holds_a_service_on_a_dead_site() {
        let (before, mut after) = failback(0);
        samples::judge(&mut after, "b", Standing::Down);
        assert_eq!(automatic(&before, &after), Ok(()), "b is dead, so a may take it");
        let mut stays = before.clone();
        samples::judge(&mut stays, "b", Standing::Down);
        assert_eq!(automatic(&before, &stays), Err(7), "c may take it at least");
    }

    #[test]
    fn nothing_moves_with_automation_off_but_what_an_operator_moves() {
        let (before, mut after) = failback(samples::HOLD_DOWN_MS);
        after.automation = false;
        assert_eq!(automatic(&before, &after), Err(7));
        after.automation = true;
        service_mut(&mut after).spec.automation = false;
        assert_eq!(automatic(&before, &after), Err(7));
        assert_eq!(check(Step { before: &before, entry: None, after: &after }), Ok(()));
    }

    #[test]
    fn nothing_moves_against_an_override() {
        for force in [Force::Down, Force::Drain] {
            let (mut before, mut after) = failback(samples::HOLD_DOWN_MS);
            samples::force(&mut before, "a", force);
            samples::force(&mut after, "a", force);
            assert_eq!(automatic(&before, &after), Err(7), "{force}");
        }
    }

    #[test]
    fn the_safety_limit_is_kept() {
        let mut before = samples::state();
        service_mut(&mut before).spec.policy = Policy::All;
        service_mut(&mut before).spec.min_answers = 2;
        samples::assign(&mut before, &["a", "b"]);
        samples::force(&mut before, "c", Force::Drain);
        let mut after = before.clone();
        samples::judge(&mut after, "a", Standing::Down);
        samples::assign(&mut after, &["b"]);
        assert_eq!(automatic(&before, &after), Err(7));
        samples::assign(&mut after, &["a", "b"]);
        assert_eq!(automatic(&before, &after), Ok(()), "the dead one stays");
        after.overrides.clear();
        assert_eq!(automatic(&before, &after), Err(7), "c may take its place");
        assert!(after.sites.contains_key(&site("c")));
    }
}
