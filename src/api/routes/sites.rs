//! Sites.

use super::{Routes, overrides};
use crate::{
    error::ApiError,
    extract::{Path, View},
    wire::{self, Seen, Site, SiteService},
};
use axum::Json;
use zonekeeper_core::{State, assign::Lane, entry::Scope, id::SiteId, model, model::Family, time::LogTime};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list).add(__path_show, show)
}

/// All sites. Role: read.
#[utoipa::path(get, path = "/v1/sites", tag = "sites", responses((status = 200, body = Seen<Vec<Site>>)))]
async fn list(view: View) -> Json<Seen<Vec<Site>>> {
    let (state, now) = (&view.published.state, view.api.handles.log_now());
    view.seen(state.sites.iter().map(|(id, s)| site(state, id, s, now)).collect())
}

/// One site. Role: read.
#[utoipa::path(get, path = "/v1/sites/{id}", tag = "sites", params(("id" = String, Path)),
    responses((status = 200, body = Seen<Site>), (status = 404, body = wire::ErrorBody)))]
async fn show(view: View, Path(id): Path<SiteId>) -> Result<Json<Seen<Site>>, ApiError> {
    let state = &view.published.state;
    let found = state.sites.get(&id).ok_or_else(|| ApiError::not_found(format!("site {id}")))?;
    Ok(view.seen(site(state, &id, found, view.api.handles.log_now())))
}

fn site(state: &State, id: &SiteId, site: &model::Site, now: LogTime) -> Site {
    let mut services = Vec::new();
    for (service, held) in &state.services {
        for family in Family::ALL.into_iter().filter(|f| held.spec.endpoint(id, *f).is_some()) {
            let lane = Lane::new(state, service, held, family, now);
            services.push(SiteService {
                service: service.clone(),
                family,
                class: lane.class(id).to_string(),
                answered: held.assignment.get(&family).is_some_and(|a| a.sites.contains(id)),
            });
        }
    }
    Site {
        id: id.clone(),
        description: site.description.clone(),
        members: state.members.iter().filter(|(_, m)| m.site == *id).map(|(n, _)| *n).collect(),
        votes: state.voting_sites().contains(id),
        forced: state.overrides.get(&Scope::Site(id.clone())).map(|o| overrides::show_one(o)),
        services,
    }
}
