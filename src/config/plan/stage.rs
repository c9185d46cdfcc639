//! Splits changes so that each part fits into one log entry.

use serde::Serialize;
use zonekeeper_core::{codec, entry::MAX_ENTRY, model::Change, zone::RrSet};
use zonekeeper_dns::zonefile::type_name;

/// Bytes of an entry that are left to its envelope: time, author, reads, stage number.
pub const HEADROOM: usize = 4 << 10;

/// The most that changes may take in one entry.
const LIMIT: usize = MAX_ENTRY - HEADROOM;
/// The most that the length of a list takes.
const LENGTH: usize = 8;

/// Why changes cannot be staged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StageError {
    /// One object is larger than an entry may be.
    #[error("{object} has {size} bytes encoded, an entry holds at most {limit}; split it")]
    Large {
        /// Which.
        object: String,
        /// Its encoded size.
        size: usize,
        /// The most that fits.
        limit: usize,
    },
}

/// Splits changes so that each part fits into one entry. One part: it needs no staging.
pub fn stages(changes: Vec<Change>) -> Result<Vec<Vec<Change>>, StageError> {
    let mut parts: Vec<Vec<Change>> = Vec::new();
    let mut room = 0;
    for change in changes {
        for (piece, size) in split(change)? {
            match parts.last_mut().filter(|_| size <= room) {
                Some(part) => part.push(piece),
                None => {
                    parts.push(vec![piece]);
                    room = LIMIT - LENGTH;
                }
            }
            room = room.saturating_sub(size);
        }
    }
    Ok(parts)
}

/// A change in pieces that each fit, with their sizes. Each item's size is counted once: an import has a million.
fn split(change: Change) -> Result<Vec<(Change, usize)>, StageError> {
    match change {
        Change::PutRecords(zone, sets) => {
            let head = codec::size(&Change::PutRecords(zone.clone(), Vec::new()));
            let name = |r: &RrSet| format!("the RRset {} {} of zone {zone}", r.name, type_name(r.rtype));
            let groups = chunks(sets, head, name)?.into_iter();
            Ok(groups.map(|(sets, size)| (Change::PutRecords(zone.clone(), sets), size)).collect())
        }
        Change::RemoveRecords(zone, keys) => {
            let head = codec::size(&Change::RemoveRecords(zone.clone(), Vec::new()));
            let name = |k: &(_, u16)| format!("the RRset {} {} of zone {zone}", k.0, type_name(k.1));
            let groups = chunks(keys, head, name)?.into_iter();
            Ok(groups.map(|(keys, size)| (Change::RemoveRecords(zone.clone(), keys), size)).collect())
        }
        other => match codec::size(&other) {
            size if size <= LIMIT - LENGTH => Ok(vec![(other, size)]),
            size => Err(StageError::Large { object: object(&other), size, limit: LIMIT }),
        },
    }
}

/// Groups items so that each group fits behind `head` bytes, with the group's size.
fn chunks<T: Serialize>(
    items: Vec<T>,
    head: usize,
    name: impl Fn(&T) -> String,
) -> Result<Vec<(Vec<T>, usize)>, StageError> {
    let (limit, head) = (LIMIT - LENGTH, head + LENGTH);
    let mut groups: Vec<(Vec<T>, usize)> = Vec::new();
    for item in items {
        let size = codec::size(&item);
        if head + size > limit {
            return Err(StageError::Large { object: name(&item), size, limit: limit - head });
        }
        match groups.last_mut().filter(|(_, sum)| sum + size <= limit) {
            Some((group, sum)) => {
                group.push(item);
                *sum += size;
            }
            None => groups.push((vec![item], head + size)),
        }
    }
    Ok(groups)
}

fn object(change: &Change) -> String {
    match change {
        Change::PutSite(id, _) | Change::RemoveSite(id) => format!("site {id}"),
        Change::PutService(id, _) | Change::RemoveService(id) => format!("service {id}"),
        Change::PutPool(id, _) | Change::RemovePool(id) => format!("pool {id}"),
        Change::PutListener(id, _) | Change::RemoveListener(id) => format!("listener {id}"),
        Change::PutZone(name, _)
        | Change::RemoveZone(name)
        | Change::PutRecords(name, _)
        | Change::RemoveRecords(name, _) => format!("zone {name}"),
    }
}
