//! The newest verdict of every stream, and the report made from them.

use super::plan::Subject;
use crate::clock;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use tokio::sync::Notify;
use zonekeeper_core::{
    evidence::{Target, Verdict},
    id::NodeId,
    time::Mono,
};

/// Verdicts with the moment at which their age was 0.
#[derive(Debug, Default)]
pub(crate) struct Board {
    endpoints: Mutex<BTreeMap<Target, (Verdict, Mono)>>,
    nodes: Mutex<BTreeMap<NodeId, (Verdict, Mono)>>,
    /// Until when it counts that this machine had no room for a probe, in milliseconds of [`clock::mono`].
    no_room_until: AtomicU64,
    changed: Notify,
}

/// How long it counts at least that there was no room for a probe, in milliseconds.
const NO_ROOM_MS: u64 = 3_000;

fn aged<K: Clone>(map: &Mutex<BTreeMap<K, (Verdict, Mono)>>) -> Vec<(K, Verdict)> {
    let now = clock::mono();
    let map = map.lock().unwrap_or_else(PoisonError::into_inner);
    let age = |(v, since): &(Verdict, Mono)| Verdict { age_ms: now.since(*since), ..*v };
    map.iter().map(|(k, v)| (k.clone(), age(v))).collect()
}

impl Board {
    /// A stream's verdict changed.
    pub(crate) fn put(&self, subjects: &[Subject], verdict: Verdict, since: Mono) {
        let mut map = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        for subject in subjects {
            if let Subject::Endpoint(target) = subject {
                map.insert(target.clone(), (verdict, since));
            }
        }
        drop(map);
        self.changed.notify_one();
    }

    /// A stream ended.
    pub(crate) fn remove(&self, subjects: &[Subject]) {
        let mut map = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        for subject in subjects {
            if let Subject::Endpoint(target) = subject {
                map.remove(target);
            }
        }
    }

    /// A heartbeat stream's verdict changed; none: the node is no member any more.
    pub(crate) fn put_node(&self, node: NodeId, verdict: Option<(Verdict, Mono)>) {
        let mut map = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        match verdict {
            Some(v) => map.insert(node, v),
            None => map.remove(&node),
        };
        drop(map);
        self.changed.notify_one();
    }

    /// Client path, as a report wants it.
    pub(crate) fn endpoints(&self) -> Vec<(Target, Verdict)> {
        aged(&self.endpoints)
    }

    /// Node path, as a report wants it.
    pub(crate) fn nodes(&self) -> Vec<(NodeId, Verdict)> {
        aged(&self.nodes)
    }

    /// There was no descriptor or memory for a probe; its stream looks again within so many milliseconds.
    pub(crate) fn had_no_room(&self, again_ms: u64) {
        let before = self.no_room();
        self.no_room_until.fetch_max(clock::mono().0 + again_ms.max(NO_ROOM_MS), Relaxed);
        if !before {
            self.changed.notify_one();
        }
    }

    /// Whether that was so lately: a stream may still show what it saw before.
    pub(crate) fn no_room(&self) -> bool {
        clock::mono().0 < self.no_room_until.load(Relaxed)
    }

    /// Waits for the next change.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Something else that a report holds has changed.
    pub(crate) fn touch(&self) {
        self.changed.notify_one();
    }
}
