//! `[zone."ORIGIN"]`: a zone, its owner and its zone file.

use crate::{
    log::Log,
    problem::Place,
    reader::{Parsed, Value},
};
use std::{path::Path, sync::Arc};
use zonekeeper_core::{model::ZoneOwner, name::Name, zone::RrSet};

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
    if let Err(e) = std::fs::metadata(path) {
        value.error(format!("{} cannot be read: {e}", path.display()));
        return Vec::new();
    }
    match load(path, origin) {
        Ok(mut records) => {
            records.sort_by(|a, b| (&a.name, a.rtype).cmp(&(&b.name, b.rtype)));
            records
        }
        Err(errors) => {
            log.fail(&value.path);
            for (place, message) in errors {
                log.error(Some(place), zone, message);
            }
            Vec::new()
        }
    }
}

/// The one place that knows the zone file parser.
fn load(path: &Path, origin: &Name) -> Result<Vec<RrSet>, Vec<(Place, String)>> {
    let _ = origin;
    Err(vec![(Place { file: Arc::new(path.into()), line: 0, column: 0 }, "no parser yet".into())])
}

pub(crate) fn write(owner: ZoneOwner, file: &str) -> toml::Table {
    let mut table = toml::Table::new();
    let owner = OWNERS.iter().find(|(_, o)| *o == owner).map_or("", |(w, _)| w);
    table.insert("file".into(), file.into());
    table.insert("owner".into(), owner.into());
    table
}
