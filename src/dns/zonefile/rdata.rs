//! RDATA between presentation form and the wire, by one table: each type is a list of fields, and reading and writing
//! follow the same list. Names are kept in lower case, so that equal records are equal bytes, but for those whose case a
//! signature covers (RFC 4034 §6.2, RFC 6840 §5.1).

use super::{
    lexer::{Token, unescape},
    rare::Form,
    svcb,
};
use data_encoding::{BASE32HEX_NOPAD, BASE64, HEXLOWER_PERMISSIVE, HEXUPPER};
use std::net::{Ipv4Addr, Ipv6Addr};
use zonekeeper_core::{name::Name, zone::rtype};

/// One field of RDATA.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    A,
    Aaaa,
    Name,
    /// A name whose case a signature covers: of NSEC (RFC 6840 §5.1), and of what came after RFC 4034 §6.2.
    CasedName,
    U8,
    U16,
    U32,
    /// Seconds, with units as in `1h30m`.
    Seconds,
    /// A type's name.
    Type,
    /// `YYYYMMDDHHmmSS`, or seconds since 1970 (RFC 4034 §3.2).
    Time,
    /// A string of at most 255 bytes.
    Text,
    /// One or more of them.
    Texts,
    /// The tag of CAA: a string that is never quoted.
    Tag,
    /// A string without a length, to the end.
    Rest,
    Base64,
    Hex,
    /// The salt of NSEC3: a length and hex, `-` when empty.
    Salt,
    /// The next owner of NSEC3: a length and base32hex.
    Base32,
    /// The type bitmap of NSEC (RFC 4034 §4.1.2).
    Types,
    /// The parameters of SVCB and HTTPS (RFC 9460 §2.1).
    Params,
    /// All that is left, in a form of its own.
    Whole(Form),
}

use Field::*;

/// Number, name, fields.
const TYPES: &[(u16, &str, &[Field])] = &[
    (1, "A", &[A]),
    (2, "NS", &[Name]),
    (3, "MD", &[Name]),
    (4, "MF", &[Name]),
    (5, "CNAME", &[Name]),
    (6, "SOA", &[Name, Name, U32, Seconds, Seconds, Seconds, Seconds]),
    (7, "MB", &[Name]),
    (8, "MG", &[Name]),
    (9, "MR", &[Name]),
    (10, "NULL", &[Whole(Form::Opaque)]),
    (12, "PTR", &[Name]),
    (13, "HINFO", &[Text, Text]),
    (14, "MINFO", &[Name, Name]),
    (15, "MX", &[U16, Name]),
    (16, "TXT", &[Texts]),
    (17, "RP", &[Name, Name]),
    (18, "AFSDB", &[U16, Name]),
    (19, "X25", &[Text]),
    (20, "ISDN", &[Texts]),
    (21, "RT", &[U16, Name]),
    (24, "SIG", &[Type, U8, U8, U32, Time, Time, U16, Name, Base64]),
    (25, "KEY", &[U16, U8, U8, Base64]),
    (26, "PX", &[U16, Name, Name]),
    (27, "GPOS", &[Text, Text, Text]),
    (28, "AAAA", &[Aaaa]),
    (29, "LOC", &[Whole(Form::Loc)]),
    (33, "SRV", &[U16, U16, U16, Name]),
    (35, "NAPTR", &[U16, U16, Text, Text, Text, Name]),
    (36, "KX", &[U16, Name]),
    (37, "CERT", &[U16, U16, U8, Base64]),
    (39, "DNAME", &[Name]),
    (42, "APL", &[Whole(Form::Apl)]),
    (43, "DS", &[U16, U8, U8, Hex]),
    (44, "SSHFP", &[U8, U8, Hex]),
    (45, "IPSECKEY", &[Whole(Form::Ipseckey)]),
    (46, "RRSIG", &[Type, U8, U8, U32, Time, Time, U16, Name, Base64]),
    (47, "NSEC", &[CasedName, Types]),
    (48, "DNSKEY", &[U16, U8, U8, Base64]),
    (49, "DHCID", &[Base64]),
    (50, "NSEC3", &[U8, U8, U16, Salt, Base32, Types]),
    (51, "NSEC3PARAM", &[U8, U8, U16, Salt]),
    (52, "TLSA", &[U8, U8, U8, Hex]),
    (53, "SMIMEA", &[U8, U8, U8, Hex]),
    (55, "HIP", &[Whole(Form::Hip)]),
    (58, "TALINK", &[CasedName, CasedName]),
    (59, "CDS", &[U16, U8, U8, Hex]),
    (60, "CDNSKEY", &[U16, U8, U8, Base64]),
    (61, "OPENPGPKEY", &[Base64]),
    (62, "CSYNC", &[U32, U16, Types]),
    (63, "ZONEMD", &[U32, U8, U8, Hex]),
    (64, "SVCB", &[U16, CasedName, Params]),
    (65, "HTTPS", &[U16, CasedName, Params]),
    (99, "SPF", &[Texts]),
    (104, "NID", &[U16, Whole(Form::Locator64)]),
    (105, "L32", &[U16, A]),
    (106, "L64", &[U16, Whole(Form::Locator64)]),
    (107, "LP", &[U16, CasedName]),
    (108, "EUI48", &[Whole(Form::Eui(6))]),
    (109, "EUI64", &[Whole(Form::Eui(8))]),
    (256, "URI", &[U16, U16, Rest]),
    (257, "CAA", &[U8, Tag, Rest]),
    (258, "AVC", &[Texts]),
    (32768, "TA", &[U16, U8, U8, Hex]),
    (32769, "DLV", &[U16, U8, U8, Hex]),
    (rtype::ALIAS, "ALIAS", &[Name]),
];

