//! The answer to a message with a TSIG record (RFC 8945). We hold no key, so each is told BADKEY (§5.2.1), in a record that
//! is not signed (§5.3.2).

use crate::wire::{qtype, u16_at};

/// What stands before RDATA: type, class ANY, TTL 0.
const FIXED: [u8; 8] = [0, qtype::TSIG as u8, 0, 255, 0, 0, 0, 0];
/// TSIG error: the key is not known (§3).
const BADKEY: u8 = 17;
/// Time signed and fudge.
const TIME: usize = 8;
/// Behind them: the size of the MAC, the original id, the error, the length of other data; two bytes each.
const REST: usize = 8;
const NAME: usize = 255;

/// A record that is not signed.
pub(super) struct Unsigned {
    bytes: [u8; 2 * NAME + FIXED.len() + 2 + TIME + REST],
    len: usize,
}

impl Unsigned {
    /// For the record at a place of the query; none when it cannot be read.
    #[cold]
    pub(super) fn of(query: &[u8], at: usize) -> Option<Unsigned> {
        let key = name(query, at)?;
        let rdata = at + key.len() + FIXED.len() + 2;
        let end = rdata + usize::from(u16_at(query, rdata - 2)?);
        let algorithm = name(query, rdata)?;
        let time = rdata + algorithm.len();
        let id = time + TIME + 2 + usize::from(u16_at(query, time + TIME)?);
        if id + 6 + usize::from(u16_at(query, id + 4)?) != end {
            return None;
        }
        let mut record = Unsigned { bytes: [0; _], len: 0 };
        record.put(key);
        record.put(&FIXED);
        record.put(&((algorithm.len() + TIME + REST) as u16).to_be_bytes());
        record.put(algorithm);
        record.put(query.get(time..time + TIME)?);
        record.put(&[0, 0]);
        record.put(query.get(id..id + 2)?);
        record.put(&[0, BADKEY, 0, 0]);
        Some(record)
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A name without compression, which both names of the record are (§4.2).
fn name(m: &[u8], start: usize) -> Option<&[u8]> {
    let mut at = start;
    loop {
        match *m.get(at)? {
            0 => break,
            n @ 1..=63 => at += 1 + usize::from(n),
            _ => return None,
        }
    }
    m.get(start..=at).filter(|name| name.len() <= NAME)
}
