//! `[zone."ORIGIN"]`: a zone, its owner and its zone file.

use crate::{
    log::Log,
    problem::Place,
    reader::{Parsed, Value},
};
use std::{path::Path, sync::Arc};
use zonekeeper_core::{
    model::ZoneOwner,
    name::Name,
    zone::{RrSet, rtype},
};
use zonekeeper_dns::zonefile;

pub(crate) const FIELDS: &[&str] = &["file", "owner"];

const OWNERS: [(&str, ZoneOwner); 2] = [("file", ZoneOwner::File), ("api", ZoneOwner::Api)];

/// The owner and the records of the zone file, which is looked for in `folder`.
pub(crate) fn read(value: &Value<'_>, origin: &Name, folder: &Path) -> Parsed<(ZoneOwner, Vec<RrSet>)> {
    let table = value.table(FIELDS)?;
    let owner = table.or("owner", ZoneOwner::File, |v| v.word(&OWNERS));
    let give = "the zone file, as \"zones/example.com.zone\" (a zone that the API owns begins with it)";
    let records = table.need("file", give, |v| {
        let path = folder.join(v.text(4096)?);
        Ok(records(v, &path, origin, &value.path, table.log()))
    });
    Ok((owner, records.unwrap_or_default()))
}

/// The records in canonical order; what is wrong in the file is noted with the file's own lines.
fn records(value: &Value<'_>, path: &Path, origin: &Name, zone: &str, log: &Log) -> Vec<RrSet> {
    zonefile::load(path, origin).unwrap_or_else(|errors| {
        log.fail(&value.path);
        for error in errors.0 {
            if error.line == 0 {
                // It is about the file as a whole, so the place is where that is named.
                value.error(format!("{}: {}", error.file.display(), error.message));
                continue;
            }
            let place = Place { file: Arc::new(error.file), line: error.line, column: 0 };
            log.error(Some(place), zone, error.message);
        }
        Vec::new()
    })
}

pub(crate) fn write(owner: ZoneOwner, file: &str) -> toml::Table {
    let mut table = toml::Table::new();
    let owner = OWNERS.iter().find(|(_, o)| *o == owner).map_or("", |(w, _)| w);
    table.insert("file".into(), file.into());
    table.insert("owner".into(), owner.into());
    table
}

/// A zone file that reads back to these records, the SOA first.
pub(crate) fn zone_file(origin: &Name, records: &[RrSet]) -> String {
    let (soa, rest): (Vec<&RrSet>, Vec<&RrSet>) = records.iter().partition(|r| r.rtype == rtype::SOA);
    let text = soa.into_iter().chain(rest).map(zonefile::to_text);
    std::iter::once(format!("$ORIGIN {origin}\n")).chain(text).collect()
}
