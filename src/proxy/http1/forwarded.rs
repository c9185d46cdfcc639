//! Who asks: the address that connects, or what a trusted proxy says of the one before it (`X-Forwarded-*`, and
//! `Forwarded` of RFC 7239). Nobody else's word is taken or passed on.

use httparse::Header;
use std::net::{IpAddr, SocketAddr};
use zonekeeper_core::model::{Network, within};

/// What a forwarded request says of its client.
#[derive(Debug, Clone, Copy)]
pub struct Forwarded {
    /// The address that connects.
    pub peer: IpAddr,
    /// The client asked over TLS.
    pub tls: bool,
    /// The peer is a proxy whose word is taken.
    pub trusted: bool,
}

impl Forwarded {
    /// Judges the peer of a connection (`tls`: of ours), and finds the client: the last address of the chain that is no
    /// trusted proxy.
    pub fn of(peer: IpAddr, tls: bool, trusted: &[Network], fields: &[Header<'_>]) -> (Forwarded, IpAddr) {
        if !within(trusted, peer) {
            return (Forwarded { peer, tls, trusted: false }, peer);
        }
        let proto = values(fields, "x-forwarded-proto").next_back();
        let tls = proto.map_or(tls, |p| p.trim_ascii().eq_ignore_ascii_case(b"https"));
        (Forwarded { peer, tls, trusted: true }, client(peer, trusted, fields))
    }

    /// The scheme that the client used.
    pub fn scheme(self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }
}

fn values<'f>(fields: &'f [Header<'f>], name: &'f str) -> impl DoubleEndedIterator<Item = &'f [u8]> {
    fields.iter().filter(move |f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value)
}

fn client(peer: IpAddr, trusted: &[Network], fields: &[Header<'_>]) -> IpAddr {
    let chain = |name| values(fields, name).rev().flat_map(|v| v.rsplit(|b| *b == b','));
    let mut last = peer;
    let mut walk = |address: Option<IpAddr>| {
        let Some(address) = address else { return false }; // what stands before it is not known to be true
        last = address.to_canonical();
        within(trusted, last)
    };
    if values(fields, "x-forwarded-for").next().is_some() {
        chain("x-forwarded-for").map(address).all(&mut walk);
    } else {
        chain("forwarded").map(forwarded_for).all(&mut walk);
    }
    last
}

/// An address, perhaps with a port.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let with_port = || text.parse::<SocketAddr>().ok().map(|a| a.ip());
    bare.unwrap_or(text).parse().ok().or_else(with_port)
}

/// The node that an element of `Forwarded` is for (RFC 7239 §6); none for a hidden one.
fn forwarded_for(element: &[u8]) -> Option<IpAddr> {
    let pair = |p: &[u8]| {
        let (name, value) = p.trim_ascii().split_at_checked(4)?;
        name.eq_ignore_ascii_case(b"for=").then(|| value.to_vec())
    };
    let value = element.split(|b| *b == b';').find_map(pair)?;
    let quoted = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\""));
    address(quoted.unwrap_or(&value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: &str = "10.0.0.1";

    fn asks(fields: &[(&str, &str)]) -> (String, bool) {
        let fields: Vec<Header<'_>> =
            fields.iter().map(|(name, value)| Header { name, value: value.as_bytes() }).collect();
        let trusted = [Network { addr: [10, 0, 0, 0].into(), bits: 8 }];
        let (from, client) = Forwarded::of(PEER.parse().unwrap(), false, &trusted, &fields);
        (client.to_string(), from.tls)
    }

    #[test]
    fn the_client_is_the_last_one_that_no_trusted_proxy_is() {
        let of = |chain| asks(&[("X-Forwarded-For", chain)]).0;
        assert_eq!(of("192.0.2.1"), "192.0.2.1");
        assert_eq!(of("1.1.1.1, 192.0.2.1, 10.9.9.9"), "192.0.2.1", "what a client writes stands before it");
        assert_eq!(of("10.3.3.3,10.2.2.2"), "10.3.3.3");
        assert_eq!(of("192.0.2.1, unknown"), PEER);
        assert_eq!(of("192.0.2.1, unknown, 10.2.2.2"), "10.2.2.2");
        assert_eq!(of("[2001:db8::1]:80"), "2001:db8::1");
        assert_eq!(of("192.0.2.1:8080"), "192.0.2.1");
        assert_eq!(of(""), PEER);
        let two = [("x-forwarded-for", "1.1.1.1, 192.0.2.1"), ("X-Forwarded-For", "10.2.2.2")];
        assert_eq!(asks(&two).0, "192.0.2.1", "several fields are one list");
    }

    #[test]
    fn the_standard_field_counts_where_the_other_is_missing() {
        let of = |value| asks(&[("Forwarded", value)]).0;
        assert_eq!(of("for=1.1.1.1, For=\"[2001:db8::2]:4711\";proto=https"), "2001:db8::2");
        assert_eq!(of("proto=http;for=192.0.2.7;by=10.0.0.2, for=10.4.4.4"), "192.0.2.7");
        assert_eq!(of("for=_hidden"), PEER);
        assert_eq!(of("by=1.1.1.1"), PEER);
        assert_eq!(asks(&[("Forwarded", "for=1.1.1.1"), ("X-Forwarded-For", "192.0.2.1")]).0, "192.0.2.1");
    }

    #[test]
    fn nobody_else_is_believed() {
        let fields = [
            Header { name: "X-Forwarded-For", value: b"1.1.1.1" },
            Header { name: "X-Forwarded-Proto", value: b"https" },
        ];
        let peer = "192.0.2.9".parse().unwrap();
        let trusted = [Network { addr: [10, 0, 0, 0].into(), bits: 8 }];
        let (from, client) = Forwarded::of(peer, false, &trusted, &fields);
        assert_eq!((client, from.tls, from.trusted), (peer, false, false));
        assert_eq!(asks(&[("X-Forwarded-Proto", "HTTPS")]), (PEER.into(), true));
    }
}
