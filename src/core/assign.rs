//! Where a service is answered from: a pure function of declaration, health, overrides and log time.
//!
//! The rules, in order:
//!
//! 1. What an operator forced counts before what is observed.
//! 2. A site in use stays while it is usable (up or degraded); a dead one is left at once, hold-down or not.
//! 3. A site that was out comes back only when it is up, its hold-down has run out, and its failback rule says so.
//! 4. Automation keeps at least `min_answers` sites answered.
//! 5. When nothing is usable: drained sites, then the last set, never what an operator forced down (fail open); or
//!    nothing at all (fail closed).

use crate::{
    entry::{Force, Override, Scope},
    evidence::Standing,
    id::{ServiceId, SiteId},
    model::{Failback, Family, Policy, WhenAllDown},
    mutant::{self, Mutant},
    state::{Basis, Health, ServiceState, State},
    time::LogTime,
};
use alloc::{collections::BTreeSet, format, string::String, vec, vec::Vec};

/// A site's use for a service, from best to worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Up, observed or forced.
    Up,
    /// Degraded: usable, never a reason to come back.
    Degraded,
    /// Drained by an operator, and up or degraded.
    Drained,
    /// Down by evidence.
    Down,
    /// Forced down by an operator: never answered.
    Forbidden,
}

/// What keeps a site that is up from coming back, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    /// Nothing.
    Free,
    /// It has to be healthy for so many milliseconds more.
    Unproven(u64),
    /// It failed lately, and so many times before that in short order: so many milliseconds are left.
    Down(u64, u8),
    /// Only an operator brings it back.
    Manual,
}

impl Hold {
    fn rank(self) -> u8 {
        match self {
            Hold::Free => 0,
            Hold::Unproven(_) => 1,
            Hold::Down(..) | Hold::Manual => 2,
        }
    }
}

/// What an operator's hand adds to a decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hand<'a> {
    /// Nobody's: automation's own run. Where automation is off, everything stays.
    Off,
    /// An operator's word or declaration has changed: the rules decide anew.
    Word,
    /// This site is wanted now, whatever hold-down and failback say.
    To(&'a SiteId),
    /// The policy's own choice is wanted now.
    Home,
}

/// One family of one service, as the rules see it.
pub struct Lane<'a> {
    state: &'a State,
    id: &'a ServiceId,
    service: &'a ServiceState,
    family: Family,
    now: LogTime,
}

/// The sites chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// In the policy's order.
    pub sites: Vec<SiteId>,
    /// Why these.
    pub basis: Basis,
}

impl<'a> Lane<'a> {
    /// The lane of a service at log time `now`.
    pub fn new(
        state: &'a State,
        id: &'a ServiceId,
        service: &'a ServiceState,
        family: Family,
        now: LogTime,
    ) -> Self {
        Lane { state, id, service, family, now }
    }

