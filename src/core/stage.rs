//! Changes too large for one entry: staged part by part, visible at one index, all or nothing.
//!
//! A zone that a stage creates is built while its records come in, in chunks that are shared from part to part and with
//! the state in the end: a part costs what it brings, the commit of a zone of a million names costs next to nothing, and
//! records are not held twice. Everything else of a stage is kept as it came and done at the commit.

use crate::{
    apply::{Refusal, Step},
    configure::{put_records, remove_records},
    entry::MAX_ENTRY,
    model::Change,
    name::Name,
    state::State,
    time::LogTime,
    zone::Zone,
};
use alloc::{
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::Arc,
    vec::Vec,
};
use serde::{Deserialize, Serialize};

/// Open stages at once: each costs memory on every node.
const MAX_STAGES: usize = 8;
/// Parts of all open stages together: 1 GiB of entries.
const MAX_PARTS: u32 = ((1 << 30) / MAX_ENTRY) as u32;
/// A stage that is not committed is forgotten after so many milliseconds.
pub(crate) const STAGE_LIFE_MS: u64 = 600_000;

/// A change that is being staged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Who stages.
    pub owner: String,
    /// When it is forgotten.
    pub expires: LogTime,
    /// The parts so far.
    pub parts: u32,
    /// Zones that it creates, with the records so far.
    zones: BTreeMap<Name, Arc<Zone>>,
    /// What the parts hold beside those, in order.
    changes: Vec<Arc<Vec<Change>>>,
}

impl Stage {
    /// Takes one change into a zone that this stage creates; false when it is none of that kind.
    fn build(&mut self, state: &State, change: &Change) -> Result<bool, Refusal> {
        match change {
            Change::PutZone(origin, owner) => {
                // one that is there already is changed, and one that a change before this removes is kept in order
                if state.zones.contains_key(origin) {
                    return Ok(false);
                }
                let new = || Arc::new(Zone::new(origin.clone(), *owner));
                Arc::make_mut(self.zones.entry(origin.clone()).or_insert_with(new)).set_owner(*owner);
            }
            Change::RemoveZone(origin) => return Ok(self.zones.remove(origin).is_some()),
            Change::PutRecords(origin, sets) => {
                let Some(zone) = self.zones.get_mut(origin) else { return Ok(false) };
                put_records(Arc::make_mut(zone), sets)?;
            }
            Change::RemoveRecords(origin, keys) => {
                let Some(zone) = self.zones.get_mut(origin) else { return Ok(false) };
                remove_records(Arc::make_mut(zone), keys)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// A stage is its owner's alone.
    fn owned(&self, id: u64, step: &Step<'_>) -> Result<(), Refusal> {
        match self.owner == step.cause.to_string() {
            true => Ok(()),
            false => Err(format!("stage {id} belongs to {}", self.owner)),
        }
    }

    /// Sum of the hashes of the zones that are being built.
    pub(crate) fn hash(&self) -> u128 {
        self.zones.values().fold(0, |sum, zone| sum.wrapping_add(zone.hash().rotate_left(1)))
    }

    /// Without the zones that are being built.
    pub(crate) fn small(&self) -> Stage {
        Stage { zones: BTreeMap::new(), ..self.clone() }
    }
}

impl State {
    pub(crate) fn stage(
        &mut self,
        step: &Step<'_>,
        id: u64,
        part: u32,
        changes: &[Change],
    ) -> Result<(), Refusal> {
        if self.stages.len() >= MAX_STAGES && !self.stages.contains_key(&id) {
            return Err(format!("{MAX_STAGES} stages are open already; abort one or wait for it to expire"));
        }
        let mut stage = match self.stages.get(&id) {
            Some(stage) => (**stage).clone(),
            None => Stage {
                owner: step.cause.to_string(),
                expires: self.time,
                parts: 0,
                zones: BTreeMap::new(),
                changes: Vec::new(),
            },
        };
        stage.owned(id, step)?;
        if stage.parts != part {
            return Err(format!("stage {id} expects part {}, not {part}", stage.parts));
        }
        if self.stages.values().map(|s| s.parts).sum::<u32>() >= MAX_PARTS {
            return Err(format!(
                "the open stages hold {MAX_PARTS} parts, which is all that a node keeps; change less at once, or wait \
                 until they are done"
            ));
        }
        let mut rest = Vec::new();
        for change in changes {
            if !stage.build(self, change)? {
                rest.push(change.clone());
            }
        }
        if !rest.is_empty() {
            stage.changes.push(Arc::new(rest));
        }
        stage.parts += 1;
        stage.expires = self.time.plus(STAGE_LIFE_MS);
        self.stages.insert(id, Arc::new(stage));
        Ok(())
    }

    pub(crate) fn commit(
        &mut self,
        step: &mut Step<'_>,
        id: u64,
        parts: u32,
        declared: bool,
    ) -> Result<(), Refusal> {
        let stage = self.stages.remove(&id).ok_or_else(|| no_stage(id))?;
        stage.owned(id, step)?;
        if stage.parts != parts {
            return Err(format!("stage {id} has {} of {parts} parts", stage.parts));
        }
        if let Some(origin) = stage.zones.keys().find(|origin| self.zones.contains_key(origin)) {
            return Err(format!("zone {origin} was created meanwhile; read what runs and stage again"));
        }
        self.zones.extend(stage.zones.iter().map(|(origin, zone)| (origin.clone(), zone.clone())));
        for origin in stage.zones.keys() {
            self.zone_changed(step, origin);
        }
        let created = !stage.zones.is_empty();
        self.configure(step, stage.changes.iter().flat_map(|part| part.iter()), declared, created)
    }

    pub(crate) fn abort(&mut self, step: &Step<'_>, id: u64) -> Result<(), Refusal> {
        self.stages.remove(&id).ok_or_else(|| no_stage(id))?.owned(id, step)
    }
}

fn no_stage(id: u64) -> Refusal {
    format!("there is no stage {id}; it may have expired")
}
