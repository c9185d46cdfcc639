//! Questions about generated zones: what exists, what is below, beside and above it, what a wildcard matches.

use crate::zones::{Rng, Text};
use zonekeeper_core::name::Name;

const TYPES: [u16; 24] =
    [1, 1, 1, 28, 2, 5, 5, 6, 12, 15, 16, 33, 35, 39, 43, 43, 46, 47, 48, 51, 64, 65, 255, 257];
const ODD: [u16; 4] = [50, 4711, 99, 65280];

/// How a question travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) tcp: bool,
    pub(crate) edns: bool,
    pub(crate) dnssec: bool,
}

/// One question, ready for the wire.
pub(crate) struct Question {
    pub(crate) name: Name,
    pub(crate) rtype: u16,
    pub(crate) mode: Mode,
    pub(crate) wire: Vec<u8>,
}

impl Question {
    /// The same about another name, for the wire.
    pub(crate) fn about(&self, name: &Name) -> Vec<u8> {
        let end = 12 + self.name.wire().len();
        [&self.wire[..12], name.wire(), &self.wire[end..]].concat()
    }
}

/// `n` questions about these zones.
pub(crate) fn questions(rng: &mut Rng, zones: &[Text], n: usize) -> Vec<Question> {
    let names: Vec<Name> = zones.iter().flat_map(|z| &z.names).map(|n| Name::parse(n).unwrap()).collect();
    let one = |_| {
        let at = rng.below(names.len());
        let name = vary(rng, &names[at]);
        let rtype = if rng.one_in(12) { ODD[rng.below(ODD.len())] } else { TYPES[rng.below(TYPES.len())] };
        let edns = rng.below(3) > 0;
        let mode = Mode { tcp: !rng.one_in(4), edns, dnssec: edns && rng.below(3) > 0 };
        Question { wire: wire(rng, &name, rtype, mode), name, rtype, mode }
    };
    (0..n).map(one).collect()
}

/// The name itself in half of the cases; else below it, beside it or above it, a `*` in it replaced in some.
fn vary(rng: &mut Rng, name: &Name) -> Name {
    let mut labels: Vec<Vec<u8>> = name.labels().map(<[u8]>::to_vec).collect();
    for label in &mut labels {
        if label == b"*" && !rng.one_in(3) {
            *label = b"w".to_vec();
        }
    }
    match rng.below(8) {
        0 => labels.insert(0, b"below".to_vec()),
        1 if rng.one_in(2) => labels.splice(0..0, [b"ns".to_vec(), b"a".to_vec()]).for_each(drop),
        1 => labels.splice(0..0, [b"far".to_vec(), b"*".to_vec(), b"b".to_vec()]).for_each(drop),
        2 if labels.len() > 2 => labels[0] = rng.of(&[&b"beside"[..], b"b", b"0", b"zz", b"*"]).to_vec(),
        3 if labels.len() > 2 => drop(labels.remove(0)),
        _ => {}
    }
    let mut wire: Vec<u8> = labels.iter().flat_map(|l| [&[l.len() as u8], &l[..]].concat()).collect();
    wire.push(0);
    Name::from_wire(&wire).unwrap_or_else(|_| name.clone())
}

/// The message: the name in random case, with OPT as the mode says.
fn wire(rng: &mut Rng, name: &Name, rtype: u16, mode: Mode) -> Vec<u8> {
    let mut q = vec![0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(mode.edns)];
    let upper = |b: &u8| if rng.one_in(3) { b.to_ascii_uppercase() } else { *b };
    q.extend(name.wire().iter().map(upper));
    q.extend(rtype.to_be_bytes());
    q.extend([0, 1]);
    if mode.edns {
        q.extend([0, 0, 41, 4, 208, 0, 0, if mode.dnssec { 0x80 } else { 0 }, 0, 0, 0]);
    }
    q
}
