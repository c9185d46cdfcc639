//! RDATA whose form is no list of fields: LOC, APL, EUI48, EUI64, IPSECKEY, HIP, 64-bit locators, and NULL, which has none.

use super::{
    lexer::Token,
    rdata::{cased_name, cased_text, number, take, take_int, take_name},
};
use data_encoding::{BASE64, HEXLOWER_PERMISSIVE, HEXUPPER};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The whole of an RDATA, or all that follows other fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// A place on earth (RFC 1876).
    Loc,
    /// Lists of address prefixes (RFC 3123).
    Apl,
    /// So many bytes in hex with hyphens (RFC 7043).
    Eui(usize),
    /// RFC 4025.
    Ipseckey,
    /// RFC 8005.
    Hip,
    /// Four groups of four hex digits (RFC 6742 §2.1.2).
    Locator64,
    /// Bytes that have no text but that of RFC 3597.
    Opaque,
}

/// A quarter of the circle in thousandths of a second of arc.
const QUARTER: u32 = 90 * 3_600_000;
/// Where latitude and longitude have their zero.
const MIDDLE: u32 = 1 << 31;
/// Below the reference so many centimetres have the altitude 0.
const BELOW: i64 = 10_000_000;

impl Form {
    /// Reads it from all tokens that are left.
    pub(super) fn parse(self, tokens: &[Token<'_>], origin: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Form::Loc => loc(tokens, out).ok_or_else(|| {
                "this is no place as `52 14 05.250 N 0 8 50 E 10m 1m 10000m 10m` (RFC 1876 §3)".to_string()
            }),
            Form::Apl => tokens.iter().try_for_each(|t| {
                prefix(&t.text(), out)
                    .ok_or_else(|| format!("{:?} is no prefix as !1:192.0.2.0/24", t.text()))
            }),
            Form::Eui(n) => groups(tokens, '-', n, 1, out),
            Form::Locator64 => groups(tokens, ':', 4, 2, out),
            Form::Ipseckey => ipseckey(tokens, origin, out),
            Form::Hip => hip(tokens, origin, out),
            Form::Opaque => Err("this type has no text: write its RDATA as \\# length hex (RFC 3597)".into()),
        }
    }

    /// Writes all that is left; none when it is not of this form.
    pub(super) fn format(self, rdata: &mut &[u8]) -> Option<String> {
        match self {
            Form::Loc => loc_text(rdata),
            Form::Apl => {
                let mut words = Vec::new();
                while !rdata.is_empty() {
                    words.push(prefix_text(rdata)?);
                }
                Some(words.join(" "))
            }
            Form::Eui(n) => {
                Some(take(rdata, n)?.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join("-"))
            }
            Form::Locator64 => {
                let group = |c: &[u8]| format!("{:x}", u16::from_be_bytes([c[0], c[1]]));
                Some(take(rdata, 8)?.chunks_exact(2).map(group).collect::<Vec<_>>().join(":"))
            }
            Form::Ipseckey => ipseckey_text(rdata),
            Form::Hip => hip_text(rdata),
            Form::Opaque => {
                let bytes = std::mem::take(rdata);
                let hex =
                    if bytes.is_empty() { String::new() } else { format!(" {}", HEXUPPER.encode(bytes)) };
                Some(format!("\\# {}{hex}", bytes.len()))
            }
        }
    }
}

/// A number with at most so many digits behind the point, times that power of ten.
fn decimal(text: &str, places: usize) -> Option<i64> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |t| (-1, t));
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let sound = (1..=10).contains(&whole.len()) && part.len() <= places;
    if !sound || !whole.bytes().chain(part.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(sign * format!("{whole}{part:0<places$}").parse::<i64>().ok()?)
}

