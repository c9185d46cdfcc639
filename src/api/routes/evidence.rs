//! Who sees what.

use super::Routes;
use crate::{
    extract::View,
    handles::LocalView,
    wire::{Evidence, Observer, OwnWord, Path, Seen, Target},
};
use axum::Json;
use zonekeeper_core::{
    State,
    evidence::{self, Verdict},
    id::NodeId,
    model::Family,
    state::ServiceState,
};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_show, show)
}

/// The reports that decisions are made from, as this node has heard them. Role: read.
#[utoipa::path(get, path = "/v1/evidence", tag = "decisions", responses((status = 200, body = Seen<Evidence>)))]
async fn show(view: View) -> Json<Seen<Evidence>> {
    let data = evidence(&view.published.state, &view.api.handles.local.load());
    view.seen(data)
}

fn evidence(state: &State, local: &LocalView) -> Evidence {
    let nodes = local.reports.iter().flat_map(|(report, age)| {
        report.nodes.iter().map(move |(to, v)| path(state, local, report.node, Some(*to), v, *age))
    });
    let own = local.reports.iter().flat_map(|(report, _)| {
        report.own.iter().map(move |o| OwnWord {
            node: report.node,
            service: o.service.clone(),
            healthy: o.healthy,
            backends: o.backends,
            draining: o.draining,
        })
    });
    Evidence {
        observers: observers(state, local),
        targets: targets(state, local),
        nodes: nodes.collect(),
        own: own.collect(),
    }
}

fn observers(state: &State, local: &LocalView) -> Vec<Observer> {
    let one = |(id, member): (&NodeId, &std::sync::Arc<zonekeeper_core::entry::Member>)| {
        let report = local.reports.iter().find(|(r, _)| r.node == *id);
        Observer {
            node: *id,
            site: member.site.clone(),
            votes: state.voters.contains(id),
            age_ms: report.map(|(_, age)| age + local.elapsed_ms()),
            abstains: report.and_then(|(r, _)| r.abstains.clone()),
        }
    };
    state.members.iter().map(one).collect()
}

fn targets(state: &State, local: &LocalView) -> Vec<Target> {
    let mut out = Vec::new();
    for (id, service) in &state.services {
        for family in Family::ALL {
            for site in service.spec.sites(family) {
                let target = evidence::Target { service: id.clone(), site: site.clone(), family };
                out.push(Target {
                    held: held(service, &target).into(),
                    verdicts: verdicts(state, local, &target),
                    notes: notes(local, &target),
                    service: target.service,
                    site: target.site,
                    family,
                });
            }
        }
    }
    out
}

fn held(service: &ServiceState, target: &evidence::Target) -> &'static str {
    super::services::standing(service.health.get(&(target.site.clone(), target.family)))
}

fn verdicts(state: &State, local: &LocalView, target: &evidence::Target) -> Vec<Path> {
    let of = |(report, age): &(evidence::Report, u64)| {
        let (_, verdict) = report.endpoints.iter().find(|(t, _)| t == target)?;
        Some(path(state, local, report.node, None, verdict, *age))
    };
    local.reports.iter().filter_map(of).collect()
}

/// What the decider says about a target.
pub(super) fn notes(local: &LocalView, target: &evidence::Target) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for note in local.notes.iter().filter(|n| n.target == *target) {
        if !out.contains(&note.text) {
            out.push(note.text.clone());
        }
    }
    out
}

fn path(
    state: &State,
    local: &LocalView,
    from: NodeId,
    to: Option<NodeId>,
    verdict: &Verdict,
    age: u64,
) -> Path {
    Path {
        from,
        from_site: state.members.get(&from).map(|m| m.site.clone()),
        to,
        colour: verdict.colour,
        kind: verdict.kind,
        stands_ms: verdict.age_ms,
        age_ms: age + local.elapsed_ms(),
    }
}
