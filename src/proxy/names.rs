//! Backends by name: resolved again and again by threads of their own, since the system's resolver blocks.
//!
//! What a name stood for last is kept when it cannot be resolved, and a name stands for [`MOST`] addresses at most.

use crate::health::LocalHealth;
use arc_swap::ArcSwap;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::{Arc, mpsc},
    time::Duration,
};
use zonekeeper_core::{
    Published,
    id::PoolId,
    model::NamedBackend,
    route::{BackendTable, PoolTable},
};

/// How often names are resolved.
const EVERY: Duration = Duration::from_secs(5);
/// How often it is looked whether there are new ones.
const LOOK: Duration = Duration::from_millis(500);
/// How long a start waits for the first addresses: what has none by then is served when it has.
const FIRST: Duration = Duration::from_secs(1);
/// Names that are resolved at once: one that its servers do not answer for takes seconds.
const AT_ONCE: usize = 16;
/// Addresses of one name that are used.
const MOST: usize = 64;

/// Resolves the names of the publication's pools until it is dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    _stop: mpsc::Sender<()>,
}

impl Resolver {
    /// Resolves in a thread, and waits a moment for the first time.
    pub(crate) fn start(
        published: Arc<ArcSwap<Published>>,
        health: Arc<LocalHealth>,
    ) -> io::Result<Resolver> {
        let (stop, stopped) = mpsc::channel::<()>();
        let (done, first) = mpsc::channel::<()>();
        std::thread::Builder::new().name("proxy-names".into()).spawn(move || {
            let mut known = Known::default();
            known.resolve(&published.load(), &health, &system);
            drop(done);
            let mut waited = Duration::ZERO;
            while let Err(mpsc::RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK) {
                waited += LOOK;
                let now = published.load();
                if waited >= EVERY || known.misses(&now) {
                    waited = Duration::ZERO;
                    known.resolve(&now, &health, &system);
                }
            }
        })?;
        let _ = first.recv_timeout(FIRST); // its end is the news
        Ok(Resolver { _stop: stop })
    }
}

fn all_at_once(
    names: &[(String, u16)],
    resolve: &(dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Sync),
) -> Vec<io::Result<Vec<SocketAddr>>> {
    std::thread::scope(|scope| {
        // one that finds no room for a thread is tried again with the next round
        let begin = |(name, port): &'_ (String, u16)| {
            let (name, port) = (name.clone(), *port);
            std::thread::Builder::new().spawn_scoped(scope, move || resolve(&name, port))
        };
        let each: Vec<_> = names.iter().map(begin).collect();
        let panicked = || io::Error::other("the resolver panicked");
        each.into_iter().map(|thread| thread?.join().unwrap_or_else(|_| Err(panicked()))).collect()
    })
}

fn system(name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok((name, port).to_socket_addrs()?.collect())
}

/// What names stood for last.
#[derive(Debug, Default)]
struct Known {
    addresses: BTreeMap<(String, u16), Vec<SocketAddr>>,
}

fn pools(published: &Published) -> impl Iterator<Item = (&PoolId, &Arc<PoolTable>)> {
    published.proxy.pools.iter().filter(|(_, p)| !p.names.is_empty())
}

fn key(backend: &NamedBackend) -> (String, u16) {
    (backend.name.clone(), backend.port)
}

impl Known {
    /// A name was never resolved.
    fn misses(&self, published: &Published) -> bool {
        pools(published).flat_map(|(_, p)| &p.names).any(|b| !self.addresses.contains_key(&key(b)))
    }

    fn resolve(
        &mut self,
        published: &Published,
        health: &LocalHealth,
        resolve: &(dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>> + Sync),
    ) {
        let wanted: BTreeSet<_> = pools(published).flat_map(|(_, p)| &p.names).map(key).collect();
        self.addresses.retain(|k, _| wanted.contains(k));
        let wanted: Vec<_> = wanted.into_iter().collect();
        let resolved = wanted.chunks(AT_ONCE).flat_map(|some| all_at_once(some, resolve));
        for ((name, port), resolved) in wanted.iter().cloned().zip(resolved) {
            let before = self.addresses.get(&(name.clone(), port));
            let found = match resolved {
                Ok(mut found) if !found.is_empty() => {
                    found.sort_unstable();
                    found.dedup();
                    found.truncate(MOST);
                    found
                }
                Ok(_) | Err(_) => {
                    if before.is_none() {
                        tracing::warn!(name, "a backend's name stands for no address; it is tried again");
                    }
                    before.cloned().unwrap_or_default()
                }
            };
            if before != Some(&found) {
                tracing::info!(name, ?found, "a backend's name was resolved");
                self.addresses.insert((name, port), found);
            }
        }
        let all = pools(published).map(|(id, p)| (id.clone(), self.backends(p))).collect();
        health.set_resolved(all);
    }

