//! Invariants 2 and 3, with the checkers of the core.

use super::{Finding, at};
use crate::record::Record;
use zonekeeper_core::{
    id::ServiceId,
    invariant::{Violation, agreement::Agreement, progress::Progress},
    model::Family,
    name::Name,
    state::Epoch,
};

/// Which of the core's words stand for the laboratory's zone and service.
pub(super) fn words() -> Option<(Name, ServiceId)> {
    Some(("example.com.".parse().ok()?, "www".parse().ok()?))
}

/// Invariant 2: per node, the (serial, epoch) never goes back, restarts included.
pub fn never_back(record: &Record) -> Finding {
    let (mut progress, mut wrong, mut looked) = (Progress::default(), Vec::new(), [0, 0]);
    let Some((zone, service)) = words() else { return Finding::of("words", None, String::new(), vec![]) };
    let mut note = |us: u64, seen: Result<(), Violation>| {
        if let Err(v) = seen {
            wrong.push(format!("at {}: {}", at(us), v.text));
        }
    };
    for asked in record.asked.iter().filter(|a| a.rtype == "SOA") {
        for said in &asked.changes {
            let Some(serial) = said.answer.as_ref().and_then(|a| a.serial) else { continue };
            looked[0] += 1;
            note(said.at_us, progress.serial(asked.node as u64 + 1, &zone, serial));
        }
    }
    for (node, shown) in record.shown.iter().enumerate() {
        for s in shown.iter().filter(|s| s.epoch.1 > 0) {
            looked[1] += 1;
            let epoch = Epoch { incarnation: s.epoch.0, index: s.epoch.1 };
            note(s.at_us, progress.epoch(node as u64 + 1, &service, Family::V4, epoch));
        }
    }
    let looked = format!("{} changes of serials, {} of what nodes show", looked[0], looked[1]);
    Finding::of("serial and epoch never go back on any node", 2, looked, wrong)
}

/// Invariant 3: same applied index, same state hash.
pub fn same_index_same_hash(record: &Record) -> Finding {
    let (mut agreement, mut wrong, mut looked) = (Agreement::default(), Vec::new(), 0);
    let mut shared: std::collections::BTreeMap<(u32, u64), usize> = Default::default();
    for (node, marks) in record.marks.iter().enumerate() {
        let mut last = None;
        for mark in marks {
            let Ok(hash) = u128::from_str_radix(&mark.hash, 16) else { continue };
            looked += 1;
            // an incarnation counts for itself: it lies beyond every index of the one before
            let index = u64::from(mark.incarnation) << 48 | mark.index;
            if let Err(v) = agreement.seen(node as u64 + 1, index, hash) {
                wrong.push(format!("at {}: {}", at(mark.at_us), v.text));
            }
            if last.replace((mark.incarnation, mark.index)) != Some((mark.incarnation, mark.index)) {
                *shared.entry((mark.incarnation, mark.index)).or_default() += 1;
            }
        }
    }
    let shared = shared.values().filter(|n| **n > 1).count();
    if shared == 0 {
        wrong.push("no index was seen on two nodes".into());
    }
    let looked = format!("{looked} hashes of states, {shared} indexes seen on more than one node");
    Finding::of("same index, same state", 3, looked, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{self, mark, said};

    #[test]
    fn a_serial_or_an_epoch_that_goes_back_is_seen() {
        let mut record = samples::record();
        assert!(never_back(&record).good);
        record.asked.push(crate::history::Asked {
            rtype: "SOA".into(),
            changes: vec![said(1, None, Some(9)), said(2, None, Some(8))],
            ..samples::asked(1, &[])
        });
        assert!(!never_back(&record).good);

        let mut record = samples::record();
        record.shown[2].push(samples::shown(9, (0, 4)));
        let finding = never_back(&record);
        assert!(!finding.good && finding.lines[0].contains("node 3"), "{finding:?}");
    }

    #[test]
    fn another_hash_at_the_same_index_is_seen() {
        let mut record = samples::record();
        assert!(same_index_same_hash(&record).good);
        record.marks[1].push(mark(9, 7, "bb"));
        assert!(!same_index_same_hash(&record).good);
        record.marks[1] = vec![mark(9, 8, "bb")];
        assert!(same_index_same_hash(&record).good, "another index");
        record.marks[2] = vec![mark(9, 9, "bb")];
        assert!(!same_index_same_hash(&record).good, "nothing to compare");
    }
}
