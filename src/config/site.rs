//! `[site.NAME]`: a place that can fail as a whole.

use crate::reader::{Parsed, Value};
use toml::Table;
use zonekeeper_core::model::{Location, Site};

pub(crate) const FIELDS: &[&str] = &["description", "voting", "location"];

/// The site, and whether it is meant to vote.
pub(crate) fn read(value: &Value<'_>) -> Parsed<(Site, bool)> {
    let table = value.table(FIELDS)?;
    let description = table.or("description", String::new(), |v| v.text(1000));
    let location = table.opt("location", location);
    Ok((Site { description, location }, table.or("voting", true, Value::boolean)))
}

/// `[50.11, 8.68]`: degrees north and east.
fn location(value: &Value<'_>) -> Parsed<Location> {
    let parts = value.array().unwrap_or_default();
    let [north, east] = &parts[..] else {
        return Err("is no location; give degrees north and east, as [50.11, 8.68]".into());
    };
    let round = |v: f64| (v * 1e4).round() as i32;
    Ok(Location {
        latitude: north.decimal(-90.0..=90.0, "degrees north").map(round)?,
        longitude: east.decimal(-180.0..=180.0, "degrees east").map(round)?,
    })
}

pub(crate) fn write(site: &Site, voting: bool) -> Table {
    let mut table = Table::new();
    table.insert("description".into(), site.description.as_str().into());
    table.insert("voting".into(), voting.into());
    if let Some(Location { latitude, longitude }) = site.location {
        let degrees = [latitude, longitude].map(|parts| f64::from(parts) / 1e4);
        table.insert("location".into(), degrees.to_vec().into());
    }
    table
}
