//! Who answers what other nodes ask: Raft's lanes, the Watch lane's heartbeats and reports, the Control lane's rest.

use super::{RAFT_LANES, join::Joins, renew, secrets};
use crate::{control::Lead, probe::heartbeat::Beat};
use arc_swap::ArcSwap;
use std::{path::Path, sync::Arc};
use zonekeeper_consensus::{CONTROL_TAG, Consensus};
use zonekeeper_core::{Published, codec, id::NodeId};
use zonekeeper_peer::{BoxFuture, Handler, Lane, Peers, keys::Keyring};

/// First byte of a certificate renewal on the Control lane.
pub(crate) const RENEW_TAG: u8 = b'R';
/// First byte of what concerns the cluster key.
pub(crate) const KEY_TAG: u8 = b'K';

/// Wires every lane.
pub(crate) fn attach(
    peers: &Peers,
    consensus: &Consensus,
    lead: &Arc<Lead>,
    published: &Arc<ArcSwap<Published>>,
    keys: &Path,
    keyring: &Keyring,
) {
    let raft = Arc::new(Raft { consensus: consensus.handler(), published: published.clone() });
    for lane in RAFT_LANES {
        peers.set_handler(lane, raft.clone());
    }
    peers.set_handler(Lane::Watch, Arc::new(Watch { lead: lead.clone(), published: published.clone() }));
    let control = Control {
        consensus: consensus.handler(),
        published: published.clone(),
        keys: keys.to_owned(),
        keyring: keyring.clone(),
    };
    peers.set_handler(Lane::Control, Arc::new(control));
    peers.set_join(Arc::new(Joins { consensus: consensus.clone(), keys: keys.to_owned() }));
}

/// A node that was removed has no word any more, also where the transport lets every certificate in.
fn not_removed(published: &ArcSwap<Published>, from: NodeId) -> Result<(), String> {
    match published.load().state.retired.contains(&from) {
        true => Err(format!("node {from} was removed from the cluster; join under a new id")),
        false => Ok(()),
    }
}

struct Raft {
    consensus: Arc<dyn Handler>,
    published: Arc<ArcSwap<Published>>,
}

impl Handler for Raft {
    fn handle(&self, from: NodeId, lane: Lane, payload: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        match not_removed(&self.published, from) {
            Ok(()) => self.consensus.handle(from, lane, payload),
            Err(why) => Box::pin(std::future::ready(Err(why))),
        }
    }
}

struct Watch {
    lead: Arc<Lead>,
    published: Arc<ArcSwap<Published>>,
}

impl Handler for Watch {
    fn handle(&self, from: NodeId, _: Lane, payload: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            match codec::from_bytes(&payload).map_err(|e| e.to_string())? {
                Beat::Ping => {}
                Beat::Report(report) if report.node != from => {
                    return Err(format!("node {from} reports as node {}", report.node));
                }
                // a stranger's word is no evidence, and must not fill the table
                Beat::Report(_) if !self.published.load().state.members.contains_key(&from) => {}
                Beat::Report(report) => self.lead.receive(*report),
            }
            Ok(Vec::new())
        })
    }
}

struct Control {
    consensus: Arc<dyn Handler>,
    published: Arc<ArcSwap<Published>>,
    keys: std::path::PathBuf,
    keyring: Keyring,
}

impl Handler for Control {
    fn handle(&self, from: NodeId, lane: Lane, payload: Vec<u8>) -> BoxFuture<'_, Result<Vec<u8>, String>> {
        Box::pin(async move {
            // a leader has applied who is a member; a certificate alone changes nothing and renews nothing
            let state = self.published.load().state.clone();
            let site = state.members.get(&from).map(|m| m.site.clone());
            let site = site.ok_or_else(|| format!("node {from} is no member"))?;
            match payload.split_first() {
                Some((&CONTROL_TAG, _)) => self.consensus.handle(from, lane, payload).await,
                Some((&RENEW_TAG, csr)) => renew::sign(&self.keys, from, &site, csr).await,
                Some((&KEY_TAG, ask)) => secrets::answer(&self.keyring, &state, from, ask).await,
                _ => Err("this version does not know that request".into()),
            }
        })
    }
}