    /// The override in force for a site: the service's own before the site's.
    pub fn forced(&self, site: &SiteId) -> Option<&'a Override> {
        let own = Scope::ServiceSite(self.id.clone(), site.clone());
        let all = Scope::Site(site.clone());
        self.state.overrides.get(&own).or_else(|| self.state.overrides.get(&all)).map(|o| &**o)
    }

    /// Whether an operator's word forbids a site, now or as soon as another word that hides this one expires.
    pub(crate) fn forbidden(&self, site: &SiteId) -> bool {
        let own = self.state.overrides.get(&Scope::ServiceSite(self.id.clone(), site.clone()));
        let all =
            self.state.overrides.get(&Scope::Site(site.clone())).is_some_and(|o| o.force == Force::Down);
        match own {
            Some(own) => own.force == Force::Down || all && own.expires.is_some(),
            None => all,
        }
    }

    fn health(&self, site: &SiteId) -> Option<&'a Health> {
        self.service.health.get(&(site.clone(), self.family))
    }

    /// The class of a site. A site that was never judged counts as up: nothing is known against it.
    pub fn class(&self, site: &SiteId) -> Class {
        let observed = match self.health(site).map(|h| h.standing) {
            Some(Standing::Down) => Class::Down,
            Some(Standing::Degraded) => Class::Degraded,
            Some(Standing::Up) | None => Class::Up,
        };
        match self.forced(site).map(|o| o.force) {
            Some(Force::Down) => Class::Forbidden,
            Some(Force::Up) => Class::Up,
            Some(Force::Drain) => observed.max(Class::Drained),
            None => observed,
        }
    }

    fn automated(&self) -> bool {
        self.state.automation && self.service.automated()
    }

    /// What keeps a site that is up from coming back.
    fn hold(&self, site: &SiteId) -> Hold {
        let free = self.forced(site).is_some_and(|o| o.force == Force::Up) || mutant::on(Mutant::NoHoldDown);
        let Some(health) = self.health(site).filter(|_| !free) else { return Hold::Free };
        let Some(failed) = health.failed else { return Hold::Free };
        let left = failed.plus(self.service.spec.hold_down(health.flaps)).since(self.now);
        let unproven = |healthy_ms| health.since.plus(healthy_ms).since(self.now);
        match self.service.spec.failback {
            _ if left > 0 => Hold::Down(left, health.flaps),
            Failback::Manual => Hold::Manual,
            Failback::Auto { healthy_ms } if unproven(healthy_ms) > 0 => Hold::Unproven(unproven(healthy_ms)),
            Failback::Auto { .. } => Hold::Free,
        }
    }

    /// Why a site that is up may not come back yet, in words; none when it may.
    pub fn held(&self, site: &SiteId) -> Option<String> {
        match self.hold(site) {
            Hold::Free => None,
            Hold::Unproven(left) => Some(format!("healthy for {} s more", left.div_ceil(1000))),
            Hold::Down(left, 0) => Some(format!("hold-down, {} s left", left.div_ceil(1000))),
            Hold::Down(left, flaps) => {
                let (times, left) = (u32::from(flaps) + 1, left.div_ceil(1000));
                Some(format!("quarantine after {times} failures in short order, {left} s left"))
            }
            Hold::Manual => Some("failback is manual".into()),
        }
    }

    /// Why a site of the service is not answered, in words; none for a site that is.
    pub fn unused(&self, site: &SiteId) -> Option<String> {
        if self.current().contains(site) {
            return None;
        }
        let word = self.forced(site).map(|o| format!("{} by {} ({})", o.force, o.author, o.reason));
        Some(match (self.class(site), word) {
            (Class::Drained | Class::Forbidden, Some(word)) => word,
            (Class::Down, _) => "down, as observed".into(),
            (Class::Degraded, _) => "degraded: usable, but no reason to come back".into(),
            _ if self.service.pinned.is_some() => "up, but the service was moved by hand".into(),
            _ => match (self.automated(), self.held(site)) {
                (true, Some(why)) => format!("up, but held back: {why}"),
                (true, None) => "up; the policy prefers another".into(),
                (false, _) => "up, but automation is off and nobody moved the service here".into(),
            },
        })
    }

    fn current(&self) -> &'a [SiteId] {
        self.service.assignment.get(&self.family).map_or(&[], |a| &a.sites)
    }

    /// Usable now. Without automation an observed failure does not make a site in use unusable, an operator's drain does.
    fn usable(&self, site: &SiteId) -> bool {
        match self.class(site) {
            Class::Up | Class::Degraded => true,
            Class::Down => !self.automated() && self.current().contains(site) && self.forced(site).is_none(),
            Class::Drained | Class::Forbidden => false,
        }
    }

    /// The choice of the rules.
    pub fn choose(&self, hand: Hand<'_>) -> Choice {
        if let (Hand::Off, false, Some(held)) =
            (hand, self.automated(), self.service.assignment.get(&self.family))
        {
            return Choice { sites: held.sites.clone(), basis: held.basis };
        }
        let candidates: Vec<&SiteId> = self.service.spec.sites(self.family);
        let sites = match self.service.spec.policy {
            Policy::Failover(_) => self.one(&candidates, hand).into_iter().collect(),
            Policy::Weighted(_) | Policy::All | Policy::Nearest(_) => self.many(&candidates, hand),
        };
        if !sites.is_empty() {
            return Choice { sites, basis: Basis::Usable };
        }
        self.nothing_usable(&candidates)
    }

    fn one(&self, candidates: &[&SiteId], hand: Hand<'_>) -> Option<SiteId> {
        let current = self.current().first().filter(|c| candidates.contains(c) && self.usable(c));
        let best = || {
            let rank = |(place, s): &(usize, &&SiteId)| (self.class(s), self.hold(s).rank(), *place);
            candidates.iter().enumerate().filter(|(_, s)| self.usable(s)).min_by_key(rank).map(|(_, s)| *s)
        };
        match (hand, current) {
            (Hand::To(site), _) if candidates.contains(&site) => return Some(site.clone()),
            (Hand::Home, _) => return candidates.iter().find(|s| self.usable(s)).map(|s| (*s).clone()),
            (_, None) => return best().cloned(),
            (_, Some(c)) if self.service.pinned.as_ref() == Some(c) => return Some(c.clone()),
            _ => {}
        }
        let current = current?;
        let earlier = candidates.iter().take_while(|s| **s != current);
        let mut back =
            earlier.filter(|s| self.automated() && self.class(s) == Class::Up && self.hold(s) == Hold::Free);
        Some(back.next().copied().unwrap_or(current).clone())
    }

    fn many(&self, candidates: &[&SiteId], hand: Hand<'_>) -> Vec<SiteId> {
        let current = self.current();
        let first = current.is_empty();
        let mut set: BTreeSet<&SiteId> = BTreeSet::new();
        for &site in candidates {
            let wanted =
                matches!(hand, Hand::To(s) if s == site) || matches!(hand, Hand::Home) && self.usable(site);
            let stays = current.contains(site) && self.usable(site);
            let comes =
                self.class(site) == Class::Up && self.hold(site) == Hold::Free && (self.automated() || first);
            if wanted || stays || comes {
                set.insert(site);
            }
        }
        if set.is_empty() {
            // Nothing else is left: the sites that only have to prove themselves before the ones that failed lately.
            let usable = || candidates.iter().filter(|s| self.usable(s));
            let least = usable().map(|s| self.hold(s).rank()).min();
            set.extend(usable().filter(|s| Some(self.hold(s).rank()) == least));
        }
        self.keep_minimum(candidates, &mut set);
        candidates.iter().filter(|s| set.contains(*s)).map(|s| (*s).clone()).collect()
    }

    /// The safety limit: automation removes no site when fewer than `min_answers` would be left. A usable site takes the
    /// place, inside its hold-down or not; after those the least bad stay.
    fn keep_minimum<'s>(&self, candidates: &[&'s SiteId], set: &mut BTreeSet<&'s SiteId>) {
        let minimum = match mutant::on(Mutant::NoSafetyLimit) {
            true => 0,
            false => self.service.spec.min_answers as usize,
        };
        let leaves = candidates.iter().any(|s| self.current().contains(s) && self.class(s) == Class::Down);
        let mut spare: Vec<&&SiteId> =
            candidates.iter().filter(|s| !set.contains(*s) && self.usable(s)).collect();
        spare.sort_by_key(|s| (self.class(s), self.hold(s).rank()));
        for site in spare.into_iter().filter(|_| leaves && self.automated()) {
            if set.len() >= minimum {
                return;
            }
            set.insert(site);
        }
        let mut kept: Vec<&&SiteId> = candidates
            .iter()
            .filter(|s| self.current().contains(s) && self.class(s) == Class::Down)
            .collect();
        // the one that failed last is most likely to be a false alarm
        kept.sort_by_key(|s| core::cmp::Reverse(self.health(s).and_then(|h| h.failed)));
        for site in kept {
            if set.len() >= minimum || set.is_empty() {
                return;
            }
            set.insert(site);
        }
    }

    fn nothing_usable(&self, candidates: &[&SiteId]) -> Choice {
        if self.service.spec.when_all_down != WhenAllDown::FailOpen {
            return Choice { sites: vec![], basis: Basis::Nothing };
        }
        let of = |keep: &dyn Fn(&SiteId) -> bool| -> Vec<SiteId> {
            let all = candidates.iter().filter(|s| keep(s)).map(|s| (*s).clone());
            if matches!(self.service.spec.policy, Policy::Failover(_)) {
                all.take(1).collect()
            } else {
                all.collect()
            }
        };
        let drained = of(&|s| self.class(s) == Class::Drained);
        if !drained.is_empty() {
            return Choice { sites: drained, basis: Basis::Drained };
        }
        let allowed = |s: &SiteId| self.class(s) != Class::Forbidden;
        let last = of(&|s| allowed(s) && self.current().contains(s));
        let sites = if last.is_empty() { of(&allowed) } else { last };
        let basis = if sites.is_empty() { Basis::Nothing } else { Basis::LastSet };
        Choice { sites, basis }
    }

    /// In words, why a site is not answered although it might be; none when nothing speaks for a change.
    pub fn why_not(&self, site: &SiteId) -> Option<String> {
        if self.current().contains(site) {
            let down = self.class(site) == Class::Down;
            return match down {
                true if !self.automated() => Some("down, but automation is off".into()),
                true if self
                    .service
                    .assignment
                    .get(&self.family)
                    .is_some_and(|a| a.basis == Basis::LastSet) =>
                {
                    Some("down, but no site is usable: the last set stays".into())
                }
                true => {
                    Some(format!("down, but kept by the safety limit of {}", self.service.spec.min_answers))
                }
                false => None,
            };
        }
        match self.class(site) {
            Class::Up if !self.automated() => Some("up, but automation is off".into()),
            Class::Up => self.held(site).or_else(|| {
                let pin = self.service.pinned.as_ref()?;
                Some(format!("up, but an operator moved the service to {pin}"))
            }),
            Class::Drained => Some("drained by an operator".into()),
            Class::Forbidden => Some("forced down by an operator".into()),
            Class::Degraded | Class::Down => None,
        }
    }
}

impl core::fmt::Display for Class {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Class::Up => "up",
            Class::Degraded => "degraded",
            Class::Drained => "drained",
            Class::Down => "down",
            Class::Forbidden => "forced down",
        })
    }
}
