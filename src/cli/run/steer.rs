//! `site`, `service`, `backend`: look and steer.

use super::Session;
use crate::{
    command::{BackendCommand, OverrideArgs, ServiceCommand, SiteCommand},
    error::CliError,
    show::{Table, family, list, or_dash, tick},
};
use std::{io::Write, net::SocketAddr};
use zonekeeper_api::wire::{self, NewOverride, Override, Pool, Scope, Service, Site, Written};
use zonekeeper_core::{
    entry::Force,
    id::{PoolId, ServiceId, SiteId},
};

pub(super) async fn site(s: &mut Session<'_>, command: SiteCommand) -> Result<(), CliError> {
    match command {
        SiteCommand::Show { site: None } => {
            let sites = s.client.get::<Vec<Site>>("/v1/sites").await?;
            if !s.json(&sites)? {
                sites_table(&sites.data).print(s.out, "no sites")?;
            }
            Ok(())
        }
        SiteCommand::Show { site: Some(site) } => {
            let site = s.client.get::<Site>(&format!("/v1/sites/{site}")).await?;
            if s.json(&site)? { Ok(()) } else { one_site(s.out, &site.data) }
        }
        SiteCommand::Drain { site, why } => force(s, Scope::site(site), Force::Drain, why).await,
        SiteCommand::ForceUp { site, why } => force(s, Scope::site(site), Force::Up, why).await,
        SiteCommand::ForceDown { site, why } => force(s, Scope::site(site), Force::Down, why).await,
        SiteCommand::Release { site } => release(s, Scope::site(site)).await,
    }
}

fn sites_table(sites: &[Site]) -> Table {
    let mut table = Table::new(&["SITE", "VOTES", "NODES", "FORCED", "ANSWERS", "DESCRIPTION"]);
    for site in sites {
        let mut answers: Vec<&str> =
            site.services.iter().filter(|s| s.answered).map(|s| s.service.as_str()).collect();
        answers.dedup();
        table.row([
            site.id.to_string(),
            tick(site.votes),
            list(&site.members),
            or_dash(site.forced.as_ref().map(forced)),
            list(&answers),
            site.description.clone(),
        ]);
    }
    table
}

fn one_site(out: &mut dyn Write, site: &Site) -> Result<(), CliError> {
    sites_table(std::slice::from_ref(site)).print(out, "")?;
    writeln!(out)?;
    let mut table = Table::new(&["SERVICE", "FAMILY", "CLASS", "ANSWERED"]);
    for s in &site.services {
        table.row([s.service.to_string(), family(s.family).into(), s.class.clone(), tick(s.answered)]);
    }
    Ok(table.print(out, "no services here")?)
}

/// An override in a few words; who and why are what a person wants to know next.
fn forced(o: &Override) -> String {
    let until = o.expires.as_ref().map(|e| format!(" until {e}")).unwrap_or_default();
    format!("{} by {}: {}{until}", o.force, o.author, o.reason)
}

pub(super) async fn service(s: &mut Session<'_>, command: ServiceCommand) -> Result<(), CliError> {
    let empty = serde_json::json!({});
    match command {
        ServiceCommand::Show { service: None } => {
            let all = s.client.get::<Vec<Service>>("/v1/services").await?;
            if !s.json(&all)? {
                services(&all.data).print(s.out, "no services")?;
            }
            Ok(())
        }
        ServiceCommand::Show { service: Some(id) } => {
            let service = s.client.get::<Service>(&format!("/v1/services/{id}")).await?;
            if s.json(&service)? { Ok(()) } else { one_service(s.out, &service.data) }
        }
        ServiceCommand::Move { service, to } => {
            let body = wire::Move { to: to.clone() };
            let written: Written = s.client.post(&format!("/v1/services/{service}/move"), &body).await?;
            moved(s, &service, &written).await
        }
        ServiceCommand::Failover { service } => {
            let written: Written = s.client.post(&format!("/v1/services/{service}/failover"), &empty).await?;
            moved(s, &service, &written).await
        }
        ServiceCommand::Failback { service } => {
            let written: Written = s.client.post(&format!("/v1/services/{service}/failback"), &empty).await?;
            moved(s, &service, &written).await
        }
        ServiceCommand::Drain { service, site, why } => at(s, service, site, Force::Drain, why).await,
        ServiceCommand::ForceUp { service, site, why } => at(s, service, site, Force::Up, why).await,
        ServiceCommand::ForceDown { service, site, why } => at(s, service, site, Force::Down, why).await,
        ServiceCommand::Release { service, site } => release(s, Scope::service(service, site)).await,
    }
}

async fn at(
    s: &mut Session<'_>,
    id: ServiceId,
    site: SiteId,
    f: Force,
    why: OverrideArgs,
) -> Result<(), CliError> {
    force(s, Scope::service(id, site), f, why).await
}

/// Where the service is answered after a move.
async fn moved(s: &mut Session<'_>, id: &ServiceId, written: &Written) -> Result<(), CliError> {
    let now = s.client.get::<Service>(&format!("/v1/services/{id}")).await?.data;
    let answered: Vec<String> =
        now.lanes.iter().map(|l| format!("{} {}", family(l.family), list(&l.answered))).collect();
    s.wrote(written, &format!("service {id} is answered from {}", answered.join(", ")))
}

