//! News: what changed between two publications and two local views, sent to whoever listens.
//!
//! A watcher looks at both pointers many times a second and compares. It may skip publications in between, but loses no
//! decision: those are in the replicated history.

use crate::{
    handles::{Handles, LocalView},
    wire::{Event, EventKind, stamp},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::broadcast;
use zonekeeper_core::{
    Published, State, decide::Alarm, evidence::Target, id::NodeId, model::Family, state::Decision,
};

/// Events kept for a listener that is slow; one that falls further behind is cut off.
const RING: usize = 1024;
/// From one look at the publication to the next.
const LOOK: Duration = Duration::from_millis(50);
/// A quorum that is silent for so many heartbeats, and at least a second, is lost.
const LOST_HEARTBEATS: u64 = 10;

/// Where events go.
#[derive(Debug, Clone)]
pub struct Events(broadcast::Sender<Arc<Event>>);

impl Default for Events {
    fn default() -> Events {
        Events(broadcast::channel(RING).0)
    }
}

impl Events {
    /// Tells everybody who listens now.
    pub fn send(&self, event: Event) {
        let _ = self.0.send(Arc::new(event)); // nobody listens: nothing is lost that could be kept
    }

    /// Events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }
}

/// A decision as an event.
pub(crate) fn decision(node: NodeId, d: &Decision) -> Event {
    let list = |sites: &[zonekeeper_core::id::SiteId]| match sites {
        [] => "nothing".to_owned(),
        sites => sites.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", "),
    };
    Event {
        generation: d.epoch.into(),
        time: stamp(d.time),
        node,
        kind: EventKind::Decision,
        subject: format!("service {}", d.service),
        text: format!("{}: {} -> {} ({})", family(d.family), list(&d.from), list(&d.to), d.cause),
    }
}

fn family(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// Looks and tells, for ever. The first look tells nothing.
pub(crate) async fn watch(handles: Handles) {
    let mut watcher = Watcher::new(&handles);
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for event in watcher.look(&handles) {
            handles.events.send(event);
        }
    }
}

/// What was seen at the last look.
struct Watcher {
    published: Arc<Published>,
    alarms: BTreeMap<(Target, Alarm), String>,
    problems: Vec<crate::wire::Problem>,
    leader: Option<NodeId>,
    quorum: bool,
}

impl Watcher {
    fn new(handles: &Handles) -> Watcher {
        Watcher {
            published: handles.published.load_full(),
            alarms: BTreeMap::new(),
            problems: Vec::new(),
            leader: handles.consensus.status().leader,
            quorum: true,
        }
    }

    fn look(&mut self, handles: &Handles) -> Vec<Event> {
        let mut news = News { handles, state: handles.published.load().state.clone(), events: Vec::new() };
        let now = handles.published.load_full();
        if now.generation != self.published.generation {
            changes(&mut news, &self.published.state, &now.state);
            self.published = now;
        }
        self.alarms(&mut news, &handles.local.load());
        self.raft(&mut news);
        news.events
    }

    fn alarms(&mut self, news: &mut News<'_>, local: &LocalView) {
        let alarms: BTreeMap<(Target, Alarm), String> =
            local.notes.iter().filter_map(|n| Some(((n.target.clone(), n.alarm?), n.text.clone()))).collect();
        for ((target, alarm), text) in &alarms {
            let kind = match alarm {
                Alarm::Degraded => EventKind::Degraded,
                Alarm::Disarmed => EventKind::Disarmed,
            };
            if !self.alarms.contains_key(&(target.clone(), *alarm)) {
                news.tell(kind, of_target(target), text.clone());
            }
        }
        for ((target, _), text) in self.alarms.iter().filter(|(k, _)| !alarms.contains_key(k)) {
            news.tell(EventKind::Cleared, of_target(target), format!("over: {text}"));
        }
        self.alarms = alarms;
        for problem in local.problems.iter().filter(|p| !self.problems.contains(p)) {
            news.tell(EventKind::Problem, format!("node {}", news.handles.node), problem.text.clone());
        }
        self.problems.clone_from(&local.problems);
    }

