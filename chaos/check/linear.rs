//! Linearizability of one register: just-in-time linearization (Lowe 2017, after Wing and Gong 1993).
//!
//! A register takes writes of values that no other write has, and reads. A history is linearizable when each operation
//! can be given one instant between its call and its return so that every read gives the value of the last write
//! before it. A write whose fate is unknown may take effect at any time after its call, or never; when some read gives
//! its value, it took effect before that read returned, which bounds the search.
//!
//! Walks over calls and returns in order and keeps every configuration that is still possible: the register's value
//! and which of the open operations have taken effect.

use crate::history::{Kind, Op};
use std::collections::{BTreeMap, BTreeSet};

/// More configurations than this are not followed: the verdict is then "undecided", which is no success.
const CONFIGURATIONS: usize = 200_000;

/// Why a history is not good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// No order explains this operation (its place in the history).
    Broken(usize),
    /// Too many orders are possible.
    Undecided,
}

/// Checks the operations of one key. The register begins without a value. Names the first operation that nothing
/// explains: what went before it is linearizable.
pub fn check(ops: &[Op]) -> Result<(), Fault> {
    match whole(ops) {
        Err(Fault::Broken(_)) => {}
        fine => return fine,
    }
    let mut ends: Vec<(u64, usize)> =
        ops.iter().enumerate().filter_map(|(i, o)| Some((o.returned_us?, i))).collect();
    ends.sort_unstable();
    // a prefix of a linearizable history is linearizable, so the first bad one can be halved in on
    let first = ends.partition_point(|(until, _)| whole(&prefix(ops, *until)) == Ok(()));
    Err(Fault::Broken(ends.get(first).map_or(0, |(_, i)| *i)))
}

/// What had happened by then; what was open is of unknown fate.
fn prefix(ops: &[Op], until: u64) -> Vec<Op> {
    let known = |o: &Op| Op { returned_us: o.returned_us.filter(|at| *at <= until), ..*o };
    ops.iter().filter(|o| o.called_us <= until).map(known).collect()
}

fn whole(ops: &[Op]) -> Result<(), Fault> {
    let mut search = Search::new(ops);
    for (_, is_return, op) in events(ops) {
        match is_return {
            false => _ = search.open.insert(op),
            true => search.returns(op)?,
        }
    }
    Ok(())
}

/// Calls and returns in order of time; of the same instant the calls first, which allows the most.
fn events(ops: &[Op]) -> Vec<(u64, bool, usize)> {
    let mut first_seen: BTreeMap<u64, u64> = BTreeMap::new();
    for op in ops {
        if let (Kind::Read(Some(value)), Some(returned)) = (op.kind, op.returned_us) {
            let seen = first_seen.entry(value).or_insert(returned);
            *seen = (*seen).min(returned);
        }
    }
    let mut events = Vec::new();
    for (i, op) in ops.iter().enumerate() {
        let returned = match (op.kind, op.returned_us) {
            (_, Some(at)) => at,
            // nobody saw it: it may as well never take effect
            (Kind::Write(value), None) => match first_seen.get(&value) {
                Some(at) => (*at).max(op.called_us),
                None => continue,
            },
            (Kind::Read(_), None) => continue,
        };
        events.push((op.called_us, false, i));
        events.push((returned, true, i));
    }
    events.sort_unstable();
    events
}

/// What one run over a key works with.
struct Search<'a> {
    ops: &'a [Op],
    /// Operations that were called and have not returned.
    open: BTreeSet<usize>,
    /// Reads of each value that have not returned, be they called or not: a value that is still to be read is not
    /// overwritten, or nothing would explain the read.
    unread: BTreeMap<Option<u64>, BTreeSet<usize>>,
    /// Value of the register (none: as it was at first), and open operations that took effect.
    possible: BTreeSet<Configuration>,
}

type Configuration = (Option<u64>, BTreeSet<usize>);