/// One line per service and family.
pub(super) fn services(all: &[Service]) -> Table {
    let mut table = Table::new(&["SERVICE", "FAMILY", "ANSWERED", "SITES", "NOTE"]);
    for service in all {
        for lane in &service.lanes {
            let sites = lane.sites.iter().map(|s| format!("{}:{}", s.site, s.class)).collect::<Vec<_>>();
            let mut note = Vec::new();
            if !service.automation {
                note.push("automation off".to_owned());
            }
            note.extend(service.pinned.as_ref().map(|p| format!("moved to {p} by hand")));
            note.extend(lane.basis.filter(|b| *b != zonekeeper_core::state::Basis::Usable).map(basis));
            table.row([
                service.id.to_string(),
                family(lane.family).into(),
                list(&lane.answered),
                sites.join(" "),
                note.join("; "),
            ]);
        }
    }
    table
}

fn basis(basis: zonekeeper_core::state::Basis) -> String {
    use zonekeeper_core::state::Basis;
    match basis {
        Basis::Usable => "usable",
        Basis::Drained => "nothing better than drained sites",
        Basis::LastSet => "all sites are down: the last set stays",
        Basis::Nothing => "all sites are down: nothing is answered",
    }
    .to_owned()
}

fn one_service(out: &mut dyn Write, service: &Service) -> Result<(), CliError> {
    let names: Vec<String> = service.declaration.names.iter().map(|n| n.to_string()).collect();
    writeln!(out, "service {}: {}", service.id, names.join(", "))?;
    writeln!(
        out,
        "TTL {} s, automation {}",
        service.declaration.ttl,
        if service.automation { "on" } else { "OFF" }
    )?;
    for lane in &service.lanes {
        writeln!(out)?;
        let epoch = lane.epoch.map(|e| format!(", epoch {e}")).unwrap_or_default();
        let since = lane.since.as_ref().map(|s| format!(" since {s}")).unwrap_or_default();
        writeln!(out, "{}: answered from {}{since}{epoch}", family(lane.family), list(&lane.answered))?;
        let mut table =
            Table::new(&["SITE", "ADDRESS", "ANSWERED", "OBSERVED", "FORCED", "COUNTS AS", "WHY"]);
        for site in &lane.sites {
            table.row([
                site.site.to_string(),
                SocketAddr::new(site.addr, site.port).to_string(),
                tick(site.answered),
                site.observed.clone(),
                or_dash(site.forced.as_ref().map(forced)),
                site.class.clone(),
                site.notes.join("; "),
            ]);
        }
        table.print(out, "")?;
    }
    Ok(())
}

pub(super) async fn backend(s: &mut Session<'_>, command: BackendCommand) -> Result<(), CliError> {
    match command {
        BackendCommand::Show => {
            let pools = s.client.get::<Vec<Pool>>("/v1/pools").await?;
            if !s.json(&pools)? {
                backends(&pools.data).print(s.out, "no pools")?;
            }
            Ok(())
        }
        BackendCommand::Drain { pool, backend, why } => {
            force(s, scope(pool, backend), Force::Drain, why).await
        }
        BackendCommand::ForceDown { pool, backend, why } => {
            force(s, scope(pool, backend), Force::Down, why).await
        }
        BackendCommand::Release { pool, backend } => release(s, scope(pool, backend)).await,
    }
}

fn scope(pool: PoolId, backend: SocketAddr) -> Scope {
    Scope { site: None, service: None, pool: Some(pool), backend: Some(backend) }
}

fn backends(pools: &[Pool]) -> Table {
    let mut table = Table::new(&["POOL", "BACKEND", "SITE", "WEIGHT", "OBSERVED", "IN FLIGHT", "FORCED"]);
    for pool in pools {
        for b in &pool.backends {
            table.row([
                pool.id.to_string(),
                b.addr.to_string(),
                or_dash(b.site.as_ref()),
                b.weight.to_string(),
                or_dash(b.observed.as_ref()),
                or_dash(b.in_flight),
                or_dash(b.forced.as_ref().map(forced)),
            ]);
        }
    }
    table
}

async fn force(s: &mut Session<'_>, scope: Scope, force: Force, why: OverrideArgs) -> Result<(), CliError> {
    let what = words(&scope);
    let new = NewOverride { scope, force, reason: why.reason, expires_in_s: why.life.map(|l| l.as_secs()) };
    let written: Written = s.client.put("/v1/overrides", &new).await?;
    s.wrote(&written, &format!("{what} is {force}"))
}

async fn release(s: &mut Session<'_>, scope: Scope) -> Result<(), CliError> {
    let what = words(&scope);
    let pair = |name, value: Option<String>| value.map(|v| (name, v));
    let query: Vec<(&str, String)> = [
        pair("site", scope.site.map(|v| v.to_string())),
        pair("service", scope.service.map(|v| v.to_string())),
        pair("pool", scope.pool.map(|v| v.to_string())),
        pair("backend", scope.backend.map(|v| v.to_string())),
    ]
    .into_iter()
    .flatten()
    .collect();
    let written: Written = s.client.delete("/v1/overrides", &query).await?;
    s.wrote(&written, &format!("{what} is released"))
}

fn words(scope: &Scope) -> String {
    match scope {
        Scope { service: Some(service), site: Some(site), .. } => format!("service {service} at site {site}"),
        Scope { site: Some(site), .. } => format!("site {site}"),
        Scope { pool: Some(pool), backend: Some(backend), .. } => format!("backend {backend} of pool {pool}"),
        _ => "nothing".into(),
    }
}
