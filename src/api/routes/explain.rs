//! What is answered, and why.

use super::Routes;
use crate::{
    error::ApiError,
    extract::{Query, View},
    question, records,
    wire::{self, DnsExplanation, RequestExplanation, Seen},
};
use axum::Json;
use serde::Deserialize;
use std::{borrow::Cow, net::IpAddr};
use utoipa::IntoParams;
use zonekeeper_core::{
    Published,
    answer::Asker,
    id::ListenerId,
    name::Name,
    route::{ListenerTable, PoolTable, Sample},
};
use zonekeeper_proxy::{LocalHealth, now_ms};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_name, name).add(__path_request, request)
}

#[derive(Deserialize, IntoParams)]
struct Question {
    /// The name that is asked for.
    #[param(value_type = String)]
    name: Name,
    /// The type, as `AAAA`; default `A`.
    r#type: Option<String>,
    /// The client's address, or that of its network: what services with policy `nearest` go by.
    #[param(value_type = Option<String>)]
    client: Option<IpAddr>,
}

/// What DNS answers to a question, and why. Role: read.
#[utoipa::path(get, path = "/v1/explain", tag = "explain", params(Question),
    responses((status = 200, body = Seen<DnsExplanation>), (status = 400, body = wire::ErrorBody)))]
async fn name(view: View, Query(q): Query<Question>) -> Result<Json<Seen<DnsExplanation>>, ApiError> {
    let rtype = records::type_number(q.r#type.as_deref().unwrap_or("A"))?;
    let published: &Published = &view.published;
    let geo = view.api.handles.dns.geo.load();
    let geo = (**geo).as_ref();
    let answer = question::ask(&published.dns, &q.name, rtype, q.client, geo);
    let asker = Asker { addr: q.client, known: q.client.and_then(|c| Some(geo?.find(c.to_canonical()))) };
    let why = published.dns.explain(&published.state, &q.name, rtype, asker);
    let client = q.client.map(|c| c.to_string());
    Ok(view.seen(DnsExplanation {
        name: q.name.to_string(),
        rtype: records::type_name(rtype),
        client,
        rcode: answer.rcode,
        answer: answer.answer,
        authority: answer.authority,
        why,
    }))
}

#[derive(Deserialize, IntoParams)]
struct Request {
    /// The `Host` header.
    host: String,
    /// The method; default `GET`.
    method: Option<String>,
    /// Path and query; default `/`.
    path: Option<String>,
    /// The listener; default: every HTTP listener of this site.
    #[param(value_type = Option<String>)]
    listener: Option<ListenerId>,
    /// Headers, each as `name: value`, one a line.
    header: Option<String>,
    /// The client's address.
    #[param(value_type = Option<String>)]
    client: Option<IpAddr>,
}

/// Where this node's proxy sends a request, and why. Role: read.
#[utoipa::path(get, path = "/v1/explain/request", tag = "explain", params(Request),
    responses((status = 200, body = Seen<Vec<RequestExplanation>>), (status = 404, body = wire::ErrorBody)))]
async fn request(
    view: View,
    Query(q): Query<Request>,
) -> Result<Json<Seen<Vec<RequestExplanation>>>, ApiError> {
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
    };
    let headers = q.header.as_deref().unwrap_or_default().lines().map(header).collect::<Option<Vec<_>>>();
    let headers =
        headers.ok_or_else(|| ApiError::bad_request("header must read as `name: value`, one a line"))?;
    let sample = Sample {
        method: q.method.unwrap_or_default(),
        host: q.host,
        target: q.path.unwrap_or_else(|| "/".into()),
        source: q.client,
        headers,
    };
    let health = view.api.handles.proxy.as_deref();
    let listeners = &view.published.proxy.listeners;
    let data: Vec<RequestExplanation> = match &q.listener {
        Some(id) => {
            let found = listeners
                .get(id)
                .ok_or_else(|| ApiError::not_found(format!("listener {id} at this site")))?;
            vec![one(found, &sample, health)]
        }
        None => {
            let http =
                |l: &&std::sync::Arc<ListenerTable>| l.protocol == zonekeeper_core::model::Protocol::Http;
            listeners.values().filter(http).map(|l| one(l, &sample, health)).collect()
        }
    };
    Ok(view.seen(data))
}

fn one(listener: &ListenerTable, sample: &Sample, health: Option<&LocalHealth>) -> RequestExplanation {
    let route = listener.match_route(sample).and_then(|i| listener.routes.get(i));
    let mut why = listener.explain(sample);
    let mut to = Vec::new();
    for (pool, _) in route.iter().flat_map(|r| &r.pools) {
        to.extend(candidates(pool, health, &mut why));
    }
    if let Some(path) = route.and_then(|r| r.rewritten(&sample.target)) {
        why.push(format!("the backend is asked for {path}"));
    }
    let pools: Vec<String> = route.iter().flat_map(|r| r.spec.pools()).map(ToString::to_string).collect();
    RequestExplanation {
        listener: Some(listener.id.to_string()),
        pool: (!pools.is_empty()).then(|| pools.join(", ")),
        target: route.map(|r| r.spec.target.to_string()),
        candidates: to,
        why,
    }
}

/// The backends that may take a request now; why the others may not goes to `why`.
fn candidates(pool: &PoolTable, health: Option<&LocalHealth>, why: &mut Vec<String>) -> Vec<String> {
    let mut out = Vec::new();
    let all = health.map_or(Cow::Borrowed(&pool.backends[..]), |h| h.backends(pool));
    if all.is_empty() && health.is_some() {
        why.push(format!("pool {} has no backend: no name of it has an address", pool.id));
    }
    for backend in all.iter() {
        let seen = health.and_then(|h| h.get(&pool.id, backend.addr));
        let usable = seen.as_ref().is_none_or(|h| h.usable(backend, now_ms()));
        match (usable && !backend.closed(), backend.force) {
            (true, _) => out.push(backend.addr.to_string()),
            (false, Some(force)) => why.push(format!("backend {} is {force} by an operator", backend.addr)),
            (false, None) if backend.weight == 0 => {
                why.push(format!("backend {} has weight 0", backend.addr))
            }
            (false, None) => why.push(format!("backend {} is down or ejected", backend.addr)),
        }
    }
    out
}
