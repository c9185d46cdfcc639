//! Zones and records of a plan.

use super::{Action, Drift, FieldChange, Line, Plan};
use crate::cluster::zone_path;
use std::collections::BTreeMap;
use zonekeeper_core::{
    model::{Change, ZoneOwner},
    name::Name,
    zone::{RrSet, rtype},
};
use zonekeeper_dns::zonefile::{rdata_text, type_name};

/// The zones of a configuration.
type Zones = BTreeMap<Name, (ZoneOwner, Vec<RrSet>)>;

/// Creations and edits go into the plan, removals of whole zones are handed back.
pub(super) fn diff(plan: &mut Plan, current: &Zones, desired: Zones) -> Vec<(Change, Line)> {
    let gone = |(origin, (owner, _)): &(&Name, &(ZoneOwner, Vec<RrSet>))| {
        *owner == ZoneOwner::File && !desired.contains_key(*origin)
    };
    let remove = |(origin, (_, records)): (&Name, &(ZoneOwner, Vec<RrSet>))| {
        let fields = vec![field("records", Some(format!("{} sets", records.len())), None)];
        (
            Change::RemoveZone(origin.clone()),
            Line { action: Action::Remove, object: zone_path(origin), fields },
        )
    };
    let removals = current.iter().filter(gone).map(remove).collect();
    for (origin, (owner, records)) in desired {
        match current.get(&origin) {
            None => create(plan, origin, owner, records),
            Some((runs, running)) => {
                if *runs != owner {
                    plan.changes.push(Change::PutZone(origin.clone(), owner));
                    let fields = vec![field("owner", Some(word(*runs)), Some(word(owner)))];
                    plan.lines.push(Line { action: Action::Change, object: zone_path(&origin), fields });
                }
                if owner == ZoneOwner::File {
                    edit(plan, &origin, *runs, running, &records);
                }
            }
        }
    }
    removals
}

fn word(owner: ZoneOwner) -> String {
    match owner {
        ZoneOwner::File => "\"file\"".into(),
        ZoneOwner::Api => "\"api\"".into(),
    }
}

fn field(name: &str, before: Option<String>, after: Option<String>) -> FieldChange {
    FieldChange { field: name.into(), before, after }
}

fn create(plan: &mut Plan, origin: Name, owner: ZoneOwner, records: Vec<RrSet>) {
    let fields = vec![
        field("owner", None, Some(word(owner))),
        field("records", None, Some(format!("{} sets", records.len()))),
    ];
    plan.lines.push(Line { action: Action::Add, object: zone_path(&origin), fields });
    plan.changes.push(Change::PutZone(origin.clone(), owner));
    plan.changes.push(Change::PutRecords(origin, records));
}

/// Removals come first: a CNAME has to go before another type can stand at its name.
fn edit(plan: &mut Plan, origin: &Name, runs: ZoneOwner, running: &[RrSet], declared: &[RrSet]) {
    let index = |sets: &[RrSet]| -> BTreeMap<(Name, u16), usize> {
        sets.iter().enumerate().map(|(i, r)| ((r.name.clone(), r.rtype), i)).collect()
    };
    let (old, new) = (index(running), index(declared));
    let gone: Vec<(Name, u16)> = old.keys().filter(|k| !new.contains_key(*k)).cloned().collect();
    for key in &gone {
        plan.lines.push(line(origin, Action::Remove, old.get(key).map(|i| &running[*i]), None));
        if runs == ZoneOwner::File {
            plan.drift.push(Drift { zone: origin.clone(), name: key.0.clone(), rtype: key.1 });
        }
    }
    if !gone.is_empty() {
        plan.changes.push(Change::RemoveRecords(origin.clone(), gone));
    }
    let mut put = Vec::new();
    for (key, set) in new.iter().map(|(key, i)| (key, &declared[*i])) {
        let before = old.get(key).map(|i| &running[*i]);
        if before.is_some_and(|b| same(b, set)) {
            continue;
        }
        let action = if before.is_some() { Action::Change } else { Action::Add };
        plan.lines.push(line(origin, action, before, Some(set)));
        put.push(set.clone());
    }
    if !put.is_empty() {
        plan.changes.push(Change::PutRecords(origin.clone(), put));
    }
}

/// Whether a declared set asks for nothing new. The running serial grows by itself (max(file's, current + 1)), so an
/// SOA that differs in nothing but a serial that is not ahead (RFC 1982 §3.2) is the same.
fn same(running: &RrSet, declared: &RrSet) -> bool {
    if running == declared {
        return true;
    }
    let (Some(r), Some(d)) = (running.rdata.first(), declared.rdata.first()) else { return false };
    if declared.rtype != rtype::SOA || running.ttl != declared.ttl || r.len() != d.len() || r.len() < 20 {
        return false;
    }
    let at = r.len() - 20; // five 32-bit numbers end the RDATA (RFC 1035 §3.3.13), the serial is the first
    let serial = |b: &[u8]| u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
    let ahead = serial(d).wrapping_sub(serial(r)) as i32 > 0;
    !ahead && r[..at] == d[..at] && r[at + 4..] == d[at + 4..]
}

fn line(origin: &Name, action: Action, before: Option<&RrSet>, after: Option<&RrSet>) -> Line {
    let data = |r: &RrSet| r.rdata.iter().map(|d| rdata_text(r.rtype, d)).collect::<Vec<_>>().join(", ");
    let owner = after.or(before).map(|r| format!(" {} {}", r.name, type_name(r.rtype))).unwrap_or_default();
    let fields = vec![
        field("data", before.map(data), after.map(data)),
        field("ttl", before.map(|r| r.ttl.to_string()), after.map(|r| r.ttl.to_string())),
    ];
    let fields = fields.into_iter().filter(|f| f.before != f.after).collect();
    Line { action, object: format!("{}{owner}", zone_path(origin)), fields }
}
