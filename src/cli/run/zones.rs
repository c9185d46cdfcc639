//! `zone`.

use super::Session;
use crate::{client::escape, command::ZoneCommand, error::CliError, show::Table};
use zonekeeper_api::wire::{NewZone, RecordText, Records, Seen, Written, Zone};
use zonekeeper_core::{model::ZoneOwner, name::Name};

pub(super) async fn zone(s: &mut Session<'_>, command: ZoneCommand) -> Result<(), CliError> {
    match command {
        ZoneCommand::Show { zone: None } => {
            let zones = s.client.get::<Vec<Zone>>("/v1/zones").await?;
            if !s.json(&zones)? {
                table(&zones.data).print(s.out, "no zones")?;
            }
            Ok(())
        }
        ZoneCommand::Show { zone: Some(zone) } => {
            let zone = s.client.get::<Zone>(&path(&zone)).await?;
            if !s.json(&zone)? {
                table(std::slice::from_ref(&zone.data)).print(s.out, "")?;
            }
            Ok(())
        }
        ZoneCommand::Records { zone, name, rtype } => {
            records(s, &zone, name.as_ref(), rtype.as_deref()).await
        }
        ZoneCommand::Put { zone, name, rtype, records, ttl } => {
            let text = RecordText { ttl, records };
            let written: Written = s.client.put(&record_path(&zone, &name, &rtype), &text).await?;
            s.wrote(&written, &format!("{name} {} in zone {zone} is set", rtype.to_uppercase()))
        }
        ZoneCommand::Remove { zone, name, rtype } => {
            let written: Written = s.client.delete(&record_path(&zone, &name, &rtype), &[]).await?;
            s.wrote(&written, &format!("{name} {} in zone {zone} is removed", rtype.to_uppercase()))
        }
        ZoneCommand::Create { zone, file } => {
            let text =
                std::fs::read_to_string(&file).map_err(|source| CliError::File { path: file, source })?;
            let written: Written = s.client.put(&path(&zone), &NewZone { file: text }).await?;
            s.wrote(&written, &format!("zone {zone} is made"))
        }
        ZoneCommand::Delete { zone, yes: _ } => {
            let written: Written = s.client.delete(&path(&zone), &[]).await?;
            s.wrote(&written, &format!("zone {zone} is removed"))
        }
    }
}

fn path(zone: &Name) -> String {
    format!("/v1/zones/{}", escape(&zone.to_string()))
}

fn record_path(zone: &Name, name: &str, rtype: &str) -> String {
    format!("{}/records/{}/{}", path(zone), escape(name), escape(rtype))
}

fn table(zones: &[Zone]) -> Table {
    let mut table = Table::new(&["ZONE", "OWNER", "SERIAL", "NAMES", "RRSETS", "CHANGED AT"]);
    for z in zones {
        let owner = match z.owner {
            ZoneOwner::File => "file",
            ZoneOwner::Api => "api",
        };
        table.row([
            z.origin.to_string(),
            owner.into(),
            z.serial.to_string(),
            z.names.to_string(),
            z.rrsets.to_string(),
            format!("index {}", z.version),
        ]);
    }
    table
}

/// All pages, as a zone file shows them; as JSON, one document per page.
async fn records(
    s: &mut Session<'_>,
    zone: &Name,
    name: Option<&Name>,
    rtype: Option<&str>,
) -> Result<(), CliError> {
    let path = format!("{}/records", path(zone));
    let mut after: Option<String> = None;
    loop {
        let mut query = Vec::new();
        query.extend(name.map(|n| ("name", n.to_string())));
        query.extend(rtype.map(|t| ("type", t.to_owned())));
        query.extend(after.take().map(|a| ("after", a)));
        let page: Seen<Records> = s.client.get_with(&path, &query).await?;
        if !s.json(&page)? {
            for set in &page.data.rrsets {
                for record in &set.records {
                    writeln!(s.out, "{} {} IN {} {record}", set.name, set.ttl, set.rtype)?;
                }
            }
        }
        match page.data.next {
            Some(next) => after = Some(next),
            None => return Ok(()),
        }
    }
}
