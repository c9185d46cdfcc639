//! Raft is made, replaced when the cluster's timing changes, and stopped.

use crate::{
    admission::Doorkeeper,
    consensus::{Consensus, Inner},
    machine::Machine,
    network::Network,
    store::Store,
    timing,
    transport::Transport,
    types::Raft,
};
use openraft::Config;
use std::{
    io,
    sync::{Arc, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::watch;
use zonekeeper_core::{entry::Timing, id::NodeId};

/// How long writes that are under way are waited for before Raft is replaced; a commit takes a small part of it under
/// any timing, and without a quorum the rest is not worth a wait.
const DRAIN: Duration = Duration::from_secs(5);

impl Consensus {
    /// Runs Raft under another timing, on the same store, while readers go on. Called by itself when a committed
    /// timing differs from the running one; a no-op when it does not.
    ///
    /// Writes wait meanwhile: those under way end first, new ones go to the new Raft.
    pub async fn set_timing(&self, timing: Timing) -> io::Result<()> {
        let this = self.clone();
        // A task of its own: half of this must not be left behind when the caller goes away.
        tokio::spawn(async move { this.rebuild(timing).await }).await.map_err(io::Error::other)?
    }

    async fn rebuild(&self, timing: Timing) -> io::Result<()> {
        let inner = &self.inner;
        let mut running = inner.timing.lock().await;
        if running.is_none() || *running == Some(timing) {
            return Ok(());
        }
        inner.gate.hold(DRAIN).await;
        stop(&inner.raft()).await;
        match replacement(inner, timing).await {
            Ok(raft) => {
                *inner.raft.write().unwrap_or_else(PoisonError::into_inner) = raft;
                *running = Some(timing);
                inner.words.retime(inner.node, timing);
                inner.gate.open();
                tracing::info!(heartbeat_ms = timing.heartbeat_ms(), "raft runs under a new timing");
                Ok(())
            }
            Err(error) => {
                let why =
                    format!("raft could not be rebuilt under a new timing ({error}); restart this node");
                inner.gate.close(why);
                Err(error)
            }
        }
    }

    /// Stops Raft and waits until all that was written is durable.
    pub async fn shutdown(&self) {
        *self.inner.timing.lock().await = None;
        self.inner.gate.close("it is shutting down; ask another node".into());
        stop(&self.inner.raft()).await;
        if let Err(error) = self.inner.store.barrier().await {
            tracing::warn!(%error, "the store did not take its last writes");
        }
    }
}

async fn replacement(inner: &Inner, timing: Timing) -> io::Result<Raft> {
    inner.store.barrier().await?;
    // The same process goes on with the same memory and the same log, so a leader may go on leading: this is not
    // the restart that `enable_leader_restore` is forbidden for.
    let config = Config { enable_leader_restore: Some(true), ..timing::config(timing) };
    raise(inner.node, config, &inner.store, &inner.machine.successor(), &inner.transport).await
}

pub(crate) async fn raise(
    node: NodeId,
    config: Config,
    store: &Store,
    machine: &Machine,
    transport: &Arc<dyn Transport>,
) -> io::Result<Raft> {
    let config = config.validate().map_err(io::Error::other)?;
    let door = Doorkeeper::new(transport.clone());
    let heartbeat = Duration::from_millis(config.heartbeat_interval);
    let network = Network::new(transport.clone(), door.clone(), heartbeat);
    let raft = Raft::new(node, Arc::new(config), network, store.clone(), machine.clone()).await;
    let raft = raft.map_err(io::Error::other)?;
    // The one value; what called the network before this was not a leader yet.
    let _ = door.raft.set(raft.clone());
    Ok(raft)
}

async fn stop(raft: &Raft) {
    if let Err(error) = raft.shutdown().await {
        tracing::warn!(%error, "raft did not stop in order");
    }
}

/// Rebuilds Raft whenever another timing is committed.
pub(crate) async fn follow(inner: Weak<Inner>, mut committed: watch::Receiver<Timing>) {
    while committed.changed().await.is_ok() {
        let timing = *committed.borrow_and_update();
        let Some(inner) = inner.upgrade() else { return };
        if let Err(error) = (Consensus { inner }).set_timing(timing).await {
            tracing::error!(%error, "raft could not be rebuilt under the new timing; this node takes no more part");
        }
    }
}
