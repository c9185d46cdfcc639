//! Which site is nearest to a client.
//!
//! The steps, in order; the first that names a usable site (one of the service's assignment) decides:
//!
//! 1. The networks of the service that the client is in, the longest first.
//! 2. The client's autonomous system, 3. its country, 4. its continent, as a database of the node knows them.
//! 5. The smallest distance along the earth's surface, between sites and clients whose location is known.
//! 6. The order of the service's sites.
//!
//! An area that names several sites means the first usable one of them. A client of whom nothing is known (no address, or
//! none in the database) goes by the last step.

use super::WireSet;
use crate::{
    id::SiteId,
    model::{Area, Location, Nearest, Site},
};
use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};
use core::net::IpAddr;

/// A direction from the centre of the earth: the larger the scalar product of two, the nearer they are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Direction([f32; 3]);

impl Direction {
    /// Of a place, in degrees north and east.
    pub fn of(latitude: f64, longitude: f64) -> Direction {
        let (north, east) = (latitude.to_radians(), longitude.to_radians());
        let flat = libm::cos(north);
        Direction([flat * libm::cos(east), flat * libm::sin(east), libm::sin(north)].map(|x| x as f32))
    }

    fn cosine(self, other: Direction) -> f32 {
        self.0.iter().zip(other.0).map(|(a, b)| a * b).sum()
    }
}

impl From<Location> for Direction {
    fn from(l: Location) -> Direction {
        Direction::of(f64::from(l.latitude) / 1e4, f64::from(l.longitude) / 1e4)
    }
}

/// What a database knows of an address.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Whereabouts {
    /// Autonomous system; 0: not known.
    pub asn: u32,
    /// Country by ISO 3166-1; zeroes: not known.
    pub country: [u8; 2],
    /// Continent; zeroes: not known.
    pub continent: [u8; 2],
    /// The location.
    pub direction: Option<Direction>,
    /// All addresses that share so many leading bits are known alike.
    pub bits: u8,
}

/// What decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)] // the steps of this module's text
pub enum Step {
    Network,
    Asn,
    Country,
    Continent,
    Distance,
    Order,
}

impl Step {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Step::Network => "the client's network",
            Step::Asn => "the client's autonomous system",
            Step::Country => "the client's country",
            Step::Continent => "the client's continent",
            Step::Distance => "the distance to the client",
            Step::Order => "the order of the sites; nothing nearer is known of the client",
        }
    }
}

/// The site for a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Its number among the sites of [`Steering`].
    pub site: usize,
    /// All clients whose address shares so many leading bits get the same (RFC 7871 §7.2.1, without overlaps).
    pub scope: u8,
    /// What decided.
    pub step: Step,
}

/// The usable sites of one service and family, and who is nearest to which.
#[derive(Debug, Clone, PartialEq)]
pub struct Steering {
    sites: Vec<(SiteId, WireSet)>,
    v4: Trie,
    v6: Trie,
    asns: Vec<(u32, u16)>,
    countries: Vec<([u8; 2], u16)>,
    continents: Vec<([u8; 2], u16)>,
    directions: Vec<(Direction, u16)>,
}

impl Steering {
    /// Prepares the choice among sites that are usable, given in the policy's order.
    pub(super) fn new(
        nearest: &Nearest,
        sites: Vec<(SiteId, WireSet)>,
        declared: &BTreeMap<SiteId, Arc<Site>>,
    ) -> Steering {
        let place = |wanted: &SiteId| sites.iter().position(|(id, _)| id == wanted).map(|i| i as u16);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let (mut asns, mut countries, mut continents) = (Vec::new(), Vec::new(), Vec::new());
        for (area, wanted) in &nearest.areas {
            let Some(at) = wanted.iter().find_map(place) else { continue };
            match area {
                Area::Network(n) if n.addr.is_ipv4() => v4.push((bits(n.addr), n.bits, at)),
                Area::Network(n) => v6.push((bits(n.addr), n.bits, at)),
                Area::Asn(number) => asns.push((*number, at)),
                Area::Country(code) => countries.push((*code, at)),
                Area::Continent(code) => continents.push((*code, at)),
            }
        }
        let located = sites
            .iter()
            .zip(0..)
            .filter_map(|((id, _), at)| Some((Direction::from(declared.get(id)?.location?), at)));
        let directions = located.collect();
        Steering { v4: Trie::new(v4), v6: Trie::new(v6), asns, countries, continents, directions, sites }
    }

