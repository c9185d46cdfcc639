//! The answer to a query with a TSIG record (RFC 8945). We hold no key, so it is told BADKEY (§5.2.1), in a record that is
//! not signed (§5.3.2).

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
        let mut record = Unsigned { bytes: [0; _], len: 0 };
        let rdata = record.put_name(query, at)? + FIXED.len() + 2;
        let end = rdata + usize::from(u16_at(query, rdata - 2)?);
        record.put(&FIXED);
        let len = record.len;
        record.put(&[0, 0]);
        let time = record.put_name(query, rdata)?;
        let id = time + TIME + 2 + usize::from(u16_at(query, time + TIME)?);
        if id + 6 + usize::from(u16_at(query, id + 4)?) != end {
            return None;
        }
        record.put(query.get(time..time + TIME)?);
        record.put(&[0, 0]);
        record.put(query.get(id..id + 2)?);
        record.put(&[0, BADKEY, 0, 0]);
        let rdata = record.len - len - 2;
        record.bytes[len..len + 2].copy_from_slice(&(rdata as u16).to_be_bytes());
        Some(record)
    }

    /// Copies a name that begins there, without its compression; where its field ends.
    fn put_name(&mut self, m: &[u8], start: usize) -> Option<usize> {
        let (most, mut at, mut end) = (self.len + NAME, start, None);
        loop {
            match *m.get(at)? {
                0 => break,
                n @ 1..=63 => {
                    let label = m.get(at..=at + usize::from(n)).filter(|l| self.len + l.len() < most)?;
                    self.put(label);
                    at += label.len();
                }
                n @ 0xc0.. => {
                    end = end.or(Some(at + 2));
                    let to = usize::from(u16::from_be_bytes([n & 0x3f, *m.get(at + 1)?]));
                    at = Some(to).filter(|to| *to < at)?; // backwards: it ends
                }
                _ => return None,
            }
        }
        self.put(&[0]);
        Some(end.unwrap_or(at + 1))
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}