    fn raft(&mut self, news: &mut News<'_>) {
        let status = news.handles.consensus.status();
        let patience = (LOST_HEARTBEATS * news.state.timing.heartbeat_ms()).max(1000);
        let quorum = status.quorum_age_ms.is_none_or(|age| age < patience) && status.stopped.is_none();
        let subject = || format!("node {}", status.node);
        if status.leader != self.leader {
            let text = status
                .leader
                .map_or("follows no leader".into(), |l| format!("node {l} leads in term {}", status.term));
            news.tell(EventKind::Leader, subject(), text);
            self.leader = status.leader;
        }
        if quorum != self.quorum {
            let (kind, text) = match quorum {
                true => (EventKind::QuorumRegained, "a quorum follows a leader again"),
                false => (
                    EventKind::QuorumLost,
                    "no quorum follows a leader: answers go on, nothing can be changed",
                ),
            };
            news.tell(kind, subject(), text.into());
            self.quorum = quorum;
        }
    }
}

/// Events of one look.
struct News<'a> {
    handles: &'a Handles,
    state: Arc<State>,
    events: Vec<Event>,
}

impl News<'_> {
    fn tell(&mut self, kind: EventKind, subject: String, text: String) {
        let generation = self.state.generation.into();
        let time = stamp(self.handles.log_now());
        self.events.push(Event { generation, time, node: self.handles.node, kind, subject, text });
    }
}

fn of_target(target: &Target) -> String {
    format!("service {} at {} ({})", target.service, target.site, family(target.family))
}

fn changes(news: &mut News<'_>, old: &State, new: &State) {
    if old.revision != new.revision {
        news.tell(EventKind::Config, "configuration".into(), format!("revision {}", new.revision));
    }
    if old.members_version != new.members_version || old.timing != new.timing {
        let voters: Vec<String> = new.voters.iter().map(|v| v.to_string()).collect();
        let text = format!("{} members, voters {}", new.members.len(), voters.join(", "));
        news.tell(EventKind::Members, "members".into(), text);
    }
    if old.automation != new.automation {
        let text = if new.automation { "switched on" } else { "switched off" };
        news.tell(EventKind::Automation, "automation".into(), text.into());
    }
    zones(news, old, new);
    overrides(news, old, new);
    health(news, old, new);
    let newer = new.history.iter().filter(|d| d.epoch > old.generation);
    let node = news.handles.node;
    news.events.extend(newer.map(|d| decision(node, d)));
}

fn zones(news: &mut News<'_>, old: &State, new: &State) {
    for (origin, version) in &new.zone_versions {
        if old.zone_versions.get(origin) != Some(version) {
            let serial = new.zones.get(origin).map_or(0, |z| z.serial());
            news.tell(EventKind::Zone, format!("zone {origin}"), format!("serial {serial}"));
        }
    }
    for origin in old.zones.keys().filter(|o| !new.zones.contains_key(*o)) {
        news.tell(EventKind::Zone, format!("zone {origin}"), "removed".into());
    }
}

fn overrides(news: &mut News<'_>, old: &State, new: &State) {
    for (scope, o) in new.overrides.iter().filter(|(s, o)| old.overrides.get(*s) != Some(o)) {
        news.tell(
            EventKind::Override,
            scope.to_string(),
            format!("{} by {}: {}", o.force, o.author, o.reason),
        );
    }
    for (scope, o) in old.overrides.iter().filter(|(s, _)| !new.overrides.contains_key(*s)) {
        news.tell(EventKind::Override, scope.to_string(), format!("no longer {}", o.force));
    }
}

fn health(news: &mut News<'_>, old: &State, new: &State) {
    for (id, service) in &new.services {
        let before = old.services.get(id);
        if before.is_some_and(|b| Arc::ptr_eq(b, service)) {
            continue;
        }
        for ((site, f), health) in &service.health {
            let held = before.and_then(|b| b.health.get(&(site.clone(), *f)));
            if held.map(|h| h.standing) != Some(health.standing) {
                let subject = format!("service {id} at {site} ({})", family(*f));
                news.tell(EventKind::Health, subject, health.standing.to_string());
            }
        }
    }
}
