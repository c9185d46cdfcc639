//! Records between wire and presentation form: the one place here that knows the zone file reader.

use crate::{error::ApiError, wire};
use std::path::Path;
use zonekeeper_core::{name::Name, zone::RrSet};
pub(crate) use zonekeeper_dns::zonefile::{rdata_text as rdata, type_name};

/// The records of a zone file's text. `$INCLUDE` is refused: a body must not make the server read its own files.
pub(crate) fn read(origin: &Name, text: &str) -> Result<Vec<RrSet>, ApiError> {
    if let Some(word) = directive(text) {
        return Err(ApiError::refused(&format!("{word} is not followed here; put everything into one text")));
    }
    zonekeeper_dns::zonefile::parse(text.as_bytes(), Path::new("file"), origin)
        .map_err(|e| ApiError::refused(&e.to_string()))
}

/// The first word that may be read as a directive other than `$ORIGIN` and `$TTL`, escapes or not (`$\\105NCLUDE`).
fn directive(text: &str) -> Option<&str> {
    let words = text.split(|c: char| c.is_whitespace() || "();\"".contains(c));
    let harmless = |w: &str| w.eq_ignore_ascii_case("$ORIGIN") || w.eq_ignore_ascii_case("$TTL");
    words.into_iter().find(|w| w.starts_with('$') && !harmless(w))
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
            assert!(error.detail.message.contains("is not followed here"), "{text}: {error:?}");
        }
        assert_eq!(directive("$ORIGIN a.\n$ttl 5\nx$y A 192.0.2.1"), None);
    }
}