impl<'a> Search<'a> {
    fn new(ops: &'a [Op]) -> Search<'a> {
        let mut unread: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
        for (i, op) in ops.iter().enumerate() {
            if let (Kind::Read(value), Some(_)) = (op.kind, op.returned_us) {
                unread.entry(value).or_default().insert(i);
            }
        }
        let possible = BTreeSet::from([(None, BTreeSet::new())]);
        Search { ops, open: BTreeSet::new(), unread, possible }
    }

    /// Keeps the configurations in which `op` has taken effect, each in every way that leads there.
    fn returns(&mut self, op: usize) -> Result<(), Fault> {
        let mut done = BTreeSet::new();
        let mut seen = self.possible.clone();
        let mut todo: Vec<_> = std::mem::take(&mut self.possible).into_iter().collect();
        while let Some((value, effective)) = todo.pop() {
            if effective.contains(&op) {
                let mut rest = effective;
                rest.remove(&op);
                done.insert((value, rest));
                continue;
            }
            for next in self.open.iter().filter(|o| !effective.contains(o)) {
                let Some(value) = self.step(value, &effective, *next) else { continue };
                let mut effective = effective.clone();
                effective.insert(*next);
                if seen.insert((value, effective.clone())) {
                    todo.push((value, effective));
                }
            }
            if seen.len() > CONFIGURATIONS {
                return Err(Fault::Undecided);
            }
        }
        self.open.remove(&op);
        if let Kind::Read(value) = self.ops[op].kind
            && let Some(unread) = self.unread.get_mut(&value)
        {
            unread.remove(&op);
        }
        self.possible = done;
        if self.possible.is_empty() { Err(Fault::Broken(0)) } else { Ok(()) }
    }

    /// The value after an operation takes effect; none when it cannot.
    fn step(&self, value: Option<u64>, effective: &BTreeSet<usize>, op: usize) -> Option<Option<u64>> {
        match self.ops[op].kind {
            Kind::Write(new) => {
                let read = self.unread.get(&value).is_none_or(|unread| unread.is_subset(effective));
                read.then_some(Some(new))
            }
            Kind::Read(read) => (read == value).then_some(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn op(kind: Kind, called_us: u64, returned_us: Option<u64>) -> Op {
        Op { client: 0, node: 0, key: 0, kind, called_us, returned_us, status: 200 }
    }

    fn w(value: u64, from: u64, to: u64) -> Op {
        op(Kind::Write(value), from, Some(to))
    }

    fn unknown(value: u64, from: u64) -> Op {
        op(Kind::Write(value), from, None)
    }

    fn r(value: u64, from: u64, to: u64) -> Op {
        op(Kind::Read((value != 0).then_some(value)), from, Some(to))
    }

    #[test]
    fn reads_after_writes_are_linearizable() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[r(0, 0, 1), w(1, 2, 3), r(1, 4, 5), w(2, 6, 7), r(2, 8, 9)]), Ok(()));
    }

    #[test]
    fn a_stale_read_is_seen() {
        assert_eq!(check(&[w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)]), Err(Fault::Broken(2)));
        assert_eq!(check(&[w(1, 0, 1), r(0, 2, 3)]), Err(Fault::Broken(1)), "before the first write");
    }

    #[test]
    fn concurrent_operations_may_take_effect_in_any_order_but_in_one() {
        let two = [w(1, 0, 10), w(2, 0, 10)];
        for read in [1, 2] {
            assert_eq!(check(&[two[0], two[1], r(read, 11, 12)]), Ok(()));
        }
        assert_eq!(check(&[two[0], two[1], r(1, 11, 12), r(2, 13, 14)]), Err(Fault::Broken(3)));
        assert_eq!(check(&[w(1, 0, 10), r(1, 2, 3), r(0, 4, 5)]), Err(Fault::Broken(2)), "seen is seen");
        assert_eq!(check(&[w(1, 0, 10), r(0, 2, 3), r(1, 4, 5)]), Ok(()));
    }

    #[test]
    fn a_lost_acknowledged_write_is_seen() {
        assert_eq!(check(&[w(1, 0, 1), w(2, 2, 3), r(2, 4, 5), r(1, 6, 7)]), Err(Fault::Broken(3)));
    }

    #[test]
    fn a_write_of_unknown_fate_may_happen_late_or_never() {
        assert_eq!(check(&[w(1, 0, 1), unknown(2, 2), r(1, 4, 5), r(1, 8, 9)]), Ok(()), "never");
        assert_eq!(check(&[w(1, 0, 1), unknown(2, 2), r(1, 4, 5), r(2, 8, 9)]), Ok(()), "late");
        let back = [w(1, 0, 1), unknown(2, 2), r(2, 4, 5), r(1, 8, 9)];
        assert_eq!(check(&back), Err(Fault::Broken(3)), "not late and then undone");
        assert_eq!(check(&[r(2, 0, 1), unknown(2, 2)]), Err(Fault::Broken(0)), "not before it was asked for");
    }

    #[test]
    fn many_unknown_writes_do_not_explode() {
        let mut ops: Vec<Op> = (1..400).map(|v| unknown(v, v)).collect();
        ops.extend((1..400).step_by(7).map(|v| r(v, 1000 + 2 * v, 1001 + 2 * v)));
        assert_eq!(check(&ops), Ok(()));
    }

    /// A register played for real, then one read turned into a wrong one.
    #[test]
    fn played_histories_are_good_and_a_spoiled_one_is_not() {
        let mut caught = 0;
        for seed in 0..50 {
            let mut rng = Rng::new(seed);
            let (mut ops, mut value) = (Vec::new(), 0);
            let mut free = [0u64; 4];
            for n in 1..200 {
                let client = (0..4).min_by_key(|c| free[*c]).unwrap_or(0);
                let instant = free.iter().copied().max().unwrap_or(0) + rng.range(1, 3);
                let (before, after) =
                    (free[client].max(instant.saturating_sub(8)), instant + rng.range(1, 5));
                if rng.chance(400) {
                    value = n;
                    let returned = (!rng.chance(100)).then_some(after);
                    ops.push(op(Kind::Write(n), before, returned));
                } else {
                    ops.push(r(value, before, after));
                }
                free[client] = after + 1;
            }
            assert_eq!(check(&ops), Ok(()), "seed {seed}");
            let old = ops.iter().position(|o| matches!(o.kind, Kind::Read(_))).unwrap_or(0);
            let last = ops.iter().rposition(|o| matches!(o.kind, Kind::Read(_))).unwrap_or(0);
            ops[last].kind = ops[old].kind;
            caught += usize::from(check(&ops).is_err());
        }
        assert!(caught > 40, "{caught} of 50 spoiled histories were seen");
    }
}