/// An angle: degrees, perhaps minutes, perhaps seconds, and a direction.
fn angle(tokens: &mut &[Token<'_>], ways: [&str; 2], most: u32) -> Option<u32> {
    let mut parts = [0i64; 3];
    for i in 0..4 {
        let (first, rest) = tokens.split_first()?;
        *tokens = rest;
        let text = first.text();
        if let Some(way) = ways.iter().position(|w| text.eq_ignore_ascii_case(w)) {
            let sound = i > 0 && (0..=180).contains(&parts[0]) && parts[1..].iter().all(|p| *p >= 0);
            if !sound || parts[1] > 59 || parts[2] > 59_999 {
                return None;
            }
            let all = u32::try_from(parts[0] * 3_600_000 + parts[1] * 60_000 + parts[2]).ok()?;
            let at = if way == 0 { MIDDLE + all } else { MIDDLE - all };
            return (all <= most).then_some(at);
        }
        *parts.get_mut(i)? = decimal(&text, if i == 2 { 3 } else { 0 })?;
    }
    None
}

/// Metres, with or without their unit, in centimetres.
fn metres(token: &Token<'_>) -> Option<i64> {
    let text = token.text();
    decimal(text.strip_suffix(['m', 'M']).unwrap_or(&text), 2)
}

/// Centimetres as one digit and a power of ten (RFC 1876 §2).
fn size(cm: i64) -> Option<u8> {
    let (mut digit, mut power) = (u64::try_from(cm).ok()?, 0u8);
    while digit > 9 {
        (digit, power) = (digit / 10, power + 1);
    }
    (power <= 9).then_some((digit as u8) << 4 | power)
}

fn loc(mut tokens: &[Token<'_>], out: &mut Vec<u8>) -> Option<()> {
    let latitude = angle(&mut tokens, ["N", "S"], QUARTER)?;
    let longitude = angle(&mut tokens, ["E", "W"], 2 * QUARTER)?;
    let (altitude, sizes) = tokens.split_first()?;
    let altitude = u32::try_from(metres(altitude)? + BELOW).ok()?;
    let mut bytes = [0, 0x12, 0x16, 0x13]; // version 0; 1 m, 10,000 m, 10 m where nothing is said
    for (i, token) in (1..).zip(sizes) {
        *bytes.get_mut(i)? = size(metres(token)?)?;
    }
    out.extend(bytes);
    [latitude, longitude, altitude].iter().for_each(|n| out.extend(n.to_be_bytes()));
    Some(())
}

fn loc_text(rdata: &mut &[u8]) -> Option<String> {
    let &[version, sizes @ ..] = take(rdata, 4)?.first_chunk::<4>()?;
    let mut int = || Some(take_int(rdata, 4)? as u32);
    let (latitude, longitude, altitude) = (int()?, int()?, i64::from(int()?) - BELOW);
    let angle = |n: u32, ways: [&str; 2], most: u32| {
        let all = n.abs_diff(MIDDLE);
        let (seconds, way) = (all / 1000, if n >= MIDDLE { ways[0] } else { ways[1] });
        let (d, m, s) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        (all <= most).then(|| format!("{d} {m} {s}.{:03} {way}", all % 1000))
    };
    let metres = |cm: i64| {
        let (sign, cm) = (if cm < 0 { "-" } else { "" }, cm.abs());
        format!("{sign}{}.{:02}m", cm / 100, cm % 100)
    };
    let sizes = sizes.map(|b| {
        let (digit, power) = (i64::from(b >> 4), u32::from(b & 15));
        (digit <= 9 && power <= 9).then(|| metres(digit * 10i64.pow(power)))
    });
    let [size, horizontal, vertical] = sizes;
    let place =
        format!("{} {}", angle(latitude, ["N", "S"], QUARTER)?, angle(longitude, ["E", "W"], 2 * QUARTER)?);
    (version == 0).then_some(())?;
    Some(format!("{place} {} {} {} {}", metres(altitude), size?, horizontal?, vertical?))
}

/// `!1:192.0.2.0/24`: trailing zeroes of the address stay away (RFC 3123 §4).
fn prefix(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let (not, text) = text.strip_prefix('!').map_or((0, text), |t| (0x80, t));
    let (family, text) = text.split_once(':')?;
    let (addr, bits) = text.split_once('/')?;
    let (family, octets, most) = match family {
        "1" => (1, addr.parse::<Ipv4Addr>().ok()?.octets().to_vec(), 32),
        "2" => (2, addr.parse::<Ipv6Addr>().ok()?.octets().to_vec(), 128),
        _ => return None,
    };
    let bits: u8 = bits.parse().ok().filter(|b| *b <= most)?;
    let len = octets.len() - octets.iter().rev().take_while(|b| **b == 0).count();
    out.extend([0, family, bits, not | len as u8]);
    out.extend(&octets[..len]);
    Some(())
}

fn prefix_text(rdata: &mut &[u8]) -> Option<String> {
    let &[high, family, bits, len] = take(rdata, 4)?.first_chunk()?;
    let (not, part) = (if len & 0x80 != 0 { "!" } else { "" }, take(rdata, usize::from(len & 0x7f))?);
    let mut whole = [0u8; 16];
    whole.get_mut(..part.len())?.copy_from_slice(part);
    let addr = match (high, family) {
        (0, 1) if part.len() <= 4 && bits <= 32 => {
            Ipv4Addr::new(whole[0], whole[1], whole[2], whole[3]).to_string()
        }
        (0, 2) if bits <= 128 => Ipv6Addr::from(whole).to_string(),
        _ => return None,
    };
    (part.last() != Some(&0)).then(|| format!("{not}{family}:{addr}/{bits}"))
}

/// One word: groups of hex digits, each of so many bytes.
fn groups(tokens: &[Token<'_>], by: char, n: usize, bytes: usize, out: &mut Vec<u8>) -> Result<(), String> {
    let text = tokens.iter().map(Token::text).collect::<Vec<_>>().join(" ");
    let wrong = || format!("{text:?} is not {n} groups of hex digits with {by:?} between them");
    let all: Vec<&str> = text.split(by).collect();
    if all.len() != n {
        return Err(wrong());
    }
    for group in all {
        let sound = group.len() == 2 * bytes || (bytes > 1 && (1..2 * bytes).contains(&group.len()));
        let number = u64::from_str_radix(group, 16).ok().filter(|_| sound && !group.starts_with('+'));
        out.extend(&number.ok_or_else(wrong)?.to_be_bytes()[8 - bytes..]);
    }
    Ok(())
}

fn base64(tokens: &[Token<'_>]) -> Result<Vec<u8>, String> {
    let text: Vec<u8> = tokens.iter().flat_map(|t| t.raw).copied().collect();
    BASE64.decode(&text).map_err(|e| format!("the key is not base64: {e}"))
}

fn ipseckey(tokens: &[Token<'_>], origin: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let [precedence, kind, algorithm, gateway, key @ ..] = tokens else {
        return Err("precedence, gateway type, algorithm and gateway are needed (RFC 4025 §3)".into());
    };
    let (kind, text) = (number::<u8>(kind)?, gateway.text());
    let wrong = || format!("{text:?} is no gateway of type {kind}");
    out.extend([number::<u8>(precedence)?, kind, number::<u8>(algorithm)?]);
    match kind {
        0 if text == "." => {}
        1 => out.extend(text.parse::<Ipv4Addr>().map_err(|_| wrong())?.octets()),
        2 => out.extend(text.parse::<Ipv6Addr>().map_err(|_| wrong())?.octets()),
        3 => out.extend(cased_name(gateway, origin)?),
        _ => return Err(wrong()),
    }
    out.extend(base64(key)?);
    Ok(())
}

fn ipseckey_text(rdata: &mut &[u8]) -> Option<String> {
    let &[precedence, kind, algorithm] = take(rdata, 3)?.first_chunk()?;
    let gateway = match kind {
        0 => ".".to_string(),
        1 => Ipv4Addr::from(<[u8; 4]>::try_from(take(rdata, 4)?).ok()?).to_string(),
        2 => Ipv6Addr::from(<[u8; 16]>::try_from(take(rdata, 16)?).ok()?).to_string(),
        3 => name_text(rdata)?,
        _ => return None,
    };
    let key = BASE64.encode(std::mem::take(rdata));
    Some(format!("{precedence} {kind} {algorithm} {gateway} {key}").trim_end().to_string())
}

fn hip(tokens: &[Token<'_>], origin: &[u8], out: &mut Vec<u8>) -> Result<(), String> {
    let [algorithm, tag, key, servers @ ..] = tokens else {
        return Err("an algorithm, a host identity tag and a key are needed (RFC 8005 §5)".into());
    };
    let tag = HEXLOWER_PERMISSIVE.decode(tag.raw).ok().filter(|t| (1..=255).contains(&t.len()));
    let tag = tag.ok_or("the host identity tag is not hex")?;
    let key = base64(std::slice::from_ref(key))?;
    let len = u16::try_from(key.len()).map_err(|_| "the key is too long")?;
    out.extend([tag.len() as u8, number::<u8>(algorithm)?]);
    out.extend(len.to_be_bytes());
    out.extend(tag);
    out.extend(key);
    servers.iter().try_for_each(|s| cased_name(s, origin).map(|n| out.extend(n)))
}

fn hip_text(rdata: &mut &[u8]) -> Option<String> {
    let &[tag, algorithm, a, b] = take(rdata, 4)?.first_chunk()?;
    let tag = Some(take(rdata, usize::from(tag))?).filter(|t| !t.is_empty())?;
    let key = take(rdata, usize::from(u16::from_be_bytes([a, b])))?;
    let key = Some(key).filter(|k| !k.is_empty())?;
    let mut text = format!("{algorithm} {} {}", HEXUPPER.encode(tag), BASE64.encode(key));
    while !rdata.is_empty() {
        text.push(' ');
        text.push_str(&name_text(rdata)?);
    }
    Some(text)
}

fn name_text(rdata: &mut &[u8]) -> Option<String> {
    let whole = *rdata;
    let lower = take_name(rdata)?;
    Some(cased_text(&whole[..whole.len() - rdata.len()], &lower))
}
