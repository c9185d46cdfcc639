//! Records between wire and presentation form: the one place here that knows the zone file reader.

use crate::{error::ApiError, wire};
use zonekeeper_core::{name::Name, zone::RrSet};

/// The records of a zone file's text.
pub(crate) fn read(origin: &Name, text: &str) -> Result<Vec<RrSet>, ApiError> {
    let _ = (origin, text);
    Err(ApiError::refused("not yet"))
}

/// One RRset from its RDATA in presentation form.
pub(crate) fn read_set(
    origin: &Name,
    name: &Name,
    rtype: u16,
    text: &wire::RecordText,
) -> Result<RrSet, ApiError> {
    let _ = (origin, name, rtype, text);
    Err(ApiError::refused("not yet"))
}

/// An RRset in presentation form.
pub(crate) fn show(set: &RrSet) -> wire::RrSet {
    let records = set.rdata.iter().map(|r| rdata(set.rtype, r)).collect();
    wire::RrSet { name: set.name.clone(), rtype: type_name(set.rtype), ttl: set.ttl, records }
}

/// RDATA in presentation form.
pub(crate) fn rdata(rtype: u16, rdata: &[u8]) -> String {
    let _ = rtype;
    format!("\\# {} {}", rdata.len(), wire::hex(rdata))
}

/// A type's name.
pub(crate) fn type_name(rtype: u16) -> String {
    format!("TYPE{rtype}")
}

/// A type by its name, or by `TYPE123` (RFC 3597 §5).
pub(crate) fn type_number(name: &str) -> Result<u16, ApiError> {
    name.to_ascii_uppercase()
        .strip_prefix("TYPE")
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| ApiError::bad_request(format!("{name:?} is no record type")))
}
