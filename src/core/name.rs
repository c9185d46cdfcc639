//! DNS names in wire form, lower case.

use alloc::boxed::Box;
use core::{cmp::Ordering, fmt};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest wire form, the root label included (RFC 1035 §2.3.4).
const MAX_WIRE: usize = 255;
/// Most labels of a name, the root not counted.
const MAX_LABELS: usize = 127;
/// Longest presentation form: 250 bytes in four labels, each as `\DDD`, and the dots.
const MAX_TEXT: usize = 1024;

/// A fully qualified DNS name in wire form (RFC 1035 §3.1), lower case, the root label included. Orders canonically
/// (RFC 4034 §6.1), so that a zone's apex comes first and each subtree is contiguous.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Name(Box<[u8]>);

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A label of more than 63 bytes, or an empty one (RFC 1035 §2.3.4).
    #[error("has a label of {0} bytes; a label has 1 to 63")]
    Label(usize),
    /// More than 255 bytes in wire form (RFC 1035 §2.3.4).
    #[error("has {0} bytes in wire form; at most 255 are allowed")]
    Long(usize),
    /// A backslash escape that RFC 1035 §5.1 does not know, or no ASCII.
    #[error("contains an escape or a byte that is not allowed at position {0}")]
    Byte(usize),
    /// Wire form that does not end in a root label, or has a compression pointer.
    #[error("is not an uncompressed name in wire form")]
    Wire,
}

impl Name {
    /// The root.
    pub fn root() -> Name {
        Name(Box::from([0u8]))
    }

    /// Reads presentation form (RFC 1035 §5.1: `\.` and `\DDD`); a missing trailing dot is added.
    pub fn parse(text: &str) -> Result<Name, NameError> {
        Name::parse_under(text, &[0])
    }

    /// Reads presentation form; a name without a trailing dot is relative to `origin`, a name in wire form.
    pub fn parse_under(text: &str, origin: &[u8]) -> Result<Name, NameError> {
        if text == "." {
            return Ok(Name::root());
        }
        let mut wire = Wire { bytes: [0; MAX_WIRE], len: 1 };
        let (mut start, bytes) = (0, text.as_bytes());
        let mut i = 0;
        while i < bytes.len() {
            match bytes[i] {
                b'.' => start = wire.close(start)?,
                b'\\' => {
                    let digits = bytes.get(i + 1..i + 4).filter(|d| d.iter().all(u8::is_ascii_digit));
                    if let Some(d) = digits {
                        let n = d.iter().fold(0u16, |n, c| n * 10 + u16::from(c - b'0'));
                        wire.push(u8::try_from(n).map_err(|_| NameError::Byte(i))?);
                        i += 3;
                    } else {
                        wire.push(*bytes.get(i + 1).ok_or(NameError::Byte(i))?);
                        i += 1;
                    }
                }
                c if c.is_ascii_graphic() => wire.push(c),
                _ => return Err(NameError::Byte(i)),
            }
            i += 1;
        }
        if wire.len == 1 {
            return Err(NameError::Label(0));
        }
        if wire.len - start > 1 {
            let root = wire.close(start)?;
            wire.len = root;
            origin.iter().for_each(|b| wire.push(*b));
        }
        match wire.bytes.get(..wire.len) {
            None => Err(NameError::Long(wire.len)),
            Some(name) => Ok(Name(name.into())),
        }
    }

    /// Takes uncompressed wire form, in any case.
    pub fn from_wire(wire: &[u8]) -> Result<Name, NameError> {
        if wire.len() > MAX_WIRE {
            return Err(NameError::Long(wire.len()));
        }
        let mut at = 0;
        loop {
            match wire.get(at) {
                Some(0) if at + 1 == wire.len() => return Ok(Name(wire.to_ascii_lowercase().into())),
                Some(&n @ 1..=63) => at += 1 + n as usize,
                _ => return Err(NameError::Wire),
            }
        }
    }

