//! Splits changes so that each part fits into one log entry.

use serde::Serialize;
use zonekeeper_core::{codec, entry::MAX_ENTRY, model::Change};
use zonekeeper_dns::zonefile::type_name;

/// Bytes of an entry that are left to its envelope: time, author, reads, stage number.
pub const HEADROOM: usize = 4 << 10;

/// The most that changes may take in one entry.
const LIMIT: usize = MAX_ENTRY - HEADROOM;

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
        for piece in split(change)? {
            let size = codec::bytes(&piece).len();
            match parts.last_mut().filter(|_| size <= room) {
                Some(part) => part.push(piece),
                None => {
                    parts.push(vec![piece]);
                    room = LIMIT - 8; // the length of the list of changes
                }
            }
            room = room.saturating_sub(size);
        }
    }
    Ok(parts)
}

/// A change in pieces that each fit.
fn split(change: Change) -> Result<Vec<Change>, StageError> {
    let size = codec::bytes(&change).len();
    if size <= LIMIT - 8 {
        return Ok(vec![change]);
    }
    match change {
        Change::PutRecords(zone, sets) => {
            let name = |r: &zonekeeper_core::zone::RrSet| {
                format!("the RRset {} {} of zone {zone}", r.name, type_name(r.rtype))
            };
            Ok(chunks(sets, name)?.into_iter().map(|c| Change::PutRecords(zone.clone(), c)).collect())
        }
        Change::RemoveRecords(zone, keys) => {
            let name = |k: &(_, u16)| format!("the RRset {} {} of zone {zone}", k.0, type_name(k.1));
            Ok(chunks(keys, name)?.into_iter().map(|c| Change::RemoveRecords(zone.clone(), c)).collect())
        }
        other => Err(StageError::Large { object: object(&other), size, limit: LIMIT }),
    }
}

/// Groups items so that each group fits, whatever the zone's name.
fn chunks<T: Serialize>(items: Vec<T>, name: impl Fn(&T) -> String) -> Result<Vec<Vec<T>>, StageError> {
    let limit = LIMIT - 1200; // tag, length, and the longest name: 255 bytes, each as \DDD
    let (mut groups, mut room): (Vec<Vec<T>>, usize) = (Vec::new(), 0);
    for item in items {
        let size = codec::bytes(&item).len();
        if size > limit {
            return Err(StageError::Large { object: name(&item), size, limit });
        }
        match groups.last_mut().filter(|_| size <= room) {
            Some(group) => group.push(item),
            None => {
                groups.push(vec![item]);
                room = limit;
            }
        }
        room -= size;
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
