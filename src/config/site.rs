//! `[site.NAME]`: a place that can fail as a whole.

use crate::reader::{Parsed, Value};
use toml::Table;
use zonekeeper_core::model::Site;

pub(crate) const FIELDS: &[&str] = &["description", "voting"];

/// The site, and whether it is meant to vote.
pub(crate) fn read(value: &Value<'_>) -> Parsed<(Site, bool)> {
    let table = value.table(FIELDS)?;
    let description = table.or("description", String::new(), |v| v.text(1000));
    Ok((Site { description }, table.or("voting", true, Value::boolean)))
}

pub(crate) fn write(site: &Site, voting: bool) -> Table {
    let mut table = Table::new();
    table.insert("description".into(), site.description.as_str().into());
    table.insert("voting".into(), voting.into());
    table
}