    /// Wire form, root label included.
    pub fn wire(&self) -> &[u8] {
        &self.0
    }

    /// The labels from the left, without the root.
    pub fn labels(&self) -> impl DoubleEndedIterator<Item = &[u8]> + Clone {
        let mut starts = [0u8; MAX_LABELS];
        let (mut at, mut count) = (0, 0);
        while self.0[at] != 0 {
            starts[count] = at as u8;
            count += 1;
            at += 1 + self.0[at] as usize;
        }
        starts.into_iter().take(count).map(|s| {
            let s = usize::from(s);
            &self.0[s + 1..s + 1 + self.0[s] as usize]
        })
    }

    /// The name without its first label; none for the root.
    pub fn parent(&self) -> Option<Name> {
        let first = self.0[0] as usize;
        (first != 0).then(|| Name(self.0[1 + first..].into()))
    }

    /// Whether `self` is `zone` or lies below it.
    pub fn is_within(&self, zone: &Name) -> bool {
        let mut at = 0;
        while self.0.len() - at > zone.0.len() {
            at += 1 + self.0[at] as usize;
        }
        self.0[at..] == *zone.0
    }

    /// Whether the first label is `*` (RFC 4592).
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with(b"\x01*")
    }
}

/// A name that is being read. What goes beyond the longest name is counted and not kept.
struct Wire {
    bytes: [u8; MAX_WIRE],
    len: usize,
}

impl Wire {
    fn push(&mut self, b: u8) {
        if let Some(place) = self.bytes.get_mut(self.len) {
            *place = b.to_ascii_lowercase();
        }
        self.len += 1;
    }

    /// Writes the length of the label that began at `start`, and begins the next one.
    fn close(&mut self, start: usize) -> Result<usize, NameError> {
        let len = self.len - start - 1;
        if !(1..=63).contains(&len) {
            return Err(NameError::Label(len));
        }
        if let Some(place) = self.bytes.get_mut(start) {
            *place = len as u8;
        }
        self.push(0);
        Ok(self.len - 1)
    }
}

impl Ord for Name {
    fn cmp(&self, other: &Name) -> Ordering {
        self.labels().rev().cmp(other.labels().rev())
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Name) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Presentation form in fixed memory: names are written a million times in an import.
struct Text {
    bytes: [u8; MAX_TEXT],
    len: usize,
}

impl Text {
    fn of(name: &Name) -> Text {
        let mut text = Text { bytes: [0; MAX_TEXT], len: 0 };
        for label in name.labels() {
            if label.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')) {
                text.push(label);
                text.push(b".");
                continue;
            }
            for &b in label {
                match b {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => text.push(&[b'\\', b]),
                    b if b.is_ascii_graphic() => text.push(&[b]),
                    b => text.push(&[b'\\', b'0' + b / 100, b'0' + b / 10 % 10, b'0' + b % 10]),
                }
            }
            text.push(b".");
        }
        if text.len == 0 {
            text.push(b".");
        }
        text
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.len]).unwrap_or_else(|e| unreachable!("it is ASCII: {e}"))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Text::of(self).as_str())
    }
}

/// In presentation form, on disk and on the wire too.
impl Serialize for Name {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(Text::of(self).as_str())
    }
}

struct Presentation;

