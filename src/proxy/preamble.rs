//! The PROXY protocol of HAProxy, versions 1 and 2: who really connects, told before the first byte of a connection.
//!
//! Strict, since whoever may send it decides who the client is: no second spelling of an address or a port, lengths that
//! fit, and no more than [`MAX`] bytes. Additional fields (TLVs) are checked for their framing and not looked at.

use std::{
    io::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};
use zonekeeper_core::model::ProxyHeader;

/// Longest header, in bytes: addresses and what TLS tells of a client fit several times.
pub const MAX: usize = 4096;
/// Longest line of version 1 (specification §2.1).
const MAX_LINE: usize = 107;
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;

/// Both ends of a connection as the client sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub destination: SocketAddr,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preamble {
    /// The header is not complete.
    More,
    /// The header has so many bytes. Without ends the connection is the proxy's own: a health check, or not known.
    Header(usize, Option<Ends>),
    /// They are no header; says why.
    Bad(&'static str),
}

/// Reads a header at the start of a connection.
pub fn parse(bytes: &[u8]) -> Preamble {
    let binary = bytes.len().min(SIGNATURE.len());
    if bytes[..binary] == SIGNATURE[..binary] {
        return version_2(bytes);
    }
    let text = bytes.len().min(6);
    if bytes[..text] != b"PROXY "[..text] {
        return Preamble::Bad("neither version of the PROXY protocol");
    }
    match bytes.iter().take(MAX_LINE).position(|b| *b == b'\n') {
        Some(end) if end > 0 && bytes[end - 1] == b'\r' => match version_1(&bytes[..end - 1]) {
            Ok(ends) => Preamble::Header(end + 1, ends),
            Err(why) => Preamble::Bad(why),
        },
        Some(_) => Preamble::Bad("the line does not end in CR LF"),
        None if bytes.len() >= MAX_LINE => Preamble::Bad("the line is too long"),
        None => Preamble::More,
    }
}

fn version_1(line: &[u8]) -> Result<Option<Ends>, &'static str> {
    let line = std::str::from_utf8(line).map_err(|_| "the line is not ASCII")?;
    let mut words = line.split(' ').skip(1);
    let ends = match words.next() {
        Some("TCP4") => ends::<Ipv4Addr>(&mut words)?,
        Some("TCP6") => ends::<Ipv6Addr>(&mut words)?,
        Some("UNKNOWN") => return Ok(None), // what follows is ignored (§2.1)
        _ => return Err("the protocol is none of TCP4, TCP6 and UNKNOWN"),
    };
    if words.next().is_some() {
        return Err("something stands behind the ports");
    }
    Ok(Some(ends))
}

fn ends<'a, A: FromStr + Into<IpAddr>>(
    words: &mut impl Iterator<Item = &'a str>,
) -> Result<Ends, &'static str> {
    let mut word = || words.next().unwrap_or_default();
    let (from, to, from_port, to_port) = (word(), word(), word(), word());
    let ip = |text: &str| text.parse::<A>().map(Into::into).map_err(|_| "an address is not valid");
    let port = |text: &str| match text.parse::<u16>() {
        Ok(n) if text == "0" || !text.starts_with(['0', '+']) => Ok(n),
        _ => Err("a port is not valid"),
    };
    Ok(Ends {
        source: SocketAddr::new(ip(from)?, port(from_port)?),
        destination: SocketAddr::new(ip(to)?, port(to_port)?),
    })
}

fn version_2(bytes: &[u8]) -> Preamble {
    let Some([command, family, high, low]) = bytes.get(12..16) else { return Preamble::More };
    let len = 16 + usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX {
        return Preamble::Bad("the header is too long");
    }
    if !matches!(*command, LOCAL | PROXY) {
        return Preamble::Bad("the version or the command is not known");
    }
    let Some(rest) = bytes.get(16..len) else { return Preamble::More };
    // The upper half is the family, the lower one the transport: not said, stream, datagram.
    let addresses = match family >> 4 {
        _ if family & 0xf > 2 => return Preamble::Bad("the transport is not known"),
        0 => 0,
        1 => 12,
        2 => 36,
        3 => 216,
        _ => return Preamble::Bad("the address family is not known"),
    };
    let Some((addresses, fields)) = rest.split_at_checked(addresses) else {
        return Preamble::Bad("the addresses do not fit into the length");
    };
    if !framed(fields) {
        return Preamble::Bad("an additional field does not fit into the length");
    }
    let ends = match family >> 4 {
        _ if *command == LOCAL => None,
        1 => Some(split::<4>(addresses)),
        2 => Some(split::<16>(addresses)),
        _ => None,
    };
    Preamble::Header(len, ends)
}

/// Type, length and value, to the last byte.
fn framed(mut fields: &[u8]) -> bool {
    while let [_, high, low, rest @ ..] = fields {
        let len = usize::from(u16::from_be_bytes([*high, *low]));
        match rest.get(len..) {
            Some(next) => fields = next,
            None => return false,
        }
    }
    fields.is_empty()
}

fn split<const N: usize>(bytes: &[u8]) -> Ends
where
    IpAddr: From<[u8; N]>,
{
    let ip = |at: usize| {
        let mut octets = [0; N];
        octets.copy_from_slice(&bytes[at..at + N]);
        IpAddr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Ends { source: SocketAddr::new(ip(0), port(2 * N)), destination: SocketAddr::new(ip(N), port(2 * N + 2)) }
}

/// Appends a header. Ends of different families are both written as IPv6.
pub fn write(version: ProxyHeader, ends: Ends, out: &mut Vec<u8>) {
    let (source, destination) = (ends.source.ip().to_canonical(), ends.destination.ip().to_canonical());
    let ports = (ends.source.port(), ends.destination.port());
    let wide = |ip: IpAddr| match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    match (version, source, destination) {
        (ProxyHeader::V1, IpAddr::V4(from), IpAddr::V4(to)) => {
            let _ = write!(out, "PROXY TCP4 {from} {to} {} {}\r\n", ports.0, ports.1);
        }
        (ProxyHeader::V1, from, to) => {
            let _ = write!(out, "PROXY TCP6 {} {} {} {}\r\n", wide(from), wide(to), ports.0, ports.1);
        }
        (ProxyHeader::V2, IpAddr::V4(from), IpAddr::V4(to)) => {
            binary(0x11, &from.octets(), &to.octets(), ports, out);
        }
        (ProxyHeader::V2, from, to) => binary(0x21, &wide(from).octets(), &wide(to).octets(), ports, out),
    }
}

/// Appends the header of a connection that is our own, as a check: version 2 has a word for it (§2.2), version 1 names our
/// ends of it.
pub fn write_own(version: ProxyHeader, ends: Ends, out: &mut Vec<u8>) {
    match version {
        ProxyHeader::V1 => write(version, ends, out),
        ProxyHeader::V2 => {
            out.extend_from_slice(SIGNATURE);
            out.extend_from_slice(&[LOCAL, 0, 0, 0]);
        }
    }
}

fn binary(family: u8, from: &[u8], to: &[u8], ports: (u16, u16), out: &mut Vec<u8>) {
    out.extend_from_slice(SIGNATURE);
    out.extend_from_slice(&[PROXY, family, 0, (2 * from.len() + 4) as u8]);
    out.extend_from_slice(from);
    out.extend_from_slice(to);
    out.extend_from_slice(&ports.0.to_be_bytes());
    out.extend_from_slice(&ports.1.to_be_bytes());
}

#[cfg(test)]
#[path = "preamble_tests.rs"]
mod tests;
