//! `apply`: one entry in, the next state and what changed out. No clock, no I/O, no randomness, no error.

use crate::{
    assign::{Class, Hand, Lane},
    entry::{Cause, Command, Delta, Entry, Force, Init, Object, Outcome, Override, Read, Scope},
    evidence::{Kind, Row, Standing},
    id::{ServiceId, SiteId},
    model::Family,
    mutant::{self, Mutant},
    name::Name,
    state::{Assignment, Basis, Decision, HISTORY, Health, ServiceState, State},
};
use alloc::{collections::BTreeSet, format, string::String, sync::Arc, vec::Vec};

/// The cluster version that this program knows best.
pub const VERSION: u32 = 2;
/// A refusal in words.
pub(crate) type Refusal = String;

/// One entry on its way through `apply`.
pub(crate) struct Step<'a> {
    pub(crate) cause: &'a Cause,
    pub(crate) rows: &'a [Row],
    pub(crate) why: String,
    pub(crate) delta: Delta,
    /// Services whose assignment is chosen anew.
    pub(crate) settle: BTreeSet<ServiceId>,
    /// Those of them for which an operator's word has changed, be it by its expiry.
    pub(crate) words: BTreeSet<ServiceId>,
}

impl State {
    /// Applies the entry at `index`. Pure; the same log gives the same state everywhere, for ever.
    pub fn apply(&mut self, index: u64, entry: &Entry) -> Outcome {
        self.generation.index = index;
        self.time = self.time.max(entry.time);
        let proposal = &entry.proposal;
        if self.cluster == 0 && !matches!(proposal.command, Command::Init(_)) {
            return Outcome::Refused("the cluster has no first entry yet; bootstrap it".into());
        }
        if proposal.command.since() > self.cluster_version.max(1) {
            return Outcome::Refused(format!(
                "cluster version {} does not know this command; upgrade the cluster first",
                self.cluster_version
            ));
        }
        let stale = |r: &&Read| self.version(&r.object) != r.version && !mutant::on(Mutant::StaleReads);
        if let Some(read) = proposal.reads.iter().find(stale) {
            let mut now = read.clone();
            now.version = self.version(&read.object);
            return Outcome::Stale(now);
        }
        let mut step = Step {
            cause: &proposal.cause,
            rows: &[],
            why: String::new(),
            delta: Delta { index, ..Delta::default() },
            settle: BTreeSet::new(),
            words: BTreeSet::new(),
        };
        // A refused command leaves nothing behind: it works on a copy, which is cheap (everything large is shared).
        let mut next = self.clone();
        let declared = proposal.reads.iter().any(|r| r.object == Object::Config);
        match next.command(&mut step, &proposal.command, declared) {
            Err(why) => Outcome::Refused(why),
            Ok(()) => {
                next.settle(&mut step);
                next.advance_serials(&mut step.delta);
                *self = next;
                Outcome::Applied(step.delta)
            }
        }
    }