    fn backends(&self, pool: &PoolTable) -> Vec<BackendTable> {
        let mut all: Vec<BackendTable> = Vec::new();
        for backend in &pool.names {
            for addr in self.addresses.get(&key(backend)).into_iter().flatten() {
                let known = |b: &BackendTable| b.addr == *addr;
                if !pool.backends.iter().any(known) && !all.iter().any(known) {
                    all.push(BackendTable { addr: *addr, weight: backend.weight, force: None });
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use zonekeeper_core::{State, model::Pool, route::ProxyTable};

    fn addrs(last: &[u8]) -> Vec<SocketAddr> {
        last.iter().map(|n| SocketAddr::from(([10, 0, 0, *n], 80))).collect()
    }

    /// One pool of these names.
    fn published(names: Vec<NamedBackend>) -> (PoolId, Published) {
        let (id, mut state): (PoolId, _) = ("web".parse().unwrap(), State::default());
        state.pools.insert(id.clone(), Arc::new(Pool { names, ..Pool::default() }));
        let published = Published {
            generation: state.generation,
            proxy: Arc::new(ProxyTable::build(&state, &"here".parse().unwrap())),
            dns: Arc::default(),
            state: Arc::new(state),
        };
        (id, published)
    }

    #[test]
    fn the_last_good_set_is_kept_and_is_bounded() {
        let named = NamedBackend { site: None, name: "app.internal".into(), port: 80, weight: 3 };
        let (id, published) = published(vec![named.clone(), named]);
        let (mut known, health) = (Known::default(), LocalHealth::new());
        assert!(known.misses(&published));
        let said = Mutex::new(Ok(addrs(&[2, 1, 1])));
        let mut now = |answer: Option<Vec<SocketAddr>>| {
            *said.lock().unwrap() = answer.ok_or(());
            let resolve =
                |_: &str, _: u16| said.lock().unwrap().clone().map_err(|()| io::Error::other("no such name"));
            known.resolve(&published, &health, &resolve);
            health
                .backends(&published.proxy.pools[&id])
                .iter()
                .map(|b| (b.addr, b.weight))
                .collect::<Vec<_>>()
        };
        let with = |last: &[u8]| addrs(last).into_iter().map(|a| (a, 3)).collect::<Vec<_>>();
        assert_eq!(now(None), vec![]);
        assert_eq!(now(Some(addrs(&[2, 1, 1]))), with(&[1, 2]));
        assert_eq!(now(None), with(&[1, 2]), "an error changes nothing");
        assert_eq!(now(Some(vec![])), with(&[1, 2]), "no address neither");
        assert_eq!(now(Some(addrs(&[3]))), with(&[3]));
        assert_eq!(now(Some(addrs(&(0..200).collect::<Vec<_>>()))).len(), MOST);
        assert!(!known.misses(&published));
    }

    /// Names whose servers are silent hold up neither each other nor those that are known.
    #[test]
    fn names_are_resolved_at_once() {
        let named = |i: usize| NamedBackend { site: None, name: format!("app-{i}"), port: 80, weight: 1 };
        let (id, published) = published((0..2 * AT_ONCE).map(named).collect());
        let together = std::sync::Barrier::new(AT_ONCE);
        let resolve = |name: &str, _: u16| {
            together.wait(); // for ever, unless so many come
            let last: u8 = name.trim_start_matches("app-").parse().unwrap();
            Ok(addrs(&[last]))
        };
        let health = LocalHealth::new();
        Known::default().resolve(&published, &health, &resolve);
        let all = health.backends(&published.proxy.pools[&id]).into_owned();
        let want: Vec<u8> = (0..2 * AT_ONCE as u8).collect();
        assert_eq!(all.iter().map(|b| b.addr).collect::<Vec<_>>(), addrs(&want), "each by its own name");
    }
}
