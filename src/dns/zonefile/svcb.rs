//! Parameters of SVCB and HTTPS records (RFC 9460 §2.1, §7, §8).

use super::{
    lexer::{Token, unescape},
    rdata::quoted,
};
use data_encoding::BASE64;
use std::net::{Ipv4Addr, Ipv6Addr};

const MANDATORY: u16 = 0;
const KEYS: [(u16, &str); 8] = [
    (0, "mandatory"),
    (1, "alpn"),
    (2, "no-default-alpn"),
    (3, "port"),
    (4, "ipv4hint"),
    (5, "ech"),
    (6, "ipv6hint"),
    (7, "dohpath"),
];

fn key_number(name: &str) -> Option<u16> {
    let known = KEYS.iter().find(|k| k.1 == name).map(|k| k.0);
    known.or_else(|| name.strip_prefix("key")?.parse().ok())
}

fn key_name(number: u16) -> String {
    KEYS.iter().find(|k| k.0 == number).map_or_else(|| format!("key{number}"), |k| k.1.to_string())
}

/// Reads `key=value` words; they go on the wire in the order of their numbers, each once.
pub(super) fn parse(tokens: &[Token<'_>], out: &mut Vec<u8>) -> Result<(), String> {
    let mut params = tokens.iter().map(param).collect::<Result<Vec<_>, _>>()?;
    params.sort();
    if let Some(twice) = params.windows(2).find(|w| w[0].0 == w[1].0) {
        return Err(format!("parameter {} stands there twice", key_name(twice[0].0)));
    }
    let mandatory = params.first().filter(|p| p.0 == MANDATORY).map_or(&[][..], |p| &p.1);
    for key in mandatory.chunks_exact(2).map(|k| u16::from_be_bytes([k[0], k[1]])) {
        if key == MANDATORY || !params.iter().any(|p| p.0 == key) {
            return Err(match key {
                MANDATORY => "mandatory lists itself (RFC 9460 §8)".into(),
                _ => format!("mandatory lists {}, which is not there (RFC 9460 §8)", key_name(key)),
            });
        }
    }
    for (key, value) in params {
        let len =
            u16::try_from(value.len()).map_err(|_| format!("parameter {} is too long", key_name(key)))?;
        out.extend(key.to_be_bytes());
        out.extend(len.to_be_bytes());
        out.extend(value);
    }
    Ok(())
}

fn param(token: &Token<'_>) -> Result<(u16, Vec<u8>), String> {
    let split = token.raw.iter().position(|b| *b == b'=');
    let (name, value) = split.map_or((token.raw, None), |i| (&token.raw[..i], Some(&token.raw[i + 1..])));
    let name = String::from_utf8_lossy(name);
    let key =
        key_number(&name).ok_or_else(|| format!("{name:?} is no parameter of SVCB; keyNNN names any"))?;
    let raw = value.map(|v| v.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(v));
    let bytes = unescape(raw.unwrap_or_default())?;
    let wrong = || format!("the value of {name} is malformed");
    let text = String::from_utf8_lossy(&bytes);
    let list = || text.split(',');
    let value = match key {
        _ if key <= 7 && key != 2 && bytes.is_empty() => return Err(format!("{name} needs a value")),
        MANDATORY => mandatory(list()).ok_or_else(wrong)?,
        1 => alpn(&bytes).ok_or_else(wrong)?,
        2 if bytes.is_empty() => Vec::new(),
        2 => return Err(format!("{name} has no value")),
        3 => text.parse::<u16>().map_err(|_| wrong())?.to_be_bytes().to_vec(),
        4 => list()
            .map(|a| a.parse().map(|a: Ipv4Addr| a.octets()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| wrong())?
            .concat(),
        5 => BASE64.decode(&bytes).map_err(|_| wrong())?,
        6 => list()
            .map(|a| a.parse().map(|a: Ipv6Addr| a.octets()))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| wrong())?
            .concat(),
        _ => bytes,
    };
    Ok((key, value))
}

/// The list of mandatory keys: in ascending order, each once (RFC 9460 §8).
fn mandatory<'a>(list: impl Iterator<Item = &'a str>) -> Option<Vec<u8>> {
    let mut keys = list.map(key_number).collect::<Option<Vec<u16>>>()?;
    keys.sort_unstable();
    let twice = keys.windows(2).any(|w| w[0] == w[1]);
    (!twice).then(|| keys.into_iter().flat_map(u16::to_be_bytes).collect())
}

/// Protocol ids, split at commas that no backslash covers (RFC 9460 appendix A.1).
fn alpn(bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut id, mut escaped) = (Vec::new(), Vec::new(), false);
    for &b in bytes.iter().chain(b",") {
        match b {
            b'\\' if !escaped => escaped = true,
            b',' if !escaped => {
                out.push(u8::try_from(id.len()).ok().filter(|n| *n > 0)?);
                out.append(&mut id);
            }
            _ => {
                id.push(b);
                escaped = false;
            }
        }
    }
    (!escaped && id.is_empty()).then_some(out)
}

/// Writes parameters; none when they are malformed or out of order.
pub(super) fn format(mut rdata: &[u8]) -> Option<String> {
    let (mut words, mut last) = (Vec::new(), None);
    while !rdata.is_empty() {
        let (head, rest) = rdata.split_at_checked(4)?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]])))?;
        let key = u16::from_be_bytes([head[0], head[1]]);
        if last >= Some(key) {
            return None;
        }
        (rdata, last) = (rest, Some(key));
        let name = key_name(key);
        words.push(if value.is_empty() { name } else { format!("{name}={}", value_text(key, value)?) });
    }
    Some(words.join(" "))
}

fn value_text(key: u16, value: &[u8]) -> Option<String> {
    let whole = |n: usize| value.len().is_multiple_of(n);
    Some(match key {
        0 if whole(2) => {
            let keys: Vec<String> =
                value.chunks(2).map(|k| key_name(u16::from_be_bytes([k[0], k[1]]))).collect();
            keys.join(",")
        }
        1 => alpn_text(value)?,
        3 => u16::from_be_bytes(value.try_into().ok()?).to_string(),
        4 if whole(4) => {
            let addrs =
                value.chunks(4).map(|a| <[u8; 4]>::try_from(a).map(|a| Ipv4Addr::from(a).to_string()));
            addrs.collect::<Result<Vec<_>, _>>().ok()?.join(",")
        }
        5 => BASE64.encode(value),
        6 if whole(16) => {
            let addrs =
                value.chunks(16).map(|a| <[u8; 16]>::try_from(a).map(|a| Ipv6Addr::from(a).to_string()));
            addrs.collect::<Result<Vec<_>, _>>().ok()?.join(",")
        }
        0 | 2 | 4 | 6 => return None,
        _ => quoted(value),
    })
}

fn alpn_text(mut value: &[u8]) -> Option<String> {
    let mut list = Vec::new();
    while let Some((&len, rest)) = value.split_first() {
        let (id, rest) = rest.split_at_checked(usize::from(len))?;
        if !list.is_empty() {
            list.push(b',');
        }
        for &b in id {
            if matches!(b, b',' | b'\\') {
                list.push(b'\\');
            }
            list.push(b);
        }
        value = rest;
    }
    Some(quoted(&list))
}