    /// The usable sites with their answers, in the policy's order.
    pub fn sites(&self) -> &[(SiteId, WireSet)] {
        &self.sites
    }

    /// Whether the choice depends on what a database says.
    pub fn asks_whereabouts(&self) -> bool {
        let areas = self.asns.len() + self.countries.len() + self.continents.len();
        self.sites.len() > 1 && (areas > 0 || self.directions.len() > 1)
    }

    /// The site for a client; `whereabouts` is asked only where it matters. Allocates nothing.
    pub fn choose(&self, client: Option<IpAddr>, whereabouts: impl FnOnce(IpAddr) -> Whereabouts) -> Chosen {
        let Some(client) = client else { return Chosen { site: 0, scope: 0, step: Step::Order } };
        let addr = client.to_canonical();
        // An IPv4 address inside IPv6 is known as what it is, but its scope counts the bits of the address that was given.
        let before = if addr == client { 0 } else { 96 };
        let chosen = self.choose_for(addr, whereabouts);
        Chosen { scope: chosen.scope + before, ..chosen }
    }

    fn choose_for(&self, addr: IpAddr, whereabouts: impl FnOnce(IpAddr) -> Whereabouts) -> Chosen {
        let trie = if addr.is_ipv4() { &self.v4 } else { &self.v6 };
        let (found, depth) = trie.find(bits(addr));
        if let Some(site) = found {
            return Chosen { site: usize::from(site), scope: depth, step: Step::Network };
        }
        if !self.asks_whereabouts() {
            return Chosen { site: 0, scope: depth, step: Step::Order };
        }
        let known = whereabouts(addr);
        let (site, step) = self.by(&known);
        Chosen { site, scope: depth.max(known.bits), step }
    }

    fn by(&self, known: &Whereabouts) -> (usize, Step) {
        let areas = [
            (at(&self.asns, &known.asn), Step::Asn),
            (at(&self.countries, &known.country), Step::Country),
            (at(&self.continents, &known.continent), Step::Continent),
        ];
        if let Some((site, step)) = areas.into_iter().find_map(|(site, step)| Some((site?, step))) {
            return (site, step);
        }
        let nearer = |here: Direction| {
            let cosine = |(d, _): &&(Direction, u16)| d.cosine(here);
            // of two at the same distance the first: `max_by` would take the last
            self.directions.iter().rev().max_by(|a, b| cosine(a).total_cmp(&cosine(b)))
        };
        match known.direction.and_then(nearer) {
            Some((_, site)) => (usize::from(*site), Step::Distance),
            None => (0, Step::Order),
        }
    }
}

fn at<K: Ord>(areas: &[(K, u16)], key: &K) -> Option<usize> {
    let i = areas.binary_search_by(|(k, _)| k.cmp(key)).ok()?;
    Some(usize::from(areas[i].1))
}

/// The address, its first bit uppermost.
fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u128::from(a.to_bits()) << 96,
        IpAddr::V6(a) => a.to_bits(),
    }
}

/// Marks a leaf; the rest is the value plus 1, or 0 for none.
const LEAF: u32 = 1 << 31;

/// A binary trie of prefixes whose values stand in the leaves alone: the leaf's depth is the scope of its answer.
#[derive(Debug, Clone, PartialEq)]
struct Trie {
    root: u32,
    nodes: Vec<[u32; 2]>,
}

impl Trie {
    fn new(mut prefixes: Vec<(u128, u8, u16)>) -> Trie {
        prefixes.sort_unstable_by_key(|(_, len, _)| *len); // the longer ones are laid over the shorter
        let mut trie = Trie { root: LEAF, nodes: Vec::new() };
        for (bits, len, value) in prefixes {
            let mut slot: Option<(usize, usize)> = None;
            for depth in 0..len {
                let here = trie.at(slot);
                let node = match here & LEAF {
                    0 => here as usize,
                    _ => {
                        trie.nodes.push([here; 2]);
                        trie.put(slot, trie.nodes.len() as u32 - 1);
                        trie.nodes.len() - 1
                    }
                };
                slot = Some((node, (bits << depth >> 127) as usize));
            }
            trie.put(slot, LEAF | (u32::from(value) + 1));
        }
        trie
    }

