//! The node path: one stream of heartbeats per member, and the reports that travel with them.
//!
//! A heartbeat carries this node's report when the peer votes, and nothing otherwise. Its answer is the observation.

use super::board::Board;
use crate::clock;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Once},
    time::Duration,
};
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep_until},
};
use zonekeeper_core::{
    codec,
    detector::{Detector, Observation, Preset, Thresholds},
    evidence::Report,
    id::NodeId,
    time::Mono,
};
use zonekeeper_peer::{Lane, Loss, PeerError, Peers};

/// From one heartbeat to the next, in milliseconds.
pub(crate) const INTERVAL_MS: u64 = 500;
/// A heartbeat that is not answered in this time was silence.
const DEADLINE: Duration = Duration::from_secs(1);
/// Reports at most that are on their way to a peer beside its heartbeat.
const HURRIED: usize = 8;

/// What travels on the Watch lane. Append only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Beat {
    /// Are you there?
    Ping,
    /// What I see.
    Report(Box<Report>),
}

/// The heartbeat streams of a node.
pub(crate) struct Heartbeats {
    peers: Peers,
    board: Arc<Board>,
    report: watch::Receiver<Arc<Report>>,
    running: BTreeMap<NodeId, (SocketAddr, bool, JoinHandle<()>)>,
}

impl Heartbeats {
    /// No streams yet. `report` holds this node's newest report.
    pub(crate) fn new(peers: Peers, board: Arc<Board>, report: watch::Receiver<Arc<Report>>) -> Heartbeats {
        Heartbeats { peers, board, report, running: BTreeMap::new() }
    }

    /// Makes the running streams those of these members: address, and whether the member votes.
    pub(crate) fn follow(&mut self, members: &BTreeMap<NodeId, (SocketAddr, bool)>) {
        let gone =
            self.running.extract_if(.., |node, (addr, votes, _)| members.get(node) != Some(&(*addr, *votes)));
        for (node, (_, _, task)) in gone {
            task.abort();
            self.board.put_node(node, None);
        }
        for (&node, &(addr, votes)) in members {
            if !self.running.contains_key(&node) {
                let beat = beat(node, votes, self.peers.clone(), self.board.clone(), self.report.clone());
                self.running.insert(node, (addr, votes, tokio::spawn(beat)));
            }
        }
    }
}

impl Drop for Heartbeats {
    fn drop(&mut self) {
        self.running.values().for_each(|(_, _, task)| task.abort());
    }
}

async fn beat(
    node: NodeId,
    votes: bool,
    peers: Peers,
    board: Arc<Board>,
    mut report: watch::Receiver<Arc<Report>>,
) {
    let patience_ms = Preset::BALANCED.patience_ms.into();
    let thresholds = Thresholds { rise: 1, fall: 2, patience_ms };
    let mut detector = Detector::new(thresholds, clock::mono());
    let (mut seen, mut hurried) = (Observation::Silence, JoinSet::new());
    loop {
        let (sent, started) = (clock::mono(), Instant::now());
        let fresh = report.borrow_and_update().clone();
        let first = if votes { message(&fresh) } else { codec::bytes(&Beat::Ping) };
        let call = peers.call(node, Lane::Watch, first, DEADLINE);
        tokio::pin!(call);
        let answers = seen == Observation::Answer;
        seen = loop {
            tokio::select! {
                answer = &mut call => break observe(answer),
                // on a far path, what is new does not wait for the answer to what was
                changed = report.changed(), if votes && answers && hurried.len() < HURRIED => {
                    if changed.is_err() { return }
                    let (peers, message) = (peers.clone(), message(&report.borrow_and_update().clone()));
                    hurried.spawn(async move { peers.call(node, Lane::Watch, message, DEADLINE).await });
                }
                Some(_) = hurried.join_next() => {} // the call above says what the path is like
            }
        };
        let now = clock::mono();
        if detector.observe(seen, sent, now) {
            let verdict = detector.verdict(now);
            board.put_node(node, Some((verdict, Mono(now.0 - verdict.age_ms.min(now.0)))));
        }
        // A new report goes out at once, but a peer that does not answer is not hammered.
        let rest = sleep_until(started + Duration::from_millis(INTERVAL_MS));
        tokio::select! {
            () = rest => {}
            changed = report.changed(), if votes && seen == Observation::Answer => {
                if changed.is_err() { return }
            }
        }
    }
}

/// The report, or a bare ping where it is larger than the lane takes: then this node's word is missing, which counts as
/// abstention, but the heartbeat goes on.
fn message(report: &Report) -> Vec<u8> {
    let bytes = codec::bytes(&Beat::Report(Box::new(report.clone())));
    if bytes.len() <= Lane::Watch.limit() {
        return bytes;
    }
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        let bytes = bytes.len();
        tracing::error!(
            bytes,
            "too many endpoints for one report: nobody hears what this node sees; declare fewer"
        );
    });
    codec::bytes(&Beat::Ping)
}

fn observe(answer: Result<Vec<u8>, PeerError>) -> Observation {
    match answer {
        // whatever the peer says, it is there
        Ok(_) | Err(PeerError::Remote { .. } | PeerError::Broken { .. } | PeerError::Busy(_)) => {
            Observation::Answer
        }
        Err(PeerError::Unreachable { why, .. } | PeerError::Lost { why, .. }) => match why {
            Loss::Refused | Loss::Reset | Loss::Closed => Observation::Refused,
            _ => Observation::Silence,
        },
        Err(PeerError::Refused { .. }) => Observation::Wrong,
        // nothing was sent, or nothing came back
        Err(PeerError::TooLarge { .. } | PeerError::Unknown(_) | PeerError::Timeout { .. }) => {
            Observation::Silence
        }
    }
}
