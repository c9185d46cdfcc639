//! Invariant 4 on what clients saw: registers are linearizable, and what was acknowledged is there.

use super::{
    Finding, at,
    linear::{self, Fault},
};
use crate::{
    history::{Kind, Op},
    load,
    record::Record,
};
use std::collections::BTreeMap;

/// Every register by itself; linearizability is local (Herlihy and Wing 1990).
pub fn linearizable(record: &Record) -> Finding {
    let mut keys: BTreeMap<usize, Vec<Op>> = BTreeMap::new();
    for op in &record.ops {
        keys.entry(op.key).or_default().push(*op);
    }
    let mut wrong = Vec::new();
    for (key, ops) in &keys {
        match linear::check(ops) {
            Ok(()) => {}
            Err(Fault::Undecided) => {
                wrong.push(format!("register {key}: too many orders are possible to decide"))
            }
            Err(Fault::Broken(i)) => {
                wrong.push(format!("register {key}: no order explains {}", show(&ops[i])))
            }
        }
    }
    let known = record.ops.iter().filter(|o| o.returned_us.is_some());
    let writes = known.clone().filter(|o| matches!(o.kind, Kind::Write(_))).count();
    let known = known.count();
    if writes == 0 || writes == known {
        wrong.push(format!("{writes} writes and {} reads succeeded: nothing is known", known - writes));
    }
    let looked =
        format!("{} operations on {} registers, {known} of known fate", record.ops.len(), keys.len());
    Finding::of("registers are linearizable", 4, looked, wrong)
}

fn show(op: &Op) -> String {
    let what = match op.kind {
        Kind::Write(v) => format!("the write of {v}"),
        Kind::Read(Some(v)) => format!("the read of {v}"),
        Kind::Read(None) => "the read of nothing".into(),
    };
    let returned = op.returned_us.map_or("never".into(), at);
    format!("{what} by client {} at node {}, from {} to {returned}", op.client, op.node + 1, at(op.called_us))
}

/// Every acknowledged name is on every node at the end, and nothing stands at a name that was never written there.
pub fn nothing_acknowledged_is_lost(record: &Record) -> Finding {
    let acknowledged: Vec<u64> = record.names.iter().filter(|(_, ok)| **ok).map(|(n, _)| *n).collect();
    let mut wrong = Vec::new();
    for (node, found) in record.found.iter().enumerate() {
        for n in &acknowledged {
            if found.get(n) != Some(&load::address(*n)) {
                let held = found.get(n).map_or("is not there", String::as_str);
                wrong.push(format!("name w{n} was acknowledged; on {} it {held}", record.sites[node]));
            }
        }
    }
    if acknowledged.is_empty() {
        wrong.push("no name was acknowledged".into());
    }
    let looked = format!(
        "{} acknowledged of {} names, on {} nodes",
        acknowledged.len(),
        record.names.len(),
        record.found.len()
    );
    Finding::of("nothing acknowledged is lost", 4, looked, wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::samples::{self, op};

    #[test]
    fn a_stale_read_is_named_with_its_client_and_node() {
        let mut record = samples::record();
        record.ops = vec![op(Kind::Write(1), 0), op(Kind::Write(2), 2), op(Kind::Read(Some(1)), 4)];
        let finding = linearizable(&record);
        assert!(
            !finding.good && finding.lines[0].contains("the read of 1 by client 2 at node 2"),
            "{finding:?}"
        );
        record.ops[2].key = 1;
        assert!(!linearizable(&record).good, "a value of another register");
        record.ops[2] = op(Kind::Read(Some(2)), 4);
        assert!(linearizable(&record).good);
    }

    #[test]
    fn a_load_that_did_nothing_proves_nothing() {
        let mut record = samples::record();
        assert!(linearizable(&record).good && nothing_acknowledged_is_lost(&record).good);
        record.ops[0].returned_us = None;
        assert!(!linearizable(&record).good, "no write is known to have come about");
        record.ops = vec![op(Kind::Write(1), 0)];
        assert!(!linearizable(&record).good, "nobody read");
        record.names = [(1, false)].into();
        assert!(!nothing_acknowledged_is_lost(&record).good);
    }

    #[test]
    fn a_lost_name_is_seen_and_one_of_unknown_fate_is_not_missed() {
        let mut record = samples::record();
        record.names.insert(2, false);
        assert!(nothing_acknowledged_is_lost(&record).good);
        record.found[1].clear();
        let finding = nothing_acknowledged_is_lost(&record);
        assert!(!finding.good && finding.lines[0].contains("ams"), "{finding:?}");
    }
}
