//! Zones and records. Zones that the API owns are edited by operators; declared ones by administrators only, and
//! `zonekeeper plan` shows such an edit as drift.

use super::{Routes, config::write_changes};
use crate::{
    api::Api,
    auth::{Caller, ToAdmin, ToOperate},
    error::ApiError,
    extract::{Body, Bulk, Path, Query, View, blocking},
    records,
    wire::{self, NewZone, RecordText, Records, RrSet, Seen, Written, Zone},
};
use axum::{Json, extract::State};
use serde::Deserialize;
use utoipa::IntoParams;
use zonekeeper_core::{
    State as Replicated,
    entry::{Object, Read, Role},
    model::{Change, ZoneOwner},
    name::Name,
    zone,
};

/// Largest zone file in a body, in bytes.
const MAX_FILE: usize = 64 << 20;
/// Largest RRset in a body, in bytes: presentation form of 64 KiB of RDATA.
const MAX_RRSET: usize = 512 << 10;
/// RRsets on a page.
const PAGE: usize = 1000;

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list)
        .add(__path_show, show)
        .add_sized(__path_put_zone, put_zone, MAX_FILE)
        .add(__path_remove_zone, remove_zone)
        .add(__path_list_records, list_records)
        .add_sized(__path_put_records, put_records, MAX_RRSET)
        .add(__path_remove_records, remove_records)
}

/// All zones. Role: read.
#[utoipa::path(get, path = "/v1/zones", tag = "zones", responses((status = 200, body = Seen<Vec<Zone>>)))]
async fn list(view: View) -> Json<Seen<Vec<Zone>>> {
    let state = &view.published.state;
    view.seen(state.zones.values().map(|z| zone(state, z)).collect())
}

/// One zone. Role: read.
#[utoipa::path(get, path = "/v1/zones/{zone}", tag = "zones", params(("zone" = String, Path)),
    responses((status = 200, body = Seen<Zone>), (status = 404, body = wire::ErrorBody)))]
async fn show(view: View, Path(origin): Path<Name>) -> Result<Json<Seen<Zone>>, ApiError> {
    let state = &view.published.state;
    Ok(view.seen(zone(state, find(state, &origin)?)))
}

fn find<'s>(state: &'s Replicated, origin: &Name) -> Result<&'s zone::Zone, ApiError> {
    state.zones.get(origin).map(|z| &**z).ok_or_else(|| ApiError::not_found(format!("zone {origin}")))
}

fn zone(state: &Replicated, z: &zone::Zone) -> Zone {
    Zone {
        origin: z.origin().clone(),
        owner: z.owner(),
        serial: z.serial(),
        declared_serial: z.declared_serial(),
        names: z.names(),
        rrsets: z.len(),
        bytes: z.bytes(),
        version: state.version(&Object::Zone(z.origin().clone())),
    }
}

/// Makes a zone that the API owns, from a zone file. Role: admin.
#[utoipa::path(put, path = "/v1/zones/{zone}", tag = "zones", params(("zone" = String, Path)), request_body = NewZone,
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn put_zone(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(origin): Path<Name>,
    Bulk(new, _permit): Bulk<NewZone>,
) -> Result<Json<Written>, ApiError> {
    let state = api.handles.published.load().state.clone();
    if state.zones.contains_key(&origin) {
        return Err(ApiError::refused(&format!(
            "zone {origin} exists already; remove it first, or edit its records"
        )));
    }
    let (at, file) = (origin.clone(), new.file);
    let read = move || {
        let sets = records::read(&at, &file)?;
        records::leave_services(&state, &at, &sets).map(|()| sets)
    };
    let sets = blocking(read).await??;
    let changes =
        vec![Change::PutZone(origin.clone(), ZoneOwner::Api), Change::PutRecords(origin.clone(), sets)];
    let reads = vec![Read { object: Object::Zone(origin), version: 0 }];
    Ok(Json(write_changes(&caller, &api, reads, changes).await?))
}

/// Removes a zone that the API owns, with all its records. Role: admin.
#[utoipa::path(delete, path = "/v1/zones/{zone}", tag = "zones", params(("zone" = String, Path)),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn remove_zone(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Path(origin): Path<Name>,
) -> Result<Json<Written>, ApiError> {
    let state = api.handles.published.load().state.clone();
    if find(&state, &origin)?.owner() == ZoneOwner::File {
        let text = format!("zone {origin} is declared in a file; take it out there and apply");
        return Err(ApiError::refused(&text));
    }
    let changes = vec![Change::RemoveZone(origin)];
    Ok(Json(write_changes(&caller, &api, Vec::new(), changes).await?))
}

