//! Services: what is declared, observed, forced and answered, kept apart; and moves by hand.

use super::{Routes, evidence::notes, overrides};
use crate::{
    api::Api,
    auth::{Caller, ToOperate},
    error::ApiError,
    extract::{Body, Path, View},
    handles::Handles,
    wire::{self, LaneSite, Move, Seen, Service, Switch, Written, stamp},
};
use axum::{Json, extract::State};
use zonekeeper_core::{
    Command, Published,
    assign::{Class, Lane},
    entry::{Object, Read},
    evidence::{Standing, Target},
    id::{ServiceId, SiteId},
    model::Family,
    state::{Health, ServiceState, State as Replicated},
    time::LogTime,
};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list)
        .add(__path_show, show)
        .add(__path_move_to, move_to)
        .add(__path_failover, failover)
        .add(__path_failback, failback)
        .add(__path_automation, automation)
}

/// All services. Role: read.
#[utoipa::path(get, path = "/v1/services", tag = "services", responses((status = 200, body = Seen<Vec<Service>>)))]
async fn list(view: View) -> Json<Seen<Vec<Service>>> {
    let services = &view.published.state.services;
    let data = services.iter().map(|(id, s)| service(&view.api.handles, &view.published, id, s)).collect();
    view.seen(data)
}

/// One service. Role: read.
#[utoipa::path(get, path = "/v1/services/{id}", tag = "services", params(("id" = String, Path)),
    responses((status = 200, body = Seen<Service>), (status = 404, body = wire::ErrorBody)))]
async fn show(view: View, Path(id): Path<ServiceId>) -> Result<Json<Seen<Service>>, ApiError> {
    let found = find(&view.published.state, &id)?;
    let data = service(&view.api.handles, &view.published, &id, found);
    Ok(view.seen(data))
}

fn find<'s>(state: &'s Replicated, id: &ServiceId) -> Result<&'s ServiceState, ApiError> {
    state.services.get(id).map(|s| &**s).ok_or_else(|| ApiError::not_found(format!("service {id}")))
}

fn service(handles: &Handles, published: &Published, id: &ServiceId, service: &ServiceState) -> Service {
    let state = &published.state;
    let families = Family::ALL.into_iter().filter(|f| !service.spec.sites(*f).is_empty());
    Service {
        id: id.clone(),
        declaration: service.spec.clone(),
        version: service.version,
        automation: state.automation && service.automated(),
        pinned: service.pinned.clone(),
        lanes: families.map(|f| lane(handles, state, id, service, f)).collect(),
    }
}

fn lane(
    handles: &Handles,
    state: &Replicated,
    id: &ServiceId,
    service: &ServiceState,
    family: Family,
) -> wire::Lane {
    let now = handles.log_now();
    let held = service.assignment.get(&family);
    let sites = service.spec.sites(family).into_iter();
    wire::Lane {
        family,
        answered: held.map(|a| a.sites.clone()).unwrap_or_default(),
        basis: held.map(|a| a.basis),
        epoch: held.map(|a| a.epoch.into()),
        since: held.map(|a| stamp(a.since)),
        sites: sites.filter_map(|s| lane_site(handles, state, id, service, family, s, now)).collect(),
    }
}

fn lane_site(
    handles: &Handles,
    state: &Replicated,
    id: &ServiceId,
    service: &ServiceState,
    family: Family,
    site: &SiteId,
    now: LogTime,
) -> Option<LaneSite> {
    let endpoint = service.spec.endpoint(site, family)?;
    let lane = Lane::new(state, id, service, family, now);
    let health = service.health.get(&(site.clone(), family));
    let target = Target { service: id.clone(), site: site.clone(), family };
    let mut notes = notes(&handles.local.load(), &target);
    notes.extend(lane.why_not(site).filter(|n| !notes.contains(n)));
    Some(LaneSite {
        site: site.clone(),
        addr: endpoint.addr,
        port: endpoint.port,
        observed: standing(health).into(),
        since: health.map(|h| stamp(h.since)),
        failed: health.and_then(|h| h.failed).map(stamp),
        forced: lane.forced(site).map(overrides::show_one),
        class: lane.class(site).to_string(),
        answered: service.assignment.get(&family).is_some_and(|a| a.sites.contains(site)),
        suspect: service.suspects.contains(site),
        notes,
    })
}

