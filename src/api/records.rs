//! Records between wire and presentation form: the one place here that knows the zone file reader.

use crate::{error::ApiError, wire};
use std::{collections::BTreeMap, path::Path};
use zonekeeper_core::{
    State,
    name::Name,
    zone::{RrSet, Zone, rtype},
};
pub(crate) use zonekeeper_dns::zonefile::{rdata_text as rdata, type_name};

/// The records of a zone file's text.
pub(crate) fn read(origin: &Name, text: &str) -> Result<Vec<RrSet>, ApiError> {
    zonekeeper_dns::zonefile::parse(text.as_bytes(), Path::new("file"), origin)
        .map_err(|e| ApiError::refused(&e.to_string()))
}

/// One RRset from its parts in presentation form.
pub(crate) fn read_set(
    origin: &Name,
    name: &str,
    rtype: &str,
    text: &wire::RecordText,
) -> Result<RrSet, ApiError> {
    zonekeeper_dns::zonefile::parse_rrset(origin, name, rtype, text.ttl, &text.records)
        .map_err(|e| ApiError::refused(&e))
}

/// Refuses records beside which a service could not answer any more, as `check` does for those of files. The zone may be
/// a new one, below that in which a service is now.
pub(crate) fn leave_services(state: &State, origin: &Name, sets: &[RrSet]) -> Result<(), ApiError> {
    let names = state.services.iter().flat_map(|(id, s)| s.spec.names.iter().map(move |n| (n, id)));
    let here = |n: &Name| n.is_within(origin) && state.zone_of(n).is_some_and(|zone| origin.is_within(zone));
    let here: BTreeMap<&Name, _> = names.filter(|(n, _)| here(n)).collect();
    let below = |cut: &Name, itself: bool| {
        here.iter().find(|(n, _)| n.is_within(cut) && (itself || **n != cut)).map(|(n, id)| (*n, *id))
    };
    let hides = |set: &RrSet| match set.rtype {
        rtype::A | rtype::AAAA | rtype::CNAME | rtype::ALIAS => {
            here.get_key_value(&set.name).map(|(n, id)| (*n, *id))
        }
        rtype::NS if set.name != *origin => below(&set.name, true),
        rtype::DNAME => below(&set.name, false),
        // resolvers would refuse its answers, which have no signature
        rtype::RRSIG if set.name == *origin => below(origin, true),
        _ => None,
    };
    match sets.iter().find_map(|set| Some((set, hides(set)?))) {
        None => Ok(()),
        Some((set, (name, id))) => Err(ApiError::refused(&format!(
            "{} records at {} would hide service {id}, which answers at {name}; rename the service first, or leave them out",
            type_name(set.rtype),
            set.name
        ))),
    }
}

/// Refuses an ALIAS in a signed zone, whose answers would have no signature, and the signing of a zone that has one.
pub(crate) fn leave_signed(zone: &Zone, set: &RrSet) -> Result<(), ApiError> {
    let signs = set.rtype == rtype::RRSIG && set.name == *zone.origin();
    let alias = match set.rtype {
        rtype::ALIAS => zone.is_signed().then(|| set.name.clone()),
        _ if signs => zone.iter().find(|s| s.rtype == rtype::ALIAS).map(|s| s.name),
        _ => None,
    };
    match alias {
        None => Ok(()),
        Some(name) => Err(ApiError::refused(&format!(
            "an ALIAS cannot stand in a signed zone, for its answers would have no signature: {name}"
        ))),
    }
}

/// An RRset in presentation form.
pub(crate) fn show(set: &RrSet) -> wire::RrSet {
    let records = set.rdata.iter().map(|r| rdata(set.rtype, r)).collect();
    wire::RrSet { name: set.name.clone(), rtype: type_name(set.rtype), ttl: set.ttl, records }
}

/// A type by its name, or by `TYPE123` (RFC 3597 §5).
pub(crate) fn type_number(name: &str) -> Result<u16, ApiError> {
    zonekeeper_dns::zonefile::type_number(name)
        .ok_or_else(|| ApiError::bad_request(format!("{name:?} is no record type; TYPE123 names any")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_makes_the_server_read_a_file() {
        let origin = Name::parse("example.").unwrap();
        for text in
            ["$INCLUDE x", "$include x", "( $INCLUDE x )", "$\\105NCLUDE x", "a 1 A 192.0.2.1\r\n$Include x"]
        {
            let error = read(&origin, text).unwrap_err();
            let said = &error.detail.message;
            assert!(
                said.contains("is not followed here") || said.contains("is not known"),
                "{text}: {error:?}"
            );
        }
        let dollars = "@ 5 SOA ns host 1 1 1 1 1\n@ 5 NS ns\na 5 TXT \"$INCLUDE x\" ( $y )\n";
        assert!(read(&origin, dollars).is_ok(), "a dollar within a record is no directive");
    }
}
