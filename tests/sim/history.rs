//! Linearizability of registers: records that many clients write and read at the same time (part of invariant 4).
//!
//! Each write has a value of its own, and the log orders the writes. A history is linearizable when no operation lies
//! before what was complete when it began: a write comes later in the log, and a read gives no older value.

use std::collections::BTreeMap;
use zonekeeper_core::invariant::Violation;

/// The history of all registers, as far as it matters for what comes.
#[derive(Debug, Default)]
pub struct Registers {
    /// Log index of each value.
    indexes: BTreeMap<u64, u64>,
    /// By register: index of the newest value that a complete operation wrote or read.
    newest: BTreeMap<u64, u64>,
}

impl Registers {
    /// A node applied the write of this value.
    pub fn applied(&mut self, value: u64, index: u64) {
        self.indexes.entry(value).or_insert(index);
    }

    /// An operation begins: what it must not lie before.
    pub fn newest(&self, register: u64) -> u64 {
        self.newest.get(&register).copied().unwrap_or(0)
    }

    /// A write that began at `newest` was acknowledged.
    pub fn written(&mut self, register: u64, newest: u64, index: u64) -> Result<(), Violation> {
        if index <= newest {
            let text = format!("r{register} is written at {index}, {newest} was complete before");
            return Err(Violation::of(4, text));
        }
        self.complete(register, index);
        Ok(())
    }

    /// A read that began at `newest` gave this value; none: never written.
    pub fn read(&mut self, register: u64, newest: u64, value: Option<u64>) -> Result<(), Violation> {
        let index = value.map_or(Some(0), |v| self.indexes.get(&v).copied());
        if index.is_none_or(|index| index < newest) {
            let text = format!("a read of r{register} gives {value:?} of {index:?}, {newest} was complete");
            return Err(Violation::of(4, text));
        }
        self.complete(register, index.unwrap_or(0));
        Ok(())
    }

    fn complete(&mut self, register: u64, index: u64) {
        let newest = self.newest.entry(register).or_default();
        *newest = (*newest).max(index);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Value 10 at index 1, 20 at 2, 30 at 3; nothing is complete yet.
    fn registers() -> Registers {
        let mut registers = Registers::default();
        (1..=3).for_each(|index| registers.applied(10 * index, index));
        registers
    }

    #[test]
    fn operations_at_the_same_time_may_come_in_either_order() {
        let mut r = registers();
        assert_eq!(r.read(1, 0, None), Ok(()));
        assert_eq!(r.written(1, 0, 2), Ok(()));
        assert_eq!(r.written(1, 0, 1), Ok(()), "began before the other was complete");
        assert_eq!(r.read(1, 0, None), Ok(()), "began before both were complete");
        assert_eq!(r.read(1, r.newest(1), Some(20)), Ok(()));
        assert_eq!(r.read(1, r.newest(1), Some(30)), Ok(()), "nobody told its writer yet");
        assert_eq!(r.read(2, r.newest(2), None), Ok(()), "another register");
    }

    #[test]
    fn a_read_older_than_a_write_that_was_acknowledged_is_seen() {
        let mut r = registers();
        assert_eq!(r.written(1, 0, 2), Ok(()));
        for old in [Some(10), None] {
            assert_eq!(r.read(1, 2, old).map_err(|v| v.invariant), Err(4));
        }
    }

    #[test]
    fn a_read_older_than_a_read_before_it_is_seen() {
        let mut r = registers();
        assert_eq!(r.read(1, 0, Some(20)), Ok(()));
        assert_eq!(r.read(1, r.newest(1), Some(10)).map_err(|v| v.invariant), Err(4));
    }

    #[test]
    fn a_write_that_comes_before_what_was_complete_is_seen() {
        let mut r = registers();
        assert_eq!(r.read(1, 0, Some(20)), Ok(()));
        assert_eq!(r.written(1, r.newest(1), 1).map_err(|v| v.invariant), Err(4));
    }

    #[test]
    fn a_value_that_nobody_wrote_is_seen() {
        assert_eq!(registers().read(1, 0, Some(40)).map_err(|v| v.invariant), Err(4));
    }
}