    fn command<'a>(
        &mut self,
        step: &mut Step<'a>,
        command: &'a Command,
        declared: bool,
    ) -> Result<(), Refusal> {
        match command {
            Command::Init(init) => self.init(init),
            Command::Tick => self.tick(step),
            Command::Judge(rows) => self.judge(step, rows),
            Command::Configure(changes) => self.configure(step, changes.iter(), declared, false),
            Command::Stage { id, part, changes } => self.stage(step, *id, *part, changes),
            Command::Commit { id, parts } => self.commit(step, *id, *parts, declared),
            Command::Abort { id } => self.abort(step, *id),
            Command::Override(o) => self.put_override(step, o),
            Command::Release(scope) => self.release(step, scope),
            Command::Move { service, to } => self.move_service(step, service, to.as_ref()),
            Command::Automation { service, on } => self.set_automation(step, service.as_ref(), *on),
            Command::Recover(recovery) => self.recover(step, recovery),
            other => self.membership_command(step, other),
        }
    }

    fn init(&mut self, init: &Init) -> Result<(), Refusal> {
        if self.cluster != 0 {
            return Err(format!("the cluster is named already: {:032x}", self.cluster));
        }
        if init.cluster == 0 || !(1..=VERSION).contains(&init.version) {
            return Err("the first entry needs a cluster id and a version that this program knows".into());
        }
        crate::members::check_timing(init.timing)?;
        self.cluster = init.cluster;
        self.cluster_version = init.version;
        self.timing = init.timing;
        Ok(())
    }

    /// Expires what is due and lets every service move that waited for time to pass.
    fn tick(&mut self, step: &mut Step<'_>) -> Result<(), Refusal> {
        let now = self.time;
        let due: Vec<Scope> = self
            .overrides
            .iter()
            .filter(|(_, o)| o.expires.is_some_and(|e| e <= now))
            .map(|(scope, _)| scope.clone())
            .collect();
        for scope in &due {
            self.overrides.remove(scope);
            self.touch(step, scope);
        }
        self.stages.retain(|_, s| s.expires > now);
        self.joins.retain(|_, j| j.expires > now);
        self.tokens.retain(|_, t| t.expires.is_none_or(|e| e > now));
        self.advance_secrets(step);
        step.why = if due.is_empty() { "time has passed".into() } else { "an override has expired".into() };
        step.words = step.settle.clone();
        step.settle.extend(self.services.keys().cloned());
        Ok(())
    }

    fn judge<'a>(&mut self, step: &mut Step<'a>, rows: &'a [Row]) -> Result<(), Refusal> {
        let voting: BTreeSet<SiteId> = self.voting_sites().into_iter().cloned().collect();
        for row in rows {
            let (target, index) = (&row.target, self.generation.index);
            let service = self.services.get_mut(&target.service);
            let Some(service) = service.filter(|s| s.spec.endpoint(&target.site, target.family).is_some())
            else {
                return Err(format!("service {} has no endpoint at {}", target.service, target.site));
            };
            let (quorum, probed) = (service.spec.quorum, service.spec.check.is_some());
            if !mutant::on(Mutant::UncheckedEvidence) {
                row.check(&voting, quorum, probed).map_err(|why| format!("{}: {why}", target.service))?;
            }
            let service = Arc::make_mut(service);
            service.version = index;
            service.judged(row, self.time);
            step.settle.insert(target.service.clone());
        }
        step.rows = rows;
        Ok(())
    }

    fn put_override(&mut self, step: &mut Step<'_>, o: &Override) -> Result<(), Refusal> {
        self.check_scope(&o.scope)?;
        if o.expires.is_some_and(|e| e <= self.time) {
            return Err("the override would expire before it begins".into());
        }
        if o.force == Force::Up && matches!(o.scope, Scope::Backend(..)) {
            return Err("a backend can be drained or forced down, not forced up".into());
        }
        self.overrides.insert(o.scope.clone(), Arc::new(o.clone()));
        step.why = format!("{} by {}: {}", o.force, o.author, o.reason);
        self.touch(step, &o.scope);
        self.check_answerable(step)
    }

    /// An operator's word must not leave a service without any site, and with that its names without an answer; neither
    /// now nor when another word expires.
    pub(crate) fn check_answerable(&self, step: &Step<'_>) -> Result<(), Refusal> {
        let touched = step.settle.iter().filter_map(|id| self.services.get_key_value(id));
        match touched.filter(|(id, s)| self.all_forbidden(id, s)).map(|(id, _)| id).next() {
            Some(id) => {
                Err(format!("service {id} would be left with sites that are forced down; release one first"))
            }
            None => Ok(()),
        }
    }

    fn all_forbidden(&self, id: &ServiceId, service: &ServiceState) -> bool {
        Family::ALL.iter().any(|&family| {
            let lane = Lane::new(self, id, service, family, self.time);
            let sites = service.spec.sites(family);
            !sites.is_empty() && sites.iter().all(|s| lane.forbidden(s))
        })
    }

    pub(crate) fn check_scope(&self, scope: &Scope) -> Result<(), Refusal> {
        let known = match scope {
            Scope::Site(site) => self.sites.contains_key(site),
            Scope::ServiceSite(service, site) => {
                self.services.get(service).is_some_and(|s| s.spec.endpoints.contains_key(site))
            }
            Scope::Backend(pool, addr) => {
                let has = |p: &Arc<crate::model::Pool>| {
                    p.backends.iter().any(|b| b.addr == *addr) || !p.names.is_empty()
                };
                self.pools.get(pool).is_some_and(has)
            }
        };
        if known { Ok(()) } else { Err(format!("{scope} is not declared")) }
    }

    fn release(&mut self, step: &mut Step<'_>, scope: &Scope) -> Result<(), Refusal> {
        let o = self.overrides.remove(scope).ok_or_else(|| format!("{scope} has no override"))?;
        step.why = format!("{} released by {}", o.force, step.cause);
        self.touch(step, scope);
        self.check_answerable(step)
    }

    /// Marks what an override covers.
    fn touch(&mut self, step: &mut Step<'_>, scope: &Scope) {
        match scope {
            Scope::Backend(..) => step.delta.proxy = true,
            Scope::ServiceSite(service, _) => {
                step.settle.insert(service.clone());
            }
            Scope::Site(site) => {
                let at = self.services.iter().filter(|(_, s)| s.spec.endpoints.contains_key(site));
                step.settle.extend(at.map(|(id, _)| id.clone()));
            }
        }
        let index = self.generation.index;
        for id in &step.settle {
            if let Some(service) = self.services.get_mut(id) {
                Arc::make_mut(service).version = index;
            }
        }
    }

    fn move_service(
        &mut self,
        step: &mut Step<'_>,
        id: &ServiceId,
        to: Option<&SiteId>,
    ) -> Result<(), Refusal> {
        let service = self.services.get(id).ok_or_else(|| format!("service {id} is not declared"))?.clone();
        if let Some(site) = to {
            if !service.spec.endpoints.contains_key(site) {
                return Err(format!("service {id} has no endpoint at {site}"));
            }
            for family in Family::ALL {
                let class = Lane::new(self, id, &service, family, self.time).class(site);
                if service.spec.endpoint(site, family).is_some() && class > Class::Degraded {
                    let family = if family == Family::V4 { "IPv4" } else { "IPv6" };
                    return Err(format!(
                        "{site} is not usable for {family} ({class}); force it up first if you must"
                    ));
                }
            }
        }
        let mut service = service;
        let s = Arc::make_mut(&mut service);
        s.pinned = to.cloned();
        s.version = self.generation.index;
        self.services.insert(id.clone(), service);
        step.why = format!("moved by {}", step.cause);
        let hand = to.map_or(Hand::Home, Hand::To);
        for family in Family::ALL {
            self.settle_lane(step, id, family, hand);
        }
        Ok(())
    }

    fn set_automation(
        &mut self,
        step: &mut Step<'_>,
        id: Option<&ServiceId>,
        on: bool,
    ) -> Result<(), Refusal> {
        let index = self.generation.index;
        match id {
            None => {
                self.automation = on;
                step.settle.extend(self.services.keys().cloned());
            }
            Some(id) => {
                let service =
                    self.services.get_mut(id).ok_or_else(|| format!("service {id} is not declared"))?;
                Arc::make_mut(service).automation = Some(on);
                step.settle.insert(id.clone());
            }
        }
        for id in &step.settle {
            if let Some(service) = self.services.get_mut(id) {
                Arc::make_mut(service).version = index;
            }
        }
        step.why = format!("automation switched {} by {}", if on { "on" } else { "off" }, step.cause);
        Ok(())
    }

    fn settle(&mut self, step: &mut Step<'_>) {
        for id in core::mem::take(&mut step.settle) {
            let automatic = *step.cause == Cause::Automation && !step.words.contains(&id);
            let hand = if automatic { Hand::Off } else { Hand::Word };
            for family in Family::ALL {
                self.settle_lane(step, &id, family, hand);
            }
        }
    }

    /// Chooses one lane's sites anew and records the decision when they changed.
    fn settle_lane(&mut self, step: &mut Step<'_>, id: &ServiceId, family: Family, hand: Hand<'_>) {
        let Some(service) = self.services.get(id).cloned() else { return };
        let current = service.assignment.get(&family);
        if service.spec.sites(family).is_empty() {
            if current.is_some() {
                Arc::make_mut(self.services.entry(id.clone()).or_insert(service)).assignment.remove(&family);
                step.delta.services.push((id.clone(), family));
            }
            return;
        }
        let choice = Lane::new(self, id, &service, family, self.time).choose(hand);
        let suspects = self.suspects(&service, &choice.sites, family);
        let same = current.is_some_and(|a| a.sites == choice.sites && a.basis == choice.basis);
        let suspected = suspects != service.suspects;
        if same && !suspected {
            return;
        }
        let mut next = service.clone();
        let s = Arc::make_mut(&mut next);
        s.suspects = suspects;
        s.version = self.generation.index;
        if !same {
            self.decided(step, id, family, &service, &choice.sites, choice.basis);
            let here = |p: &&SiteId| s.spec.endpoint(p, family).is_some();
            if s.pinned.as_ref().filter(here).is_some_and(|p| !choice.sites.contains(p)) {
                s.pinned = None; // the site an operator chose has failed: the rules decide again
            }
            let (epoch, since) = (self.generation, self.time);
            s.assignment
                .insert(family, Assignment { epoch, since, sites: choice.sites, basis: choice.basis });
        }
        // what is suspected in one family shortens the TTL of the other one too
        let touched =
            Family::ALL.into_iter().filter(|f| *f == family || suspected && next.assignment.contains_key(f));
        step.delta.services.extend(touched.map(|f| (id.clone(), f)));
        self.services.insert(id.clone(), next);
    }

    /// Answered sites that are degraded in either family.
    fn suspects(&self, service: &ServiceState, chosen: &[SiteId], family: Family) -> BTreeSet<SiteId> {
        let other = service.assignment.iter().filter(|(f, _)| **f != family).map(|(f, a)| (*f, &a.sites[..]));
        let degraded = |s: &SiteId, f: Family| {
            service.health.get(&(s.clone(), f)).is_some_and(|h| h.standing == Standing::Degraded)
        };
        other
            .chain([(family, chosen)])
            .flat_map(|(f, sites)| sites.iter().filter(move |s| degraded(s, f)).cloned())
            .collect()
    }

    pub(crate) fn decided(
        &mut self,
        step: &Step<'_>,
        id: &ServiceId,
        family: Family,
        before: &ServiceState,
        to: &[SiteId],
        basis: Basis,
    ) {
        let rows = || step.rows.iter().filter(|r| r.target.service == *id);
        // of an entry that judges many services, each decision tells its own part
        let cause = match step.rows {
            [] => step.why.clone(),
            _ => rows().map(Row::headline).collect::<Vec<_>>().join("; "),
        };
        let history = Arc::make_mut(&mut self.history);
        history.push_back(Arc::new(Decision {
            epoch: self.generation,
            time: self.time,
            service: id.clone(),
            family,
            from: before.assignment.get(&family).map(|a| a.sites.clone()).unwrap_or_default(),
            to: to.to_vec(),
            basis,
            cause,
            rows: rows().filter(|r| r.target.family == family).cloned().collect(),
        }));
        let epoch = self.generation;
        while history.len() > HISTORY && history.front().is_some_and(|oldest| oldest.epoch < epoch) {
            history.pop_front();
        }
    }

    /// Every zone whose records or answers changed gets one serial more.
    fn advance_serials(&mut self, delta: &mut Delta) {
        let mut zones: BTreeSet<Name> = delta.zones.iter().cloned().collect();
        for (id, _) in &delta.services {
            let names = self.services.get(id).map(|s| s.spec.names.clone()).unwrap_or_default();
            zones.extend(names.iter().filter_map(|n| self.zone_of(n)).cloned());
        }
        for origin in &zones {
            if let Some(zone) = self.zones.get_mut(origin).filter(|_| !mutant::on(Mutant::SerialStandsStill))
            {
                let zone = Arc::make_mut(zone);
                if let Some(at) = self.removed_zones.iter().position(|(removed, _)| removed == origin)
                    && let Some((_, serial)) = self.removed_zones.remove(at)
                {
                    zone.resume(serial);
                }
                zone.advance_serial();
            }
        }
        delta.zones = zones.into_iter().collect();
    }
}

impl ServiceState {
    /// A new standing of one target.
    fn judged(&mut self, row: &Row, now: crate::time::LogTime) {
        let fresh = Health { standing: Standing::Up, since: now, failed: None, flaps: 0 };
        let health = self.health.entry((row.target.site.clone(), row.target.family)).or_insert(fresh);
        if health.standing == row.verdict {
            return;
        }
        health.standing = row.verdict;
        health.since = now;
        if row.verdict == Standing::Down {
            health.fail(now, self.spec.hold_down(health.flaps), row.own == Some(Kind::Draining));
        }
    }
}
