//! A staged import: a zone whose records take many entries and appear at one index.

use crate::{
    Machine,
    types::{LogEntry, Payload},
};
use zonekeeper_core::{
    Command, Entry, Proposal, State, codec,
    entry::{Init, MAX_ENTRY, Timing},
    model::{Change, ZoneOwner},
    name::Name,
    time::LogTime,
    zone::{RrSet, rtype},
};

/// Records of one part: as many as fit in an entry.
const RECORDS: u32 = 62;

fn origin() -> Name {
    Name::parse("example.com.").unwrap()
}

fn record(name: Name, rtype: u16, rdata: &[u8]) -> RrSet {
    RrSet::new(name, rtype, 60, vec![rdata.into()]).unwrap()
}

/// A zone with nothing but its apex.
pub(super) fn zone() -> Command {
    let soa = [&[2, b'n', b's', 0, 0][..], &[0; 20]].concat();
    let apex = vec![record(origin(), rtype::SOA, &soa), record(origin(), rtype::NS, &[2, b'n', b's', 0])];
    Command::Configure(vec![Change::PutZone(origin(), ZoneOwner::Api), Change::PutRecords(origin(), apex)])
}

/// An import of so many parts, of nearly the largest entry each (63 KiB), and the command that makes it visible.
pub(super) fn staged(parts: u32) -> impl Iterator<Item = Command> {
    let stage = |part| Command::Stage { id: 7, part, changes: vec![records(part)] };
    (0..parts).map(stage).chain([Command::Commit { id: 7, parts }])
}

fn records(part: u32) -> Change {
    let texts = [&[250][..], &[b'x'; 250]].concat().repeat(4); // TXT: four strings, each behind its length
    let name = |n| Name::parse(&format!("r{n:06}.example.com.")).unwrap();
    let numbers = part * RECORDS..(part + 1) * RECORDS;
    Change::PutRecords(origin(), numbers.map(|n| record(name(n), 16, &texts)).collect())
}

/// How much of the import a state shows: none of it, or the RRsets of all parts.
pub(super) fn visible(state: &State) -> usize {
    state.zones.get(&origin()).map_or(0, |zone| zone.len() - 2)
}

/// What [`visible`] says of the whole import.
pub(super) fn whole(parts: u32) -> usize {
    (parts * RECORDS) as usize
}

/// The log of a cluster that imports, from its first entry to the commit.
pub(super) fn log(parts: u32) -> impl Iterator<Item = LogEntry> {
    let init = Command::Init(Init { cluster: 0x5a, version: 1, timing: Timing::Lan });
    [init, zone()].into_iter().chain(staged(parts)).zip(0..).map(|(command, index)| {
        let entry = Entry { time: LogTime(index), proposal: Proposal::by("import", command).into() };
        let size = codec::bytes(&entry).len();
        let full = (MAX_ENTRY - 2048..=MAX_ENTRY).contains(&size);
        assert!(full || size < 256, "entry {index} has {size} bytes");
        LogEntry { log_id: super::support::log_id(index), payload: Payload::Normal(entry) }
    })
}

/// The state after the first `entries` of [`log`].
pub(super) fn state_after(entries: u64, parts: u32) -> std::sync::Arc<State> {
    struct Deaf;
    impl crate::Sink for Deaf {
        fn applied(&self, _batch: crate::Applied) {}
    }
    let machine = Machine::in_memory(std::sync::Arc::new(Deaf));
    machine.replay(log(parts).take(entries as usize));
    machine.state()
}
