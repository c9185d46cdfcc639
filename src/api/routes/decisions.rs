//! Decisions with their evidence.

use super::Routes;
use crate::{
    extract::{Query, View},
    wire::{Decision, Row, Seen, Vote, stamp},
};
use axum::Json;
use serde::Deserialize;
use utoipa::IntoParams;
use zonekeeper_core::{evidence, id::ServiceId, state};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_list, list)
}

#[derive(Deserialize, IntoParams)]
struct Filter {
    /// Only decisions on this service.
    #[param(value_type = Option<String>)]
    service: Option<ServiceId>,
    /// At most so many, from 1; absent: all that are kept.
    limit: Option<usize>,
}

/// The last decisions (1024 are kept, and all of the newest entry), newest first. Role: read.
#[utoipa::path(get, path = "/v1/decisions", tag = "decisions", params(Filter),
    responses((status = 200, body = Seen<Vec<Decision>>)))]
async fn list(view: View, Query(filter): Query<Filter>) -> Json<Seen<Vec<Decision>>> {
    let wanted =
        |d: &&std::sync::Arc<state::Decision>| filter.service.as_ref().is_none_or(|s| *s == d.service);
    let limit = filter.limit.unwrap_or(usize::MAX).max(1);
    let decisions = view.published.state.history.iter().rev().filter(wanted).take(limit);
    view.seen(decisions.map(|d| decision(d)).collect())
}

fn decision(d: &state::Decision) -> Decision {
    Decision {
        epoch: d.epoch.into(),
        time: stamp(d.time),
        service: d.service.clone(),
        family: d.family,
        from: d.from.clone(),
        to: d.to.clone(),
        basis: d.basis,
        cause: d.cause.clone(),
        rows: d.rows.iter().map(row).collect(),
    }
}

fn row(row: &evidence::Row) -> Row {
    let vote = |vote: &evidence::Vote| match vote {
        evidence::Vote::Green => "green".into(),
        evidence::Vote::Yellow => "yellow".into(),
        evidence::Vote::Red(kind) => format!("red ({kind})"),
        evidence::Vote::Abstain => "abstains".into(),
    };
    Row {
        site: row.target.site.clone(),
        family: row.target.family,
        verdict: row.verdict.to_string(),
        own: row.own.map(|k| k.to_string()),
        votes: row.votes.iter().map(|(site, v)| Vote { site: site.clone(), vote: vote(v) }).collect(),
    }
}