/// The number of a type's name, `TYPE123` included (RFC 3597 §5).
pub fn type_number(name: &str) -> Option<u16> {
    let known = TYPES.iter().find(|t| t.1.eq_ignore_ascii_case(name)).map(|t| t.0);
    known.or_else(|| {
        let (word, digits) = name.split_at_checked(4)?;
        (word.eq_ignore_ascii_case("TYPE") && digits.bytes().all(|b| b.is_ascii_digit()))
            .then(|| digits.parse().ok())?
    })
}

/// The name of a type; `TYPE123` for one without.
pub fn type_name(number: u16) -> String {
    let known = TYPES.iter().find(|t| t.0 == number);
    known.map_or_else(|| format!("TYPE{number}"), |t| t.1.to_string())
}

/// Appends RDATA to `out`, which is empty; the error says what was expected.
pub(super) fn parse(
    rtype: u16,
    tokens: &[Token<'_>],
    origin: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), String> {
    if tokens.first().is_some_and(|t| t.raw == b"\\#" && !t.quoted) {
        *out = generic(rtype, &tokens[1..])?;
        return Ok(());
    }
    let Some((_, _, fields)) = TYPES.iter().find(|t| t.0 == rtype) else {
        return Err(format!(
            "type {} is unknown here: write its RDATA as \\# length hex (RFC 3597)",
            type_name(rtype)
        ));
    };
    let mut rest = tokens;
    for field in *fields {
        rest = field.parse(rest, origin, out)?;
    }
    match rest.first() {
        Some(t) => Err(format!("{:?} is one value too many", t.text())),
        None if !digest_fits(rtype, out) => Err("the digest's length is not that of its type".into()),
        None if out.len() > usize::from(u16::MAX) => Err("RDATA is longer than 65535 bytes".into()),
        None => Ok(()),
    }
}

/// RFC 3597 §5, for every type; that of a known one must make sense.
fn generic(rtype: u16, tokens: &[Token<'_>]) -> Result<Vec<u8>, String> {
    let (len, hex) = tokens.split_first().ok_or("\\# needs a length and that many bytes in hex")?;
    let len: u16 = number(len)?;
    let bytes = joined(hex, &HEXLOWER_PERMISSIVE, "hex")?;
    if bytes.len() != usize::from(len) {
        return Err(format!("\\# promises {len} bytes, but {} follow", bytes.len()));
    }
    let known = TYPES.iter().any(|t| t.0 == rtype);
    match known && (format(rtype, &bytes).is_none() || !digest_fits(rtype, &bytes)) {
        true => Err(format!("these bytes are no RDATA of type {}", type_name(rtype))),
        false => Ok(bytes),
    }
}

/// A digest of a DS or CDS is as long as its type's is (RFC 4034 §5.1.4, RFC 4509, RFC 6605); other types are not known,
/// and type 0 takes a CDS back (RFC 8078 §4).
fn digest_fits(rtype: u16, rdata: &[u8]) -> bool {
    let len = match (rtype, rdata.get(3)) {
        (43 | 59, Some(1)) => 20,
        (43 | 59, Some(2)) => 32,
        (43 | 59, Some(4)) => 48,
        _ => return true,
    };
    rdata.len() == 4 + len
}

/// Writes RDATA; none when it is not of its type's form.
fn format(rtype: u16, mut rdata: &[u8]) -> Option<String> {
    let fields = TYPES.iter().find(|t| t.0 == rtype)?.2;
    let mut words = Vec::new();
    for field in fields {
        let word = field.format(&mut rdata)?;
        if !word.is_empty() {
            words.push(word);
        }
    }
    rdata.is_empty().then(|| words.join(" "))
}

/// RDATA in presentation form; as RFC 3597 has it for a type without.
pub fn rdata_text(rtype: u16, rdata: &[u8]) -> String {
    format(rtype, rdata).unwrap_or_else(|| {
        let hex = HEXUPPER.encode(rdata);
        format!("\\# {}{}{hex}", rdata.len(), if hex.is_empty() { "" } else { " " })
    })
}

pub(super) fn number<T: std::str::FromStr>(t: &Token<'_>) -> Result<T, String> {
    t.text().parse().map_err(|_| format!("{:?} is not a number that fits here", t.text()))
}

fn joined(tokens: &[Token<'_>], encoding: &data_encoding::Encoding, what: &str) -> Result<Vec<u8>, String> {
    let text: Vec<u8> = tokens.iter().flat_map(|t| t.raw.iter().copied()).collect();
    encoding.decode(&text).map_err(|e| format!("is not {what}: {e}"))
}

/// Seconds with units, as BIND reads them: `3600`, `1h30m`, `2W`.
pub(super) fn seconds(text: &str) -> Option<u32> {
    let (mut total, mut value, mut digits) = (0u64, 0u64, false);
    for b in text.bytes() {
        let unit = match b.to_ascii_lowercase() {
            d @ b'0'..=b'9' => {
                value = value.checked_mul(10)?.checked_add(u64::from(d - b'0'))?;
                digits = true;
                continue;
            }
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86_400,
            b'w' => 604_800,
            _ => return None,
        };
        if !digits {
            return None;
        }
        total = total.checked_add(value.checked_mul(unit)?)?;
        (value, digits) = (0, false);
    }
    let ends_well = digits || text.bytes().last().is_some_and(|b| b.is_ascii_alphabetic());
    u32::try_from(total.checked_add(value)?).ok().filter(|_| ends_well)
}

/// A name, relative to the origin unless it ends with a dot, in wire form and lower case.
pub(super) fn name(token: &Token<'_>, origin: &[u8]) -> Result<Name, String> {
    if token.raw == b"@" && !token.quoted {
        return Name::from_wire(origin).map_err(|e| e.to_string());
    }
    let text = std::str::from_utf8(token.raw).map_err(|_| format!("name {:?} is not ASCII", token.text()))?;
    Name::parse_under(text, origin).map_err(|e| format!("name {text:?} {e}"))
}

/// As [`name`], in wire form with its case.
pub(super) fn cased_name(token: &Token<'_>, origin: &[u8]) -> Result<Vec<u8>, String> {
    let mut wire = name(token, origin)?.wire().to_vec();
    if token.raw == b"@" && !token.quoted {
        return Ok(origin.to_vec());
    }
    if !is_absolute(token.raw) {
        let relative = wire.len() - origin.len();
        wire[relative..].copy_from_slice(origin);
    }
    let (mut at, mut i) = (1, 0);
    while i < token.raw.len() {
        let (byte, used) = match (token.raw[i], token.raw.get(i + 1..i + 4)) {
            (b'\\', Some(d)) if d.iter().all(u8::is_ascii_digit) => {
                (d.iter().fold(0u8, |n, c| n.wrapping_mul(10).wrapping_add(c - b'0')), 4)
            }
            (b'\\', _) => (token.raw.get(i + 1).copied().unwrap_or_default(), 2),
            (b, _) => (b, 1),
        };
        // A dot stands where the next label's length is.
        if used > 1 || byte != b'.' {
            wire[at] = byte;
        }
        (at, i) = (at + 1, i + used);
    }
    Ok(wire)
}

/// A name in presentation form with the case that its wire form has.
pub(super) fn cased_text(wire: &[u8], lower: &Name) -> String {
    if wire == lower.wire() {
        return lower.to_string();
    }
    let mut out = String::new();
    let mut at = 0;
    while wire[at] != 0 {
        let label = &wire[at + 1..=at + usize::from(wire[at])];
        // Each letter by itself, so that what must be escaped is escaped in one place.
        for &b in label {
            match b.is_ascii_uppercase() {
                true => out.push(b as char),
                false => {
                    let alone = Name::from_wire(&[1, b, 0]).map_or_else(|_| String::new(), |n| n.to_string());
                    out.push_str(alone.strip_suffix('.').unwrap_or(&alone));
                }
            }
        }
        out.push('.');
        at += 1 + usize::from(wire[at]);
    }
    out
}

/// Ends with a dot that no backslash covers.
fn is_absolute(raw: &[u8]) -> bool {
    let Some((b'.', front)) = raw.split_last() else { return false };
    front.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 0
}

pub(super) fn take<'a>(rdata: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (head, rest) = rdata.split_at_checked(n)?;
    *rdata = rest;
    Some(head)
}

pub(super) fn take_int(rdata: &mut &[u8], bytes: usize) -> Option<u64> {
    Some(take(rdata, bytes)?.iter().fold(0, |n, b| (n << 8) | u64::from(*b)))
}

pub(super) fn take_name(rdata: &mut &[u8]) -> Option<Name> {
    let mut len = 0;
    while *rdata.get(len)? != 0 {
        len += 1 + usize::from(rdata[len]);
    }
    Name::from_wire(take(rdata, len + 1)?).ok()
}

/// A string in quotes, with what must be escaped.
pub(super) fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for &b in bytes {
        match b {
            b'"' | b'\\' => out.extend(['\\', b as char]),
            0x20..=0x7e => out.push(b as char),
            _ => out.push_str(&format!("\\{b:03}")),
        }
    }
    out.push('"');
    out
}

impl Field {
    /// Reads the field from the front of the tokens, and gives back the rest.
    fn parse<'t, 'a>(
        self,
        tokens: &'t [Token<'a>],
        origin: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<&'t [Token<'a>], String> {
        match self {
            Types => types(tokens, out)?,
            Whole(form) => form.parse(tokens, origin, out)?,
            Params => svcb::parse(tokens, out)?,
            Base64 | Hex if tokens.is_empty() => return Err(format!("{} is missing", self.what())),
            Base64 => out.extend(joined(tokens, &BASE64, "base64")?),
            Hex => out.extend(joined(tokens, &HEXLOWER_PERMISSIVE, "hex")?),
            Texts if tokens.is_empty() => return Err("a string is missing".into()),
            Texts => tokens.iter().try_for_each(|t| text(t, out))?,
            _ => {
                let (first, rest) =
                    tokens.split_first().ok_or_else(|| format!("{} is missing", self.what()))?;
                self.parse_one(first, origin, out)?;
                return Ok(rest);
            }
        }
        Ok(&[])
    }

    fn parse_one(self, t: &Token<'_>, origin: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        let wrong = || format!("{:?} is not {}", t.text(), self.what());
        match self {
            A => out.extend(t.text().parse::<Ipv4Addr>().map_err(|_| wrong())?.octets()),
            Aaaa => out.extend(t.text().parse::<Ipv6Addr>().map_err(|_| wrong())?.octets()),
            Name => out.extend_from_slice(name(t, origin)?.wire()),
            CasedName => out.extend_from_slice(&cased_name(t, origin)?),
            U8 => out.push(number(t)?),
            U16 => out.extend(number::<u16>(t)?.to_be_bytes()),
            U32 => out.extend(number::<u32>(t)?.to_be_bytes()),
            Seconds => out.extend(seconds(&t.text()).ok_or_else(wrong)?.to_be_bytes()),
            Type => out.extend(type_number(&t.text()).ok_or_else(wrong)?.to_be_bytes()),
            Time => out.extend(time(&t.text()).ok_or_else(wrong)?.to_be_bytes()),
            Tag if t.raw.is_empty() || !t.raw.iter().all(u8::is_ascii_alphanumeric) => return Err(wrong()),
            Text | Tag => text(t, out)?,
            Rest => out.extend(unescape(t.raw)?),
            Salt if t.raw == b"-" => out.push(0),
            Salt | Base32 => {
                let upper = t.raw.to_ascii_uppercase();
                let bytes =
                    if self == Salt { HEXUPPER.decode(&upper) } else { BASE32HEX_NOPAD.decode(&upper) };
                let bytes = bytes.ok().filter(|b| b.len() <= 255).ok_or_else(wrong)?;
                out.push(bytes.len() as u8);
                out.extend(bytes);
            }
            Texts | Base64 | Hex | Types | Params | Whole(_) => {}
        }
        Ok(())
    }

    fn what(self) -> &'static str {
        match self {
            A => "an IPv4 address",
            Aaaa => "an IPv6 address",
            Name | CasedName => "a name",
            U8 | U16 | U32 => "a number",
            Seconds => "a time in seconds or with units like 1h30m",
            Type => "a record type",
            Time => "a time as YYYYMMDDHHmmSS",
            Text | Texts | Rest => "a string",
            Tag => "a tag of letters and digits (RFC 8659 §4.1)",
            Base64 => "base64",
            Hex | Salt => "hex",
            Base32 => "base32hex",
            Types => "a list of types",
            Params => "a parameter",
            Whole(_) => "a value",
        }
    }

    /// Writes the field at the front of `rdata` and moves on.
    fn format(self, rdata: &mut &[u8]) -> Option<String> {
        Some(match self {
            A => Ipv4Addr::from(<[u8; 4]>::try_from(take(rdata, 4)?).ok()?).to_string(),
            Aaaa => Ipv6Addr::from(<[u8; 16]>::try_from(take(rdata, 16)?).ok()?).to_string(),
            Name => take_name(rdata)?.to_string(),
            CasedName => {
                let whole = *rdata;
                let lower = take_name(rdata)?;
                cased_text(&whole[..whole.len() - rdata.len()], &lower)
            }
            U8 => take_int(rdata, 1)?.to_string(),
            U16 => take_int(rdata, 2)?.to_string(),
            U32 | Seconds => take_int(rdata, 4)?.to_string(),
            Type => type_name(take_int(rdata, 2)? as u16),
            Time => time_text(take_int(rdata, 4)? as u32),
            Text => take_text(rdata).map(quoted)?,
            Texts => {
                let mut words = vec![take_text(rdata).map(quoted)?];
                while !rdata.is_empty() {
                    words.push(take_text(rdata).map(quoted)?);
                }
                words.join(" ")
            }
            Tag => String::from_utf8(take_text(rdata)?.to_vec())
                .ok()
                .filter(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_alphanumeric()))?,
            Rest => quoted(std::mem::take(rdata)),
            Base64 | Hex if rdata.is_empty() => return None,
            Base64 => BASE64.encode(std::mem::take(rdata)),
            Hex => HEXUPPER.encode(std::mem::take(rdata)),
            Salt => match take_text(rdata)? {
                [] => "-".into(),
                salt => HEXUPPER.encode(salt),
            },
            Base32 => BASE32HEX_NOPAD.encode(take_text(rdata)?),
            Types => types_text(std::mem::take(rdata))?,
            Params => svcb::format(std::mem::take(rdata))?,
            Whole(form) => form.format(rdata)?,
        })
    }
}

