//! EDNS Client Subnet (RFC 7871): who is steered, when a resolver asks for somebody else.
//!
//! An option with an address steers in place of the resolver's own; one without (a source prefix of 0, RFC 7871 §7.1.2) asks
//! not to be steered by the client, so the resolver's address counts. Every option is answered with the same network, and
//! with the scope of the answer: 0 where all clients get the same.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of the option before the address.
const HEAD: usize = 8;
/// Bytes of the longest option.
pub(crate) const MAX: usize = HEAD + 16;

/// A client's network as the option gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Subnet {
    family: u16,
    source: u8,
    addr: [u8; 16],
}

impl Subnet {
    /// Reads the option's data. None is a format error (§6): a scope in a query, an address of the wrong length, bits behind
    /// the prefix, or a family that nobody has defined.
    pub(crate) fn read(data: &[u8]) -> Option<Subnet> {
        let (&[a, b, source, scope], addr) = data.split_first_chunk::<4>()?;
        let family = u16::from_be_bytes([a, b]);
        let most = match family {
            0 => 0, // as some clients write "no address"
            1 => 32,
            2 => 128,
            _ => return None,
        };
        if source > most || scope != 0 || addr.len() != usize::from(source).div_ceil(8) {
            return None;
        }
        let behind = addr.last().copied().unwrap_or(0).checked_shl(u32::from(source) % 8);
        if source % 8 != 0 && behind != Some(0) {
            return None;
        }
        let mut whole = [0; 16];
        whole[..addr.len()].copy_from_slice(addr);
        Some(Subnet { family, source, addr: whole })
    }

    /// The address to steer by; none: the resolver's.
    pub(crate) fn client(&self) -> Option<IpAddr> {
        let [a, b, c, d, ..] = self.addr;
        match self.family {
            _ if self.source == 0 => None,
            1 => Some(Ipv4Addr::new(a, b, c, d).into()),
            _ => Some(Ipv6Addr::from(self.addr).into()),
        }
    }

    /// Bytes of its option.
    pub(crate) fn len(&self) -> usize {
        HEAD + usize::from(self.source).div_ceil(8)
    }

    /// The option of the answer; the first [`Subnet::len`] bytes count.
    pub(crate) fn option(&self, scope: u8) -> [u8; MAX] {
        let mut out = [0; MAX];
        out[1] = crate::wire::option::SUBNET as u8;
        out[3] = (self.len() - 4) as u8;
        out[4..6].copy_from_slice(&self.family.to_be_bytes());
        out[6] = self.source;
        out[7] = if self.source == 0 { 0 } else { scope };
        out[HEAD..].copy_from_slice(&self.addr);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_and_odd_ones_are_format_errors() {
        let client = |data: &[u8]| Subnet::read(data).map(|s| s.client().map(|c| c.to_string()));
        assert_eq!(client(&[0, 1, 24, 0, 198, 51, 100]), Some(Some("198.51.100.0".into())));
        assert_eq!(client(&[0, 1, 20, 0, 198, 51, 0x60]), Some(Some("198.51.96.0".into())));
        assert_eq!(client(&[0, 2, 32, 0, 0x20, 1, 0xd, 0xb8]), Some(Some("2001:db8::".into())));
        assert_eq!(client(&[0, 1, 0, 0]), Some(None));
        assert_eq!(client(&[0, 0, 0, 0]), Some(None));
        for odd in [
            &[0, 1, 24, 0, 198, 51][..],
            &[0, 1, 24, 0, 198, 51, 100, 0],
            &[0, 1, 20, 0, 198, 51, 0x61],
            &[0, 1, 33, 0, 198, 51, 100, 0, 0],
            &[0, 1, 24, 24, 198, 51, 100],
            &[0, 3, 8, 0, 1],
            &[0, 0, 8, 0, 1],
            &[0, 1, 24],
        ] {
            assert_eq!(client(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn the_answer_names_the_same_network_and_a_scope() {
        let subnet = Subnet::read(&[0, 1, 20, 0, 198, 51, 0x60]).unwrap();
        assert_eq!(subnet.option(22)[..subnet.len()], [0, 8, 0, 7, 0, 1, 20, 22, 198, 51, 0x60]);
        let private = Subnet::read(&[0, 1, 0, 0]).unwrap();
        assert_eq!(private.option(22)[..private.len()], [0, 8, 0, 4, 0, 1, 0, 0], "scope 0 for source 0");
    }
}
