//! What databases in MaxMind's format know of clients: country, continent, autonomous system, location.

use maxminddb::{MaxMindDbError, Reader};
use serde::Deserialize;
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};
use zonekeeper_core::answer::{Direction, Whereabouts};

/// Entries of a worker's memory of the last clients; a power of two.
const KEPT: usize = 1024;

/// Databases, read into memory. Several complete one another: the first that knows a thing counts.
pub struct Geo {
    readers: Vec<Reader<Vec<u8>>>,
    /// Tells the entries of a [`Memory`] from those made by other databases.
    number: u32,
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("database {}: {source}; give a file in MaxMind's format (.mmdb)", path.display())]
pub struct GeoError {
    path: PathBuf,
    source: MaxMindDbError,
}

/// The fields that count; all others are passed over.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    continent: Option<Code<'a>>,
    #[serde(borrow, default)]
    country: Option<Iso<'a>>,
    #[serde(borrow, default)]
    registered_country: Option<Iso<'a>>,
    #[serde(default)]
    location: Option<Place>,
    #[serde(default)]
    autonomous_system_number: Option<u32>,
}

#[derive(Deserialize)]
struct Code<'a> {
    #[serde(default)]
    code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Iso<'a> {
    #[serde(default)]
    iso_code: Option<&'a str>,
}

#[derive(Deserialize)]
struct Place {
    #[serde(default)]
    latitude: Option<f64>,
    #[serde(default)]
    longitude: Option<f64>,
}

fn code(text: Option<&str>) -> [u8; 2] {
    text.and_then(|t| t.as_bytes().try_into().ok()).unwrap_or_default()
}

impl Geo {
    /// Reads the files.
    pub fn open(paths: &[PathBuf]) -> Result<Geo, GeoError> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let open = |path: &Path| {
            Reader::open_readfile(path).map_err(|source| GeoError { path: path.to_owned(), source })
        };
        let readers = paths.iter().map(|p| open(p)).collect::<Result<_, _>>()?;
        Ok(Geo { readers, number: NUMBER.fetch_add(1, Relaxed) })
    }

    /// What is known of an address. A record that cannot be read counts as none: a database is no reason not to answer.
    pub fn find(&self, addr: IpAddr) -> Whereabouts {
        let mut known = Whereabouts::default();
        for reader in &self.readers {
            let Ok(found) = reader.lookup(addr) else { continue };
            // what an IPv4 address shares with others is counted in its own bits
            let bits =
                found.network().map_or(0, |n| if n.is_ipv4() == addr.is_ipv4() { n.prefix() } else { 0 });
            known.bits = known.bits.max(bits);
            if let Ok(Some(record)) = found.decode::<Record<'_>>() {
                complete(&mut known, &record);
            }
        }
        known
    }
}

impl std::fmt::Debug for Geo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Geo({} databases)", self.readers.len())
    }
}

fn complete(known: &mut Whereabouts, record: &Record<'_>) {
    if known.asn == 0 {
        known.asn = record.autonomous_system_number.unwrap_or(0);
    }
    if known.country == [0; 2] {
        let country = record.country.as_ref().or(record.registered_country.as_ref());
        known.country = code(country.and_then(|c| c.iso_code));
    }
    if known.continent == [0; 2] {
        known.continent = code(record.continent.as_ref().and_then(|c| c.code));
    }
    if known.direction.is_none()
        && let Some(Place { latitude: Some(north), longitude: Some(east) }) = record.location
        && (-90.0..=90.0).contains(&north)
        && (-180.0..=180.0).contains(&east)
    {
        known.direction = Some(Direction::of(north, east));
    }
}

/// What a worker remembers of the clients that it looked up last: resolvers ask again, and a record takes a microsecond to
/// read.
pub(crate) struct Memory(Box<[(u32, IpAddr, Whereabouts)]>);

impl Default for Memory {
    fn default() -> Memory {
        let nobody = (0, IpAddr::from([0, 0, 0, 0]), Whereabouts::default());
        Memory(vec![nobody; KEPT].into())
    }
}

impl Memory {
    /// As [`Geo::find`].
    pub(crate) fn find(&mut self, geo: &Geo, addr: IpAddr) -> Whereabouts {
        let bits = match addr {
            IpAddr::V4(a) => u64::from(a.to_bits()),
            IpAddr::V6(a) => (a.to_bits() >> 64) as u64 ^ a.to_bits() as u64,
        };
        let place = (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as usize % KEPT;
        let kept = &mut self.0[place];
        if (kept.0, kept.1) != (geo.number, addr) {
            *kept = (geo.number, addr, geo.find(addr));
        }
        kept.2
    }
}
