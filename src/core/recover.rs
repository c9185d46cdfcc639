//! A new incarnation: one member is left, and nothing that was served before is served again.
//!
//! After a restore, or when the majority is lost for good, other nodes may have served what this state never saw. So
//! the whole of it begins anew: the generation, the epoch of each assignment, the serial of each zone. All of them grow.

use crate::{
    apply::{Refusal, Step, VERSION},
    entry::Recovery,
    model::{Family, Site},
    mutant::{self, Mutant},
    state::{Origin, State},
    zone::INCARNATION_STEP,
};
use alloc::{collections::BTreeSet, format, string::ToString, sync::Arc, vec::Vec};

impl State {
    pub(crate) fn recover(&mut self, step: &mut Step<'_>, recovery: &Recovery) -> Result<(), Refusal> {
        let now = self.generation.incarnation;
        let range = now.saturating_add(1)..=now.saturating_add(Recovery::MAX_STEP);
        if !range.contains(&recovery.incarnation) {
            let (to, first, last) = (recovery.incarnation, range.start(), range.end());
            return Err(format!("incarnation {to} cannot follow {now}; use {first} to {last}"));
        }
        if self.cluster_version > VERSION {
            return Err(format!(
                "cluster version is {}, this program knows up to {VERSION}; use a newer one",
                self.cluster_version
            ));
        }
        if self.voters != BTreeSet::from([recovery.node]) {
            return Err("a new incarnation begins on one voter".into());
        }
        if recovery.cluster == 0 {
            return Err("a cluster id is not 0".into());
        }
        let steps = recovery.incarnation - now;
        self.generation.incarnation = recovery.incarnation;
        step.why = format!("{} ({}), incarnation {}", recovery.reason, step.cause, recovery.incarnation);
        self.one_member(recovery);
        self.begin_serials(steps);
        if !mutant::on(Mutant::OldEpochs) {
            self.stamp_anew(step);
        }
        let (author, reason) = (step.cause.to_string(), recovery.reason.clone());
        self.origin = Some(Arc::new(Origin { at: self.generation, time: self.time, author, reason }));
        step.delta.zones = self.zones.keys().cloned().collect();
        (step.delta.proxy, step.delta.config, step.delta.members) = (true, true, true);
        Ok(())
    }

    fn one_member(&mut self, recovery: &Recovery) {
        let others = core::mem::take(&mut self.members).into_keys().filter(|id| *id != recovery.node);
        match recovery.cluster == self.cluster {
            true => self.retired.extend(others),
            false => self.retired.clear(), // nobody of the old cluster gets in: its CA is another one
        }
        self.cluster = recovery.cluster;
        self.members.insert(recovery.node, Arc::new(recovery.member.clone()));
        self.members_version = self.generation.index;
        if !self.sites.contains_key(&recovery.member.site) {
            self.sites.insert(recovery.member.site.clone(), Arc::new(Site::default()));
            self.revision = self.generation.index;
        }
        self.expose_key();
        self.joins.clear();
        self.stages.clear();
    }

    fn begin_serials(&mut self, steps: u32) {
        for zone in self.zones.values_mut() {
            let zone = Arc::make_mut(zone);
            (0..steps).for_each(|_| zone.advance_serial_by_incarnation());
        }
        for (_, serial) in &mut self.removed_zones {
            *serial = serial.wrapping_add(INCARNATION_STEP.wrapping_mul(steps)); // a zone of that name goes on there
        }
    }

    /// Every assignment stays as it is, under a new epoch and with a decision that says why.
    fn stamp_anew(&mut self, step: &mut Step<'_>) {
        let ids: Vec<_> = self.services.keys().cloned().collect();
        for id in ids {
            let Some(mut service) = self.services.get(&id).cloned() else { continue };
            for family in Family::ALL {
                let Some(mut a) = service.assignment.get(&family).cloned() else { continue };
                self.decided(step, &id, family, &service, &a.sites, a.basis);
                a.epoch = self.generation;
                let s = Arc::make_mut(&mut service);
                s.version = self.generation.index;
                s.assignment.insert(family, a);
                step.delta.services.push((id.clone(), family));
            }
            self.services.insert(id, service);
        }
    }
}
