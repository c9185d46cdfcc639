//! Zones and records. Records are in presentation form (RFC 1035 §5.1), one text per record.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use zonekeeper_core::{model::ZoneOwner, name::Name};

/// A zone, without its records.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Zone {
    /// Its apex, with the final dot.
    #[schema(value_type = String)]
    pub origin: Name,
    /// `file` (declared) or `api`.
    #[schema(value_type = String)]
    pub owner: ZoneOwner,
    /// The serial that is served.
    pub serial: u32,
    /// The serial of the SOA as it was put.
    pub declared_serial: u32,
    /// Names that own records.
    pub names: usize,
    /// RRsets.
    pub rrsets: usize,
    /// Bytes in memory.
    pub bytes: usize,
    /// Log index of the last change of its records.
    pub version: u64,
}

/// A page of records in canonical order.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Records {
    /// The RRsets.
    pub rrsets: Vec<RrSet>,
    /// Where the next page begins: give it as `after`; absent: this was the last page.
    pub next: Option<String>,
}

/// An RRset.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RrSet {
    /// Owner name, with the final dot.
    #[schema(value_type = String)]
    pub name: Name,
    /// Type, as `A`, or `TYPE65280` (RFC 3597).
    #[serde(rename = "type")]
    pub rtype: String,
    /// Seconds.
    pub ttl: u32,
    /// RDATA of each record in presentation form.
    pub records: Vec<String>,
}

/// The records of one name and type.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecordText {
    /// Seconds, 0 to 2147483647.
    pub ttl: u32,
    /// RDATA of each record in presentation form, as `192.0.2.1` or `10 mail`; names without a final dot lie in the
    /// zone.
    pub records: Vec<String>,
}

/// A zone to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewZone {
    /// Its records as a zone file, SOA and NS among them; `$INCLUDE` is not followed.
    pub file: String,
}
