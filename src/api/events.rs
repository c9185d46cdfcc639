//! News: what changed between two publications and two local views, sent to whoever listens.
//!
//! A watcher looks at both pointers many times a second and compares. It may skip publications in between, but loses no
//! decision: those are in the replicated history, which holds more than is decided from one look to the next.
//!
//! The decisions of a look are told first, in their order, so that whoever has seen an event has seen every decision of
//! older generations.

use crate::{
    handles::{Handles, LocalView},
    wire::{Event, EventKind, stamp},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::broadcast;
use zonekeeper_core::{
    Published, State, decide::Alarm, evidence::Target, id::NodeId, model::Family, state::Decision,
};

/// Events kept for a listener that is slow; one that falls further behind is cut off.
const RING: usize = 1024;
/// Events that are sent at once, and the pause after them: readers take them out of the ring meanwhile.
const PORTION: (usize, Duration) = (RING / 4, Duration::from_millis(10));
/// From one look at the publication to the next.
const LOOK: Duration = Duration::from_millis(50);
/// A quorum that is silent for so many heartbeats, and at least a second, is lost.
const LOST_HEARTBEATS: u64 = 10;
/// A node that has just started has so many times longer to find its quorum.
const TO_START: u64 = 10;
/// The end of an alarm is told to a new leader's webhooks for so long: an election may have lain between.
const ENDED: Duration = Duration::from_secs(60);

/// Where events go. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ring: broadcast::Sender<Arc<Event>>,
    /// Nanoseconds since 1970 at the start, so that no id comes again after it.
    start: u128,
    count: AtomicU64,
    alarms: Mutex<Vec<Arc<Event>>>,
}

impl Default for Events {
    fn default() -> Events {
        let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        let (ring, count, alarms) = (broadcast::channel(RING).0, AtomicU64::new(0), Mutex::default());
        Events(Arc::new(Inner { ring, start, count, alarms }))
    }
}

impl Events {
    /// Tells everybody who listens now.
    fn send(&self, event: Arc<Event>) {
        let _ = self.0.ring.send(event); // nobody listens: nothing is lost that could be kept
    }

    /// Events from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.ring.subscribe()
    }

    /// Alarms that stand, and the ends of those that have just ended.
    pub(crate) fn alarms(&self) -> Vec<Arc<Event>> {
        self.0.alarms.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// An id that no other event of the cluster has.
    fn id(&self, node: NodeId) -> String {
        format!("{node}-{:x}-{}", self.0.start, self.0.count.fetch_add(1, Relaxed))
    }
}

/// A decision as an event.
pub(crate) fn decision(node: NodeId, d: &Decision) -> Event {
    let list = |sites: &[zonekeeper_core::id::SiteId]| match sites {
        [] => "nothing".to_owned(),
        sites => sites.iter().map(|s| s.as_str()).collect::<Vec<_>>().join(", "),
    };
    let word = match d.family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    };
    let generation = d.epoch.into();
    Event {
        id: format!("{generation}-{}-{word}", d.service),
        generation,
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
        for (n, event) in watcher.look(&handles).into_iter().enumerate() {
            if n > 0 && n % PORTION.0 == 0 {
                tokio::time::sleep(PORTION.1).await;
            }
            handles.events.send(event);
        }
    }
}

/// An alarm, from its beginning until some time after its end.
struct Told {
    event: Arc<Event>,
    text: String,
    ended: Option<Instant>,
}

/// What was seen at the last look.
struct Watcher {
    published: Arc<Published>,
    alarms: BTreeMap<(Target, Alarm), Told>,
    problems: Vec<crate::wire::Problem>,
    leader: Option<NodeId>,
    quorum: bool,
    started: Instant,
}

impl Watcher {
    fn new(handles: &Handles) -> Watcher {
        Watcher {
            published: handles.published.load_full(),
            alarms: BTreeMap::new(),
            problems: Vec::new(),
            leader: handles.consensus.status().leader,
            quorum: true,
            started: Instant::now(),
        }
    }

    fn look(&mut self, handles: &Handles) -> Vec<Arc<Event>> {
        let now = handles.published.load_full();
        let mut news = News { handles, state: now.state.clone(), events: Vec::new() };
        if now.generation != self.published.generation {
            changes(&mut news, &self.published.state, &now.state);
            self.published = now;
        }
        self.alarms(&mut news, &handles.local.load());
        self.raft(&mut news);
        news.events
    }

    fn alarms(&mut self, news: &mut News<'_>, local: &LocalView) {
        let alarms: BTreeMap<(Target, Alarm), &String> =
            local.notes.iter().filter_map(|n| Some(((n.target.clone(), n.alarm?), &n.text))).collect();
        let mut changed = false;
        for (key, text) in &alarms {
            match self.alarms.get_mut(key).filter(|told| told.ended.is_none()) {
                Some(told) => told.text.clone_from(text),
                None => {
                    let event = news.tell(kind_of(key.1), of_target(&key.0), (*text).clone());
                    self.alarms.insert(key.clone(), Told { event, text: (*text).clone(), ended: None });
                    changed = true;
                }
            }
        }
        let over =
            |(key, told): &(&(Target, Alarm), &mut Told)| told.ended.is_none() && !alarms.contains_key(*key);
        for (key, told) in self.alarms.iter_mut().filter(over) {
            told.event = news.tell(EventKind::Cleared, of_target(&key.0), format!("over: {}", told.text));
            told.ended = Some(Instant::now());
            changed = true;
        }
        let before = self.alarms.len();
        self.alarms.retain(|_, told| told.ended.is_none_or(|at| at.elapsed() < ENDED));
        if changed || self.alarms.len() != before {
            let events = self.alarms.values().map(|told| told.event.clone()).collect();
            *news.handles.events.0.alarms.lock().unwrap_or_else(PoisonError::into_inner) = events;
        }
        self.problems(news, local);
    }

    fn problems(&mut self, news: &mut News<'_>, local: &LocalView) {
        for problem in local.problems.iter().filter(|p| !self.problems.contains(p)) {
            news.tell(EventKind::Problem, format!("node {}", news.handles.node), problem.text.clone());
        }
        self.problems.clone_from(&local.problems);
    }

    fn raft(&mut self, news: &mut News<'_>) {
        let status = news.handles.consensus.status();
        let patience = (LOST_HEARTBEATS * news.state.timing.heartbeat_ms()).max(1000);
        let held = match status.quorum_age_ms {
            Some(age) => age < patience,
            None => self.started.elapsed().as_millis() < u128::from(TO_START * patience),
        };
        let quorum = held && status.stopped.is_none();
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
    events: Vec<Arc<Event>>,
}

impl News<'_> {
    fn tell(&mut self, kind: EventKind, subject: String, text: String) -> Arc<Event> {
        let generation = self.state.generation.into();
        let (id, node) = (self.handles.events.id(self.handles.node), self.handles.node);
        let time = stamp(self.handles.log_now());
        let event = Arc::new(Event { id, generation, time, node, kind, subject, text });
        self.events.push(event.clone());
        event
    }
}

fn kind_of(alarm: Alarm) -> EventKind {
    match alarm {
        Alarm::Degraded => EventKind::Degraded,
        Alarm::Disarmed => EventKind::Disarmed,
    }
}

fn of_target(target: &Target) -> String {
    format!("service {} at {} ({})", target.service, target.site, family(target.family))
}

fn changes(news: &mut News<'_>, old: &State, new: &State) {
    let newer = new.history.iter().filter(|d| d.epoch > old.generation);
    let node = news.handles.node;
    news.events.extend(newer.map(|d| Arc::new(decision(node, d))));
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
