//! DNS names in wire form, lower case.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::{cmp::Ordering, fmt};
use serde::{Deserialize, Serialize};

/// A fully qualified DNS name in wire form (RFC 1035 §3.1), lower case, the root label included. Orders canonically
/// (RFC 4034 §6.1), so that a zone's apex comes first and each subtree is contiguous.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
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
        if text == "." {
            return Ok(Name::root());
        }
        let mut wire = Vec::with_capacity(text.len() + 2);
        let (mut start, bytes) = (0, text.as_bytes());
        wire.push(0);
        let mut i = 0;
        while i < bytes.len() {
            match bytes[i] {
                b'.' => {
                    close(&mut wire, start)?;
                    start = wire.len();
                    wire.push(0);
                }
                b'\\' => {
                    let digits = bytes.get(i + 1..i + 4).filter(|d| d.iter().all(u8::is_ascii_digit));
                    if let Some(d) = digits {
                        let n = d.iter().fold(0u16, |n, c| n * 10 + u16::from(c - b'0'));
                        wire.push(u8::try_from(n).map_err(|_| NameError::Byte(i))?.to_ascii_lowercase());
                        i += 3;
                    } else {
                        wire.push(bytes.get(i + 1).ok_or(NameError::Byte(i))?.to_ascii_lowercase());
                        i += 1;
                    }
                }
                c if c.is_ascii_graphic() => wire.push(c.to_ascii_lowercase()),
                _ => return Err(NameError::Byte(i)),
            }
            i += 1;
        }
        if wire.len() - start > 1 {
            close(&mut wire, start)?;
            wire.push(0);
        }
        if wire.len() > 255 {
            return Err(NameError::Long(wire.len()));
        }
        if wire == [0] { Err(NameError::Label(0)) } else { Ok(Name(wire.into())) }
    }

    /// Takes uncompressed wire form, in any case.
    pub fn from_wire(wire: &[u8]) -> Result<Name, NameError> {
        if wire.len() > 255 {
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
        let mut starts = Vec::with_capacity(8);
        let mut at = 0;
        while self.0[at] != 0 {
            starts.push(at);
            at += 1 + self.0[at] as usize;
        }
        starts.into_iter().map(|s| &self.0[s + 1..s + 1 + self.0[s] as usize])
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

fn close(wire: &mut [u8], start: usize) -> Result<(), NameError> {
    let len = wire.len() - start - 1;
    if !(1..=63).contains(&len) {
        return Err(NameError::Label(len));
    }
    wire[start] = len as u8;
    Ok(())
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

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &b in label {
                match b {
                    b'.' | b'\\' | b'"' | b';' | b'(' | b')' | b'@' | b'$' => write!(f, "\\{}", b as char)?,
                    b if b.is_ascii_graphic() => write!(f, "{}", b as char)?,
                    b => write!(f, "\\{b:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
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

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(s: String) -> Result<Name, NameError> {
        Name::parse(&s)
    }
}

impl From<Name> for String {
    fn from(n: Name) -> String {
        alloc::format!("{n}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{format, string::ToString, vec};

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
        for odd in ["a\\.b.c.", "\\000x.y.", "\\@.z."] {
            assert_eq!(name(&name(odd).to_string()), name(odd));
        }
    }

    #[test]
    fn bad_names_are_refused_with_the_reason() {
        assert_eq!(Name::parse(""), Err(NameError::Label(0)));
        assert_eq!(Name::parse("a..b"), Err(NameError::Label(0)));
        assert_eq!(Name::parse(&"x".repeat(64)), Err(NameError::Label(64)));
        assert_eq!(Name::parse(&format!("{0}.{0}.{0}.{0}.{0}", "x".repeat(60))), Err(NameError::Long(306)));
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
