//! What a service with policy `nearest` goes by.

use super::Network;
use crate::id::SiteId;
use alloc::{collections::BTreeMap, vec::Vec};
use core::{fmt, net::IpAddr, str::FromStr};
use serde::{Deserialize, Serialize};

/// A place on earth, in ten-thousandths of a degree (11 m).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// North of the equator; -900000 to 900000.
    pub latitude: i32,
    /// East of Greenwich; -1800000 to 1800000.
    pub longitude: i32,
}

/// How clients and sites are brought together; see [`crate::answer::Steering`] for the order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Nearest {
    /// All sites of the service: the order for clients of whom nothing is known, and when nothing else is usable.
    pub sites: Vec<SiteId>,
    /// The sites for some clients, best first.
    pub areas: BTreeMap<Area, Vec<SiteId>>,
}

/// Clients that are steered alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Area {
    /// A network, as `192.0.2.0/24`.
    Network(Network),
    /// An autonomous system, as `AS64500`.
    Asn(u32),
    /// A country by ISO 3166-1, as `country:DE`.
    Country([u8; 2]),
    /// A continent (AF, AN, AS, EU, NA, OC or SA), as `continent:EU`.
    Continent([u8; 2]),
}

/// What is wrong with an area.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AreaError {
    /// It is none of the four forms.
    #[error(
        "is no area; write a network as 192.0.2.0/24, a system as AS64500, a country as country:DE, or continent:EU"
    )]
    Form,
    /// More bits than an address has.
    #[error("has more than {0} bits")]
    Bits(u8),
    /// Bits are set behind the prefix.
    #[error("has bits set behind the first {0}")]
    Host(u8),
    /// No continent has this code.
    #[error("is no continent; use AF, AN, AS, EU, NA, OC or SA")]
    Continent,
}

impl FromStr for Area {
    type Err = AreaError;
    fn from_str(text: &str) -> Result<Area, AreaError> {
        let code = |code: &str| match *code.as_bytes() {
            [a, b] if a.is_ascii_uppercase() && b.is_ascii_uppercase() => Ok([a, b]),
            _ => Err(AreaError::Form),
        };
        if let Some(country) = text.strip_prefix("country:") {
            return code(country).map(Area::Country);
        }
        if let Some(continent) = text.strip_prefix("continent:") {
            let code = code(continent)?;
            let known = [b"AF", b"AN", b"AS", b"EU", b"NA", b"OC", b"SA"].contains(&&code);
            return if known { Ok(Area::Continent(code)) } else { Err(AreaError::Continent) };
        }
        if let Some(number) = text.strip_prefix("AS") {
            let number = number.parse().ok().filter(|n| *n > 0);
            return number.map(Area::Asn).ok_or(AreaError::Form);
        }
        network(text).map(Area::Network)
    }
}

fn network(text: &str) -> Result<Network, AreaError> {
    let (addr, bits) = text.split_once('/').ok_or(AreaError::Form)?;
    let addr: IpAddr = addr.parse().map_err(|_| AreaError::Form)?;
    let bits: u8 = bits.parse().map_err(|_| AreaError::Form)?;
    let (whole, behind) = match addr {
        IpAddr::V4(a) => (32, u128::from(a.to_bits()) << 96),
        IpAddr::V6(a) => (128, a.to_bits()),
    };
    if bits > whole {
        return Err(AreaError::Bits(whole));
    }
    if behind.checked_shl(u32::from(bits)).unwrap_or(0) != 0 {
        return Err(AreaError::Host(bits));
    }
    Ok(Network { addr, bits })
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Area::Network(network) => write!(f, "{network}"),
            Area::Asn(number) => write!(f, "AS{number}"),
            Area::Country([a, b]) => write!(f, "country:{}{}", char::from(*a), char::from(*b)),
            Area::Continent([a, b]) => write!(f, "continent:{}{}", char::from(*a), char::from(*b)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn areas_read_as_they_are_written() {
        for text in ["192.0.2.0/24", "0.0.0.0/0", "2001:db8::/32", "AS64500", "country:DE", "continent:EU"] {
            assert_eq!(text.parse::<Area>().map(|a| a.to_string()), Ok(text.to_string()));
        }
    }

    #[test]
    fn what_is_no_area_is_refused() {
        for (text, error) in [
            ("192.0.2.0", AreaError::Form),
            ("192.0.2.0/33", AreaError::Bits(32)),
            ("192.0.2.1/24", AreaError::Host(24)),
            ("2001:db8::1/32", AreaError::Host(32)),
            ("AS0", AreaError::Form),
            ("DE", AreaError::Form),
            ("country:de", AreaError::Form),
            ("continent:XX", AreaError::Continent),
        ] {
            assert_eq!(text.parse::<Area>(), Err(error), "{text}");
        }
    }
}
