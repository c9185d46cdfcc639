//! The cluster as a whole: state, timing, automation.

use super::Routes;
use crate::{
    api::Api,
    auth::{Caller, ToAdmin, ToOperate},
    error::ApiError,
    extract::{Body, View, linearize},
    handles::Handles,
    wire::{self, Cluster, Seen, Switch, TimingSetting, TimingWritten, Written},
};
use axum::{Json, extract::State};
use zonekeeper_consensus::{Role, timing_warning};
use zonekeeper_core::{Command, Published, decide::Alarm, entry::Timing};

pub(super) fn routes(r: Routes) -> Routes {
    r.add(__path_show, show)
        .add(__path_set_timing, set_timing)
        .add(__path_set_automation, set_automation)
        .add(__path_upgrade, upgrade)
}

/// The cluster as this node sees it. Role: read.
#[utoipa::path(get, path = "/v1/cluster", tag = "cluster", responses((status = 200, body = Seen<Cluster>)))]
async fn show(view: View) -> Json<Seen<Cluster>> {
    let data = cluster(&view.api.handles, &view.published);
    view.seen(data)
}

fn cluster(handles: &Handles, published: &Published) -> Cluster {
    let (state, local, status) = (&published.state, handles.local.load(), handles.consensus.status());
    let mut problems = local.problems.clone();
    problems.extend(status.stopped.clone().map(|why| wire::Problem { code: "store".into(), text: why }));
    Cluster {
        id: format!("{:032x}", state.cluster),
        version: state.cluster_version,
        node: handles.node,
        site: handles.site.clone(),
        role: role(status.role).into(),
        leader: status.leader,
        term: status.term,
        log: wire::Log {
            last: status.last_log,
            committed: status.committed,
            applied: status.applied,
            snapshot: status.snapshot,
        },
        voters: state.voters.iter().copied().collect(),
        quorum_age_ms: status.quorum_age_ms,
        leader_heard_ms: status.leader_heard_ms,
        timing: state.timing.into(),
        automation: state.automation,
        revision: state.revision,
        hash: format!("{:032x}", state.hash()),
        time: wire::stamp(state.time),
        overrides: state.overrides.len(),
        origin: state.origin.as_ref().map(|o| wire::Origin {
            at: o.at.into(),
            time: wire::stamp(o.time),
            author: o.author.clone(),
            reason: o.reason.clone(),
        }),
        alarms: alarms(&local.notes),
        problems,
        abstains: local.abstains.clone(),
    }
}

pub(crate) fn role(role: Role) -> &'static str {
    match role {
        Role::Leader => "leader",
        Role::Follower => "follower",
        Role::Candidate => "candidate",
        Role::Learner => "learner",
        Role::Stopped => "stopped",
    }
}

/// Alarms in words, without repetition.
fn alarms(notes: &[zonekeeper_core::decide::Note]) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    for note in notes.iter().filter(|n| matches!(n.alarm, Some(Alarm::Degraded | Alarm::Disarmed))) {
        let line = format!("service {} at {}: {}", note.target.service, note.target.site, note.text);
        if !out.contains(&line) {
            out.push(line);
        }
    }
    out
}

/// Sets the Raft timing; all nodes change over while they run. Role: admin.
#[utoipa::path(put, path = "/v1/timing", tag = "cluster", request_body = TimingSetting,
    responses((status = 200, body = TimingWritten), (status = 422, body = wire::ErrorBody)))]
async fn set_timing(
    caller: Caller<ToAdmin>,
    State(api): State<Api>,
    Body(setting): Body<TimingSetting>,
) -> Result<Json<TimingWritten>, ApiError> {
    let timing = Timing::from(setting);
    let slowest = api.handles.local.load().links.iter().filter_map(|(_, l)| l.rtt_us).max().unwrap_or(0);
    let warning = timing_warning(timing, slowest.div_ceil(1000));
    let written = caller.write(&api, Command::SetTiming(timing)).await?;
    Ok(Json(TimingWritten { written, warning }))
}

/// Raises the cluster version by one, once the program of every member knows the next. There is no way back. Role: admin.
#[utoipa::path(post, path = "/v1/cluster/upgrade", tag = "cluster",
    responses((status = 200, body = Written), (status = 422, body = wire::ErrorBody)))]
async fn upgrade(caller: Caller<ToAdmin>, State(api): State<Api>) -> Result<Json<Written>, ApiError> {
    linearize(&api).await?;
    let next = api.handles.published.load().state.cluster_version + 1;
    Ok(Json(caller.write(&api, Command::Upgrade(next)).await?))
}

/// Switches automation for all services. Role: operate.
#[utoipa::path(put, path = "/v1/automation", tag = "cluster", request_body = Switch,
    responses((status = 200, body = Written)))]
async fn set_automation(
    caller: Caller<ToOperate>,
    State(api): State<Api>,
    Body(switch): Body<Switch>,
) -> Result<Json<Written>, ApiError> {
    Ok(Json(caller.write(&api, Command::Automation { service: None, on: switch.on }).await?))
}
