//! The way from what runs to what is declared.

use crate::{
    cluster::{ClusterConfig, zone_path},
    listener, pool,
    reader::join,
    service, site,
};
use serde::Serialize;
use std::{collections::BTreeMap, fmt};
use toml::{Table, Value};
use zonekeeper_core::{
    id::{ListenerId, PoolId, ServiceId, SiteId},
    model::{Change, Listener, Pool, Service, Site},
    name::Name,
};
use zonekeeper_dns::zonefile::type_name;

mod records;
mod stage;

pub use stage::{HEADROOM, StageError, stages};

/// The difference between what runs and what is declared.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In an order that `apply` accepts: what is referred to comes before what refers to it, and goes after it.
    pub changes: Vec<Change>,
    /// The same for people.
    pub lines: Vec<Line>,
    /// Records that run in zones owned by files, but stand in no file: somebody added them elsewhere, or they were
    /// taken out of the file. Applying the plan removes them.
    pub drift: Vec<Drift>,
}

/// What happens to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Add,
    /// Some of its fields change.
    Change,
    /// It goes.
    Remove,
}

/// One object of a plan. Displays as `~ service.web`, followed by an indented line per field.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Line {
    /// What happens to it.
    pub action: Action,
    /// As `service.web`, or `zone."example.com" www.example.com. A`.
    pub object: String,
    /// What changes in it.
    pub fields: Vec<FieldChange>,
}

/// One field before and after, as it would stand in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldChange {
    /// Path within the object.
    pub field: String,
    /// What runs; none when it is new.
    pub before: Option<String>,
    /// What is declared; none when it goes.
    pub after: Option<String>,
}

/// An RRset that runs in a zone owned by a file, and does not stand in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// The zone.
    pub zone: Name,
    /// Owner name.
    pub name: Name,
    /// RR type number.
    pub rtype: u16,
}

/// The difference from what runs to what is declared.
///
/// Zones that the API owns: declared anew they are created with the records of their file; afterwards no plan touches
/// their records, nor removes one that no file names.
pub fn plan(current: &ClusterConfig, desired: ClusterConfig) -> Plan {
    let mut plan = Plan::default();
    let sites = diff(&mut plan, &current.sites, &desired.sites, &SITES);
    let pools = diff(&mut plan, &current.pools, &desired.pools, &POOLS);
    let zones = records::diff(&mut plan, &current.zones, desired.zones);
    let services = diff(&mut plan, &current.services, &desired.services, &SERVICES);
    let listeners = diff(&mut plan, &current.listeners, &desired.listeners, &LISTENERS);
    // Removals in the reverse of the order above, after everything else.
    for (change, line) in [listeners, services, zones, pools, sites].into_iter().flatten() {
        plan.changes.push(change);
        plan.lines.push(line);
    }
    plan
}

/// How objects of one kind are named, shown and changed.
struct Kind<K, V> {
    path: fn(&K) -> String,
    write: fn(&V) -> Table,
    put: fn(&K, &V) -> Change,
    remove: fn(&K) -> Change,
}

const SITES: Kind<SiteId, Site> = Kind {
    path: |id| join("site", id.as_str()),
    write: |s| {
        let mut table = site::write(s, true);
        table.remove("voting"); // an expectation of the files, not a part of the state
        table
    },
    put: |id, site| Change::PutSite(id.clone(), site.clone()),
    remove: |id| Change::RemoveSite(id.clone()),
};
const POOLS: Kind<PoolId, Pool> = Kind {
    path: |id| join("pool", id.as_str()),
    write: pool::write,
    put: |id, pool| Change::PutPool(id.clone(), Box::new(pool.clone())),
    remove: |id| Change::RemovePool(id.clone()),
};
const SERVICES: Kind<ServiceId, Service> = Kind {
    path: |id| join("service", id.as_str()),
    write: service::write,
    put: |id, service| Change::PutService(id.clone(), Box::new(service.clone())),
    remove: |id| Change::RemoveService(id.clone()),
};
const LISTENERS: Kind<ListenerId, Listener> = Kind {
    path: |id| join("listener", id.as_str()),
    write: listener::write,
    put: |id, listener| Change::PutListener(id.clone(), Box::new(listener.clone())),
    remove: |id| Change::RemoveListener(id.clone()),
};

/// Puts go into the plan, removals are handed back.
fn diff<K: Ord, V: PartialEq>(
    plan: &mut Plan,
    current: &BTreeMap<K, V>,
    desired: &BTreeMap<K, V>,
    kind: &Kind<K, V>,
) -> Vec<(Change, Line)> {
    for (id, new) in desired.iter().filter(|(id, new)| current.get(id) != Some(new)) {
        let before = current.get(id).map(|v| flat(&(kind.write)(v)));
        let action = if before.is_some() { Action::Change } else { Action::Add };
        let fields = compare(&before.unwrap_or_default(), &flat(&(kind.write)(new)));
        plan.changes.push((kind.put)(id, new));
        plan.lines.push(Line { action, object: (kind.path)(id), fields });
    }
    let gone = current.iter().filter(|(id, _)| !desired.contains_key(id));
    gone.map(|(id, old)| {
        let fields = compare(&flat(&(kind.write)(old)), &BTreeMap::new());
        ((kind.remove)(id), Line { action: Action::Remove, object: (kind.path)(id), fields })
    })
    .collect()
}

/// Fields by path, with their values as TOML.
fn flat(table: &Table) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    table.iter().for_each(|(key, value)| flatten(join("", key), value, &mut out));
    out
}

fn flatten(path: String, value: &Value, out: &mut BTreeMap<String, String>) {
    match value {
        Value::Table(table) => table.iter().for_each(|(key, value)| flatten(join(&path, key), value, out)),
        Value::Array(items) if items.iter().any(Value::is_table) => {
            items.iter().enumerate().for_each(|(i, item)| flatten(format!("{path}[{i}]"), item, out));
        }
        value => _ = out.insert(path, value.to_string()),
    }
}

fn compare(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<FieldChange> {
    let mut paths: Vec<&String> = before.keys().chain(after.keys()).collect();
    paths.sort();
    paths.dedup();
    let change = |path: &String| FieldChange {
        field: path.clone(),
        before: before.get(path).cloned(),
        after: after.get(path).cloned(),
    };
    paths.into_iter().map(change).filter(|c| c.before != c.after).collect()
}

impl Plan {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| write!(f, "{line}"))?;
        self.drift.iter().try_for_each(|drift| writeln!(f, "! {drift}"))
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Add => '+',
            Action::Change => '~',
            Action::Remove => '-',
        };
        writeln!(f, "{sign} {}", self.object)?;
        self.fields.iter().try_for_each(|field| writeln!(f, "    {field}"))
    }
}

impl fmt::Display for FieldChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "~ {} = {before} -> {after}", self.field),
            (Some(before), None) => write!(f, "- {} = {before}", self.field),
            (None, Some(after)) => write!(f, "+ {} = {after}", self.field),
            (None, None) => Ok(()),
        }
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let zone = zone_path(&self.zone);
        write!(
            f,
            "drift: {zone} {} {} runs, but stands in no file; applying removes it",
            self.name,
            type_name(self.rtype)
        )
    }
}