fn text(t: &Token<'_>, out: &mut Vec<u8>) -> Result<(), String> {
    let bytes = unescape(t.raw)?;
    out.push(
        u8::try_from(bytes.len())
            .map_err(|_| format!("a string of {} bytes; split it, 255 are allowed", bytes.len()))?,
    );
    out.extend(bytes);
    Ok(())
}

fn take_text<'a>(rdata: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = take_int(rdata, 1)? as usize;
    take(rdata, len)
}

fn types(tokens: &[Token<'_>], out: &mut Vec<u8>) -> Result<(), String> {
    let number =
        |t: &Token<'_>| type_number(&t.text()).ok_or_else(|| format!("{:?} is not a record type", t.text()));
    let mut numbers = tokens.iter().map(number).collect::<Result<Vec<u16>, _>>()?;
    numbers.sort_unstable();
    for window in numbers.chunk_by(|a, b| a >> 8 == b >> 8) {
        let mut bits = [0u8; 32];
        for n in window {
            bits[usize::from(n & 0xff) / 8] |= 0x80 >> (n % 8);
        }
        let len = 32 - bits.iter().rev().take_while(|b| **b == 0).count();
        out.extend([(window[0] >> 8) as u8, len as u8]);
        out.extend(&bits[..len]);
    }
    Ok(())
}

fn types_text(mut rdata: &[u8]) -> Option<String> {
    let mut words = Vec::new();
    while !rdata.is_empty() {
        let window = take_int(&mut rdata, 1)? as u16;
        for (i, byte) in take_text(&mut rdata)?.iter().enumerate() {
            let set = (0..8).filter(|bit| byte & (0x80 >> bit) != 0);
            words.extend(set.map(|bit| type_name(window << 8 | (i as u16 * 8 + bit))));
        }
    }
    Some(words.join(" "))
}

/// Days since 1970 of a date in the Gregorian calendar (Howard Hinnant's `days_from_civil`).
fn days(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let (era, m) = (y.div_euclid(400), (month + 9) % 12);
    let yoe = y - era * 400;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + (153 * m + 2) / 5 + day - 1 - 719_468
}

fn time(text: &str) -> Option<u32> {
    if text.len() != 14 {
        return text.parse().ok();
    }
    let part = |r: std::ops::Range<usize>| text.get(r).and_then(|s| s.parse::<i64>().ok());
    let date = days(part(0..4)?, part(4..6)?, part(6..8)?);
    let clock = part(8..10)? * 3600 + part(10..12)? * 60 + part(12..14)?;
    Some((date * 86_400 + clock) as u32) // serial arithmetic after 2106
}

fn time_text(t: u32) -> String {
    let (date, clock) = (i64::from(t / 86_400), t % 86_400);
    let z = date + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + i64::from(month <= 2);
    let day = doy - (153 * mp + 2) / 5 + 1;
    format!("{year:04}{month:02}{day:02}{:02}{:02}{:02}", clock / 3600, clock / 60 % 60, clock % 60)
}
