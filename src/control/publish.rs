//! From applied entries to the one publication.

use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, watch};
use zonekeeper_consensus::{Applied, Consensus, Sink};
use zonekeeper_core::{
    Published, State, answer::DnsTable, entry::Delta, id::SiteId, route::ProxyTable, state::Generation,
};

use super::open::Opener;

/// Deltas that are merged at most; more of them cost more than a publication from nothing.
const MERGED: usize = 4096;

/// What was applied and is not published yet. Batches that come faster than publications are merged.
#[derive(Default)]
pub(crate) struct Intake {
    pending: Mutex<Option<Applied>>,
    news: Notify,
}

impl Sink for Intake {
    fn applied(&self, batch: Applied) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *pending {
            Some(held) => {
                held.state = batch.state;
                held.index = batch.index;
                held.deltas.extend(batch.deltas);
                held.replaced |= batch.replaced || held.deltas.len() > MERGED;
                if held.replaced {
                    held.deltas.clear(); // nobody looks at them: everything is built anew
                }
            }
            none => *none = Some(batch),
        }
        drop(pending);
        self.news.notify_one();
    }
}

impl Intake {
    fn take(&self) -> Option<Applied> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The publication of a state, from nothing.
pub(crate) fn publication(state: Arc<State>, site: &SiteId, opener: &Opener) -> Published {
    Published {
        generation: state.generation,
        dns: Arc::new(DnsTable::build(&state)),
        proxy: proxy(&state, site, opener),
        state,
    }
}

fn proxy(state: &State, site: &SiteId, opener: &Opener) -> Arc<ProxyTable> {
    let mut table = ProxyTable::build(state, site);
    table.secrets = opener.session(state);
    let used = table.listeners.values().flat_map(|l| l.certificates());
    let opened = used.filter_map(|id| Some((id.clone(), opener.certificate(state, id)?)));
    table.certificates = opened.collect();
    Arc::new(table)
}

/// The publication after some entries; costs what they changed.
fn next(
    before: &Published,
    state: Arc<State>,
    deltas: &[Delta],
    site: &SiteId,
    opener: &Opener,
) -> Published {
    let mut all = Delta::default();
    for delta in deltas {
        all.services.extend(delta.services.iter().cloned());
        all.zones.extend(delta.zones.iter().cloned());
        all.proxy |= delta.proxy;
        all.config |= delta.config;
    }
    all.services.sort();
    all.services.dedup();
    all.zones.sort();
    all.zones.dedup();
    let quiet = all.services.is_empty() && all.zones.is_empty();
    let proxy = (all.proxy || all.config).then(|| proxy(&state, site, opener));
    // what changes nothing for the proxies wakes none of their workers
    let proxy = proxy.filter(|new| **new != *before.proxy).unwrap_or_else(|| before.proxy.clone());
    let dns = if quiet { before.dns.clone() } else { Arc::new(before.dns.update(&state, &all)) };
    Published { generation: state.generation, dns, proxy, state }
}

/// The one writer of a node's publication.
pub(crate) struct Publisher {
    pub(crate) site: SiteId,
    pub(crate) opener: Arc<Opener>,
    pub(crate) intake: Arc<Intake>,
    pub(crate) consensus: Consensus,
    pub(crate) published: Arc<ArcSwap<Published>>,
    pub(crate) news: watch::Sender<Generation>,
}

impl Publisher {
    /// Publishes until the store fails. Then the last publication stays: a full disk stops writing, not answering, and
    /// those who follow publications go on watching.
    pub(crate) async fn run(self) {
        let mut keys = self.opener.keyring().subscribe();
        loop {
            tokio::select! {
                () = self.intake.news.notified() => {}
                Ok(()) = keys.changed() => self.unlocked(),
            }
            let Some(batch) = self.intake.take() else { continue };
            if let Err(error) = self.consensus.sync_watermark(batch.index).await {
                tracing::error!(%error, "nothing is published any more, the last answers stay; free the disk and restart");
                return std::future::pending().await;
            }
            let before = self.published.load();
            let after = match batch.replaced {
                // seconds for a million records: this thread's other tasks go elsewhere meanwhile
                true => tokio::task::block_in_place(|| publication(batch.state, &self.site, &self.opener)),
                false => next(&before, batch.state, &batch.deltas, &self.site, &self.opener),
            };
            debug_assert!(after.generation >= before.generation, "a publication never goes back");
            let generation = after.generation;
            self.published.store(Arc::new(after));
            self.news.send_replace(generation);
        }
    }

    /// A cluster key has come: the same state, with what it opens.
    fn unlocked(&self) {
        let before = self.published.load();
        let proxy = proxy(&before.state, &self.site, &self.opener);
        self.published.store(Arc::new(Published { proxy, ..Published::clone(&before) }));
        self.news.send_replace(before.generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(index: u64, deltas: usize, replaced: bool) -> Applied {
        Applied { state: Arc::default(), index, deltas: vec![Delta::default(); deltas], replaced }
    }

    #[test]
    fn what_nobody_takes_does_not_grow() {
        let intake = Intake::default();
        (0..100).for_each(|i| intake.applied(batch(i, 256, false)));
        let held = intake.take().unwrap();
        assert_eq!((held.index, held.replaced), (99, true), "too much to merge is built from nothing");
        assert!(held.deltas.len() <= MERGED);
        assert!(intake.take().is_none());
    }

    #[test]
    fn batches_are_merged_in_order() {
        let intake = Intake::default();
        (1..=3).for_each(|i| intake.applied(batch(i, 2, false)));
        let held = intake.take().unwrap();
        assert_eq!((held.index, held.deltas.len(), held.replaced), (3, 6, false));
        intake.applied(batch(4, 1, true));
        intake.applied(batch(5, 1, false));
        let held = intake.take().unwrap();
        assert!(
            held.replaced && held.deltas.is_empty(),
            "a snapshot among them: nothing is known of what changed"
        );
    }
}
