//! Canonical keys: names turned around so that comparing bytes orders them canonically (RFC 4034 §6.1).
//!
//! A key holds the labels below the origin, from the top: each label's bytes and a 0. A 0 or 1 inside a label is written
//! as `1 1` or `1 2`. The apex is the empty key, a parent's key is a prefix of its children's, and a subtree is contiguous.

use crate::name::Name;
use alloc::vec::Vec;

/// Longest key: 254 bytes of labels, each at most doubled.
const MAX: usize = 512;
/// Most labels of a name (RFC 1035 §2.3.4).
const LABELS: usize = 128;

/// A canonical key with its label borders, in fixed memory so that a lookup does not allocate. Reuse it.
#[derive(Clone)]
pub struct Key {
    buf: [u8; MAX],
    /// Key length after n labels.
    ends: [u16; LABELS],
    /// Where in the wire form the name with n labels below the origin begins.
    starts: [u8; LABELS],
    labels: usize,
}

impl Default for Key {
    fn default() -> Key {
        Key { buf: [0; MAX], ends: [0; LABELS], starts: [0; LABELS], labels: 0 }
    }
}

impl Key {
    /// The key of a name in a zone; none when it lies outside.
    pub fn within(name: &Name, origin: &Name) -> Option<Key> {
        let mut key = Key::default();
        (name.is_within(origin) && key.set(name.wire(), origin.wire().len())).then_some(key)
    }

    /// Makes this the key of `wire`, a lower-case name whose last `origin` bytes are the origin. False when `wire` is no
    /// such name.
    pub fn set(&mut self, wire: &[u8], origin: usize) -> bool {
        let Some(end) = wire.len().checked_sub(origin) else { return false };
        let mut first = [0u8; LABELS];
        let (mut at, mut n) = (0, 0);
        while at < end {
            if n + 1 >= LABELS || wire[at] == 0 || wire[at] > 63 {
                return false;
            }
            first[n] = at as u8;
            n += 1;
            at += 1 + usize::from(wire[at]);
        }
        if at != end || end > 254 {
            return false;
        }
        (self.labels, self.starts[0], self.ends[0]) = (n, end as u8, 0);
        let mut len = 0;
        for i in 0..n {
            let start = usize::from(first[n - 1 - i]);
            let label = &wire[start + 1..start + 1 + usize::from(wire[start])];
            len = push_label(&mut self.buf, len, label);
            self.ends[i + 1] = len as u16;
            self.starts[i + 1] = start as u8;
        }
        true
    }

    /// The whole key.
    pub fn bytes(&self) -> &[u8] {
        self.prefix(self.labels)
    }

    /// Labels below the origin.
    pub fn labels(&self) -> usize {
        self.labels
    }

    /// The key of the ancestor with so many labels below the origin.
    pub fn prefix(&self, labels: usize) -> &[u8] {
        &self.buf[..usize::from(self.ends[labels.min(self.labels)])]
    }

    /// Where in the wire form that ancestor begins.
    pub fn wire_start(&self, labels: usize) -> usize {
        usize::from(self.starts[labels.min(self.labels)])
    }

    /// How many whole labels of this key `other` begins with.
    pub fn common_labels(&self, other: &[u8]) -> usize {
        let mine = self.bytes();
        let same = mine.iter().zip(other).take_while(|(a, b)| a == b).count() as u16;
        (0..=self.labels).rev().find(|&n| self.ends[n] <= same).unwrap_or(0)
    }

    /// Turns this key into that of the wildcard below its ancestor with so many labels (RFC 4592 §2.1.1).
    pub fn set_wildcard(&mut self, encloser: usize) {
        let encloser = encloser.min(self.labels);
        let at = usize::from(self.ends[encloser]);
        self.buf[at] = b'*';
        self.buf[at + 1] = 0;
        self.labels = (encloser + 1).min(LABELS - 1);
        self.ends[self.labels] = at as u16 + 2;
    }
}

fn push_label(buf: &mut [u8; MAX], mut at: usize, label: &[u8]) -> usize {
    for &b in label {
        if b <= 1 {
            buf[at] = 1;
            at += 1;
        }
        buf[at] = if b <= 1 { b + 1 } else { b };
        at += 1;
    }
    buf[at] = 0;
    at + 1
}

/// Writes the labels of a key as they go on the wire, without the origin; their length. Allocates nothing.
pub fn write_labels(key: &[u8], out: &mut [u8; 255]) -> usize {
    let (mut end, mut at) = (key.len(), 0);
    while end > 0 {
        let start = key[..end - 1].iter().rposition(|b| *b == 0).map_or(0, |i| i + 1);
        let (head, mut escaped) = (at, false);
        at += 1;
        for &b in &key[start..end - 1] {
            if b == 1 && !escaped {
                escaped = true;
                continue;
            }
            if let Some(to) = out.get_mut(at) {
                *to = if escaped { b - 1 } else { b };
            }
            (at, escaped) = (at + 1, false);
        }
        if at > out.len() {
            return 0; // no key of a name is so long
        }
        out[head] = (at - head - 1) as u8;
        end = start;
    }
    at
}

/// The name of a key.
pub(super) fn to_name(key: &[u8], origin: &Name) -> Name {
    let mut labels: Vec<Vec<u8>> = Vec::new();
    let (mut label, mut escaped) = (Vec::new(), false);
    for &b in key {
        match b {
            _ if escaped => label.push(b - 1),
            0 => labels.push(core::mem::take(&mut label)),
            1 => {}
            b => label.push(b),
        }
        escaped = b == 1 && !escaped;
    }
    let mut wire = Vec::with_capacity(key.len() + origin.wire().len());
    for label in labels.iter().rev() {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label);
    }
    wire.extend_from_slice(origin.wire());
    Name::from_wire(&wire).unwrap_or_else(|_| origin.clone())
}