impl de::Visitor<'_> for Presentation {
    type Value = Name;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a DNS name")
    }
    fn visit_str<E: de::Error>(self, text: &str) -> Result<Name, E> {
        Name::parse(text).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Name, D::Error> {
        d.deserialize_str(Presentation)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl core::str::FromStr for Name {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Name, NameError> {
        Name::parse(s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString, vec, vec::Vec};

    fn name(s: &str) -> Name {
        Name::parse(s).unwrap()
    }

    #[test]
    fn text_and_wire_agree() {
        assert_eq!(name("Www.Example").wire(), b"\x03www\x07example\0");
        assert_eq!(name("a\\.b.c.").wire(), b"\x03a.b\x01c\0");
        assert_eq!(name("\\097b").to_string(), "ab.");
        assert_eq!(Name::from_wire(b"\x03WWW\0"), Ok(name("www")));
        assert_eq!(name(".").wire(), [0]);
        let longest = format!("{0}.{0}.{0}.{1}", "\\000".repeat(63), "\\255".repeat(61));
        for odd in ["a\\.b.c.", "\\000x.y.", "\\@.z.", &longest] {
            assert_eq!(name(&name(odd).to_string()), name(odd));
        }
    }

    #[test]
    fn relative_names_lie_under_their_origin() {
        let under = |text: &str, origin: &str| Name::parse_under(text, name(origin).wire());
        assert_eq!(under("www", "Example.com"), Ok(name("www.example.com")));
        assert_eq!(under("www.", "example.com"), Ok(name("www")));
        assert_eq!(under(".", "example.com"), Ok(Name::root()));
        assert_eq!(under("a\\.", "b"), Ok(name("a\\..b")), "an escaped dot ends nothing");
        assert_eq!(under("\\@", "b"), Ok(name("\\@.b")));
        assert_eq!(under("", "b"), Err(NameError::Label(0)));
        let long = format!("{0}.{0}.{0}", "x".repeat(63)); // 192 bytes before the root
        assert_eq!(under(&"y".repeat(59), &format!("z.{long}")).map(|n| n.wire().len()), Ok(255));
        assert_eq!(under(&"y".repeat(60), &format!("z.{long}")), Err(NameError::Long(256)));
        assert_eq!(under(&"a.".repeat(126)[..251], "b").map(|n| n.labels().count()), Ok(127));
        assert_eq!(under(&"a.".repeat(127)[..253], "b"), Err(NameError::Long(257)));
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        assert_eq!(Name::parse(""), Err(NameError::Label(0)));
        assert_eq!(Name::parse("a..b"), Err(NameError::Label(0)));
        assert_eq!(Name::parse(&"x".repeat(64)), Err(NameError::Label(64)));
        assert_eq!(Name::parse(&format!("{0}.{0}.{0}.{0}.{0}", "x".repeat(60))), Err(NameError::Long(306)));
        let four = |last| format!("{0}.{0}.{0}.{1}", "x".repeat(63), "x".repeat(last));
        assert_eq!(Name::parse(&four(61)).unwrap().wire().len(), 255);
        assert_eq!(Name::parse(&four(62)), Err(NameError::Long(256)));
        assert_eq!(Name::parse(&"a.".repeat(127)).unwrap().labels().count(), 127);
        assert_eq!(Name::parse(&"a.".repeat(128)), Err(NameError::Long(257)));
        assert_eq!(Name::parse("a\\999"), Err(NameError::Byte(1)));
        assert_eq!(Name::from_wire(b"\xc0\x0c"), Err(NameError::Wire));
        assert_eq!(Name::from_wire(b"\x03ab\0"), Err(NameError::Wire));
    }

    #[test]
    fn the_order_is_canonical() {
        // RFC 4034 §6.1's own example
        let sorted = [
            "example",
            "a.example",
            "yljkjljk.a.example",
            "Z.a.example",
            "zABC.a.EXAMPLE",
            "z.example",
            "\\001.z.example",
            "*.z.example",
            "\\200.z.example",
        ];
        let mut names: Vec<Name> = sorted.iter().rev().map(|s| name(s)).collect();
        names.sort();
        assert_eq!(names, sorted.iter().map(|s| name(s)).collect::<Vec<_>>());
        assert!(
            name("a.example").is_within(&name("example")) && !name("aexample").is_within(&name("example"))
        );
        assert_eq!(
            vec![name("a.b").parent(), name("b").parent(), Name::root().parent()],
            [Some(name("b")), Some(Name::root()), None]
        );
    }
}
