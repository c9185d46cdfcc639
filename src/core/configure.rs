//! Changes of the declared configuration, with the references between objects kept whole.

use crate::{
    apply::{Refusal, Step},
    id::{CertificateId, ServiceId, SiteId},
    model::{Change, Family, Route, Service},
    name::Name,
    secrets::SecretId,
    state::{REMOVED_ZONES, ServiceState, State},
    zone::{RrSet, Zone},
};
use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    sync::Arc,
    vec::Vec,
};

/// Creates or replaces RRsets of a zone.
pub(crate) fn put_records(zone: &mut Zone, sets: &[RrSet]) -> Result<(), Refusal> {
    for set in sets {
        zone.put(set).map_err(|e| format!("zone {}: {e}", zone.origin()))?;
    }
    Ok(())
}

/// Removes RRsets of a zone, which must be there.
pub(crate) fn remove_records(zone: &mut Zone, keys: &[(Name, u16)]) -> Result<(), Refusal> {
    for (name, rtype) in keys {
        if !zone.remove(name, *rtype) {
            return Err(format!("zone {}: {name} has no records of type {rtype}", zone.origin()));
        }
    }
    Ok(())
}

impl State {
    /// Applies changes, all or none (the caller works on a copy). `declared`: they come from the declared files.
    /// `created`: zones have been created before them.
    pub(crate) fn configure<'c>(
        &mut self,
        step: &mut Step<'_>,
        changes: impl Iterator<Item = &'c Change>,
        declared: bool,
        created: bool,
    ) -> Result<(), Refusal> {
        let (mut revised, mut checked) = (declared || created, created);
        for change in changes {
            let records = matches!(change, Change::PutRecords(..) | Change::RemoveRecords(..));
            revised |= !records;
            checked |= !matches!(change, Change::PutRecords(..));
            self.change(step, change)?;
        }
        if revised {
            self.revision = self.generation.index;
            step.delta.config = true;
        }
        if checked {
            self.check_references()?;
            let gone = |scope: &crate::entry::Scope| self.check_scope(scope).is_err();
            let gone: Vec<_> = self.overrides.keys().filter(|s| gone(s)).cloned().collect();
            gone.iter().for_each(|scope| drop(self.overrides.remove(scope)));
            self.check_answerable(step)?;
        }
        for origin in &step.delta.zones {
            if let Some(zone) = self.zones.get(origin) {
                zone.validate().map_err(|e| format!("zone {origin}: {e}"))?;
            }
        }
        step.why = format!("configuration changed by {}", step.cause);
        Ok(())
    }

    fn change(&mut self, step: &mut Step<'_>, change: &Change) -> Result<(), Refusal> {
        let gone = |found: bool, what: &str, id: &dyn core::fmt::Display| {
            if found { Ok(()) } else { Err(format!("{what} {id} does not exist")) }
        };
        match change {
            Change::PutSite(id, site) => {
                self.sites.insert(id.clone(), Arc::new(site.clone()));
                Ok(())
            }
            Change::RemoveSite(id) => gone(self.sites.remove(id).is_some(), "site", id),
            Change::PutService(id, service) => self.put_service(step, id, service),
            Change::RemoveService(id) => self.remove_service(step, id),
            Change::PutPool(id, pool) => {
                step.delta.proxy = true;
                self.pools.insert(id.clone(), Arc::new((**pool).clone()));
                Ok(())
            }
            Change::RemovePool(id) => {
                step.delta.proxy = true;
                gone(self.pools.remove(id).is_some(), "pool", id)
            }
            Change::PutListener(id, listener) => {
                step.delta.proxy = true;
                self.listeners.insert(id.clone(), Arc::new((**listener).clone()));
                Ok(())
            }
            Change::RemoveListener(id) => {
                step.delta.proxy = true;
                gone(self.listeners.remove(id).is_some(), "listener", id)
            }
            Change::PutZone(origin, owner) => {
                let new = || Arc::new(Zone::new(origin.clone(), *owner));
                Arc::make_mut(self.zones.entry(origin.clone()).or_insert_with(new)).set_owner(*owner);
                self.zone_changed(step, origin);
                Ok(())
            }
            Change::RemoveZone(origin) => {
                self.zone_changed(step, origin);
                self.zone_versions.remove(origin);
                let removed = self.zones.remove(origin);
                if let Some(zone) = &removed {
                    self.removed_zones.push_back((origin.clone(), zone.serial()));
                    self.removed_zones.drain(..self.removed_zones.len().saturating_sub(REMOVED_ZONES));
                }
                gone(removed.is_some(), "zone", origin)
            }
            Change::PutRecords(origin, rrsets) => self.put_records(step, origin, rrsets),
            Change::RemoveRecords(origin, keys) => self.remove_records(step, origin, keys),
        }
    }

    pub(crate) fn zone_changed(&mut self, step: &mut Step<'_>, origin: &Name) {
        self.zone_versions.insert(origin.clone(), self.generation.index);
        if !step.delta.zones.contains(origin) {
            step.delta.zones.push(origin.clone());
        }
    }

    fn put_records(&mut self, step: &mut Step<'_>, origin: &Name, rrsets: &[RrSet]) -> Result<(), Refusal> {
        let zone = self.zones.get_mut(origin).ok_or_else(|| format!("zone {origin} does not exist"))?;
        put_records(Arc::make_mut(zone), rrsets)?;
        self.zone_changed(step, origin);
        Ok(())
    }

    fn remove_records(
        &mut self,
        step: &mut Step<'_>,
        origin: &Name,
        keys: &[(Name, u16)],
    ) -> Result<(), Refusal> {
        let zone = self.zones.get_mut(origin).ok_or_else(|| format!("zone {origin} does not exist"))?;
        remove_records(Arc::make_mut(zone), keys)?;
        self.zone_changed(step, origin);
        Ok(())
    }

    fn put_service(&mut self, step: &mut Step<'_>, id: &ServiceId, spec: &Service) -> Result<(), Refusal> {
        let old = self.services.get(id).cloned();
        let mut next = match &old {
            Some(old) => (**old).clone(),
            None => ServiceState {
                version: 0,
                spec: spec.clone(),
                health: BTreeMap::new(),
                assignment: BTreeMap::new(),
                suspects: BTreeSet::new(),
                pinned: None,
                automation: None,
            },
        };
        // names that the service gives up change too
        self.names_changed(step, &next.spec.names.clone());
        // what is remembered of an endpoint goes with its address
        let kept = |site: &crate::id::SiteId, family: Family| {
            old.as_ref().is_some_and(|o| {
                o.spec.endpoint(site, family).is_some()
                    && o.spec.endpoint(site, family) == spec.endpoint(site, family)
            })
        };
        next.health.retain(|(site, family), _| kept(site, *family));
        next.pinned = next.pinned.filter(|p| spec.endpoints.contains_key(p));
        if next.spec.automation != spec.automation {
            next.automation = None; // the declaration has the last word when it changes
        }
        next.spec = spec.clone();
        next.version = self.generation.index;
        self.services.insert(id.clone(), Arc::new(next));
        step.delta.services.extend(Family::ALL.map(|f| (id.clone(), f)));
        step.settle.insert(id.clone());
        Ok(())
    }

    fn remove_service(&mut self, step: &mut Step<'_>, id: &ServiceId) -> Result<(), Refusal> {
        let old = self.services.remove(id).ok_or_else(|| format!("service {id} does not exist"))?;
        self.names_changed(step, &old.spec.names);
        step.delta.services.extend(Family::ALL.map(|f| (id.clone(), f)));
        Ok(())
    }

    /// The zones of these names answer differently: their serials advance, their records stay as they are.
    fn names_changed(&mut self, step: &mut Step<'_>, names: &[Name]) {
        let zones: Vec<Name> = names.iter().filter_map(|n| self.zone_of(n)).cloned().collect();
        for origin in zones {
            if !step.delta.zones.contains(&origin) {
                step.delta.zones.push(origin);
            }
        }
    }

    fn check_references(&self) -> Result<(), Refusal> {
        let mut names: BTreeMap<&Name, &ServiceId> = BTreeMap::new();
        for (id, service) in &self.services {
            let spec = &service.spec;
            let unknown = spec.endpoints.keys().find(|s| !self.sites.contains_key(s));
            if let Some(site) = unknown {
                return Err(format!("service {id}: site {site} is not declared"));
            }
            if let Some(pool) = spec.pool.as_ref().filter(|p| !self.pools.contains_key(p)) {
                return Err(format!("service {id}: pool {pool} is not declared"));
            }
            if Family::ALL.iter().all(|f| spec.sites(*f).is_empty()) {
                return Err(format!("service {id} has no endpoint"));
            }
            for name in &spec.names {
                if self.zone_of(name).is_none() {
                    return Err(format!("service {id}: {name} lies in no zone"));
                }
                if let Some(other) = names.insert(name, id) {
                    return Err(format!("service {id}: {name} belongs to service {other} already"));
                }
            }
        }
        let known = |site: &&SiteId| self.sites.contains_key(*site);
        for (id, pool) in &self.pools {
            let named = pool.names.iter().filter_map(|b| b.site.as_ref());
            let mut sites = pool.backends.iter().filter_map(|b| b.site.as_ref()).chain(named);
            if let Some(site) = sites.find(|s| !known(s)) {
                return Err(format!("pool {id}: site {site} is not declared"));
            }
        }
        for (id, listener) in &self.listeners {
            let mut sites = listener.binds.iter().filter_map(|b| b.site.as_ref());
            if let Some(site) = sites.find(|s| !known(s)) {
                return Err(format!("listener {id}: site {site} is not declared"));
            }
            let mut pools = listener.routes.iter().flat_map(Route::pools);
            if let Some(unknown) = pools.find(|p| !self.pools.contains_key(*p)) {
                return Err(format!("listener {id}: pool {unknown} is not declared"));
            }
            let held = |id: &&CertificateId| {
                self.secrets.vault.rings.contains_key(&SecretId::Certificate((*id).clone()))
            };
            if let Some(missing) = listener.certificates().find(|id| !held(id)) {
                return Err(format!(
                    "listener {id}: the cluster holds no certificate {missing}; put it first, as `zonekeeper certificate put \
                     {missing} --cert FILE --key FILE`"
                ));
            }
        }
        Ok(())
    }
}
