use super::*;
use crate::health::{LocalHealth, now_ms};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};
use zonekeeper_core::{
    model::Pool,
    route::{BackendTable, PoolTable},
};

fn pool(balance: Balance, weights: &[u8], max: u32) -> (Arc<LocalHealth>, LivePool) {
    let backend = |(i, &weight): (usize, &u8)| BackendTable {
        addr: SocketAddr::from(([127, 0, 0, 1], 1000 + i as u16)),
        weight,
        force: None,
    };
    let table = PoolTable {
        backends: weights.iter().enumerate().map(backend).collect(),
        balance,
        max_connections: max,
        eject_ms: 1000,
        ..PoolTable::empty(&"web".parse().unwrap(), &Pool::default())
    };
    let health = LocalHealth::new();
    let pool = LivePool::new(Arc::new(table), &health);
    (health, pool)
}

fn next(pool: &LivePool) -> usize {
    match choose(pool, 0, &[], now_ms()) {
        Choice::Backend(i) => i,
        other => panic!("{other:?}"),
    }
}

fn shares(pool: &LivePool, n: usize) -> Vec<usize> {
    let mut count = vec![0; pool.backends.len()];
    for _ in 0..n {
        let i = next(pool);
        release(pool, i);
        count[i] += 1;
    }
    count
}

#[test]
fn round_robin_is_weighted_and_smooth() {
    let (_health, pool) = pool(Balance::RoundRobin, &[5, 1, 1, 0], 0);
    let turns: Vec<usize> = (0..14).map(|_| next(&pool)).collect();
    assert_eq!(turns.iter().filter(|i| **i == 0).count(), 10, "{turns:?}");
    assert!(!turns.windows(5).any(|w| w == [0, 0, 0, 0, 0]) || turns[..5] != [0; 5], "{turns:?}");
    assert_eq!(shares(&pool, 7000), [5000, 1000, 1000, 0]);
}

#[test]
fn a_backend_that_returns_does_not_catch_up() {
    let (health, pool) = pool(Balance::RoundRobin, &[1, 1, 1], 0);
    health.set(&pool.table.id, pool.backends[0].addr, false);
    assert_eq!(shares(&pool, 1000), [0, 500, 500], "what one misses is shared evenly");
    health.set(&pool.table.id, pool.backends[0].addr, true);
    let after = shares(&pool, 300);
    assert!(after.iter().all(|n| (99..=101).contains(n)), "{after:?}");
}

#[test]
fn least_connections_fills_up_by_weight_and_ties_take_turns() {
    let (_health, full) = pool(Balance::LeastConnections, &[2, 1], 0);
    for _ in 0..30 {
        next(&full);
    }
    assert_eq!((full.backends[0].inflight(), full.backends[1].inflight()), (20, 10));
    let (_health, idle) = pool(Balance::LeastConnections, &[1, 1, 1], 0);
    assert_eq!(shares(&idle, 300), [100, 100, 100], "an idle pool does not always choose the first");
}

#[test]
fn least_connections_is_exact_over_threads() {
    let (_health, pool) = pool(Balance::LeastConnections, &[1, 1, 1, 1], 0);
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| (0..1000).for_each(|_| assert!(next(&pool) < 4)));
        }
    });
    assert!(pool.backends.iter().all(|b| b.inflight() == 1000), "{:?}", pool.backends);
}

#[test]
fn full_backends_are_passed_over_and_the_last_place_is_a_limit() {
    let (_health, pool) = pool(Balance::RoundRobin, &[1, 1], 2);
    let mut taken = BTreeMap::new();
    for _ in 0..4 {
        *taken.entry(next(&pool)).or_insert(0) += 1;
    }
    assert_eq!(taken, BTreeMap::from([(0, 2), (1, 2)]));
    assert_eq!(choose(&pool, 0, &[], now_ms()), Choice::Full);
}

#[test]
fn response_time_prefers_the_fast_and_spares_the_hung() {
    let (_health, pool) = pool(Balance::ResponseTime, &[1, 1, 1], 0);
    for (i, us) in [1000, 10_000, 1000].into_iter().enumerate() {
        pool.backends[i].latency.record(now_us(), us);
    }
    let got = shares(&pool, 300);
    assert!(got[1] <= 30, "{got:?}");
    assert!(got[0] > 100 && got[2] > 100, "{got:?}");
}

#[test]
fn a_large_pool_is_balanced_by_two_choices() {
    let (_health, pool) = pool(Balance::ResponseTime, &[1; 40], 0);
    for _ in 0..400 {
        next(&pool);
    }
    assert!(pool.backends.iter().all(|b| (2..=20).contains(&b.inflight())));
}

#[test]
fn ejected_backends_are_a_last_resort_and_those_that_are_down_are_none() {
    let (health, pool) = pool(Balance::RoundRobin, &[1, 1], 0);
    health.eject(&pool.backends[0], 60_000);
    assert_eq!(shares(&pool, 10), [0, 10]);
    health.set(&pool.table.id, pool.backends[1].addr, false);
    assert_eq!(shares(&pool, 10), [10, 0]);
    assert_eq!(choose(&pool, 0, &[0], now_ms()), Choice::Nothing);
}