#[derive(Deserialize, IntoParams)]
struct Page {
    /// Only this owner name.
    #[param(value_type = Option<String>)]
    name: Option<Name>,
    /// Only this type.
    r#type: Option<String>,
    /// Begin behind this owner name: `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<Name>,
    /// RRsets on a page, 1 to 1000; a page ends with a whole name and may be a little longer.
    limit: Option<usize>,
}

/// Records of a zone in canonical order, page by page. Role: read.
#[utoipa::path(get, path = "/v1/zones/{zone}/records", tag = "zones", params(("zone" = String, Path), Page),
    responses((status = 200, body = Seen<Records>), (status = 404, body = wire::ErrorBody)))]
async fn list_records(
    view: View,
    Path(origin): Path<Name>,
    Query(page): Query<Page>,
) -> Result<Json<Seen<Records>>, ApiError> {
    let rtype = page.r#type.as_deref().map(records::type_number).transpose()?;
    let limit = page.limit.unwrap_or(PAGE).clamp(1, PAGE);
    let zone = find(&view.published.state, &origin)?;
    let first = page.after.as_ref().or(page.name.as_ref()).unwrap_or(&origin);
    let mut out: Vec<RrSet> = Vec::new();
    let mut next = None;
    for set in zone.iter_from(first).skip_while(|s| page.after.as_ref() == Some(&s.name)) {
        if page.name.as_ref().is_some_and(|n| *n != set.name) {
            break; // a name's RRsets stand together
        }
        if out.len() >= limit && out.last().is_some_and(|last| last.name != set.name) {
            next = out.last().map(|last| last.name.to_string());
            break;
        }
        if rtype.is_none_or(|t| t == set.rtype) {
            out.push(records::show(&set));
        }
    }
    Ok(view.seen(Records { rrsets: out, next }))
}

#[derive(Deserialize, IntoParams)]
struct Guard {
    /// The zone's version that was read: 409 when it has changed since.
    version: Option<u64>,
}

impl Guard {
    fn reads(&self, origin: Name) -> Vec<Read> {
        self.version.map(|version| Read { object: Object::Zone(origin), version }).into_iter().collect()
    }
}

/// Operators edit what the API owns; what a file declares is for administrators.
fn may_edit(caller: &Caller<ToOperate>, state: &Replicated, origin: &Name) -> Result<(), ApiError> {
    match find(state, origin)?.owner() {
        ZoneOwner::Api => Ok(()),
        ZoneOwner::File => caller.require(Role::Admin),
    }
}

/// Creates or replaces the records of a name and type. Role: operate; admin for a declared zone.
#[utoipa::path(put, path = "/v1/zones/{zone}/records/{name}/{type}", tag = "zones", request_body = RecordText,
    params(("zone" = String, Path), ("name" = String, Path), ("type" = String, Path), Guard),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn put_records(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Path((origin, name, rtype)): Path<(Name, String, String)>,
    Query(guard): Query<Guard>,
    Body(text): Body<RecordText>,
) -> Result<Json<Written>, ApiError> {
    let state = api.handles.published.load().state.clone();
    may_edit(&caller, &state, &origin)?;
    let set = records::read_set(&origin, &name, &rtype, &text)?;
    records::leave_services(&state, &origin, std::slice::from_ref(&set))?;
    records::leave_signed(find(&state, &origin)?, &set)?;
    let changes = vec![Change::PutRecords(origin.clone(), vec![set])];
    Ok(Json(write_changes(&caller, &api, guard.reads(origin), changes).await?))
}

/// Removes the records of a name and type. Role: operate; admin for a declared zone.
#[utoipa::path(delete, path = "/v1/zones/{zone}/records/{name}/{type}", tag = "zones",
    params(("zone" = String, Path), ("name" = String, Path), ("type" = String, Path), Guard),
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn remove_records(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Path((origin, name, rtype)): Path<(Name, String, String)>,
    Query(guard): Query<Guard>,
) -> Result<Json<Written>, ApiError> {
    let state = api.handles.published.load().state.clone();
    may_edit(&caller, &state, &origin)?;
    let (name, rtype) = (owner(&origin, &name)?, records::type_number(&rtype)?);
    if find(&state, &origin)?.get(&name, rtype).is_none() {
        return Err(ApiError::not_found(format!("{name} {}", records::type_name(rtype))));
    }
    let changes = vec![Change::RemoveRecords(origin.clone(), vec![(name, rtype)])];
    Ok(Json(write_changes(&caller, &api, guard.reads(origin), changes).await?))
}

/// An owner name: `@` is the apex, and without a final dot it lies in the zone.
fn owner(origin: &Name, text: &str) -> Result<Name, ApiError> {
    let full = match text {
        "@" => return Ok(origin.clone()),
        _ if text.ends_with('.') => text.to_owned(),
        _ => format!("{text}.{origin}"),
    };
    Name::parse(&full).map_err(|e| ApiError::bad_request(format!("name {text:?} {e}")))
}