/// What was observed, in a word.
pub(super) fn standing(health: Option<&Health>) -> &'static str {
    match health.map(|h| h.standing) {
        Some(Standing::Up) => "up",
        Some(Standing::Degraded) => "degraded",
        Some(Standing::Down) => "down",
        None => "unknown",
    }
}

/// Moves a failover service to a site, hold-down or not. It stays there until that site fails. Role: operate.
#[utoipa::path(post, path = "/v1/services/{id}/move", tag = "services", params(("id" = String, Path)),
    request_body = Move, responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn move_to(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Path(id): Path<ServiceId>,
    Body(to): Body<Move>,
) -> Result<Json<Written>, ApiError> {
    find(&api.handles.published.load().state, &id)?;
    Ok(Json(caller.write(&api, Command::Move { service: id, to: Some(to.to) }).await?))
}

/// Moves a failover service away from where it is answered, to the next usable site of its order. Role: operate.
#[utoipa::path(post, path = "/v1/services/{id}/failover", tag = "services", params(("id" = String, Path)),
    responses((status = 200, body = Written), (status = 409, body = wire::ErrorBody)))]
async fn failover(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Path(id): Path<ServiceId>,
) -> Result<Json<Written>, ApiError> {
    let state = api.handles.published.load().state.clone();
    let to = next_site(&state, &id, find(&state, &id)?, api.handles.log_now()).ok_or_else(|| {
        ApiError::refused(&format!("service {id} has no other usable site; force one up first"))
    })?;
    let object = Object::Service(id.clone());
    let reads = vec![Read { version: state.version(&object), object }];
    Ok(Json(caller.write_on(&api, reads, Command::Move { service: id, to: Some(to) }).await?))
}

/// The best site that is not answered now: usable in every family in which it has an endpoint.
fn next_site(state: &Replicated, id: &ServiceId, service: &ServiceState, now: LogTime) -> Option<SiteId> {
    let worst = |site: &SiteId| {
        let lanes = Family::ALL.into_iter().filter(|f| service.spec.endpoint(site, *f).is_some());
        lanes.map(|f| Lane::new(state, id, service, f, now).class(site)).max()
    };
    let answered = |site: &SiteId| service.assignment.values().any(|a| a.sites.contains(site));
    let mut sites: Vec<&SiteId> = Family::ALL.into_iter().flat_map(|f| service.spec.sites(f)).collect();
    sites.retain(|s| !answered(s) && worst(s).is_some_and(|c| c <= Class::Degraded));
    sites.sort_by_key(|s| worst(s)); // stable: the policy's order within a class
    sites.first().map(|s| (*s).clone())
}

/// Moves a service back to the first usable site of its order. Role: operate.
#[utoipa::path(post, path = "/v1/services/{id}/failback", tag = "services", params(("id" = String, Path)),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn failback(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Path(id): Path<ServiceId>,
) -> Result<Json<Written>, ApiError> {
    find(&api.handles.published.load().state, &id)?;
    Ok(Json(caller.write(&api, Command::Move { service: id, to: None }).await?))
}

/// Switches automation for one service. Role: operate.
#[utoipa::path(put, path = "/v1/services/{id}/automation", tag = "services", params(("id" = String, Path)),
    request_body = Switch, responses((status = 200, body = Written)))]
async fn automation(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Path(id): Path<ServiceId>,
    Body(switch): Body<Switch>,
) -> Result<Json<Written>, ApiError> {
    find(&api.handles.published.load().state, &id)?;
    Ok(Json(caller.write(&api, Command::Automation { service: Some(id), on: switch.on }).await?))
}