    fn at(&self, slot: Option<(usize, usize)>) -> u32 {
        slot.map_or(self.root, |(node, side)| self.nodes[node][side])
    }

    fn put(&mut self, slot: Option<(usize, usize)>, to: u32) {
        match slot {
            None => self.root = to,
            Some((node, side)) => self.nodes[node][side] = to,
        }
    }

    /// The value of the longest prefix, and how many bits decided that it is the one.
    fn find(&self, mut bits: u128) -> (Option<u16>, u8) {
        let (mut here, mut depth) = (self.root, 0);
        while here & LEAF == 0 {
            here = self.nodes[here as usize][(bits >> 127) as usize];
            (bits, depth) = (bits << 1, depth + 1);
        }
        ((here & !LEAF).checked_sub(1).map(|v| v as u16), depth)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Network;
    use alloc::{vec, vec::Vec};
    use proptest::prelude::*;

    fn prefixes() -> impl Strategy<Value = Vec<(u32, u8, u16)>> {
        // few distinct addresses, so that prefixes lie in one another
        let one = (any::<u32>(), 0..=32u8, 0..5u16);
        proptest::collection::vec(one, 0..40).prop_map(|all| {
            let mut out: Vec<(u32, u8, u16)> = Vec::new();
            for (addr, len, value) in all {
                let addr = addr & 0xf00f_000f & (u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0));
                if !out.iter().any(|(a, l, _)| (*a, *l) == (addr, len)) {
                    out.push((addr, len, value));
                }
            }
            out
        })
    }

    fn longest(prefixes: &[(u32, u8, u16)], addr: u32) -> Option<u16> {
        let network = |(a, bits, _): &(u32, u8, u16)| Network { addr: a.to_be_bytes().into(), bits: *bits };
        let within = prefixes.iter().filter(|p| network(p).contains(addr.to_be_bytes().into()));
        within.max_by_key(|(_, len, _)| *len).map(|p| p.2)
    }

    proptest! {
        #[test]
        fn the_longest_prefix_wins_and_its_scope_is_one_answer(prefixes in prefixes(), noise in any::<u32>(), more in any::<u32>()) {
            let trie = Trie::new(prefixes.iter().map(|(a, l, v)| (u128::from(*a) << 96, *l, *v)).collect());
            let mut addrs = vec![noise, noise & 0xf00f_000f];
            addrs.extend(prefixes.iter().map(|p| p.0));
            for addr in addrs {
                let (found, depth) = trie.find(u128::from(addr) << 96);
                prop_assert_eq!(found, longest(&prefixes, addr));
                let host = u32::MAX.checked_shr(u32::from(depth)).unwrap_or(0);
                for other in [addr & !host, addr | host, (addr & !host) | (more & host)] {
                    prop_assert_eq!(longest(&prefixes, other), found, "{} bits of {:x}", depth, addr);
                }
                if depth > 0 {
                    // one bit less would not do: something else is decided there
                    let wider = u32::MAX.checked_shr(u32::from(depth) - 1).unwrap_or(0);
                    let inside = prefixes.iter().any(|(a, l, _)| *l >= depth && (a ^ addr) & !wider == 0);
                    prop_assert!(inside, "{} bits of {:x} are more than needed", depth, addr);
                }
            }
        }
    }

    #[test]
    fn directions_order_as_distances() {
        let at = |north, east| Direction::of(north, east);
        let (frankfurt, ashburn, tokyo) = (at(50.11, 8.68), at(39.04, -77.49), at(35.68, 139.69));
        let nearest = |here: Direction| {
            [frankfurt, ashburn, tokyo].into_iter().max_by(|a, b| a.cosine(here).total_cmp(&b.cosine(here)))
        };
        assert_eq!(nearest(at(48.86, 2.35)), Some(frankfurt), "Paris");
        assert_eq!(nearest(at(-23.55, -46.63)), Some(ashburn), "Sao Paulo");
        assert_eq!(nearest(at(-33.87, 151.21)), Some(tokyo), "Sydney");
        assert_eq!(nearest(at(21.31, -157.86)), Some(tokyo), "Honolulu: over the date line");
        assert_eq!(nearest(at(61.22, -149.9)), Some(ashburn), "Anchorage: 5430 km, Tokyo 5570 km");
    }
}
